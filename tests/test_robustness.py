"""Summaries of moved vectors, against sums done by hand."""

import pandas as pd
import pytest

from memlab.measures import robustness
from memlab.measures.statistics import share_interval


def test_survivors_by_hand():
    table = pd.DataFrame({"amount": [0.1] * 4 + [0.2] * 4, "exact": [True] * 3 + [False] * 5, "tokens": 8})
    table["key"] = [1, 1, 2, 2] * 2
    table["right"] = [8, 8, 8, 2, 4, 0, 0, 4]
    near, far = robustness.survivors(table, "amount").to_dict("records")
    assert (near["share"], far["share"]) == (0.75, 0)
    # Two vectors with two draws each are two vectors: the interval is as wide as that of two trials, not of four.
    assert (near["low"], near["high"]) == share_interval(1.5, 2)
    assert near["tokens_right"] == pytest.approx(26 / 32)
    assert far["tokens_right"] == pytest.approx(8 / 32)


def test_survival_splits_the_gradient_by_its_two_sides():
    rows = [
        ("noise", 0, 0.1, True), ("noise", 1, 0.1, False), ("noise", 0, 0.2, False), ("noise", 1, 0.2, False),
        ("gradient", 0, 0.1, False), ("gradient", 1, 0.1, True), ("gradient", 0, 0.2, False),
        ("gradient", 1, 0.2, True), ("rounding", 0, 4.0, True),
    ]  # fmt: skip
    moved = pd.DataFrame(rows, columns=["what", "draw", "amount", "exact"]).assign(key="a", right=1, tokens=1)
    before = moved.copy()
    shares = robustness.survival_by_direction(moved, ("noise", "up the gradient", "down the gradient"))
    assert shares.direction.unique().tolist() == ["noise", "up the gradient", "down the gradient"]
    assert set(shares.distance) == {0, 0.1, 0.2}  # what was rounded is not a direction
    assert shares.share.tolist() == [1, 0.5, 0, 1, 0, 0, 1, 1, 1]  # at distance 0 each vector is as it was
    assert (shares.low <= shares.share).all()
    pd.testing.assert_frame_equal(moved, before)


def test_left_out_numbers_are_told_by_the_distance_that_they_move_a_vector():
    """Of 100 equal numbers, 25 set to 0 move a vector by half of its norm."""
    moved = pd.DataFrame({"what": "dropout", "draw": 0, "amount": 0.25, "key": ["a", "b"], "exact": [True, False]})
    (start, gone) = robustness.survival_by_direction(moved.assign(right=1, tokens=1), ("dropout",)).itertuples()
    assert (start.distance, start.share) == (0, 1)
    assert (gone.distance, gone.share) == (0.5, 0.5)


def test_median_radii_are_over_texts_not_over_directions():
    """Text a has two directions and counts once: with the mean of its radii."""
    rows = [("a", 8, 0.1, 1.0, 10), ("a", 8, 0.3, 1.0, 10), ("b", 8, 0.6, 3.0, 30), ("c", 8, 0.7, 2.0, 20),
            ("a", 16, 0.1, 5.0, 40)]  # fmt: skip
    radii = pd.DataFrame(rows, columns=["text_id", "tokens", "radius", "margin", "steps"])
    by_text = robustness.radii_by_text(radii, "tokens")
    assert by_text.text_id.tolist() == ["a", "b", "c", "a"]
    assert by_text.radius.tolist() == pytest.approx([0.2, 0.6, 0.7, 0.1])
    medians = robustness.median_radii(radii, "tokens")
    assert medians.texts.to_dict() == {8: 3, 16: 1}
    assert medians.radius.to_dict() == pytest.approx({8: 0.6, 16: 0.1})
    assert (medians.margin[8], medians.steps[8]) == (2, 20)
    assert robustness.median_radii(radii.assign(kind="x"), "kind", "tokens").index.tolist() == [("x", 8), ("x", 16)]
