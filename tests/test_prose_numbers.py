"""Numbers in the notebooks' prose, compared with the stored tables and vectors that they come from.

Each test reads a sentence of a markdown cell, takes the numbers out of it, and computes them again. A sentence that was
rewritten without its numbers fails too: change the pattern here together with the sentence.
"""

import json
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from memlab import Recipe, Store
from memlab.experiments import optimizer_study, precision, sink_position
from memlab.experiments.bundled_vectors import read_trajectories
from memlab.experiments.tables import reference, stored
from memlab.measures import capacity, capacity_fits, codecs, geometry, prediction, robustness
from memlab.measures.statistics import rank_correlation
from memlab.panels import map_details
from memlab.texts import data_folder
from tests.browser_lab import ROOT

WHOLE = {
    "no": 0, "none": 0, "a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "dozen": 12, "sixteen": 16, "thirty": 30, "hundred": 100,
}  # fmt: skip
PARTS = {"half": 2, "quarter": 4, "fifth": 5, "sixth": 6, "tenth": 10, "twentieth": 20, "hundredth": 100}


def value(words):
    """A number as prose has it: ``5,000``, ``0.3``, ``seven``, ``a sixth``, ``four fifths``, ``a hundred``."""
    words = words.replace("*", "").lower().strip()
    if re.fullmatch(r"[\d,]*\.?\d+", words):
        return float(words.replace(",", ""))
    *count, last = words.split()
    if count == ["a"] and last in WHOLE:
        return WHOLE[last]
    part = last if last in PARTS else last.removesuffix("s")
    if part in PARTS:
        return (WHOLE[count[0]] if count else 1) / PARTS[part]
    return WHOLE[words]


@cache
def prose(number):
    """The markdown of a notebook as one line."""
    name = number if isinstance(number, str) else f"{number:02d}"
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    cells = json.loads(path.read_text())["cells"]
    return " ".join(" ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown").split())


def numbers(notebook, pattern):
    """The numbers that the groups of ``pattern`` find in a notebook's prose, which must have the sentence once."""
    found = re.findall(pattern, prose(notebook))
    assert len(found) == 1, f"notebook {notebook} has {len(found)} times: {pattern}"
    groups = found[0] if isinstance(found[0], tuple) else (found[0],)
    return [value(group) for group in groups] if re.compile(pattern).groups else []


def about(expected, tolerance=0.15):
    return pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("words", "number"),
    [("5,000", 5000), ("0.3", 0.3), ("Seven", 7), ("a sixth", 1 / 6), ("four fifths", 0.8), ("three quarters", 0.75),
     ("a hundred", 100), ("**half", 0.5), ("none", 0), ("a dozen", 12)],
)  # fmt: skip
def test_numbers_are_read_as_prose_has_them(words, number):
    assert value(words) == number


# Stored tables and vectors -------------------------------------------------------------------------------------------


table = cache(stored)


@cache
def bundled():
    return Store.bundled().table()


@cache
def horizons():
    runs = table("capacity")
    return capacity.horizons(runs[runs.protocol == "exact"])


def one_vector():
    return horizons()[horizons().k == 1]


def held():
    """Bundled exact vectors of the default recipe, 32 tokens, of passages with 16 seeds, as the notebooks take them."""
    rows = bundled()
    rows = rows[rows.exact & rows.recipe.str.startswith("default") & (rows.tokens == 32)]
    return rows[rows.groupby("text_id").key.transform("size") >= 16].sort_values(["text_id", "seed"])


@cache
def vectors():
    store = Store.bundled()
    return np.stack([store.get(key).mem[0] for key in held().key])


# 1: cram and decode --------------------------------------------------------------------------------------------------


def test_01_the_published_recipe_on_six_texts():
    runs = pd.read_csv(data_folder() / "bench" / "recovery-originals-32.csv")
    paper = runs[runs.recipe == "paper2025"]
    texts, tokens = numbers(1, r"openings of (\w+) of the bundled texts with both recipes, (\d+) tokens each")
    assert (paper.text_id.nunique(), set(paper.tokens)) == (texts, {tokens})
    fewest, most = numbers(1, r"misses (\w+) or (\w+) tokens of 32, and the first token is one of them")
    missed = ((1 - paper.teacher_forced) * 32).round()
    assert (missed.min(), missed.max()) == (fewest, most)
    only_the_first = paper.given_passed & (paper.alone_right == 0)
    assert set(missed[only_the_first]) == {1}
    assert only_the_first.sum() == len(paper) - 1
    numbers(1, r"If we give it the first token, most of the texts come back\. From the vector alone, none does")
    assert paper.given_passed.mean() > 0.5
    assert not paper.exact.any()
    (percent,) = numbers(1, r"## What (\d+) % teacher-forced looks like")
    assert percent == round(100 * paper.teacher_forced.median())


def test_01_a_vector_is_576_numbers():
    for notebook in (1, 2, 7):
        (size,) = numbers(notebook, r"(\d+) numbers(?: for the small model|\. If each held|\. How exactly)")
        assert size == vectors().shape[1]


