"""Charts of geometry, tested by the marks of the drawn SVG."""

import re

import numpy as np
import pandas as pd

from memlab import charts
from tests.helpers import spoken_labels, symbol_places


def path_of(**columns):
    return pd.DataFrame(
        {"t": [0, 0.5, 1], "bits": [0.1, 7, 0.1], "right": [8, 2, 8], "tokens": 8, "way": "line"} | columns
    )


def test_a_path_fills_exact_places_only():
    marks = spoken_labels(charts.along_a_path(path_of(exact=[True, False, False])))
    assert sum("exact: true" in m and "tokens right" in m for m in marks) == 2  # one place in both pictures
    points = symbol_places(charts.along_a_path(path_of(exact=True)), "point")
    assert points[0, 1] == points[2, 1] > points[1, 1]  # 7 bits are drawn higher


def test_a_rule_stands_at_the_chosen_place_in_both_pictures():
    def rules(place):
        svg = charts.to_svg(charts.along_a_path(path_of(exact=True), place))
        return re.findall(r'aria-label="here: [^>]*transform="translate\(([\d.]+),', svg)

    for place, x in ((0, 0), (0.25, 92.5), (1, 370)):
        assert [float(at) for at in rules(place)] == [x, x]


def test_a_strip_has_a_square_per_place_and_the_best_pairs_on_top():
    places = [(pair, way, t) for pair in (0, 1) for way in ("line", "curve") for t in (0.0, 0.5, 1.0)]
    table = pd.DataFrame(places, columns=["pair", "way", "t"]).assign(text_id="a", kind="prose", right=8)
    table["exact"] = (table.pair == 1) | (table.t != 0.5)
    chart = charts.exact_places(table)
    assert len(symbol_places(chart, "square")) == 12
    lines = [view for row in chart.to_dict()["vconcat"] for view in row["hconcat"]]
    assert [view["title"]["text"] for view in lines] == ["straight line, our own prose", "trained curve, our own prose"]
    assert lines[0]["encoding"]["y"]["sort"] == [1, 0]
    assert sum("exact: false" in m for m in spoken_labels(chart)) == 2


def test_open_radii_are_triangles_on_lines_of_their_own_and_the_smallest_radius_is_drawn():
    table = pd.DataFrame(
        {
            "direction": ["random"] * 4,
            "radius": [0.0, 0.1, 2.0, 2.0],
            "fails": [0.001, 0.11, np.inf, np.inf],
            "text_id": list("abcd"),
            "margin": 1.0,
        }
    )
    chart = charts.radii_by_direction(table)
    marks = spoken_labels(chart)
    assert sum("open: true" in m and "passage: " in m for m in marks) == 2
    assert sum("open: false" in m for m in marks) == 2
    assert any("passage: a" in m and "0.1%" in m for m in marks)
    places = symbol_places(chart, "point")
    assert len({y for _, y in places}) == 4  # two open radii of the same size do not hide each other


def test_loss_planes_frame_exact_places_and_share_one_colour_scale():
    places = [(p, x, y) for p in ("one plane", "two") for x in (0.0, 0.5, 1.0) for y in (-0.5, 0.0, 0.5)]
    table = pd.DataFrame(places, columns=["plane", "x", "y"])
    table["bits"] = np.where(table.plane == "two", 9.0, 5.0)
    table["exact"] = (table.y == 0) & (table.x != 0.5)
    named = pd.DataFrame({"plane": "two", "x": [0.0, 1.0], "y": [0.0, 0.0], "name": ["one", "other"]})
    chart = charts.loss_planes(table, named)
    svg = charts.to_svg(chart)
    assert svg.count("exact: true") == 2 * 2 * 2  # the cell and its frame, in two planes
    assert svg.count(">other<") == 2  # the name on its halo
    scales = [view["layer"][0]["encoding"]["color"]["scale"]["domain"] for view in chart.to_dict()["hconcat"]]
    assert scales == [[0, 9], [0, 9]]


