"""Documentation as a contract: sizes, links, examples, the file table, and the numbers in prose."""

import doctest
import importlib
import inspect
import re
from functools import cache

import pytest

import memlab
from memlab.experiments.tables import stored
from tests.browser_lab import ROOT

READMES = sorted(
    file.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "data/**/*.md", "memlab/**/*.md")
    for file in ROOT.glob(pattern)
)
REPORT = "data/bench/README.md"


def text_of(readme):
    return (ROOT / readme).read_text(encoding="utf-8")


# Files -----------------------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 9216


def test_the_changelog_is_short():
    assert len((ROOT / "CHANGELOG.md").read_bytes()) <= 3072


def anchors(file):
    """The anchors that GitHub makes of a README's headings."""
    prose = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("readme", READMES)
def test_every_link_leads_somewhere(readme):
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(readme)):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / readme).parent / path if path else ROOT / readme
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert not dead


@pytest.mark.parametrize("readme", READMES)
def test_python_blocks_compile(readme):
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", text_of(readme), re.DOTALL | re.MULTILINE)):
        compile(block, f"{readme}, block {i + 1}", "exec")


def test_every_file_of_the_package_has_a_line_in_its_readme():
    package = ROOT / "memlab"
    files = {
        file.relative_to(package).as_posix()
        for suffix in ("*.py", "*.css")
        for file in package.rglob(suffix)
        if "data" not in file.relative_to(package).parts
    }
    listed = re.findall(r"^\| `([\w/]+\.(?:py|css))` \| \S", text_of("memlab/README.md"), re.MULTILINE)
    assert not files - set(listed), f"add a line to memlab/README.md for {sorted(files - set(listed))}"
    assert not set(listed) - files, f"memlab/README.md has lines for files that are gone: {sorted(set(listed) - files)}"
    assert len(listed) == len(files)


# Examples --------------------------------------------------------------------------------------------------------

PUBLIC = sorted(set(memlab.__all__) - {"__version__"})
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    value = getattr(memlab, name)
    examples = [test for test in doctest.DocTestFinder(recurse=False).find(value, name, globs={}) if test.examples]
    assert examples, f"the docstring of memlab.{name} has no >>> example"
    run_examples(examples)


def with_examples():
    """Modules with a ``>>>`` in a docstring, as parameters."""
    files = sorted((ROOT / "memlab").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if ">>> " in file.read_text()]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("module", with_examples())
def test_all_other_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLAB_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder().find(importlib.import_module(module), module)
    public = {inspect.getdoc(getattr(memlab, name)) for name in PUBLIC}
    run_examples([test for test in found if test.examples and inspect.cleandoc(test.docstring) not in public])


def run_examples(examples):
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    for example in examples:
        runner.run(example, out=output.append)
    assert not runner.failures, "".join(output)


# Numbers in prose ------------------------------------------------------------------------------------------------


def number(value, spec=".0f"):
    return format(value, spec)


def interval(found, spec=".0f"):
    """The number of an ``Estimate`` and its interval, each as the prose has it."""
    whole = format(found, spec)
    return [whole.split(" [")[0], "[" + whole.split(" [")[1]]


@cache
def horizons(k=1):
    from memlab.experiments.report_vectors import exact_horizons

    return exact_horizons(k)


@cache
def capacity(texts):
    from memlab.measures.capacity import exact_estimates

    return exact_estimates(horizons()).set_index("texts").loc[texts]


@cache
def spreads():
    from memlab.measures.capacity_fits import information_not_length
    from memlab.measures.statistics import Estimate

    found = information_not_length(horizons()).set_index("unit")
    return {unit: Estimate(*found.loc[unit, ["spread", "low", "high"]]) for unit in found.index}


@cache
def same_work():
    from memlab.experiments.report_vectors import same_work as ours_and_theirs
    from memlab.measures.capacity_report import ratio_of_horizons

    return ratio_of_horizons(*ours_and_theirs())


