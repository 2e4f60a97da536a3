"""The look of all panels: style sheet, HTML snippets that use its classes, and controls of equal width."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd

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


def plain_table(table: pd.DataFrame, *, escape: bool = True) -> str:
    """HTML of a table of strings. ``escape=False`` if the cells are HTML already."""
    cells: str = table.to_html(index=False, border=0, classes="memlab-table", escape=escape)
    return f'<div class="memlab-wide">{cells}</div>'


def link_to(address: str, label: str) -> str:
    """A link that opens a new browser tab."""
    target = 'target="_blank" rel="noopener"'
    return f'<a class="memlab-link" href="{html.escape(address)}" {target}>{html.escape(label)}</a>'


def download_links(name: str, csv: str, svg: str = "") -> str:
    """Links that download a table, and a chart if ``svg`` is given. They contain the data: no server is needed."""

    def link(data: str, kind: str, suffix: str, label: str) -> str:
        address = f"data:{kind};base64,{base64.b64encode(data.encode()).decode()}"
        return f'<a class="memlab-link" download="memlab-{name}.{suffix}" href="{address}">{label}</a>'

    table = link(csv, "text/csv", "csv", "Table (CSV)")
    return table + link(svg, "image/svg+xml", "svg", "Picture (SVG)") if svg else table


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
