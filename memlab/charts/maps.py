"""Charts of flat maps: vectors on a plane, and the paths of trainings on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memlab.charts.colours import CONTROL, GROUND, INK, OTHERS, kinds_scale, labels
from memlab.charts.names import text_title
from memlab.charts.rows import chart, inline, no_data

MANY = 8
"""A passage with so many vectors has a colour of its own on a map coloured by passage."""
_SIZE = {"width": 540, "height": 430}


@chart
def vector_map(
    table: pd.DataFrame,
    *,
    by: str = "kind",
    labelled: bool = False,
    title: Any = "",
    chosen: int = -1,
    other: int = -1,
    found: Sequence[int] = (),
    drag: str = "",
    view: Mapping[str, Sequence[float]] | None = None,
) -> Any:
    """Vectors on a plane, one point each. Columns ``i x y kind passage text tokens seed``, and ``near`` if it is known.

    ``by``: what colours tell, ``kind``, ``passage`` or ``tokens``. By passage, those with eight vectors or more have a
    colour, and, if ``labelled``, the first words of their text stand there. ``near`` is a list of ``i``: lines lead
    from the vector ``chosen`` to these. ``other`` is a second marked vector. If some are ``found``, the rest is pale.

    ``drag`` makes the chart answer the pointer: ``select`` draws a brush (selection ``brush``), ``zoom`` moves the view
    (selection ``view``); a click picks (selection ``pick``). ``chosen``, ``other`` and ``found`` are then parameters
    that can be set without drawing again. ``view`` is the visible part, {"x": [low, high], "y": [low, high]}.

    The tooltip leaves out the text if there are more than 5,000 vectors. Points shrink from 1,000 vectors on.
    """
    table = table[np.isfinite(table[["x", "y"]].astype(float)).all(axis=1)]
    if table.empty:
        return no_data()
    large = table.passage.map(table.passage.value_counts()) >= MANY
    table = table.assign(
        group={"kind": table.kind, "passage": table.passage.where(large, "others"), "tokens": table.tokens}[by],
        title=table.passage.map(text_title),
    )
    names = ["i", "x", "y", "group", "kind", "title", "tokens", "seed"]
    if len(table) <= 5000:
        names.append("text")
    if lines := "near" in table and len(table) <= 5000:
        places = {a: dict(zip(table.i, table[a].round(3).tolist(), strict=True)) for a in "xy"}
        ends = {f"near_{a}": [[at[i] for i in near if i in at] for near in table.near] for a, at in places.items()}
        table, names = table.assign(**ends), [*names, *ends]
    base = alt.Chart(inline(table, *names)).encode(_axis(alt.X, "x", view), _axis(alt.Y, "y", view))
    marked = {"chosen": chosen, "other": other, "found": list(found)}
    params = [alt.param(name=name, value=value) for name, value in marked.items()]
    lit = (alt.expr.length(params[2]) == 0) | (alt.expr.indexof(params[2], alt.datum.i) >= 0)
    brush, pick = alt.selection_interval(name="brush"), alt.selection_point(name="pick", fields=["i"])
    bright = alt.when(brush, lit) if drag == "select" else alt.when(lit)
    text = [alt.Tooltip("text:N", title="text")] if "text" in names else []
    points = base.mark_point(filled=True, size=min(70, max(6, 70_000 / len(table))), clip=True).encode(
        _colour(by, table),
        opacity=bright.then(alt.value(0.85)).otherwise(alt.value(0.12)),
        shape=alt.when("datum.kind == 'own'").then(alt.value("diamond")).otherwise(alt.value("circle")),
        tooltip=[*text, alt.Tooltip("title:N", title="passage"), "tokens:Q", "seed:Q"],
    )
    if drag:
        moved = brush if drag == "select" else alt.selection_interval(name="view", bind="scales")
        points = points.add_params(moved, pick)
    rings = base.transform_filter("datum.i == chosen || datum.i == other").mark_point(
        filled=False, size=230, color=INK, strokeWidth=2, opacity=1, clip=True
    )
    layers = [*([_lines(base)] if lines else []), points, rings, *(_labels(table[large]) * labelled)]
    # Without a fill, the empty part of an SVG gets no events of the pointer.
    ground = alt.ViewBackground(fill="transparent", stroke=None)
    whole = alt.layer(*layers).add_params(*params).properties(**_SIZE, view=ground)
    return whole.properties(title=title) if title else whole


def _axis(channel: Any, name: str, view: Mapping[str, Sequence[float]] | None) -> Any:
    part = {"domain": list(view[name])} if view else {"padding": 60 if name == "x" else 20}  # labels need room
    return channel(f"{name}:Q", title=None, axis=None, scale=alt.Scale(zero=False, nice=False, **part))


def _colour(by: str, table: pd.DataFrame) -> Any:
    legend = alt.Legend(orient="bottom", title=None)
    if by == "kind":
        legend.labelExpr = labels(table.kind.unique())
        return alt.Color("group:N", scale=kinds_scale(table, "kind"), legend=legend)
    if by == "tokens":  # without the ends of viridis, which are too dark or too bright for one of the themes
        legend.title = "tokens of the text"
        return alt.Color(
            "group:O", scale=alt.Scale(scheme=alt.SchemeParams("viridis", extent=[0.2, 0.85])), legend=legend
        )
    passages = [name for name in dict.fromkeys(table.group) if name != "others"]
    colours = [OTHERS[i % len(OTHERS)] for i in range(len(passages))]
    return alt.Color("group:N", scale=alt.Scale(domain=[*passages, "others"], range=[*colours, CONTROL]), legend=None)


def _lines(base: Any) -> Any:
    """A line from the chosen vector to each of its nearest ones, wherever the map has put them."""
    near = base.transform_filter("datum.i == chosen").transform_flatten(["near_x", "near_y"])
    return near.mark_rule(color=INK, strokeWidth=1.2, opacity=0.7, clip=True).encode(x2="near_x:Q", y2="near_y:Q")


def _labels(table: pd.DataFrame) -> list[Any]:
    """The first words of each passage's text at the median of its vectors."""
    if table.empty:
        return []
    groups = table.groupby("passage", sort=False)
    places = groups[["x", "y"]].median().assign(words=groups.text.first().map(first_words))
    text = alt.Chart(inline(places)).encode(alt.X("x:Q"), alt.Y("y:Q"), alt.Text("words:N"))
    font: dict[str, Any] = {"fontSize": 12, "fontWeight": 600, "dy": -22, "clip": True}
    return [text.mark_text(**font, stroke=GROUND, strokeWidth=4, strokeJoin="round"), text.mark_text(**font)]


