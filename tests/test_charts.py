"""Charts draw what is in the table. The tests read the drawn SVG, not the specification."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from memlab import charts
from tests.helpers import spoken_labels, symbol_places


def test_horizon_strip_shows_each_passage_and_the_median():
    table = pd.DataFrame(
        {
            "method": ["ours"] * 3 + ["theirs"] * 3,
            "text_id": list("abcabc"),
            "source": ["prose", "prose", "words"] * 2,
            "horizon": [176, 128, 144, 32, 40, 30],
            "failed_at": pd.Series([184, None, float("nan"), 40, 48, 32], dtype=object),  # JSON has no NaN
        }
    )
    marks = spoken_labels(charts.horizon_strip(table))
    for row in table.itertuples():
        assert sum(m.startswith(f"exact horizon, tokens: {row.horizon}; method: {row.method}") for m in marks) == 1
    assert "Median of horizon: 144; method: ours" in marks
    assert "Median of horizon: 32; method: theirs" in marks


def test_spectrum_axes_are_logarithmic():
    svg = charts.to_svg(charts.spectrum(np.array([0.5, 0.25, 0.125, 0.0625])))
    (path,) = re.findall(r'aria-roledescription="line mark"[^>]* d="([^"]*)"', svg)
    points = np.array([[float(v) for v in pair.split(",")] for pair in re.findall(r"[ML]([\d.,]+)", path)])
    # Both axes are logarithmic: halvings are equal steps down, doublings equal steps to the right.
    steps = np.diff(points, axis=0)
    np.testing.assert_allclose(steps[:, 1], steps[0, 1], rtol=1e-3)
    assert steps[0, 1] > 0
    np.testing.assert_allclose(steps[:, 0] / steps[0, 0], np.diff(np.log2([1, 2, 3, 4])), rtol=1e-3)


def test_speed_chart_marks_failures_and_is_deterministic():
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
    marks = spoken_labels(charts.speed_chart(table))
    assert sum("outcome: does not" in m and "passage: a:16" in m and "paper2025" in m for m in marks) == 1
    assert sum("outcome: decodes" in m for m in marks) == 2
    assert svg == charts.to_svg(charts.speed_chart(table))
    two = pd.concat([table.assign(device="cpu A"), table.assign(device="cpu B", seconds=table.seconds * 2)])
    both = charts.to_svg(charts.speed_chart(two))
    assert "cpu A" in both
    assert "cpu B" in both
    assert len([m for m in spoken_labels(charts.speed_chart(two)) if "outcome: " in m]) == 6
    (drawn,) = charts.speed_chart(two).to_dict()["datasets"].values()
    offsets = pd.DataFrame(drawn).groupby(["device", "method"]).jitter.min()
    assert (offsets == 0).all()  # each device starts at offset 0
    assert "cpu A" not in charts.to_svg(charts.speed_chart(two[two.device == "cpu A"]))


def test_capacity_by_model_draws_guide_lines_at_their_shares():
    table = pd.DataFrame(
        {
            "model": ["a", "b", "c"],
            "theoretical": [1000.0, 1000.0, 4000.0],
            "tokens": [100.0, 10.0, 40.0],
            "low": [80.0, np.nan, 30.0],
            "high": [120.0, np.nan, 50.0],
            "method": ["published", "published", "ours"],
        }
    )
    a, b, c = symbol_places(charts.capacity_by_model(table), "point")
    assert a[1] < c[1] < b[1]
    assert a[0] == b[0] < c[0]
    # A hundredth of the theoretical capacity is a line of slope 1: b and c, a hundredth each, lie on it.
    svg = charts.to_svg(charts.capacity_by_model(table))
    lines = re.findall(r'aria-roledescription="line mark"[^>]* d="M([-\d.]+),([-\d.]+)L([-\d.]+),([-\d.]+)', svg)
    gaps = []
    for x1, y1, x2, y2 in np.array(lines, float):
        gaps.append(max(abs(y1 + (y2 - y1) * (p[0] - x1) / (x2 - x1) - p[1]) for p in (b, c)))
    assert min(gaps) < 1


def test_an_octave_is_equally_wide_in_tokens_and_in_bits():
    table = pd.DataFrame(
        {
            "texts": ["prose"] * 2 + ["words"] * 2,
            "text_id": list("abcd"),
            "horizon": [100, 200, 50, 100],
            "horizon_bits": [400.0, 800.0, 500.0, 1000.0],
        }
    )
    svg = charts.to_svg(charts.horizons_tokens_and_bits(table))
    ticks = re.findall(r'aria-label="([^"]*)"[^>]*aria-roledescription="tick"[^>]* d="M([-\d.]+),', svg)
    place = {}
    for label, x in ticks:
        unit = "bits" if "bits (log): " in label else "tokens"
        name = re.search(r"text_id: (\w)", label)
        if name:
            place[unit, name.group(1)] = float(x)
    octave = place["tokens", "b"] - place["tokens", "a"]
    assert octave > 0
    assert place["tokens", "d"] - place["tokens", "c"] == pytest.approx(octave, abs=0.1)
    assert place["bits", "b"] - place["bits", "a"] == pytest.approx(octave, abs=0.1)


def runs():
    return pd.DataFrame(
        {
            "text_id": list("abc"),
            "texts": ["prose", "prose", "words"],
            "length": [64, 128, 192],
            "seed": [0, 0, 1],
            "exact": [True, True, False],
            "bits_without": [250.0, 500.0, 900.0],
            "bits_with": [0.5, 1.0, 400.0],
            "token_bits_with": [np.full(3, np.nan)] * 3,  # a chart cannot hold arrays
        }
    )


def test_before_and_after_draws_the_runs_and_the_line():
    marks = spoken_labels(charts.before_and_after(runs(), 500.0))
    assert sum("outcome: exact" in m for m in marks) == 2
    assert sum("outcome: not exact" in m and "text_id: c" in m for m in marks) == 1
    points = symbol_places(charts.before_and_after(runs(), 500.0), "point")
    svg = charts.to_svg(charts.before_and_after(runs(), 500.0))
    lines = re.findall(r'aria-roledescription="line mark"[^>]* d="(M[^"]*)"', svg)
    (bent,) = [line for line in lines if line.count("L") == 2]
    corner = [float(v) for v in re.findall(r"L([-\d.]+),([-\d.]+)", bent)[0]]
    assert corner[0] == pytest.approx(points[1][0], abs=0.6)  # the line leaves 0 at 500 bits, the place of passage b


def test_bits_along_names_the_first_wrong_token():
    chart = charts.bits_along([np.nan, 2.0, 4.0, 1.0], [0.5, 0.0, 0.5, 3.0], 3)
    svg = charts.to_svg(chart)
    assert "The first 3 of 4 tokens come back" in svg
    drawn = chart.to_dict()
    (table,) = (rows for rows in drawn["datasets"].values() if len(rows) == 8)
    last = {row["condition"]: row["bits"] for row in table if row["token"] == 4}
    assert last == {"without the vector": 7.0, "with the vector": 4.0}
    assert "All 2 tokens come back" in charts.to_svg(charts.bits_along([1.0, 2.0], [0.0, 0.0], 2))


def test_attempts_by_length_shows_every_attempt():
    marks = spoken_labels(charts.attempts_by_length(runs()))
    assert sum(m.startswith("tokens: ") for m in marks) == 3
    assert any("tokens: 192; bits left: 400" in m and "not exact" in m for m in marks)


def test_shares_codecs_vectors_and_predictions_are_drawn():
    shares = pd.DataFrame(
        {"bits_a_number": [4, 8], "share": [0.25, 1.0], "low": [0.1, 0.9], "high": [0.5, 1.0], "form": ["int4", "int8"]}
    )
    assert len(symbol_places(charts.survival_by_bits(shares), "point")) == 2
    codecs = pd.DataFrame({"codec": ["zip", "coder"], "texts": ["prose"] * 2, "bits_a_token": [32.0, 4.0]})
    marks = spoken_labels(charts.codec_bars(codecs))
    assert any("codec: coder" in m and "4" in m for m in marks)
    order = [m for m in marks if m.startswith("Y-axis")]
    assert "coder, zip" in order[0]  # shortest first
    vectors = pd.DataFrame({"k": [1, 2, 4] * 2, "tokens": [100.0, 200, 400, 90, 170, 330], "series": "ours"})
    vectors["text_id"] = [*"aaabbb"]
    assert len(symbol_places(charts.more_vectors(vectors), "point")) == 6
    lines = [m for m in spoken_labels(charts.more_vectors(vectors)) if m.startswith(("k: ", "vectors, k"))]
    assert len({m.split("text_id: ")[1].split(";")[0] for m in lines if "text_id: " in m}) == 2
    names = ["one, published", "two, published", "ours, prose", "ours, novels", "ours, random"]
    five = pd.concat([vectors.assign(series=name) for name in names])
    encoding = charts.more_vectors(five).to_dict()["encoding"]
    colour, dash = (encoding[name]["scale"] for name in ("color", "strokeDash"))
    assert colour["domain"] == dash["domain"] == names
    assert len({(paint, *d) for paint, d in zip(colour["range"], dash["range"], strict=True)}) == 5
    predicted = pd.DataFrame(
        {"text_id": ["a"], "texts": ["prose"], "true": [100], "predicted": [90.0], "low": [80.0], "high": [95.0]}
    )
    assert any(
        "true: 100; predicted: 90" in m or "tokens: 90" in m for m in spoken_labels(charts.predictions(predicted))
    )


def test_a_kind_of_text_has_one_colour_in_every_chart():
    def colours(chart):
        specification = json.dumps(chart.to_dict())
        scale = re.search(r'"scale": \{"domain": (\[[^\]]*\]), "range": (\[[^\]]*\])\}', specification)
        return dict(zip(*map(json.loads, scale.groups()), strict=True))

    kinds = ["random", "originals"]
    codecs = pd.DataFrame({"codec": ["zip", "zip"], "texts": kinds, "bits_a_token": [32.0, 4.0]})
    predicted = pd.DataFrame(
        {"true": [1, 2], "predicted": [1, 2], "low": [0, 1], "high": [2, 3], "text_id": ["a", "b"], "texts": kinds}
    )
    lines = pd.DataFrame({"k": [1, 1], "tokens": [1, 2], "series": ["m, classics", "m, random"], "text_id": ["a", "b"]})
    drawn = (charts.codec_bars(codecs), charts.predictions(predicted), charts.more_vectors(lines))
    first, second, third = map(colours, drawn)
    assert first == second
    assert first["random"] == third["m, random"] != third["m, classics"]
