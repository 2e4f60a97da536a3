#!/usr/bin/env bash
# Vega-Lite 6.4: with a selection of the nearest point, tooltips show numbers but "undefined" for words.
#
# `selection_point(nearest=True)` adds invisible cells around the points, and the pointer meets a cell, not a point. So
# tooltips must read the point inside the cell (`datum.datum`). In 6.4 they do for quantitative fields, and read the cell
# itself (`datum`) for nominal and ordinal ones. Up to 6.1 both were right. Nothing is logged.
#
# Who is hurt: whoever shows a name in the tooltip of a chart that answers to the nearest point: Altair 6.3 with
# vl-convert, whose offline charts use 6.4. What helps: `nearest=False` and larger points, or `pointerover` on a voronoi of
# your own.
#
# The script compiles one chart with both versions, with Altair and vl-convert.
# Exit status 0: the behaviour is as described. Anything else: it changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check altair==6.3.0 vl-convert-python==1.9.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import altair as alt
import vl_convert

nearest = alt.selection_point(nearest=True, on="pointerover")
points = alt.Chart({"values": [{"x": 1, "y": 1, "word": "a"}]}).mark_point()
chart = points.encode(x="x:Q", y="y:Q", tooltip=["word:N", "x:Q"]).add_params(nearest).to_dict()
for version, right in (("6.1", True), ("6.4", False)):
    marks = vl_convert.vegalite_to_vega(chart, vl_version=version)["marks"]
    (cell,) = (mark for mark in marks if mark["name"] == "voronoi")
    tooltip = cell["encode"]["update"]["tooltip"]["signal"]
    print(f"Vega-Lite {version}:", tooltip)
    assert 'datum.datum["x"]' in tooltip
    assert ('datum.datum["word"]' in tooltip) == right
PYTHON
