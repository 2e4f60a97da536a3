"""Tables as a reader wants them: a title that states what they show, units, and two or three digits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from memlab.charts.names import display

_STYLES: list[Any] = [
    {"selector": "caption", "props": "caption-side:top; text-align:left; font-weight:600; padding:4px 0"},
    {"selector": "th", "props": "text-align:left; vertical-align:bottom; white-space:normal; max-width:16em"},
    {"selector": "td", "props": "padding:2px 18px 2px 0"},
]


def show(table: pd.DataFrame | pd.Series, title: str, *, units: Mapping[str, str] | None = None) -> Styler:
    """A table for a notebook: display names with ``units`` ({column: unit}), rounded numbers, no bare index.

    A number is shown with three significant digits; a share (unit ``"%"``) as a percentage without decimals; yes and no
    for truth values; a dash for missing and infinite numbers. An index with a name becomes the first columns.

    >>> import pandas as pd
    >>> text = show(pd.DataFrame({"median_steps": [1094.123], "share": [0.91]}), "Two", units={"share": "%"}).to_html()
    >>> "1,090" in text, "91 %" in text, "median steps" in text
    (True, True, True)
    """
    units = dict(units or {})
    table = table.to_frame() if isinstance(table, pd.Series) else table.copy()
    if table.index.names != [None]:
        table = table.reset_index()
    if isinstance(table.columns, pd.MultiIndex):
        table.columns = [", ".join(display(str(part)) for part in column if part != "") for column in table.columns]
    heads = {name: _head(str(name), units.get(str(name), "")) for name in table.columns}
    cells = {heads[name]: [_cell(value, units.get(str(name), "")) for value in table[name]] for name in table.columns}
    numbers = [heads[name] for name in table.columns if pd.api.types.is_numeric_dtype(table[name])]
    shown = pd.DataFrame(cells).style.hide(axis="index").set_caption(title).set_table_styles(_STYLES)
    styled = shown.set_properties(**{"text-align": "left"})
    return styled.set_properties(subset=numbers, **{"text-align": "right"}) if numbers else styled


def _head(name: str, unit: str) -> str:
    return f"{display(name)} ({unit})" if unit and unit != "%" else display(name)


def _cell(value: Any, unit: str) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if value is None or value is pd.NA or (isinstance(value, (float, np.floating)) and not math.isfinite(value)):
        return "–"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}" if unit != "%" else f"{value:.0%}".replace("%", " %")
    if isinstance(value, (float, np.floating)):
        return f"{value:.0%}".replace("%", " %") if unit == "%" else significant(float(value))
    return display(str(value))


def significant(value: float, digits: int = 3) -> str:
    """A number with three significant digits, without an exponent.

    >>> significant(9600.149), significant(0.183280), significant(37.263), significant(2.0)
    ('9,600', '0.183', '37.3', '2')
    """
    if not value or not math.isfinite(value):
        return "0" if not value else "–"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, places):,.{max(0, places)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
