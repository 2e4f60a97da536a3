"""The pictures of notebooks 4, 9 and appendix 1: the sentence in each title is true of the stored data."""

import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from memlab import charts
from memlab.experiments import optimizer_study
from memlab.experiments.speed import ratios
from memlab.experiments.tables import stored
from tests.browser_lab import ROOT


def source(notebook, words):
    """The one code cell of a notebook that contains these words, with the pieces of its titles joined by spaces."""
    (path,) = (ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
    cells = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    found = [cell for cell in cells if words in cell]
    assert len(found) == 1, words
    return found[0]


def figures(notebook, words, pattern):
    """The groups of ``pattern`` in a cell's title, as numbers."""
    joined = re.sub(r'",\s*"', " ", source(notebook, words))
    (found,) = re.findall(pattern, joined)
    return [float(part.replace(",", "")) for part in ([found] if isinstance(found, str) else found)]


def test_our_recipe_needs_tens_of_steps_and_the_published_one_thousands():
    timed = stored("speed")
    xeon = timed[timed.device.str.contains("Xeon")]
    title = r"memlab: (\d+) to (\d+) steps\. The published recipe: (\d+) to ([\d,]+) steps, and two passages never"
    low, high, least, most = figures("04", "both = charts", title)
    ours, theirs = xeon[xeon.method == "memlab"], xeon[xeon.method == "paper2025"]
    assert set(ours.passage) == set(theirs.passage)
    assert ours.decoded.all()
    assert (ours.steps.min(), ours.steps.max()) == (low, high)
    found = theirs[theirs.decoded].steps
    assert (found.min(), found.max(), (~theirs.decoded).sum()) == (least, most, 2)
    assert (theirs[~theirs.decoded].steps == 5000).all()  # they had their whole budget


def test_at_64_tokens_adamw_finds_at_most_one_passage_of_eight():
    tokens, steps = figures(
        "04", "both = charts", r"(\d+) tokens, (\d+) steps: AdamW finds at most one passage of eight"
    )
    study = stored("recipe-screen")
    adam = study[study.contender.str.startswith("AdamW")]
    assert (set(study.tokens), study.steps.max()) == ({tokens}, steps)
    assert adam.groupby("contender").exact.sum().max() == 1
    assert study.text_id.nunique() == 8


def test_a_gradient_step_makes_the_vector_longer_and_turns_it_less_each_time():
    cell = source("04", "two_steps")
    assert (
        re.sub(r'",\s*"', " ", cell).count("A gradient step makes the vector longer and turns it less each time") == 1
    )
    space = {"np": np, "pd": pd}
    exec(cell.split("title = ")[0], space)  # the cell up to its picture
    paths = space["paths"]
    step = paths[paths.method == "gradient step"]
    assert (np.diff(step.norm) > 0).all()
    turns = -np.diff(step.left)
    turns = turns[: np.flatnonzero(step.left <= 0)[0]] if (step.left <= 0).any() else turns
    assert (np.diff(turns[:-1]) < 0).all()  # the last one ends at the goal
    rotation = paths[paths.method == "rotation"]
    np.testing.assert_allclose(rotation.norm, 1.0)
    np.testing.assert_allclose(np.hypot(rotation.x, rotation.y), 1.0)
    # The drawing is a true gradient descent: of the angle to the direction sought, with steps of length 1.
    place = step[["x", "y"]].to_numpy()
    for before, after in itertools.pairwise(place):
        norm = np.linalg.norm(before)
        slope = np.array([-before[1], before[0]]) / norm**2  # the gradient of the angle
        if np.degrees(np.arctan2(*after[::-1])) < 89:
            np.testing.assert_allclose(after, before + slope, atol=1e-9)


@pytest.mark.real
def test_half_of_the_gradient_lies_in_few_directions(real):
    from memlab.training.preconditioner import preconditioner_of

    values = preconditioner_of(real).spectrum.numpy()
    count, of = map(int, re.fullmatch(r"Half of the gradient lies in (\d+) of (\d+) directions",
                                      charts.spectrum(values).title).groups())  # fmt: skip
    assert len(values) == of == real.d
    largest = np.sort(values)[::-1]
    assert largest[: count - 1].sum() < values.sum() / 2 <= largest[:count].sum()
    assert count < of / 10


def test_so_many_times_as_fast():
    low, high = figures("04", "speed_ratios", r"memlab is (\d+) to (\d+) times as fast, where both decode")
    timed = stored("speed")
    found = []
    for _, rows in timed[timed.method.isin(["memlab", "paper2025"])].groupby("device"):
        wide = rows.pivot(index="passage", columns="method", values=["seconds", "decoded"]).dropna()
        both = wide[(wide["decoded"] == True).all(axis=1)]  # noqa: E712 - objects
        found.append(both["seconds", "paper2025"].sum() / both["seconds", "memlab"].sum())
    assert (round(min(found)), round(max(found))) == (low, high)
    intervals = ratios(timed).query("method == 'paper2025' and over == 'both decode'")
    assert (intervals.low > 1).all()


def test_every_passage_is_faster_on_every_processor():
    source("A1", "On each processor, each passage is faster with memlab")
    wide = stored("speed").pivot_table(index=["device", "passage"], columns="method", values="seconds").dropna()
    assert len(wide) == 30
    assert (wide.memlab < wide.paper2025).all()


def test_every_way_of_counting_finds_memlab_faster():
    source("A1", "Counted in each of four ways, memlab is faster on each processor")
    times = ratios(stored("speed")).query("method == 'paper2025'")
    assert times.over.nunique() == 4
    assert (times.low > 1).all()


def test_on_the_other_half_none_brings_back_more_than_the_winner():
    (percent,) = figures("A1", "halves(final)", r"its runner-up takes (\d+) % fewer token passes")
    halves = optimizer_study.halves(stored("recipe-final"))
    assert halves.contender[0] == "incumbent"
    runner_up = halves["against the first, passage by passage"][1]
    assert round(100 * (1 - float(runner_up.split()[0]))) == percent
    exact = halves["exact (reporting half)"].map(lambda text: int(text.split("/")[0]))
    assert exact[0] == exact.max()


def test_what_comes_back_for_the_same_token_passes():
    ours, theirs = figures(
        "04", "horizon_strip", r"(\d+) tokens come back with memlab, (\d+) with the published search \(medians\)"
    )
    grown = stored("horizon")
    reached = grown.groupby(["way", "text_id"]).exact_prefix.max().unstack(0)
    assert (reached.growing.median(), reached.progressive2026.median()) == (ours, theirs)
    passes = grown.groupby("way").token_passes.sum()
    assert passes["progressive2026"] >= 0.95 * passes["growing"]


def test_all_ten_come_back_whole():
    source("04", "All ten passages come back whole when they are trained as a whole (tokens, of 144)")
    grown = stored("horizon")
    whole = grown[grown.way.str.startswith("as a whole")]
    assert set(whole.tokens) == {144}
    assert whole.groupby("text_id").exact.any().sum() == whole.text_id.nunique() == 10


def test_a_scatter_has_a_line_per_colour():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=40), "texts": ["prose", "random words"] * 20, "t": "q"})
    table["y"] = np.where(table.texts == "prose", table.x, -table.x)
    drawn = charts.scatter(table, "x", "y", x_title="X", y_title="Y", tooltip=["t"], colour="texts")
    svg = charts.to_svg(drawn)
    ends = r'aria-roledescription="line mark"[^>]* d="M([\d.-]+),([\d.-]+)L(?:[^"]*L)?([\d.-]+),([\d.-]+)"'
    lines = re.findall(ends, svg)
    slopes = sorted((float(d) - float(b)) / (float(c) - float(a)) for a, b, c, d in lines)
    assert len(slopes) == 2
    assert slopes[0] < 0 < slopes[1]  # each kind has its own direction; together there is none
    assert "our own prose" in svg
