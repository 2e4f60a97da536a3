"""The look of all panels: style sheet, HTML snippets that use its classes, and controls of equal width."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import altair as alt
import ipywidgets as w
import pandas as pd

from memlab import charts
from memlab.charts.theme import printed, spec_to_svg

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


def badge(kind: str, text: str) -> str:
    """HTML of an outcome that is seen at a glance. ``kind``: ``exact``, ``wrong``, ``stored`` or ``plain``.

    >>> badge("exact", "Exact")
    '<span class="memlab-badge memlab-badge-exact">Exact</span>'
    """
    return f'<span class="memlab-badge memlab-badge-{kind}">{html.escape(text)}</span>'


def _or_error(draw: Callable[[], str]) -> str:
    """What ``draw`` returns. If drawing fails: one line about the error, so that the work goes on."""
    try:
        return draw()
    except Exception as error:  # any: a picture is never worth the result next to it
        reason = next(iter(str(error).splitlines()), "")[:200]
        return status_line(f"The chart could not be drawn. {type(error).__name__}: {reason}", error=True)


class StaticCopy(w.Widget):
    """Adds to a widget's output what it shows now, as HTML: pages without widgets (GitHub, nbviewer) show that."""

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle  # anywidget adds metadata
        if data:
            _DISPLAYED.add(self)
            values = [part if isinstance(part, str) else _or_error(partial(spec_to_svg, part)) for part in parts(self)]
            data["text/html"] = re.sub("<svg .*?</svg>", _image, "\n".join(values), flags=re.DOTALL)
        return bundle


_DISPLAYED: WeakSet[StaticCopy] = WeakSet()


def displayed() -> list[StaticCopy]:
    """The panels that are outputs of the notebook."""
    return list(_DISPLAYED)


def parts(widget: w.Widget) -> Iterator[str | dict[str, Any]]:
    """What a widget shows now, from top to bottom: HTML, or the Vega-Lite specification of a chart."""
    if isinstance(widget, alt.JupyterChart):
        yield dict(widget.spec)
    elif callable(static := getattr(widget, "static_html", None)):
        yield str(static())
    elif isinstance(widget, w.HTML) and widget.value:
        yield str(widget.value)
    for child in getattr(widget, "children", ()):
        yield from parts(child)


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


def download_links(name: str, csv: str, svg: str = "", *, python: str = "") -> str:
    """Links that download a table, the chart ``svg`` (if it was drawn), and the ``python`` that does the same.

    The links contain the data: no server.
    """

    def link(data: str, kind: str, suffix: str, label: str) -> str:
        address = f"data:{kind};base64,{base64.b64encode(data.encode()).decode()}"
        return f'<a class="memlab-link" download="memlab-{name}.{suffix}" href="{address}">{label}</a>'

    links = [link(csv, "text/csv", "csv", "Table (CSV)")]
    if svg.startswith("<svg"):
        links.append(link(printed(svg), "image/svg+xml", "svg", "Picture (SVG)"))
    if python:
        links.append(link(python, "text/x-python", "py", "Python"))
    return "".join(links)


def dropdown(label: str, options: Iterable[Any] = (), **more: Any) -> w.Dropdown:
    """A drop-down list; ``more`` are further arguments of ``ipywidgets.Dropdown``."""
    return w.Dropdown(options=options, description=label, style=_LABEL, layout=w.Layout(width="420px"), **more)


def text_area(label: str, rows: int) -> w.Textarea:
    """A text field as wide as the panel."""
    hint = "Type or paste some text"
    layout = w.Layout(width="auto")
    return w.Textarea(description=label, rows=rows, placeholder=hint, style=_LABEL, layout=layout)


def number_input(label: str, value: int, low: int, high: int, *, about: str = "") -> tuple[w.BoundedIntText, w.HBox]:
    """A number box, and a row as wide as the panel with a linked slider and the box. Screen readers announce the box.

    ``about``: one sentence for the tooltip.
    """
    tip = about or label
    number = w.BoundedIntText(value=value, min=low, max=high, layout=w.Layout(width="72px"), tooltip=tip)
    slider = w.IntSlider(
        value=value, min=low, max=high, description=label, readout=False, style=_LABEL, tooltip=tip,
        layout=w.Layout(flex="1 1 auto", min_width="220px"),
    )  # fmt: skip
    w.link((slider, "value"), (number, "value"))
    return number, w.HBox([slider, number], layout=w.Layout(width="100%", max_width="640px"))


def seed_input(
    value: int = 0, *, about: str = "Another seed starts from other random numbers"
) -> tuple[w.BoundedIntText, w.HBox]:
    """A number box for a seed, and a row with the box and a button that takes the next seed."""
    number = w.BoundedIntText(
        value=value, min=0, max=9999, description="Seed", style=_LABEL, layout=w.Layout(width="170px"), tooltip=about
    )
    another = w.Button(description="another", icon="random", tooltip=about, layout=w.Layout(width="110px"))
    another.on_click(lambda _: setattr(number, "value", (number.value + 1) % 10_000))
    return number, w.HBox([number, another])


def row(*widgets: w.Widget) -> w.HBox:
    """Widgets side by side; they continue on the next line if the panel is narrow."""
    return w.HBox(widgets, layout=w.Layout(flex_flow="row wrap"))
