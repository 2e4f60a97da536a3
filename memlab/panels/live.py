"""``LiveChart``: a chart of a panel that answers the pointer and the keyboard, and tells Python what was picked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import ipywidgets as w

from memlab.charts.theme import EMBED, themed, to_svg
from memlab.panels.style import StaticCopy, status_line


@cache
def _chart_class() -> type[alt.JupyterChart]:
    """``JupyterChart`` with our own JavaScript, bundled with Vega for use without a network (once, about a second).

    Altair 6.3's script keeps every chart that it ever drew, 0.7 MB each in a chart of 500 points.
    """
    import vl_convert

    source = Path(__file__).with_name("live.js").read_text(encoding="utf-8")
    return type("Chart", (alt.JupyterChart,), {"_esm": vl_convert.javascript_bundle(source)})


class LiveChart(StaticCopy, w.VBox):
    """A place for one chart. ``draw`` replaces the chart; tooltips and selections work, offline.

    Charts side by side belong into one chart (``alt.hconcat``): each ``LiveChart`` brings its own copy of Vega, about
    1 MB, into the page.

    >>> import pandas as pd
    >>> from memlab import charts
    >>> live = LiveChart()
    >>> live.draw(lambda: charts.spectrum([0.5, 0.25]))
    >>> len(live.spec["layer"])
    4
    """

    def __init__(self, *, height: int | None = None) -> None:
        """``height``: pixels that are kept free, so that the page does not jump while the chart is drawn again."""
        self._callbacks: dict[str, Callable[[Any], None]] = {}
        self._live: alt.JupyterChart | None = None
        self._watched: Any = None
        super().__init__(layout=w.Layout(min_height=f"{height}px" if height else None, overflow="visible"))
        self.add_class("memlab-chart")

    @property
    def chart(self) -> Any:
        """The Altair chart that is shown; None before the first ``draw`` and after ``clear``."""
        return self._live.chart if self._live else None

    @property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification that is shown; empty if there is none."""
        return dict(self._live.spec or {}) if self._live else {}

    def draw(self, make: Callable[[], Any]) -> None:
        """Show the chart that ``make`` returns. If that fails: one line about the error, so that the work goes on."""
        try:
            with themed():
                chart = make()
                if self._live is None:
                    self._live = _chart_class()(chart, embed_options=EMBED)
                else:
                    self._live.chart = chart
        except Exception as error:  # any: a picture is never worth the result next to it
            reason = next(iter(str(error).splitlines()), "")[:200]
            message = f"The chart could not be drawn. {type(error).__name__}: {reason}"
            self.children = (w.HTML(status_line(message, error=True)),)
            return
        self.children = (self._live,)
        selections = self._live.selections
        if selections is not self._watched:  # a chart that differs from the last one has new selections
            self._watched = selections
            for name, callback in self._callbacks.items():
                if name in selections.trait_names():
                    selections.observe(lambda change, call=callback: call(change["new"].value), name)

    def svg(self) -> str:
        """The chart as SVG text, for a download; empty if there is none."""
        return to_svg(self.chart) if self.chart is not None else ""

    def clear(self) -> None:
        """Show nothing."""
        self.children = tuple[w.Widget, ...]()
        if self._live is not None:
            self._live.close()
            self._live = None

    def on_pick(self, name: str, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` when the selection parameter ``name`` of the chart changes, in this and in later charts.

        Call it before the first ``draw``. ``callback`` gets the selection's ``value``. An interval is
        ``{column: [low, high]}``. Points are a list: of ``{column: value}`` if the selection names ``fields``, else of
        the indices of rows. Add the parameter to the chart: ``add_params(alt.selection_point(name=name, ...))``.
        """
        self._callbacks[name] = callback

    def set(self, **values: Any) -> None:
        """Change the chart's variable parameters (``alt.param(name=..., value=...)``) without redrawing."""
        if self._live is not None:
            for name, value in values.items():
                if name in self._live.params.trait_names():
                    setattr(self._live.params, name, value)