# 2: what limits a vector ---------------------------------------------------------------------------------------------


def test_04_the_study():
    study = table("recipe-screen")
    settings, passages, tokens = numbers(4, r"compares (\d+) settings, .* the same (\w+) passages of (\d+) tokens\. E")
    assert (study.contender.nunique(), study.text_id.nunique(), set(study.tokens)) == (settings, passages, {tokens})
    (steps,) = numbers(4, r"Each run has at most (\d+) steps")
    assert study.steps.max() == steps


def test_04_adamw_and_the_others():
    study = table("recipe-screen")
    exact = study.groupby("contender").exact.sum()
    ranking = optimizer_study.ranking(study[study.contender.str.startswith("AdamW lr")])
    best = ranking.contender[0]
    rate, none, steps = numbers(4, r"learning rate of ([\d.]+) brings back (\w+) passage in (\d+) steps")
    assert (exact[f"AdamW lr {rate}"], study.steps.max()) == (none, steps)
    times, some, passages = numbers(4, r"best learning rate, (a hundred) times larger, it brings back (\w+) of (\w+)\.")
    assert float(best.removeprefix("AdamW lr ")) / rate == times
    assert (exact[best], study.text_id.nunique()) == (some, passages)
    numbers(4, r"The other two bring back all of them")
    for name in ("incumbent", "free norm, cosine, lr 2 (the first default)"):
        assert exact[name] == passages
    numbers(4, r"what another search finds in a few dozen\.")
    assert 24 <= study[study.contender == "incumbent"].steps.median() <= 60


def test_04_the_held_norm():
    study = table("recipe-screen")
    assert not study[study.contender == "norm 3"].exact.any()
    numbers(4, r"Held at only twenty times, not one passage is found")
    (gradients,) = numbers(4, r"(\d+) gradients are measured once per model")
    from memlab.training.preconditioner import SAMPLES

    assert gradients == SAMPLES


@pytest.mark.real
def test_04_norms_in_units_of_an_embeddings(real):
    words = np.linalg.norm(real.embed(np.arange(real.vocabulary)).numpy(), axis=1).mean()
    (held_at,) = numbers(4, r"held, at ([\d,]+) times that of an embedding")
    unit = np.sqrt(real.d) / words
    assert Recipe.default().norm * unit == about(held_at)
    assert 3 * unit == about(20, 0.2)  # the setting "norm 3"
    numbers(4, r"The published vectors end at twice")
    rows = bundled()
    keys = rows[(rows.recipe == "paper2025") & (rows.tokens == 32)].key
    ends = [np.linalg.norm(Store.bundled().get(key).mem[0]) for key in keys]
    assert np.median(ends) / words == about(2, 0.25)
    (directions,) = numbers(4, r"strongest directions, of (\d+)\.")
    assert real.d == directions


def test_08_steps_by_position_of_the_special_token():
    sink = table("sink")
    passages, tokens, placements = numbers(8, r"uses (\w+) passages of (\d+) tokens, each with all (\w+) placements")
    trained = sink[~sink.model.str.startswith("toy:")]
    assert (trained.text_id.nunique(), set(trained.tokens)) == (passages, {tokens})
    assert trained.placement.nunique() == placements
    numbers(8, r"Every placement brings back every passage")
    assert trained.exact.all()
    summary = sink_position.summary(trained).set_index(["model", "placement"])
    ratio = summary["steps, over without"].map(lambda text: float(str(text).split()[0]))
    (quarter,) = numbers(8, r"But after \*s\*, SmolLM2 needs (a quarter) of the steps")
    (fifths,) = numbers(8, r"Gemma needs (four fifths)")
    assert ratio["smollm2-135m", "s [mem] text"] == about(quarter)
    assert ratio["gemma-3-270m", "s [mem] text"] == about(fifths)
    first = trained.groupby(["model", "placement"]).on_first.mean().unstack()
    (half,) = numbers(8, r"(half) of the attention falls on \*s\* if it is first")
    assert first["s [mem] text"].tolist() == pytest.approx([half] * 2, abs=0.05)
    (equal,) = numbers(8, r"equal attention would be (a tenth) per position")
    assert np.mean([1 / seen for seen in range(2, 34)]) == about(equal)
    small, gemma = numbers(8, r"A vector that is first gets (\d+) % in SmolLM2 and (\d+) % in Gemma")
    alone = (100 * first["[mem] text"]).round()
    assert (alone["smollm2-135m"], alone["gemma-3-270m"]) == (small, gemma)
    (random,) = numbers(8, r"with passages of (\w+) random tokens")
    toys = sink[sink.model.str.startswith("toy:")]
    assert set(toys.tokens) == {random}


