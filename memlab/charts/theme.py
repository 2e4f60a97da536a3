"""The theme of all charts, and their three outputs: a notebook, SVG text, a file.

Colour-blind readers can distinguish its colours: they are those of Okabe and Ito, with a lighter blue for dark pages.
Its grey is readable on white and on black. The background is transparent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt

BLUE, ORANGE, GREEN, PURPLE = "#2A8CCB", "#D55E00", "#009E73", "#CC79A7"
GREY = "#7b7f86"
SHARE = alt.Axis(format="%", tickCount=5)
_LITE5 = "application/vnd.vegalite.v5+json"


@alt.theme.register("memlab", enable=False)
def theme() -> Any:
    """The Altair theme of every memlab chart, for the light and the dark theme of JupyterLab."""
    axis = {
        "labelColor": GREY, "titleColor": GREY, "domainColor": GREY, "tickColor": GREY, "gridColor": GREY,
        "gridOpacity": 0.2, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8,
    }  # fmt: skip
    title = {"color": GREY, "subtitleColor": GREY, "anchor": "start", "fontSize": 14, "fontWeight": 600}
    return {
        "config": {
            "background": "transparent",
            "font": "Arial, Helvetica, sans-serif",  # to_svg measures text in it, and most machines have it
            "view": {"stroke": None},
            "axis": axis,
            "legend": {"labelColor": GREY, "titleColor": GREY, "labelFontSize": 12},
            "title": title,
            "range": {"category": [BLUE, ORANGE, GREEN, PURPLE]},
        }
    }


def mimebundle(spec: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A chart's notebook output: its Vega-Lite specification, labelled as version 5.

    Altair 6 writes Vega-Lite 6 and by default fetches a renderer from a CDN. JupyterLab ships a renderer for version 5,
    which works offline. memlab's charts use only features that are equal in both versions.
    """
    spec = spec | {"$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    return {_LITE5: spec, "text/plain": f"<chart: {_title(spec)}>"}


def use_offline_renderer() -> None:
    """Make Altair charts of this session use memlab's theme and the renderer that JupyterLab ships (no network)."""
    alt.renderers.register("memlab", mimebundle)
    alt.renderers.enable("memlab")
    alt.theme.enable("memlab")


def to_svg(chart: alt.TopLevelMixin) -> str:
    """A chart as SVG text, drawn without network or browser. Needs ``vl-convert-python``."""
    import vl_convert

    with alt.theme.enable("memlab"):
        svg: str = vl_convert.vegalite_to_svg(json.dumps(chart.to_dict(validate=False)))
    # A reader's font may be wider than the font measured here. Without this, text at the edge would be cut off.
    return svg.replace("<svg ", '<svg style="overflow:visible" ', 1)


def save(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart to ``path``: .svg, or .png at twice the size on white. Needs ``vl-convert-python``."""
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
