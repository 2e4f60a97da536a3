"""Charts of geometry, tested by the marks of the drawn SVG."""

import re

import numpy as np
import pandas as pd

from memlab import charts
from tests.helpers import spoken_labels, symbol_places


def test_a_path_marks_exact_places_only():
    table = pd.DataFrame({"t": [0, 0.5, 1], "bits": [0.1, 7, 0.1], "right": [8, 2, 8], "tokens": 8, "way": "line"})
    assert len(symbol_places(charts.along_a_path(table.assign(exact=[True, False, False])), "circle")) == 1
    points = symbol_places(charts.along_a_path(table.assign(exact=True)), "circle")
    assert points[0, 1] == points[2, 1] > points[1, 1]  # 7 bits are drawn higher


def test_open_radii_are_arrows_and_the_smallest_radius_is_drawn():
    table = pd.DataFrame(
        {
            "direction": ["random"] * 3,
            "radius": [0.0, 0.1, 2.0],
            "fails": [0.001, 0.11, np.inf],
            "text_id": list("abc"),
            "margin": 1.0,
        }
    )
    marks = spoken_labels(charts.radii_by_direction(table))
    assert sum("open: true" in m and "text_id: c" in m for m in marks) == 1
    assert sum("open: false" in m for m in marks) == 2
    assert any("text_id: a" in m and "0.1%" in m for m in marks)


def test_loss_plane_frames_exact_places_and_names_its_marks():
    places = [(x, y) for x in (0.0, 0.5, 1.0) for y in (-0.5, 0.0, 0.5)]
    table = pd.DataFrame(places, columns=["x", "y"]).assign(
        bits=5.0, exact=[p in ((0.0, 0.0), (1.0, 0.0)) for p in places]
    )
    named = pd.DataFrame({"x": [0.0, 1.0], "y": [0.0, 0.0], "name": ["one", "other"]})
    svg = charts.to_svg(charts.loss_plane(table, named))
    assert svg.count("exact: true") == 2 * 2  # the cell and its frame
    assert ">one<" in svg
    assert ">other<" in svg


def test_norm_trajectories_end_at_the_last_step():
    table = pd.DataFrame(
        {
            "text_id": "a",
            "kind": "prose",
            "tokens": [8, 8, 8, 16, 16, 16],
            "step": [0, 1, 1, 0, 1, 1],
            "norm": [1.0, 10, 10, 1, 100, 100],
            "last": [False, False, True] * 2,
        }
    )
    ends = symbol_places(charts.norm_trajectories(table), "circle")
    assert len(ends) == 2
    assert ends[0, 0] == ends[1, 0]
    assert ends[0, 1] > ends[1, 1]


def test_vector_map_shows_the_text_in_the_tooltip():
    table = pd.DataFrame(
        {"i": [0], "x": [0.0], "y": [0.0], "kind": "prose", "label": "a", "text": "Meet me", "tokens": 8, "norm": 1.0}
    )
    marks = spoken_labels(charts.vector_map(table.assign(seed=3)))
    assert any("text: Meet me" in m for m in marks)


def test_from_text_to_text_draws_both_texts_at_every_position():
    table = pd.DataFrame({"t": [0.0, 1.0], "of_a": [8, 1], "of_b": [0, 8], "written": ["one", "other"]})
    points = symbol_places(charts.from_text_to_text(table, ("first", "second")), "point")
    assert len(points) == 4
    assert len({x for x, _ in points}) == 2


def test_token_waterfall_keeps_the_order_of_the_text():
    """The first token has no cost without a vector."""
    table = pd.DataFrame({"position": [1, 2, 3], "token": list("cat"), "before": [np.nan, 9.0, 2.0], "after": 0.5})
    (axis,) = (label for label in spoken_labels(charts.token_waterfall(table)) if label.startswith("Y-axis"))
    assert axis.index("1 'c'") < axis.index("2 'a'") < axis.index("3 't'")


def test_densities_are_bars_from_zero():
    table = pd.DataFrame({"kind": "prose", "from": [1.0, 2.0], "to": [2.0, 3.0], "share": [0.25, 0.75]})
    svg = charts.to_svg(charts.densities(table, title="norm"))
    bars = re.findall(r'aria-roledescription="bar"[^>]* d="M[-\d.]+,([-\d.]+)h[-\d.]+v([-\d.]+)', svg)
    (top, height), (higher_top, higher) = np.array(bars, float)
    assert higher > height > 0
    np.testing.assert_allclose(higher / height, 3)
    np.testing.assert_allclose(top + height, higher_top + higher)