def test_a1_the_half_that_did_not_choose():
    final = table("recipe-final")
    novels, random, seeds = numbers(
        "A1", r"on (\d+) passages of novels and (\d+) of random words, with (\w+) seeds each"
    )
    kinds = final.drop_duplicates("text_id").text_id.str.startswith("random-")
    assert ((~kinds).sum(), kinds.sum(), final.seed.nunique()) == (novels, random, seeds)
    halves = optimizer_study.halves(final).set_index("contender")
    assert halves.index[0] == "incumbent"
    ratio = halves["against the first, passage by passage"].map(lambda text: float(str(text).split()[0]))
    exact = halves["exact (reporting half)"].map(lambda text: int(str(text).split("/")[0]))
    rivals = [name for name in halves.index if name not in ("incumbent", "the first default")]
    least, most = numbers("A1", r"its nearest rivals need (\d+) to (\d+) % fewer token passes")
    saved = 100 * (1 - ratio[rivals])
    assert (round(saved.min()), round(saved.max())) == (least, most)
    numbers("A1", r"none of them brings back more passages")
    assert (exact[rivals] <= exact["incumbent"]).all()
    assert ratio["the first default"] > 1.5
    two, rest = numbers("A1", r"For (\w+) of the (\w+), the interval includes 1")
    ends = (
        halves.loc[rivals, "against the first, passage by passage"].str.extract(r"\[([\d.]+), ([\d.]+)\]").astype(float)
    )
    assert (((ends[0] < 1) & (ends[1] > 1)).sum(), len(rivals)) == (two, rest)
    (end,) = numbers("A1", r"For the runner-up it ends at ([\d.]+), so")
    assert ends.loc[rivals[0], 1] == end < 1


def test_a1_by_the_clock():
    speed = table("speed")
    short, few, long, many, devices = numbers(
        "A1", r"(\w+) passages of (\d+) tokens and (\w+) of (\d+), on one core of each of (\w+) processors"
    )
    ours = speed[speed.method == "memlab"]
    counts = ours.groupby(["device", "tokens"]).passage.nunique()
    assert ours.device.nunique() == devices
    assert set(counts.xs(few, level="tokens")) == {short}
    assert set(counts.xs(many, level="tokens")) == {long}
    (limit,) = numbers("A1", r"did not find in its ([\d,]+) steps")
    assert speed[speed.method == "paper2025"].steps.max() == limit == Recipe.paper2025().budget
    few, many = numbers("A1", r"One of our passages took (\d+) steps on the Xeon and (\d+) on the old EPYC")
    steps = ours.pivot(index="passage", columns="device", values="steps")
    xeon, old = "cpu Intel(R) Xeon(R) Processor", "cpu AMD EPYC (AVX2)"
    assert ((steps[xeon] == few) & (steps[old] == many)).sum() == 1
    twelve, six, few, more, many, limit = numbers(
        4, r"(\w+) passages, (\w+) of (\d+) tokens and (\w+) of (\d+), .* may take ([\d,]+) steps\. The"
    )
    xeon = speed[speed.device.str.contains("Xeon")]
    for method in ("memlab", "paper2025"):
        by_length = xeon[xeon.method == method].tokens.value_counts()
        assert (by_length.sum(), by_length[few], by_length[many]) == (twelve, six, more)
    assert Recipe.paper2025().budget == limit


def test_04_the_same_work():
    grown = table("horizon")
    originals, novels = numbers(4, r"(\w+) originals and (\w+) novels are grown with two recipes")
    texts = grown[grown.way == "growing"].groupby("source").text_id.nunique()
    assert (texts["memlab originals"], texts["classics.jsonl"]) == (originals, novels)
    (reported,) = numbers(4, r"its authors report ([\d.]+) tokens of novels")
    paper = reference("progressive2026-horizon")
    assert paper[paper.model == "smollm2-135m"].horizon_tokens.tolist() == [reported]
    ten, limit = numbers(4, r"(Ten) of these passages ended below (\d+) tokens")
    ended = grown[grown.way == "growing"].set_index("text_id").exact_prefix
    below = ended[ended < limit]
    assert len(below) == ten
    first, more = numbers(4, r"for at most (\d+) steps\. Passages that were not exact then got at most ([\d,]+) steps")
    whole = grown[grown.way == "as a whole"].set_index("text_id")
    again = grown[grown.way == "as a whole, four times the steps"].set_index("text_id")
    assert (whole.steps.max(), again.steps.max()) == (first, more)
    all_of_them, two, short = numbers(4, r"All (\w+) come back whole\. (\w+) of them had stopped at (\d+) tokens")
    exact = set(whole.index[whole.exact]) | set(again.index[again.exact])
    assert exact == set(below.index)
    assert (len(exact), (below == short).sum(), below.min()) == (all_of_them, two, short)
    four, least, most = numbers(4, r"steps, (\w+) of them still had (\w+) to (\w+) tokens wrong")
    wrong = ((1 - whole.accuracy) * whole.tokens).round()[~whole.exact]
    assert (len(wrong), wrong.min(), wrong.max()) == (four, least, most)


# 2: how much fits -----------------------------------------------------------------------------------------------------


def test_02_how_texts_grow():
    recipe = Recipe.growing()
    first, margin, more = numbers(2, r"first learns (\w+) tokens\. .* by ([\d.]+)\), (\w+) more are added")
    (patience,) = numbers(2, r"ends when (\d+) steps bring nothing")
    assert (recipe.grow, recipe.margin, recipe.grow, recipe.patience) == (first, margin, more, patience)


