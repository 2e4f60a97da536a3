// Draws the chart of a LiveChart. The new chart takes the place of the old one only when it is complete, so a chart that
// is drawn again does not flicker; the old one is finalized, so the page does not keep it. `vegaEmbed` is in the bundle.
function render({ model, el }) {
  let shown = null;
  let last = 0;
  const plain = (value) => JSON.parse(JSON.stringify(value ?? null));

  async function draw() {
    const turn = ++last;
    const spec = model.get("spec");
    if (!spec) {
      shown?.finalize();
      shown = null;
      el.replaceChildren();
      return;
    }
    const dark = document.body.dataset.jpThemeLight === "false";
    const options = { tooltip: { theme: dark ? "dark" : "light" }, ...(plain(model.get("embed_options")) ?? {}) };
    const place = document.createElement("div");
    let drawn;
    try {
      drawn = await vegaEmbed(place, structuredClone(spec), options);
    } catch (error) {
      place.textContent = "The chart could not be drawn. " + error.message;
      drawn = null;
    }
    if (turn !== last) {  // a newer chart is on its way
      drawn?.finalize();
      return;
    }
    shown?.finalize();
    shown = drawn;
    el.replaceChildren(place);
    if (drawn) listen(drawn.view);
  }

  function listen(view) {
    for (const name of Object.keys(model.get("_vl_selections"))) {
      view.addSignalListener(name, soon(() => {
        if (shown?.view !== view) return;
        const all = plain(model.get("_vl_selections"));
        all[name] = { value: plain(view.signal(name)) ?? {}, store: plain(view.data(name + "_store")) ?? [] };
        model.set("_vl_selections", all);
        model.save_changes();
      }));
    }
    for (const name of Object.keys(model.get("_params"))) {
      view.addSignalListener(name, soon(() => {
        if (shown?.view !== view || view.signal(name) === model.get("_params")[name]) return;
        model.set("_params", { ...model.get("_params"), [name]: plain(view.signal(name)) });
        model.save_changes();
      }));
    }
    follow();
  }

  function soon(action) {  // once after a burst of changes
    let timer = 0;
    return () => {
      clearTimeout(timer);
      timer = setTimeout(action, model.get("debounce_wait") ?? 10);
    };
  }

  function knows(view, name) {  // the parameters of the next chart come before it
    try {
      view.signal(name);
      return true;
    } catch {
      return false;
    }
  }

  function follow() {  // Python changed a parameter
    if (!shown) return;
    const { view } = shown;
    let changed = false;
    for (const [name, value] of Object.entries(model.get("_params") ?? {})) {
      if (value !== null && knows(view, name) && view.signal(name) !== value) {
        view.signal(name, value);
        changed = true;
      }
    }
    if (changed) view.runAsync();
  }

  model.on("change:spec", draw);
  model.on("change:_params", follow);
  draw();
  return () => {
    last = -1;
    model.off("change:spec", draw);
    model.off("change:_params", follow);
    shown?.finalize();
  };
}
export default { render };