@cache
def speed(over, device="cpu AMD EPYC (AVX512, AVX512 BF16)"):
    from memlab.experiments.speed import ratios
    from memlab.measures.statistics import Estimate

    runs = stored("speed")
    found = ratios(runs[runs.device == device]).set_index("over").loc[over]
    return Estimate(found.ratio, found.low, found.high)


@cache
def sink(model):
    from memlab.experiments.sink_position import summary

    runs = stored("sink")
    return summary(runs[runs.model == model]).set_index("placement")


@cache
def apart():
    from memlab.experiments.report_vectors import seeds_apart

    return seeds_apart()


@cache
def sizes():
    """(texts, text) x codec: bits."""
    return stored("codecs").pivot_table("bits", ["texts", "text_id"], "codec")


def over_arithmetic(texts):
    from memlab.measures.statistics import median_interval

    found = sizes().loc[texts]
    (arithmetic,) = [name for name in found if name.startswith("arithmetic")]
    return median_interval(found["mem vector, fewest bits"] / found[arithmetic])


def coding_error():
    rows = stored("codecs").query("codec.str.startswith('arithmetic')", engine="python")
    return [number(100 * (rows.bits / rows.cross_entropy - 1).abs().max(), ".2f")]


@cache
def rounded():
    return stored("precision").query("not form.str.contains('numbers')")


def fewest_bits():
    from memlab.experiments.precision import fewest_bits as fewest

    bits = fewest(rounded()).bits_a_number
    return [number(bits.median(), "g"), number(bits.min(), "g"), number(bits.max(), "g")]


def margins_predict():
    from memlab.experiments.precision import predicted_by_margin

    alike = predicted_by_margin(rounded(), at_one_length=True)
    return [*interval(predicted_by_margin(rounded()), ".2f"), *interval(alike, ".2f")]


def pruned():
    share = stored("precision").groupby("form").exact.sum()
    return [str(share["90% of the numbers"]), str(share["80% of the numbers"])]


def half_come_back():
    from memlab.measures.capacity_fits import n50_interval

    runs = stored("capacity").query("protocol == 'fixed'")
    kinds = (runs[runs.texts == texts] for texts in ("originals", "classics"))
    return [cell for kind in kinds for cell in interval(n50_interval(kind, "bits_without", draws=300))]


def equal_bits():
    runs = stored("capacity").query("protocol == 'equal'")
    medians = runs.groupby("texts").tokens.median()
    return [
        str(runs.exact.sum()), str(len(runs)), *(number(medians[name]) for name in ("originals", "classics", "random"))
    ]  # fmt: skip


def unseen_kind():
    from memlab.measures import prediction

    found = prediction.held_out(prediction.measured(stored("capacity")), by="texts")
    found = found[(found.k == 1) & found.text_id.str.startswith("random-")]
    inside = (found.true >= found.low) & (found.true <= found.high)
    return [
        number(found.predicted.median()), number(found.true.median()), number(found.baseline.median()),
        str(inside.sum()), str(len(found)),
    ]  # fmt: skip


def retried():
    """Steps of the four passages that needed four times the steps."""
    runs = stored("horizon").query("way == 'as a whole, four times the steps'")
    return [f"{steps:,}" for steps in sorted(runs.steps)]


def as_a_whole():
    runs = stored("horizon").set_index("text_id")
    found = runs[(runs.way == "as a whole") & runs.exact]
    grown = runs[(runs.way == "growing") & runs.index.isin(found.index)].token_passes
    ends = (found.token_passes.min(), found.token_passes.max(), grown.min(), grown.max())
    return [f"{end:,.0f}" for end in ends]


def ended_short():
    runs = stored("horizon")
    short = runs[runs.way == "as it ended"].exact_prefix
    return [str(short.min()), str(short.max())]


def first_two_rows_of_noise():
    noise = stored("geometry-noise").query("what == 'noise'")
    exact = noise.groupby("amount").exact.agg(["sum", "size"])
    return [*map(str, exact.loc[0.05]), str(exact.loc[0.1, "sum"])]