def first_words(text: str, characters: int = 20) -> str:
    """The beginning of a text, cut after a word.

    >>> first_words("The tide went out at four, and nobody came."), first_words("Rain.")
    ('The tide went out at…', 'Rain.')
    """
    text = " ".join(text.split())
    if len(text) <= characters:
        return text
    return (text[: characters + 1].rsplit(" ", 1)[0][:characters] or text[:characters]).rstrip(" ,.;:…") + "…"


@chart
def training_paths(points: pd.DataFrame, paths: pd.DataFrame, *, title: str = "") -> Any:
    """Trainings on a linear map: ``paths`` (``run step x y kind passage``) among other vectors ``points`` (``x y``).

    A line is one training; a ring is its start, a dot its exact end.
    """
    axes = {"x": _axis(alt.X, "x", None), "y": _axis(alt.Y, "y", None)}
    crowd = alt.Chart(inline(points, "x", "y")).mark_circle(color=CONTROL, opacity=0.3, size=30).encode(**axes)
    table = paths.assign(
        title=paths.passage.map(text_title), first=paths.step == paths.groupby("run").step.transform("min")
    )
    table["last"] = table.step == table.groupby("run").step.transform("max")
    legend = alt.Legend(title=None, orient="bottom", labelExpr=labels(table.kind.unique()))
    line = alt.Chart(inline(table)).encode(
        **axes,
        color=alt.Color("kind:N", scale=kinds_scale(table, "kind"), legend=legend),
        detail="run:N",
        order="step:Q",
        tooltip=[alt.Tooltip("title:N", title="passage"), "step:Q"],
    )
    start = line.transform_filter("datum.first").mark_point(size=50, strokeWidth=2, opacity=1)
    end = line.transform_filter("datum.last").mark_circle(size=90, opacity=1)
    layers = (crowd, line.mark_line(strokeWidth=2, strokeJoin="round", point=alt.OverlayMarkDef(size=12)), start, end)
    return alt.layer(*layers).properties(**_SIZE, **({"title": title} if title else {}))
