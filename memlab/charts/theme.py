"""The theme of all charts, and their three outputs: a notebook, SVG text, a file.

Text has the colour of the page's own text, so it is as readable as the page in a light and in a dark theme. The
background is transparent, except in PNG pictures: white. ``colours.py`` has the colours of the marks.

A live chart takes its fonts from the reader's browser. A picture takes them from the machine that draws it: characters
that none of its fonts has become boxes. Install a font for that script (for Chinese, Japanese and Korean on Debian:
``fonts-noto-cjk``), or register one with ``vl_convert.register_font_directory``.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import altair as alt

from memlab.charts.colours import CONTROL, GROUND, INK, OTHERS, OURS, PAPER, PUBLISHED
from memlab.charts.png import recompress

GREY = CONTROL
"""Rules, medians, controls: marks that must be seen on a light and on a dark page. Not for text."""
SHARE = alt.Axis(format="%", tickCount=5)
EMBED = {
    "renderer": "svg",  # only in SVG does the colour of the page's text follow a change of the theme
    "actions": {"export": {"svg": True, "png": True}, "source": False, "compiled": False, "editor": False},
}
"""Options of vega-embed for every live chart: how it is drawn, and its menu, which saves it as a picture."""
_LITE5 = "application/vnd.vegalite.v5+json"
_DRAWING = threading.RLock()
_PIXELS = 2
"""Pixels of a PNG picture per unit of length, for sharp text on most screens."""


@alt.theme.register("memlab", enable=False)
def theme() -> Any:
    """The Altair theme of every memlab chart, for the light and the dark theme of JupyterLab."""
    axis = {
        "labelColor": INK, "titleColor": INK, "domainColor": GREY, "tickColor": GREY, "gridColor": GREY,
        "gridOpacity": 0.2, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8,
    }  # fmt: skip
    title = {
        "color": INK, "subtitleColor": INK, "anchor": "start", "fontSize": 14, "fontWeight": 600, "limit": 800,
        "subtitleFontSize": 12, "subtitlePadding": 4, "offset": 10, "frame": "group",
    }  # fmt: skip
    return {
        "config": {
            "background": "transparent",
            "font": "Arial, Helvetica, sans-serif",  # to_svg measures text in it, and most machines have it
            "view": {"stroke": None},
            "axis": axis,
            "legend": {
                "labelColor": INK,
                "titleColor": INK,
                "labelFontSize": 12,
                "titleFontWeight": "normal",
                "symbolOpacity": 1,
            },
            "header": {"labelLimit": 260, "labelColor": INK, "titleColor": INK, "labelFontSize": 12},
            "text": {"limit": 300, "color": INK, "fontSize": 12},
            "title": title,
            "line": {"color": OURS},
            "point": {"color": OURS},
            "bar": {"color": OURS},
            "circle": {"color": OURS},
            "tick": {"color": OURS},
            "range": {"category": [OURS, PUBLISHED, *OTHERS]},
        }
    }


@contextmanager
def themed() -> Iterator[None]:
    """Altair uses memlab's theme inside. Its own switch is one for all threads, and two panels may draw at once."""
    with _DRAWING, alt.theme.enable("memlab"):
        yield


def mimebundle(spec: dict[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A chart's notebook output and its metadata: the specification, labelled as Vega-Lite 5, and a PNG picture.

    Altair 6 writes Vega-Lite 6 and by default fetches a renderer from a CDN. JupyterLab ships a renderer for version 5,
    which works offline. memlab's charts use only features that are equal in both versions. GitHub, nbviewer and
    nbconvert run no renderer: they show the picture. Without ``vl-convert-python`` they show the title.
    """
    spec = spec | {"$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    data: dict[str, Any] = {_LITE5: spec, "text/plain": f"<chart: {_title(spec)}>"}
    metadata: dict[str, Any] = {_LITE5: {"embed_options": EMBED}}
    # Large data are dense pictures, which compress badly. A notebook should stay small.
    scale = _PIXELS if len(json.dumps(spec)) < 500_000 else 1
    try:
        png = _png(spec, scale)
    except (ImportError, ValueError):  # ValueError: vl-convert cannot draw it, for example because its data are a URL
        return data, metadata
    width, height = (side // scale for side in struct.unpack(">II", png[16:24]))
    data["image/png"] = base64.b64encode(png).decode()
    metadata["image/png"] = {"width": width, "height": height, "alt": _title(spec)}
    return data, metadata


def use_offline_renderer() -> None:
    """Make Altair charts of this session use memlab's theme and the renderer that JupyterLab ships (no network)."""
    alt.renderers.register("memlab", mimebundle)
    alt.renderers.enable("memlab")
    alt.theme.enable("memlab")


def to_svg(chart: alt.TopLevelMixin) -> str:
    """A chart as SVG text, drawn without network or browser. Needs ``vl-convert-python``."""
    with themed():
        return spec_to_svg(chart.to_dict(validate=False))


def spec_to_svg(spec: dict[str, Any]) -> str:
    """The same of a Vega-Lite specification, which brings its theme."""
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(json.dumps(spec))
    # A reader's font may be wider than the font measured here. Without this, text at the edge would be cut off.
    return svg.replace("<svg ", '<svg style="overflow:visible" ', 1)


def to_image(svg: str) -> str:
    """HTML of a chart from ``to_svg`` as a PNG picture on white: GitHub removes SVG from a page."""
    import vl_convert

    png = base64.b64encode(recompress(vl_convert.svg_to_png(printed(svg), scale=_PIXELS))).decode()
    width = re.search(r'width="([\d.]+)', svg)
    assert width is not None
    return f'<img alt="chart" width="{width[1]}" style="background:white" src="data:image/png;base64,{png}">'


def save(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart to ``path``: .svg, or .png at twice the size on white. Needs ``vl-convert-python``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        path.write_text(printed(to_svg(chart)), encoding="utf-8")
        return
    with themed():
        path.write_bytes(_png(chart.to_dict(), _PIXELS))


def _png(spec: dict[str, Any], scale: int) -> bytes:
    """A specification as a picture on white, which stays readable on a dark page. Uses no network."""
    import vl_convert

    text = printed(json.dumps(spec | {"background": "white"}))
    return recompress(vl_convert.vegalite_to_png(text, scale=scale, allowed_base_urls=[]))


def printed(text: str) -> str:
    """A specification or an SVG with the colour of text on white in place of the page's."""
    return text.replace(INK, PAPER).replace(GROUND, "white")


def _title(spec: dict[str, Any]) -> str:
    title = spec.get("title", "")
    return str(title.get("text", "") if isinstance(title, dict) else title) or "untitled"