def radius_by_length():
    from memlab.measures.robustness import median_radii

    radii = median_radii(stored("geometry-lengths"), "tokens").radius
    return [number(radii[tokens], ".2f") for tokens in (8, 16, 32, 64)]


def radius_by_margin():
    from memlab.measures.robustness import median_radii

    radii = median_radii(stored("geometry-margins"), "asked").radius
    return [number(radii[asked], ".3f") for asked in (4.0, 1.0, 0.25)]


def curves():
    from memlab.measures.geometry import barriers

    found = barriers(stored("geometry-paths")).query("way == 'curve'").set_index("kind")
    kinds = (found.loc[kind] for kind in ("prose", "random words"))
    return [
        cell for k in kinds for cell in (str(k.exact_throughout), str(k.pairs), *interval(k.barrier, ".2f"))
    ]  # fmt: skip


def solutions():
    from memlab.experiments.report_vectors import bundled_solutions

    texts = [mem.text.id for mem in bundled_solutions()]
    return [str(len(texts)), str(len(set(texts)))]


def settings():
    from memlab.experiments.optimizer_study import SCREEN

    return [str(stored("recipe-screen").contender.nunique()), str(sum(map(len, SCREEN.values())))]


def published_recipe():
    """Median teacher-forced accuracy in %, exact vectors, all vectors."""
    from memlab.experiments.report_training import recovery_runs

    runs = recovery_runs("originals-32").query("recipe == 'paper2025'")
    return [number(100 * runs.teacher_forced.median()), str(runs.exact.sum()), str(len(runs))]


def step_ratio():
    runs = stored("speed")
    runs = runs[runs.device == "cpu AMD EPYC (AVX512, AVX512 BF16)"]
    ours, theirs = (runs[runs.method == m].set_index("passage") for m in ("memlab", "paper2025"))
    both = theirs.index[theirs.decoded.astype(bool)]
    return [number(theirs.token_passes[both].sum() / ours.token_passes[both].sum())]


def steps_by_processor():
    """Steps of ours on the Xeon and on the newer EPYC, then of the published recipe on all three, 16 tokens."""
    runs = stored("speed").query("tokens == 16")
    steps = runs.groupby(["method", "device"]).steps.sum()
    newer, older, xeon = "cpu AMD EPYC (AVX512, AVX512 BF16)", "cpu AMD EPYC (AVX2)", "cpu Intel(R) Xeon(R) Processor"
    assert steps["memlab", xeon] == steps["memlab", older]
    ours = [f"{steps['memlab', device]:.0f}" for device in (xeon, newer)]
    return [*ours, *(f"{steps['paper2025', device]:,.0f}" for device in (xeon, older, newer))]


def steps_at_equal_work():
    steps = stored("horizon").groupby("way").steps.median()
    return [f"{steps['progressive2026']:,.0f}", f"{steps['growing']:,.0f}"]


def moved_vectors():
    """Vectors that stay exact: 2 % up and down the gradient, of how many; rounded to 4 bits."""
    from memlab.measures.robustness import survival_by_direction

    noise = stored("geometry-noise")
    vectors = noise.key.nunique()
    moved = survival_by_direction(noise)
    along = moved[moved.distance == 0.02].set_index("direction").share * vectors
    rounded = noise[noise.what == "rounding"].groupby("amount").exact.sum()
    up, down = (number(along[f"{way} the gradient"]) for way in ("up", "down"))
    return [up, str(vectors), down, str(rounded[6]), str(rounded[4])]


def hidden_from_ten_layers():
    rows = stored("geometry-knockouts").query("what == 'mem' and mode == 'until' and layer == 9")
    return [number(100 * rows.accuracy.mean()), str(len(rows))]


def bundled():
    from memlab import Store

    return [str(Store.bundled().table().exact.sum())]


def decode_share():
    runs = stored("speed")
    ours = runs[(runs.device == "cpu AMD EPYC (AVX512, AVX512 BF16)") & (runs.method == "memlab")]
    return [number(100 * ours.decode_seconds.sum() / ours.seconds.sum())]


