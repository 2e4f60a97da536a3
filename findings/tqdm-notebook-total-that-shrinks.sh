#!/usr/bin/env bash
# tqdm 4.70.1 with ipywidgets 8.1.9: in a notebook, a bar whose `total` is changed ends at "100%" with a sliver of colour.
#
# Setting `bar.total` is how tqdm lets one correct an estimate, and in a terminal it works. The notebook bar takes the new
# total into its text and keeps the old one as the maximum of its widget, also after `refresh` and `close`: the text says
# 100%, the bar turns green, and it is filled to a fifth.
#
# What helps: `bar.reset(total=...)`, or a total that never changes.
#
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tqdm==4.70.1 ipywidgets==8.1.9 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import io
import warnings

warnings.filterwarnings("ignore")
from tqdm.notebook import tqdm

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    bar = tqdm(total=100)
    bar.update(10)
    bar.total = 20
    bar.update(10)
    bar.refresh()
    bar.close()
label, widget, _ = bar.container.children
print(f"tqdm: {bar.n} of {bar.total}; label {label.value!r}; widget {widget.value:g} of {widget.max:g}, {widget.bar_style!r}")
assert (bar.n, bar.total, label.value, widget.value, widget.max, widget.bar_style) == (20, 20, "100%", 20, 100, "success")
PYTHON