def test_02_what_share_is_used():
    d, bits, named = numbers(2, r"A vector here is (\d+) numbers\. If each held (\d+) bits, .* name about (\d+) tokens")
    assert d == vectors().shape[1]
    assert capacity.theoretical_tokens(int(d), 49152, bits=bits) == about(named, 0.01)
    numbers(2, r"About a bit and a half per number, out of 16: here, and in the best of the published models")
    ours = capacity.utilisations(one_vector(), d=int(d), vocabulary=49152).bits_per_dimension
    paper = reference("paper2025-capacity").query("k == 1 and texts == 'pg19'")
    bits = capacity.bits_of_nats(paper.information_gain_nats)
    paper = paper.assign(density=capacity.bits_per_dimension(bits, paper.d))
    assert ours.to_numpy() == about(1.5)
    assert paper.density.max() == about(1.5)
    numbers(2, r"Among the Mamba and the Llama models the density rises with size; among the Pythias it falls")
    for family, rises in (("mamba", True), ("llama", True), ("pythia", False)):
        density = paper[paper.model.str.startswith(family)].sort_values("d").density
        assert len(density) > 2
        # Two models of one width are in the order of the table, which is that of their sizes.
        assert density.is_monotonic_increasing if rises else density.is_monotonic_decreasing


def test_02_more_vectors():
    numbers(2, r"From one vector to two, the text about doubles")
    numbers(2, r"From two to four, and from four to eight, the gain is smaller")
    ratios = capacity_fits.doublings(horizons()).query("texts == 'all'").set_index("k").tokens
    assert ratios[1] == about(2, 0.1)
    assert (ratios[[2, 4]] < ratios[1] - 0.2).all()


def test_02_well_over_a_hundred_tokens_of_natural_text():
    numbers(2, r"one vector of 576 numbers brings back well over a hundred tokens of natural text")
    medians = one_vector().groupby("texts").horizon.median()
    assert (medians[["originals", "classics"]] > 120).all()
    prose_, random = numbers(2, r"The median over passages is (\d+) tokens of prose and (\d+) tokens of random words")
    assert dict(medians) == {"originals": prose_, "classics": prose_, "random": random}


def test_02_the_published_search_in_one_text():
    (twelve,) = numbers(2, r"Of (\w+) texts, this one is nearest to both medians")
    both = table("horizon").query("source == 'memlab originals' and way in ('growing', 'progressive2026')")
    assert set(both.groupby("way").text_id.nunique()) == {twelve}


def test_02_next_to_codecs():
    sizes = codecs.measured_with_all(table("codecs"))
    assert set(sizes.tokens) == {64}  # in the picture's title
    numbers(2, r"could have stored the text itself in a fraction of the space")
    assert (codecs.size_ratio(sizes, "arithmetic, smollm2-135m", "mem vector, fewest bits") < 0.5).all()


# 3: bits, not tokens --------------------------------------------------------------------------------------------------


def test_03_one_vector_holds():
    least, most = numbers(3, r"One vector holds (\d+) tokens of one text and (\d+) of another")
    assert (one_vector().horizon.min(), one_vector().horizon.max()) == (least, most)
    low, high = numbers(3, r"Of most passages, one vector of this model holds between (\d+) and ([\d,]+) bits")
    assert one_vector().horizon_bits.between(low, high).mean() > 0.9


def test_03_before_and_after():
    runs = table("capacity")
    fixed = runs[runs.protocol == "fixed"]
    texts, lengths, steps = numbers(
        3, r"(\w+) texts of each kind were trained as a whole at (\w+) lengths, for at most (\d+) steps"
    )
    assert set(fixed.groupby("texts").text_id.nunique()) == {texts}
    assert set(fixed.groupby("texts").tokens.nunique()) == {lengths}
    assert fixed.steps.max() == steps
    fits = capacity_fits.saturations(fixed).set_index("texts").C
    numbers(3, r"novels share one C")
    assert fits["originals"].low < fits["classics"].value < fits["originals"].high
    (more,) = numbers(3, r"For random words C is larger: a vector removes about (a sixth) more")
    prose_c = (fits["originals"].value + fits["classics"].value) / 2
    assert fits["random"].value / prose_c - 1 == about(more)
    assert fits["random"].low > fits["classics"].high


@pytest.mark.slow
def test_03_in_bits_the_kinds_are_closer():
    one = one_vector()
    numbers(3, r"random words cost about twice as many bits per token as prose")
    bits = capacity_fits.bits_a_token(one)
    assert bits["random"] / bits[["originals", "classics"]].mean() == about(2, 0.05)
    test = capacity_fits.information_not_length(one, draws=500).set_index("unit")
    assert test.spread["bits"] < test.spread["tokens"] / 3
    assert (test.p < 0.05).all()  # also in bits: not quite equal
    least, most = numbers(3, r"The kinds lie closest with (\w+) to (\w+) extra bits per token")
    charges = capacity_fits.charges(one, (0, 0.5, 1, 1.5, 2, 2.5)).set_index("charge")
    assert least <= charges.spread.idxmin() <= most
    assert charges.p[0] < 0.05
    assert (charges.p[[1, 1.5, 2]] > 0.2).all()
    within = capacity_fits.spread_within_kinds(one)
    numbers(3, r"Within prose, too, passages are closer to each other in bits")
    assert (within.horizon_bits < within.horizon)[["originals", "classics"]].all()