def progressive():
    runs = stored("speed-progressive")
    ours, theirs = (runs[runs.method == m].set_index("passage") for m in ("memlab", "progressive2026"))
    each = theirs.seconds / ours.seconds[theirs.index]
    whole = theirs.seconds.sum() / ours.seconds[theirs.index].sum()
    return [
        *(number(end) for end in (theirs.seconds.min(), theirs.seconds.max())),
        *(f"{end:,.0f}" for end in (theirs.steps.min(), theirs.steps.max())),
        *(number(end, ".1f") for end in (ours.seconds.min(), ours.seconds.max())),
        number(whole), number(each.min()), number(each.max()),
    ]  # fmt: skip


N, I = r"([-\d.,]*\d)", r"(\[[^\]]*\])"  # noqa: E741  # a number, an interval
CLAIMS = {
    # README.md
    rf"README.md: - \*\*{N} tokens\*\* {I} of prose are": lambda: interval(capacity("originals").tokens),
    rf"README.md: of the 13 texts, in bits \| {N} bits {I}": lambda: interval(capacity("originals").bits),
    rf"README.md: octaves \(factors of 2\) \| tokens {N} {I}, bits {N} {I}": lambda: [
        *interval(spreads()["tokens"], ".2f"), *interval(spreads()["bits"], ".2f")
    ],
    rf"README.md: we get {N} times {I} as far as Progressive Cramming": lambda: interval(same_work(), ".1f"),
    rf"README.md: get {N} % of their tokens right while .*? from the vector alone, {N} of {N} texts": published_recipe,
    rf"README.md: - \*\*{N} times\*\* {I} \[as fast\]": lambda: interval(speed("both decode")),
    rf"README.md: two other processors.*?: {N} and {N} times": lambda: [
        interval(speed("both decode", f"cpu {name}"))[0] for name in ("Intel(R) Xeon(R) Processor", "AMD EPYC (AVX2)")
    ],
    rf"README.md: as a multiple of those without; eight passages, no preconditioner \| {N} {I}": lambda: [
        *sink("smollm2-135m").loc["s [mem] text", "steps, over without"].split(" ", 1)
    ],
    rf"README.md: of two texts \| {N} {I}; {N} {I}": lambda: [
        *interval(apart().within, ".3f"), *interval(apart().between, ".3f")
    ],
    rf"README.md: it takes {N} times {I} the bits": lambda: interval(over_arithmetic("originals"), ".1f"),
    # The search
    rf"{REPORT}: compares {N} settings": lambda: settings()[:1],
    rf"{REPORT}: so the command runs {N} of the {N} today": lambda: settings()[::-1],
    rf"{REPORT}: So ours is \*\*{N} times\*\* as fast": lambda: interval(speed("both decode"))[:1],
    rf"{REPORT}: and \*\*{N} times\*\* if a failure counts its full": lambda: interval(speed("with failures"))[:1],
    rf"{REPORT}: it is {N} times: the published code": lambda: interval(speed("with failures, as they stopped"))[:1],
    rf"{REPORT}: the ratio is {N} times {I}": lambda: interval(speed("with failures, and the metric")),
    rf"{REPORT}: needs {N} times as many token passes": step_ratio,
    rf"{REPORT}: - {N} % of our time is the final decode": decode_share,
    rf"{REPORT}: in {N} to {N} s each \({N} to {N} steps\).*? Ours takes {N} to {N} s .*?"
    rf"ours is {N} times as fast; text by text, {N} to {N} times": progressive,
    rf"{REPORT}: \| smollm2-135m \| [\d.]+ \| {N} \[": lambda: [
        sink("smollm2-135m").loc["s [mem] text", "steps, over without"].split()[0]
    ],
    rf"{REPORT}: \| gemma-3-270m \| [\d.]+ \| {N} \[": lambda: [
        sink("gemma-3-270m").loc["s [mem] text", "steps, over without"].split()[0]
    ],
    rf"{REPORT}: ours takes {N} steps in all on the Xeon and on the older EPYC, and {N} in bfloat16 .*? The published "
    rf"recipe takes {N} steps on the Xeon, {N} on the older and {N} on the newer": steps_by_processor,
    # Capacity
    rf"{REPORT}: times as many steps \({N} against {N}, medians\)": steps_at_equal_work,
    rf"{REPORT}: The exact horizons say the same \({N}, {N} and {N} bits\)": lambda: [
        number(capacity(texts).bits.value) for texts in ("originals", "classics", "random")
    ],
    rf"{REPORT}: kinds of text lie {N} octaves apart {I}": lambda: interval(spreads()["tokens"], ".2f"),
    rf"{REPORT}: In bits it is {N} {I}": lambda: interval(spreads()["bits"], ".2f"),
    rf"{REPORT}: So at equal work ours gets \*\*{N} times\*\* as far": lambda: [number(same_work().value, ".1f")],
    rf"{REPORT}: below 144 tokens, from {N} to {N}\.": ended_short,
    rf"{REPORT}: They took {N} to {N} token passes \(growing had spent {N} to {N} on these six\)": as_a_whole,
    rf"{REPORT}: exact too, after {N}, {N}, {N} and {N} steps": retried,
    rf"{REPORT}: it predicts {N} tokens for random words where {N} were measured \(medians\); the mean of the others "
    rf"says {N}\. But only {N} of {N} are inside": unseen_kind,
    rf"{REPORT}: all come back, {N} of {N} .*? That is {N} tokens of originals, {N} of classics and {N} of random "
    "words": equal_bits,
    rf"{REPORT}: come back at {N} bits {I} \(originals\) and {N} {I} \(classics": half_come_back,
    # Stored form
    rf"{REPORT}: keep a vector exact: median {N}, from {N} to {N}": fewest_bits,
    rf"{REPORT}: rank correlation {N} {I}\. Among texts of one length it does not predict them: {N} {I}": (
        margins_predict
    ),
    rf"{REPORT}: set to zero in all {N} vectors, .*? smallest fifth in {N}": pruned,
    rf"{REPORT}: Its length is within {N} %": coding_error,
    rf"{REPORT}: and {N} times \(originals\) and {N} times \(random": lambda: [
        number(over_arithmetic(texts).value, ".1f") for texts in ("originals", "random")
    ],
    # Geometry
    rf"{REPORT}: {N} exact bundled vectors: {N} passages of 32 tokens": solutions,
    rf"{REPORT}: for {N} of {N} pairs of solutions of prose \(barrier {N} {I}\) and for {N} of {N} of random words "
    rf"\({N} {I}\)": curves,
    rf"{REPORT}: leaves {N} of {N} moved copies of 12 vectors exact; 10 % leaves {N}": first_two_rows_of_noise,
    rf"{REPORT}: Along the gradient, {N} of {N} vectors is still exact 2 % up and {N} are 2 % down\. Six bits per "
    rf"number leave all {N} exact, four bits {N}": moved_vectors,
    rf"{REPORT}: thirty layers and {N} % of the tokens are still right, teacher-forced, {N} passages": (
        hidden_from_ten_layers
    ),
    rf"CHANGELOG.md: {N} exact bundled vectors": bundled,
    rf"{REPORT}: {N} of the norm at 8 tokens, {N} at 16, {N} at 32, {N} at 64": radius_by_length,
    rf"{REPORT}: by {N} of the norm instead of {N} \(medians\), for .*? of 0.25 by {N}": radius_by_margin,
}  # fmt: skip
"""File and pattern -> what its groups must be, from the stored tables."""


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_number_in_prose_is_that_of_the_tables(claim):
    readme, pattern = claim.split(": ", 1)
    prose = " ".join(text_of(readme).split())
    found = re.findall(pattern, prose)
    assert len(found) == 1, f"{len(found)} places of {readme} match {pattern}"
    groups = [found[0]] if isinstance(found[0], str) else list(found[0])
    assert groups == list(CLAIMS[claim]())
