"""The look of all panels: style sheet, HTML snippets that use its classes, and controls of equal width."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import altair as alt
import ipywidgets as w
import pandas as pd

from memlab import charts

STYLE = f"<style>{Path(__file__).with_name('style.css').read_text(encoding='utf-8')}</style>"
_LABEL = {"description_width": "90px"}


def style_sheet() -> w.HTML:
    """An invisible widget that brings ``style.css`` into the page."""
    return w.HTML(STYLE, layout=w.Layout(display="none"))


def box(content: str, *classes: str) -> str:
    """HTML ``content`` with a vertical bar at its left, and further CSS classes.

    >>> box("&lt;b&gt;", "memlab-text")
    '<div class="memlab-box memlab-text">&lt;b&gt;</div>'
    """
    return f'<div class="{" ".join(("memlab-box", *classes))}">{content}</div>'


def status_line(message: str, *, error: bool = False) -> str:
    """HTML of a status message; errors are red and bold."""
    red = " memlab-error" if error else ""
    return f'<span role="status" class="memlab-status{red}">{html.escape(message)}</span>'


def drawn(make: Callable[[], Any]) -> str:
    """SVG of the chart that ``make`` returns. If drawing fails: one line about the error, so that the work goes on."""
    try:
        return charts.to_svg(make())
    except Exception as error:  # any: a picture is never worth the result next to it
        reason = next(iter(str(error).splitlines()), "")[:200]
        return status_line(f"The chart could not be drawn. {type(error).__name__}: {reason}", error=True)


class StaticCopy(w.Widget):
    """Adds to a widget's output what it shows now, as HTML: pages without widgets (GitHub, nbviewer) show that."""

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        values = [part for widget in _inside(self) if (part := _shown(widget))]
        return bundle and bundle | {"text/html": re.sub("<svg .*?</svg>", _image, "\n".join(values), flags=re.DOTALL)}


def _inside(widget: w.Widget) -> Iterator[w.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _inside(child)


def _shown(widget: w.Widget) -> str:
    if isinstance(widget, alt.JupyterChart):
        return drawn(lambda: widget.chart)
    return str(widget.value) if isinstance(widget, w.HTML) else ""


def _image(svg: re.Match[str]) -> str:
    try:
        return charts.to_image(svg[0])
    except (ImportError, ValueError):
        return svg[0]


def plain_table(table: pd.DataFrame, *, escape: bool = True) -> str:
    """HTML of a table of strings. ``escape=False`` if the cells are HTML already."""
    cells: str = table.to_html(index=False, border=0, classes="memlab-table", escape=escape)
    return f'<div class="memlab-wide">{cells}</div>'


def link_to(address: str, label: str) -> str:
    """A link that opens a new browser tab."""
    target = 'target="_blank" rel="noopener"'
    return f'<a class="memlab-link" href="{html.escape(address)}" {target}>{html.escape(label)}</a>'


def download_links(name: str, csv: str, svg: str = "") -> str:
    """Links that download a table, and the chart ``svg`` if it was drawn. The links contain the data: no server."""

    def link(data: str, kind: str, suffix: str, label: str) -> str:
        address = f"data:{kind};base64,{base64.b64encode(data.encode()).decode()}"
        return f'<a class="memlab-link" download="memlab-{name}.{suffix}" href="{address}">{label}</a>'

    table = link(csv, "text/csv", "csv", "Table (CSV)")
    return table + link(svg, "image/svg+xml", "svg", "Picture (SVG)") if svg.startswith("<svg") else table


def dropdown(label: str, options: Iterable[Any] = (), **more: Any) -> w.Dropdown:
    """A drop-down list; ``more`` are further arguments of ``ipywidgets.Dropdown``."""
    return w.Dropdown(options=options, description=label, style=_LABEL, layout=w.Layout(width="420px"), **more)


def text_area(label: str, rows: int) -> w.Textarea:
    """A text field as wide as the panel."""
    hint = "Type or paste some text"
    layout = w.Layout(width="auto")
    return w.Textarea(description=label, rows=rows, placeholder=hint, style=_LABEL, layout=layout)


def number_input(label: str, value: int, low: int, high: int) -> tuple[w.BoundedIntText, w.HBox]:
    """A number box, and a row with a linked slider and the box. Screen readers announce only the box."""
    slider = w.IntSlider(
        value=value, min=low, max=high, description=label, readout=False, layout=w.Layout(width="210px")
    )
    number = w.BoundedIntText(value=value, min=low, max=high, layout=w.Layout(width="64px"), tooltip=label)
    w.link((slider, "value"), (number, "value"))
    return number, w.HBox([slider, number])


def row(*widgets: w.Widget) -> w.HBox:
    """Widgets side by side; they continue on the next line if the panel is narrow."""
    return w.HBox(widgets, layout=w.Layout(flex_flow="row wrap"))