@pytest.mark.slow
def test_03_predictions():
    nine, ten = numbers(3, r"whiskers show where (\w+) of (\w+) should lie")
    measured = prediction.measured(table("capacity"))
    assert prediction.held_out.__kwdefaults__["level"] == nine / ten
    numbers(3, r"The mean of a text's own \*kind\* predicts nearly as well")
    held_out = prediction.held_out(measured)
    score = prediction.report(held_out[held_out.k == 1])
    assert score["median_error"] <= score["own_kind_median_error"] < 1.5 * score["median_error"]
    numbers(3, r"which is far off for random words\. A prediction in bits is not")
    strange = prediction.held_out(measured, by="texts").query("k == 1")
    one = held_out[held_out.k == 1]
    *left, right, all_of_them = numbers(
        3, r"hold (\d+) of (\d+) passages on the left, but only (\d+) of (\d+) on the right"
    )
    inside = [int(((rows.true >= rows.low) & (rows.true <= rows.high)).sum()) for rows in (one, strange)]
    assert (*left, right, all_of_them) == (inside[0], len(one), inside[1], len(strange))
    medians = strange.groupby("texts")[["true", "predicted", "baseline"]].median().loc["random"]
    assert medians.baseline > 1.5 * medians.true
    assert medians.predicted == about(medians.true, 0.25)


# A2: geometry in detail ---------------------------------------------------------------------------------------------


def test_a2_the_vectors():
    count, seeds, passages, tokens, prose_, random = numbers(
        "A2",
        r"(\d+) exact vectors, (\d+) for each of (\d+) passages of (\d+) tokens \((\w+) of prose, (\w+) of random",
    )
    rows = held()
    texts = rows.drop_duplicates("text_id").text_id
    assert (len(rows), rows.text_id.nunique(), set(rows.tokens)) == (count, passages, {tokens})
    assert set(rows.groupby("text_id").size()) == {seeds}
    assert (texts.str.startswith("random-").sum(), (~texts.str.startswith("random-")).sum()) == (random, prose_)
    (passages,) = numbers("A2", r"(\w+) passages are few: the interval shows how few")
    assert rows.text_id.nunique() == passages
    (wrong,) = numbers("A2", r"\(p = ([\d.]+)\), but two of three answers are wrong")
    assert wrong == 0.02  # the chart's own test computes it


def test_a2_norms():
    (norm,) = numbers("A2", r"holds the norm of its vectors at (\d+)·√d")
    assert Recipe.default().norm == norm
    assert np.linalg.norm(vectors(), axis=1) == pytest.approx(norm * np.sqrt(vectors().shape[1]), rel=1e-3)
    passages, shared = numbers("A2", r"on (\w+) passages, (\w+) of them among ours; none of its vectors is exact")
    rows = bundled()
    paper = rows[(rows.recipe == "paper2025") & (rows.tokens == 32)]
    assert (paper.text_id.nunique(), len(set(paper.text_id) & set(held().text_id))) == (passages, shared)
    assert not paper.exact.any()
    texts, *lengths, more, at = numbers(
        "A2", r"are (\w+) texts at (\d+), (\d+), (\d+) and (\d+) tokens, and (\w+) more at (\d+),"
    )
    free = table("geometry-norms").groupby("tokens").text_id.nunique()
    assert free.to_dict() == {length: texts + more * (length == at) for length in lengths}


def test_05_two_random_directions():
    cosine, sd = numbers(5, r"Two random directions in this space have a cosine of ([\d.]+) ± ([\d.]+)\.")
    pairs = geometry.cosines(geometry.spherical_null(400, vectors().shape[1]))[np.triu_indices(400, 1)]
    assert pairs.mean() == pytest.approx(cosine, abs=0.005)
    assert pairs.std() == pytest.approx(sd, abs=0.005)


def test_a2_seeds_of_one_text_gather():
    apart = geometry.within_and_between(vectors(), held().text_id.tolist(), draws=99)
    (smaller,) = numbers("A2", r"their distances are about (a sixth) smaller")
    numbers("A2", r"distances within a passage are about a sixth smaller")
    assert 1 - apart.ratio.value == about(smaller)
    assert apart.p <= 0.01


# 5: where vectors lie -------------------------------------------------------------------------------------------------


