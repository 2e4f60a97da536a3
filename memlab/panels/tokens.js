// The text of a vector, token by token. Each token is a span; one of them can be picked with the pointer or the arrow keys.
function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "memlab-tokens";
  box.tabIndex = 0;
  box.setAttribute("role", "listbox");
  el.replaceChildren(box);

  const tip = document.createElement("div");
  tip.className = "memlab-tip";
  tip.setAttribute("role", "status");
  el.append(tip);

  function tell(i) {
    const text = i >= 0 ? model.get("tips")[i] || "" : "";
    tip.textContent = text || model.get("hint");
  }

  function pick(i) {
    const last = model.get("pieces").length - 1;
    if (last < 0) return;
    model.set("picked", Math.max(-1, Math.min(last, i)));
    model.save_changes();
  }

  function draw() {
    const pieces = model.get("pieces"), kinds = model.get("kinds"), below = model.get("below");
    const shades = model.get("shades"), colour = model.get("colour"), bars = new Set(model.get("bars"));
    box.setAttribute("aria-label", model.get("label"));
    box.style.maxHeight = model.get("height");
    const nodes = pieces.map((piece, i) => {
      const span = document.createElement(below[i] ? "ruby" : "span");
      span.className = "memlab-token " + (kinds[i] ? "memlab-token-" + kinds[i] : "");
      span.dataset.i = i;
      span.setAttribute("role", "option");
      const lines = (piece || (kinds[i] === "wrong" ? "·" : "")).split("\n");
      lines.forEach((line, j) => {
        if (j) span.append("↵", document.createElement("br"));
        span.append(line);
      });
      if (below[i]) {
        const should = document.createElement("rt");
        should.textContent = below[i];
        span.append(should);
      }
      if (shades[i] > 0) {
        span.style.setProperty("--memlab-shade", Math.min(1, shades[i]) * 75 + "%");
        span.style.setProperty("--memlab-shade-colour", colour);
        span.classList.add("memlab-token-shaded");
      }
      if (bars.has(i)) span.classList.add("memlab-token-bar");
      return span;
    });
    box.replaceChildren(...nodes);
    mark();
    look();
    fade();
  }

  function look() {
    const node = box.children[model.get("focus")];
    if (node) box.scrollTop = node.offsetTop - box.offsetTop - box.clientHeight / 2;
  }

  function mark() {
    const i = model.get("picked");
    box.querySelectorAll(".memlab-token-picked").forEach((e) => {
      e.classList.remove("memlab-token-picked");
      e.removeAttribute("aria-selected");
    });
    const node = box.children[i];
    if (node) {
      node.classList.add("memlab-token-picked");
      node.setAttribute("aria-selected", "true");
      const top = node.offsetTop - box.offsetTop;  // a token that Python picked may be out of sight
      if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 20) box.scrollTop = top - box.clientHeight / 2;
    }
    tell(i);
  }

  function fade() {
    const more = box.scrollHeight - box.scrollTop - box.clientHeight > 4;
    box.classList.toggle("memlab-more", more);
  }

  const tokenOf = (event) => {
    const node = event.target.closest(".memlab-token");
    return node ? Number(node.dataset.i) : -1;
  };
  box.addEventListener("click", (event) => pick(tokenOf(event)));
  box.addEventListener("pointerover", (event) => tell(tokenOf(event) >= 0 ? tokenOf(event) : model.get("picked")));
  box.addEventListener("pointerleave", () => tell(model.get("picked")));
  box.addEventListener("scroll", fade);
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8, Home: -1e9, End: 1e9 }[event.key];
    if (step === undefined && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") pick(-1);
    else pick(Math.max(0, model.get("picked") + step));
    box.children[model.get("picked")]?.scrollIntoView({ block: "nearest" });
  });

  const content = ["pieces", "kinds", "below", "shades", "colour", "bars", "tips", "hint", "focus", "height", "label"];
  content.forEach((name) => model.on("change:" + name, schedule));
  model.on("change:picked", mark);
  let waiting = false;
  function schedule() {  // several traits change together: draw once
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }
  draw();
  // The first drawing is outside of the page, where nothing has a place: look again once it has one.
  const placed = new ResizeObserver(() => {
    if (!box.clientHeight) return;
    placed.disconnect();
    look();
    fade();
  });
  placed.observe(box);
}
export default { render };
