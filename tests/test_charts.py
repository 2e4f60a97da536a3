"""Charts draw what is in the table: read back from the drawn picture, not from the specification."""

import re

import numpy as np
import pandas as pd

from memlab import charts


def spoken(chart):
    """What the picture says of its marks to those who cannot see it."""
    return re.findall(r'aria-label="([^"]*)"', charts.to_svg(chart))


def test_the_strip_of_horizons_shows_each_passage_and_the_median():
    table = pd.DataFrame(
        {
            "way": ["ours"] * 3 + ["theirs"] * 3,
            "text_id": list("abcabc"),
            "source": ["prose", "prose", "words"] * 2,
            "horizon": [176, 128, 144, 32, 40, 30],
        }
    )
    marks = spoken(charts.horizon_strip(table))
    for row in table.itertuples():
        assert sum(m.startswith(f"exact horizon, tokens: {row.horizon}; way: {row.way}") for m in marks) == 1
    assert "Median of horizon: 144; way: ours" in marks
    assert "Median of horizon: 32; way: theirs" in marks


def test_a_spectrum_falls_over_its_ranks():
    svg = charts.to_svg(charts.spectrum(np.array([0.5, 0.25, 0.125, 0.0625])))
    (path,) = re.findall(r'aria-roledescription="line mark"[^>]* d="([^"]*)"', svg)
    points = np.array([[float(v) for v in pair.split(",")] for pair in re.findall(r"[ML]([\d.,]+)", path)])
    # Both axes are logarithmic: halvings are equal steps down, doublings equal steps to the right.
    steps = np.diff(points, axis=0)
    np.testing.assert_allclose(steps[:, 1], steps[0, 1], rtol=1e-3)
    assert steps[0, 1] > 0
    np.testing.assert_allclose(steps[:, 0] / steps[0, 0], np.diff(np.log2([1, 2, 3, 4])), rtol=1e-3)


def test_the_speed_chart_tells_failures_apart_and_is_the_same_each_time():
    table = pd.DataFrame(
        {
            "method": ["memlab", "paper2025", "paper2025"],
            "passage": ["a:16", "a:16", "b:16"],
            "tokens": [16, 16, 16],
            "decoded": [True, False, True],
            "seconds": [3.0, 600.0, 200.0],
        }
    )
    svg = charts.to_svg(charts.speed_chart(table))
    marks = spoken(charts.speed_chart(table))
    assert sum("outcome: does not" in m and "passage: a:16" in m and "paper2025" in m for m in marks) == 1
    assert sum("outcome: decodes" in m for m in marks) == 2
    assert svg == charts.to_svg(charts.speed_chart(table))