def test_05_the_map():
    rows = bundled()
    exact = rows[rows.exact]
    least, most = numbers(5, r"prose and random words, (\d+) to (\d+) tokens\.")
    assert (exact.tokens.min(), exact.tokens.max()) == (least, most)
    passages, seeds = numbers(5, r"(\w+) passages were trained from (\d+) seeds and more")
    assert (exact.groupby("text_id").size() >= seeds).sum() == held().text_id.nunique() == passages
    (near, d) = numbers(5, r"its (\w+) nearest vectors in all (\d+) dimensions")
    assert (map_details.NEAR, vectors().shape[1]) == (near, d)
    assert numbers(5, r"A flat map of (\d+) dimensions") == [d]
    (percent,) = numbers(5, r"its two directions have (\d+) % of the variance")
    store = Store.bundled()
    x = np.stack([store.get(key).mem[0] for key in exact.key])
    variance = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    assert round(100 * variance[:2].sum() / variance.sum()) == percent


def test_05_the_nearest_vector_is_a_seed_of_the_same_text():
    (count,) = numbers(5, r"of (\d+) vectors, each has another seed of its own text as its nearest vector")
    names, cosines = held().text_id.to_numpy(), geometry.cosines(vectors())
    np.fill_diagonal(cosines, -1)
    assert len(names) == count
    assert (names[cosines.argmax(1)] == names).all()


def test_05_the_recorded_trainings():
    paths = read_trajectories(data_folder() / "trajectories.safetensors")
    (count,) = numbers(5, r"(\w+) trainings were recorded at every fifth step")
    assert len(paths) == count
    assert all((np.diff(steps)[:-1] == 5).all() for steps, _ in paths.values())


def test_a2_dimensions():
    (directions,) = numbers("A2", r"spread over almost (a hundred) directions")
    assert 0.95 * directions < geometry.participation(vectors()) < directions
    (points,) = numbers("A2", r"spread in all the directions that (\w+) points can span")
    spread = [geometry.participation(vectors()[i : i + 16]) for i in range(0, len(vectors()), 16)]
    assert 0.9 * (points - 1) < np.median(spread) < points  # n points span n - 1 directions


def test_a2_the_same_texts():
    spaces = table("geometry-spaces")
    texts, tokens = numbers("A2", r"the same (\d+) texts, (\d+) tokens each, from two seeds, and from another model")
    assert (spaces.text_id.nunique(), spaces.space.nunique()) == (texts, 3)
    rows = bundled()
    assert set(spaces.text_id) <= set(rows[rows.exact & (rows.tokens == tokens)].text_id)


# 7: between two solutions --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_06_lines_and_curves():
    paths = geometry.barriers(table("geometry-paths")).set_index(["kind", "way"])
    tenth, twentieth = numbers(
        6, r"keeps the text for about (a tenth) of its length \(of random words, for (a twentieth)\)"
    )
    places = table("geometry-paths").t.nunique()
    for kind, part in (("prose", tenth), ("random words", twentieth)):
        # The exact places are half at either end; the first of them is the end itself.
        reach = (paths.share[kind, "line"].value * places / 2 - 1) / (places - 1)
        assert reach == pytest.approx(part, abs=0.02)
    numbers(6, r"On the line, the loss mostly rises less than on the path to nowhere")
    heights = (
        table("geometry-paths").drop_duplicates(["pair", "way"]).pivot(index="pair", columns="way", values="barrier")
    )
    assert (heights.line < heights.nowhere).mean() > 0.75
    six, pairs, no, others = numbers(6, r"solutions of prose \((\d+) of (\d+)\) .* none is\*\* \((\d+) of (\d+)\)")
    curves = paths.xs("curve", level="way")
    assert curves.exact_throughout.to_dict() == {"prose": six, "random words": no}
    assert curves.pairs.to_dict() == {"prose": pairs, "random words": others}
    half, every, none = numbers(
        6,
        r"(\*\*half) of the curves between .* exact at every one of their (\d+) places; of random words, (none) is",
    )
    exact = paths.exact_throughout / paths.pairs
    assert (exact["prose", "curve"], places, exact["random words", "curve"]) == (half, every, none)
    (half,) = numbers(6, r"For prose, (half) of the pairs seem to be joined")
    assert exact["prose", "curve"] == half


# 8: robustness -------------------------------------------------------------------------------------------------------


def test_07_noise_and_numbers_left_out():
    noise = table("geometry-noise")
    (twelve,) = numbers(7, r"The same (\w+) vectors, moved in five ways")
    assert noise.key.nunique() == twelve
    assert robustness.survival_by_direction(noise).direction.nunique() == 5
    percent, six, tenth = numbers(7, r"leaving out (\d+) % of the numbers, (\w+) of them, moves it by (a tenth)")
    assert round(vectors().shape[1] * percent / 100) == six
    assert geometry.dropout_distance(percent / 100) == pytest.approx(tenth)
    moved = robustness.survivors(noise[noise.what == "noise"], "amount").set_index("amount").share
    left_out = robustness.survivors(noise[noise.what == "dropout"], "amount").set_index("amount").share
    assert moved[0.1] == pytest.approx(left_out[0.01], abs=0.05)  # the two kinds of damage agree
    tenth, half, fifth = numbers(7, r"At (a tenth), (half) of the texts are gone; at (a fifth), all")
    assert 1 - moved[tenth] == pytest.approx(half, abs=0.1)
    assert moved[fifth] == 0
    assert moved[[0.01, 0.02, 0.05]].min() > 0.9  # a few hundredths