def test_each_try_is_a_dot_in_front_of_the_stored_curve():
    stored = pd.DataFrame(
        {"distance": [0.0, 0.1, 0.3, 1.0], "share": [1.0, 0.5, 0, 0], "tokens_right": [1.0, 0.6, 0.1, 0]}
    )
    tries = pd.DataFrame({"distance": [0.1, 0.5], "right": [1.0, 0.25], "exact": [True, False], "what": "noise"})

    def dots(tries):
        """Where the tries are drawn: after the dots of the stored curves."""
        return symbol_places(charts.tries_on_survival(stored, tries), "point")[6:]

    near, both = dots(tries[:1]), dots(tries)
    assert (len(dots(tries[:0])), len(near), len(both)) == (0, 1, 2)
    assert both[0, 0] < near[0, 0]  # the axis grows with the farthest try
    marks = spoken_labels(charts.tries_on_survival(stored, tries, edge=0.2))
    assert any("exact: false" in m and "right: 0.25" in m for m in marks)
    assert sum(m.endswith("norm: 20.000000%") for m in marks) == 1  # the edge


def test_survival_has_a_line_per_direction_and_titles_on_both_axes():
    table = pd.DataFrame(
        {"direction": ["noise", "noise", "up the gradient"], "distance": [0.0, 0.9, 0.1], "share": 1.0}
    )
    marks = spoken_labels(charts.survival(table.assign(low=0.5, high=1.0)))
    axes = [m for m in marks if m.startswith(("X-axis", "Y-axis"))]
    assert any("titled 'moved vectors still exact'" in axis for axis in axes)
    assert any("titled 'distance moved" in axis for axis in axes)
    assert not any("90.0%" in m for m in marks)  # beyond what is drawn


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
        {"i": [0], "x": [0.0], "y": [0.0], "kind": "prose", "passage": "a", "text": "Meet me", "tokens": 8}
    )
    marks = spoken_labels(charts.vector_map(table.assign(seed=3)))
    assert any("text: Meet me" in m for m in marks)


def test_from_text_to_text_draws_both_texts_of_every_pair():
    table = pd.DataFrame({"t": [0.0, 1.0], "of_a": [8, 1], "of_b": [0, 8], "written": ["one", "other"]})
    two = pd.concat([table.assign(pair=0), table.assign(pair=1)])
    for places, count in ((table, 4), (two, 8)):
        points = symbol_places(charts.from_text_to_text(places, ("first", "second")), "point")
        assert len(points) == count
        assert len({x for x, _ in points}) == 2


def test_bits_of_tokens_keep_the_order_of_the_text():
    """The first token has no cost without a vector."""
    table = pd.DataFrame({"position": [1, 2, 3], "token": list("cat"), "before": [np.nan, 9.0, 2.0], "after": 0.5})
    (axis,) = (label for label in spoken_labels(charts.token_bits(table)) if label.startswith("X-axis"))
    assert axis.index("1 'c'") < axis.index("2 'a'") < axis.index("3 't'")


def test_densities_are_bars_from_zero():
    table = pd.DataFrame({"kind": "prose", "from": [1.0, 2.0], "to": [2.0, 4.0], "share": [0.25, 0.75]})
    for log in (False, True):
        svg = charts.to_svg(charts.densities(table, title="norm", log=log))
        bars = re.findall(r'"rect mark" d="M[-\d.]+,([-\d.]+)h[-\d.]+v([-\d.]+)', svg)
        (top, height), (higher_top, higher) = np.array(bars, float)
        assert higher > height > 0
        np.testing.assert_allclose(higher / height, 3)
        np.testing.assert_allclose(top + height, higher_top + higher)


def test_means_are_marked_with_their_value():
    table = pd.DataFrame({"kind": ["a", "b"], "from": [0.1, 0.3], "to": [0.2, 0.4], "share": 1.0})
    svg = charts.to_svg(charts.densities(table, title="cosine", means=True))
    assert ">0.15<" in svg
    assert ">0.35<" in svg
