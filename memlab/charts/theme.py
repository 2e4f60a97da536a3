"""The look of all charts, and the ways they leave: into a notebook, an SVG, a file.

One theme for all: colours that the colour-blind tell apart (Okabe and Ito's, the blue lightened for dark pages),
greys that can be read on white and on black, no background of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt

BLUE, ORANGE, GREEN, PURPLE = "#2A8CCB", "#D55E00", "#009E73", "#CC79A7"
GREY = "#7b7f86"
_LITE5 = "application/vnd.vegalite.v5+json"


@alt.theme.register("memlab", enable=False)
def theme() -> Any:
    """The look of every memlab chart, in Lab's light and dark theme alike."""
    axis = {
        "labelColor": GREY, "titleColor": GREY, "domainColor": GREY, "tickColor": GREY, "gridColor": GREY,
        "gridOpacity": 0.2, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8,
    }  # fmt: skip
    title = {"color": GREY, "subtitleColor": GREY, "anchor": "start", "fontSize": 14, "fontWeight": 600}
    return {
        "config": {
            "background": "transparent",
            "font": "Arial, Helvetica, sans-serif",  # what to_svg measures text in, and most machines have
            "view": {"stroke": None},
            "axis": axis,
            "legend": {"labelColor": GREY, "titleColor": GREY, "labelFontSize": 12},
            "title": title,
            "range": {"category": [BLUE, ORANGE, GREEN, PURPLE]},
        }
    }


def mimebundle(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    """What a notebook gets of a chart: Vega-Lite under the version JupyterLab can draw without a network.

    Altair 6 writes Vega-Lite 6 and by default fetches its renderer from a CDN; Lab ships a renderer for version 5,
    and what memlab's charts use has not changed between the two.
    """
    spec = spec | {"$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    return {_LITE5: spec, "text/plain": f"<chart: {_title(spec)}>"}


def use_offline_renderer() -> None:
    """Draw Altair charts in JupyterLab without a network, in memlab's theme, for this session."""
    alt.renderers.register("memlab", mimebundle)
    alt.renderers.enable("memlab")
    alt.theme.enable("memlab")


def to_svg(chart: alt.TopLevelMixin) -> str:
    """A chart as SVG text, drawn here, so it needs neither network nor browser. Needs ``vl-convert-python``."""
    import vl_convert

    with alt.theme.enable("memlab"):
        svg: str = vl_convert.vegalite_to_svg(json.dumps(chart.to_dict(validate=False)))
    # Where the reader's letters are wider than those measured here, they are to run over the edge, not be cut off.
    return svg.replace("<svg ", '<svg style="overflow:visible" ', 1)


def save(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart as .svg or .png (at twice the size, on white). Needs ``vl-convert-python``."""
    import vl_convert

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        path.write_text(to_svg(chart))
        return
    with alt.theme.enable("memlab"):
        spec = chart.to_dict() | {"background": "white"}
    path.write_bytes(vl_convert.vegalite_to_png(json.dumps(spec), scale=2))


def _title(spec: dict[str, Any]) -> str:
    title = spec.get("title", "")
    return str(title.get("text", "") if isinstance(title, dict) else title) or "untitled"