def test_07_radii_by_direction():
    radii = table("geometry-radii")
    assert (radii.key.nunique(), set(radii.tokens)) == (12, {32})
    some, of, times, low, high = numbers(
        7, r"(\w+) of (\w+) vectors can be (\w+) times as long .* lose it between ([\d.]+) and ([\d.]+) times"
    )
    outwards = radii[radii.direction == "outwards"]
    lost = 1 + outwards.radius[np.isfinite(outwards.fails)]
    assert (np.isinf(outwards.fails).sum(), len(outwards), 1 + outwards.radius.max()) == (some, of, times)
    assert (round(lost.min(), 1), round(lost.max(), 1)) == (low, high)
    median = radii.groupby("direction").radius.median()
    (tenth,) = numbers(7, r"a vector can go (a tenth) of its norm \(median\)")
    assert median["random"] == about(tenth)
    assert median[["first principal", "last principal"]].to_numpy() == about(tenth, 0.3)
    (hundredth,) = numbers(7, r"less than (a hundredth) is enough to lose the text")
    assert median["gradient"] < hundredth
    numbers(7, r"down it, a vector can go several times as far")
    shares = robustness.survival_by_direction(table("geometry-noise")).set_index(["direction", "distance"]).share
    assert shares["up the gradient", 0.01] < 0.5 < shares["down the gradient", 0.02]
    (solutions,) = numbers(7, r"are those of (\w+) solutions of the passage")
    assert solutions == 16


def test_07_a_longer_text():
    lengths = table("geometry-lengths")
    texts, *cuts, directions = numbers(
        7, r"(\w+) texts, each cut at (\d+), (\d+), (\d+) and (\d+) tokens; (\w+) random directions each"
    )
    assert lengths.text_id.nunique() == texts
    assert sorted(lengths.tokens.unique()) == cuts
    assert set(lengths.groupby(["text_id", "tokens"]).size()) == {directions}
    numbers(7, r"\*\*Twice the text, about half the room\.\*\*")
    numbers(7, r"Twice the text about halves the room")
    radius = robustness.median_radii(lengths, "tokens").radius
    assert (radius[64] / radius[8]) ** (1 / 3) == about(0.5)
    numbers(7, r"Within each text the radius nearly always falls with length")
    by_text = robustness.radii_by_text(lengths, "tokens").pivot(index="text_id", columns="tokens", values="radius")
    assert (by_text.diff(axis=1).iloc[:, 1:] < 0).to_numpy().mean() > 0.8


def test_07_training_on():
    margins = table("geometry-margins")
    texts, shared = numbers(7, r"(\w+) texts, (\w+) of them those on the left, were trained until")
    above = set(table("geometry-lengths").text_id)
    assert (margins.text_id.nunique(), len(above & set(margins.text_id))) == (texts, shared)
    quarter, one, four = numbers(
        7, r"between a lead of (a quarter) of a logit and a lead of (\w+) logit, .* a lead of (\w+) logits"
    )
    assert sorted(margins.asked.unique()) == [quarter, one, four]
    assert Recipe.default().margin == one
    random = margins.text_id.str.startswith("random-").map({True: "random", False: "prose"})
    medians = robustness.median_radii(margins.assign(kind=random), "kind", "asked")
    assert medians.radius["random", one] > 2 * medians.radius["random", quarter]
    assert medians.radius["prose", one] <= medians.radius["prose", quarter]
    two, texts = numbers(
        7, r"takes about twice the steps or more and gains little; in (\w+) of the (\w+) texts the radius even falls"
    )
    by_text = robustness.radii_by_text(margins, "asked").pivot(index="text_id", columns="asked", values="radius")
    assert ((by_text[four] < by_text[one]).sum(), len(by_text)) == (two, texts)
    assert all(medians.steps[kind, four] > 1.9 * medians.steps[kind, one] for kind in ("random", "prose"))
    assert all(medians.radius[kind, four] < 1.2 * medians.radius[kind, one] for kind in ("random", "prose"))


def test_07_bits_that_must_be_stored():
    rounded = table("precision")
    rounded = rounded[rounded.form.str.startswith("int")]
    low, high = numbers(7, r"bundled exact vectors of (\d+) to (\d+) tokens are rounded")
    assert (rounded.tokens.min(), rounded.tokens.max()) == (low, high)
    share = precision.survived(rounded).set_index("bits_a_number").share
    enough, fewer, part = numbers(
        7, r"with (\w+) bits per number nearly all vectors stay exact, with (\w+) about ([\w ]+)\. A"
    )
    (again,) = numbers(7, r"(\w+) bits per number keep nearly all texts")
    assert share[enough] >= 0.95
    assert again == enough
    assert share[fewer] == pytest.approx(part, abs=0.05)
    numbers(7, r"A vector with a wide margin .* tolerates coarser rounding")
    assert precision.predicted_by_margin(rounded).high < 0
    numbers(7, r"longer texts have smaller margins and need more bits")
    fewest = precision.fewest_bits(rounded)
    assert fewest.tokens.corr(fewest.margin_float32, method="spearman") < 0
    assert fewest.tokens.corr(fewest.bits_a_number, method="spearman") > 0.3
    found = numbers(7, r"no effect of the margin \(rank correlation −([\d.]+), 95 % interval −([\d.]+) to ([\d.]+)\)")
    estimate = precision.predicted_by_margin(rounded, at_one_length=True)
    assert [-estimate.value, -estimate.low, estimate.high] == pytest.approx(found, abs=0.006)


