"""The titles of the pictures in notebooks 6 and 7 are true: each sentence is computed again from the stored tables."""

import json
import re
from functools import cache

import numpy as np
import pytest

from memlab.experiments.tables import stored
from tests.browser_lab import ROOT

table = cache(stored)


def code(name):
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


BETWEEN, ROBUST = code("06_between_solutions"), code("07_robustness")
WORDS = {
    "half": 1 / 2,
    "a tenth": 1 / 10,
    "a hundredth": 1 / 100,
    "three quarters": 3 / 4,
    "none": 0,
    "six": 6,
    "four": 4,
}


def title(source, pattern):
    """The numbers in the title that matches ``pattern``; it must be in the source once."""
    found = re.findall(pattern, source)
    assert len(found) == 1, pattern
    groups = found[0] if isinstance(found[0], tuple) else (found[0],)
    return [WORDS.get(group.lower(), group) for group in groups]


def test_the_curve_is_lower_than_the_line_in_every_pair():
    (count,) = title(BETWEEN, r'"In all (\d+) pairs the trained curve has a lower barrier than the straight line"')
    heights = table("geometry-paths").groupby(["pair", "way"]).barrier.first().unstack()
    assert len(heights) == int(count)
    assert (heights.curve < heights.line).all()


def test_half_of_the_curves_of_prose_are_exact_everywhere():
    half, places, none = title(
        BETWEEN,
        r'"(Half) of the curves between solutions of prose are exact at all (\d+) places; of random words, (none)"',
    )
    paths = table("geometry-paths")
    curves = paths[paths.way == "curve"].groupby(["kind", "pair"]).exact.agg(["all", "size"])
    assert set(curves["size"]) == {int(places)}
    assert curves["all"]["prose"].mean() == half
    assert curves["all"]["random words"].mean() == none


def test_halfway_between_two_texts_hardly_a_token_is_left():
    title(BETWEEN, r'"(Halfway) between the vectors of two texts, hardly a token of either is left"')
    between = table("geometry-between")
    middle = between[np.isclose(between.t, 0.5)]
    tokens = max(between.of_a.max(), between.of_b.max())
    assert middle[["of_a", "of_b"]].mean().max() < 0.05 * tokens
    assert middle[["of_a", "of_b"]].max().max() <= 4  # of 32, in any pair


def test_noise_of_a_tenth_loses_half_and_the_gradient_three_quarters_at_a_hundredth():
    tenth, half, hundredth, quarters = title(
        ROBUST,
        r'"Noise of (a tenth) of the norm loses (half) of the texts; '
        r'up the gradient, (a hundredth) loses (three quarters)"',
    )
    moved = table("geometry-noise")
    noise = moved[(moved.what == "noise") & (moved.amount == tenth)]
    up = moved[(moved.what == "gradient") & (moved.draw == 0) & (moved.amount == hundredth)]
    assert 1 - noise.exact.mean() == pytest.approx(half, abs=0.1)
    assert 1 - up.exact.mean() == quarters


def test_the_medians_of_the_radii_by_direction():
    tenth, hundredth = title(
        ROBUST,
        r'"A vector can go (a tenth) of its norm in a random direction, '
        r'but under (a hundredth) up the gradient \(medians\)"',
    )
    median = table("geometry-radii").groupby("direction").radius.median()
    assert median["random"] == pytest.approx(tenth, rel=0.1)
    assert median["gradient"] < hundredth


def by_text(name, column, value="radius"):
    """Mean over directions, a row per text."""
    return table(name).groupby(["text_id", column])[value].mean().unstack()


def test_twice_the_text_is_half_the_room():
    title(ROBUST, r'"(Twice) the text,", "about half the room"')
    medians = by_text("geometry-lengths", "tokens").median()
    slope = np.polyfit(np.log2(medians.index), np.log2(medians), 1)[0]
    assert 2**slope == pytest.approx(0.5, abs=0.08)


def test_a_lead_of_four_logits_gains_little_and_takes_twice_the_steps():
    (four,) = title(ROBUST, r'"A lead of (four) logits", "gains little')
    title(ROBUST, r'"... and takes about (twice)", "the steps or more"')
    for kind in (True, False):
        radius, steps = (by_text("geometry-margins", "asked", value) for value in ("radius", "steps"))
        radius, steps = (values[values.index.str.startswith("random-") == kind].median() for values in (radius, steps))
        assert radius[four] < 1.2 * radius[1]  # one logit is where the recipe stops
        assert steps[four] > 1.9 * steps[1]


def test_three_solutions_are_three_islands():
    title(ROBUST, r'f"(Three) solutions of one passage, “\{text_title\(first.text_id\)\}”, are three small islands"')
    planes = table("geometry-planes")
    assert planes.text_id.nunique() == 1
    plane = planes[planes.plane == "through a third solution"]
    step = np.diff(np.sort(plane.x.unique())).min()
    places = {tuple(place) for place in np.rint(plane[plane.exact][["x", "y"]].to_numpy() / step).astype(int).tolist()}
    islands = []
    while places:
        island, edge = set(), [places.pop()]
        while edge:
            x, y = edge.pop()
            island.add((x, y))
            near = {(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & places
            places -= near
            edge += near
        islands.append(island)
    ends = [(0, 0), (1 / step, 0), (plane.third_x.iloc[0] / step, plane.third_y.iloc[0] / step)]
    assert len(islands) == 3
    for x, y in ends:
        assert any((round(x), round(y)) in island for island in islands)
    assert max(map(len, islands)) < 0.05 * len(plane)


def test_six_bits_per_number_keep_all_but_one():
    six, kept, of = title(ROBUST, r'"With (six) bits per number, (\d+) of (\d+) vectors stay exact"')
    precision = table("precision")
    rounded = precision[precision.form == f"int{six}"]
    assert (int(rounded.exact.sum()), len(rounded)) == (int(kept), int(of))


def test_longer_texts_need_more_bits_per_number():
    title(ROBUST, r'"(Longer) texts need more bits per number"')
    precision = table("precision")
    exact = precision[precision.form.str.startswith("int") & precision.exact]
    fewest = exact.sort_values("stored_bits").groupby("key").first()
    medians = fewest.groupby("tokens").bits_a_number.median()
    assert medians.is_monotonic_increasing
    assert medians.iloc[-1] > medians.iloc[0]
    assert fewest.tokens.corr(fewest.bits_a_number, method="spearman") > 0.3