# 9: inside the model -------------------------------------------------------------------------------------------------


def test_08_attention():
    mass = table("geometry-attention")
    kilobytes, tokens = numbers(8, r"A vector of (\d+) kB goes in, and (\d+) tokens come out")
    assert (vectors().shape[1] * 4 // 1000, set(held().tokens)) == (kilobytes, {tokens})
    (passages,) = numbers(8, r"For (a dozen) passages, over all layers and heads")
    assert mass.text_id.nunique() == passages
    (tenth,) = numbers(8, r"gets about (a tenth) of the attention")
    assert mass.on_mem.mean() == about(tenth)


def test_08_knock_outs():
    hidden = table("geometry-knockouts")
    right = hidden.groupby(["what", "mode", "layer"]).accuracy.mean()
    first, layers, seven, ten = numbers(
        8, r"the first (\w+) of (\w+) layers at once .* still has (\w+) of (\w+) tokens right"
    )
    assert right["mem", "only"].index.size == layers
    assert right["mem", "until", first - 1] == pytest.approx(seven / ten, abs=0.03)
    layer, six, ten, two = numbers(8, r"\(layer (\d+) alone: the sink costs (\w+) tokens of (\w+), the vector (\w+)\)")
    assert 1 - right["prefix", "only", layer] == pytest.approx(six / ten, abs=0.05)
    assert 1 - right["mem", "only", layer] == pytest.approx(two / ten, abs=0.05)
    numbers(8, r"hiding it does as much harm, in most layers more")
    assert (right["prefix", "only"] < right["mem", "only"]).mean() > 0.5
    (four,) = numbers(8, r"Only in (\w+) single layers does hiding the vector do more harm")
    assert (right["mem", "only"] < right["prefix", "only"]).sum() == four
    three, ten = numbers(8, r"No single layer's look at the vector decides about more than (\w+) tokens of (\w+)")
    assert 1 - right["mem", "only"].min() <= three / ten
    numbers(8, r"The last few layers need neither")
    assert min(right[what, "from", 28] for what in ("mem", "prefix")) > 0.9


def test_08_half_way_between_texts():
    between = table("geometry-between")
    half = between[between.t == 0.5]
    four, tokens = numbers(8, r"half-way between the vectors of two texts, the model has at most (\w+) of (\d+) tokens")
    assert half[["of_a", "of_b"]].max(axis=None) == four
    assert between[["of_a", "of_b"]].max(axis=None) == tokens


# 10: your own analysis -----------------------------------------------------------------------------------------------


def test_09_seeds_and_lengths():
    (seeds,) = numbers(9, r"(\w+) seeds of one passage are not")
    assert set(held().groupby("text_id").size()) == {seeds}


@pytest.mark.real
def test_09_the_finding(real):
    rows = bundled()
    exact = rows[rows.exact & rows.recipe.str.startswith("default") & (rows.tokens == 32)]
    (tokens,) = numbers(9, r"All passages have (\d+) tokens")
    assert set(exact.tokens) == {tokens}
    first = exact.groupby("text_id").key.first()
    bits = {text: real.token_bits(Store.bundled().get(key).token_ids).sum() for text, key in first.items()}
    passages = exact.groupby("text_id", as_index=False).steps.median()
    passages = passages.assign(bits=passages.text_id.map(bits), random=passages.text_id.str.startswith("random-"))
    numbers(9, r"So the answer is yes, over all passages and among random words")
    assert rank_correlation(passages, "bits", "steps").low > 0
    assert rank_correlation(passages[passages.random], "bits", "steps").low > 0
    (count,) = numbers(9, r"the interval reaches just below zero: (\d+) passages cannot decide")
    prose_alone = rank_correlation(passages[~passages.random], "bits", "steps")
    assert -0.1 < prose_alone.low < 0 < prose_alone.value
    assert (~passages.random).sum() == count
    numbers(9, r"Random words cost more bits than prose")
    assert passages[passages.random].bits.min() > passages[~passages.random].bits.max()


def test_02_published_horizons_decoded_freely():
    (four,) = numbers(2, r"diamonds\): of (\w+) models, that leaves half to nine")
    best = reference("progressive2026-horizon").groupby(["model", "counted"]).horizon_tokens.max().unstack()
    shares = (best["free, all of the passages exact"] / best["teacher-forced"]).dropna()
    assert len(shares) == four
    assert round(shares.min(), 1) == 0.5
    assert round(shares.max(), 1) == 0.9
