"""Tables of the report about training: search, speed, position of the vector. See ``report_tables``."""

from __future__ import annotations

import pandas as pd

from memlab.experiments.one_pass import summary as passes_summary
from memlab.experiments.optimizer_study import halves, ranking
from memlab.experiments.recovery import shares, summary
from memlab.experiments.report_tables import Rows, Table, ends, percent, spread, table
from memlab.experiments.sink_position import PLAIN
from memlab.experiments.sink_position import summary as sink_summary
from memlab.experiments.speed import ratios
from memlab.experiments.tables import stored
from memlab.measures.statistics import Estimate, share_label
from memlab.texts import data_folder

# The search ------------------------------------------------------------------------------------------------------

SCREEN: dict[str, tuple[str, ...]] = {
    "as published, arXiv 2502.13063 (no token before the vector, the first token never scored)": (
        "as published, arXiv 2502.13063",
    ),
    "as published, arXiv 2607.21231 (grown token by token)": ("as published, arXiv 2607.21231",),
    "AdamW, learning rate 0.01, sink prefix, cosine schedule": ("AdamW lr 0.01",),
    "AdamW, learning rate 1, the best of six learning rates": ("AdamW lr 1",),
    "L-BFGS": ("L-BFGS",),
    "full-matrix preconditioning, free norm (the first default)": ("free norm, cosine, lr 2 (the first default)",),
    "**rotation** (the incumbent)": ("incumbent",),
    "… norm held at 3; 10; 30; 100 instead of 400 (× √d)": ("norm 3", "norm 10", "norm 30", "norm 100"),
    "… without the model's preconditioner": ("whiten 0.0",),
    "… no token before the vector": ("no token before it",),
    "… a beginning-of-text token after the vector instead": ("a BOS behind it",),
    "… softmax temperature 0.25; 0.5; 2 in the loss": ("temperature 0.25", "temperature 0.5", "temperature 2.0"),
    "… margin loss, hinge 2; 5": ("hinge 2", "hinge 5"),
    "… weight 2; 5 on tokens that are still wrong": ("focus 1", "focus 4"),
    "… separate gradients for the three worst tokens (three more backward passes per step)": (
        "the three worst tokens",
    ),
    "… growing by 8; 16 tokens": ("grow by 8", "grow by 16"),
    "… starting from another passage's solution": ("another passage's solution",),
    "… inside a random subspace of 64; 256 dimensions": ("rank 64", "rank 256"),
    "… stored and trained as bfloat16": ("bfloat16 vector",),
}
"""Row of the table -> contenders of the screen."""


@table("optimizer-screen", "setting | exact | steps, median | token passes per exact passage")
def _optimizer_screen() -> Rows:
    runs = stored("recipe-screen")
    places = ranking(runs).set_index("contender")
    exact = runs.groupby("contender").exact.agg(share_label)
    for setting, names in SCREEN.items():
        rows = places.loc[[*names]]
        steps = [f"{row.median_steps:g}" if row.share > 0.5 else "–" for row in rows.itertuples()]
        passes = [f"{row.passes_per_exact:,.0f}" if row.share else "–" for row in rows.itertuples()]
        hits = exact[names[0]] if len(names) == 1 else "; ".join(rows.exact)
        yield setting, hits, "; ".join(steps), "; ".join(passes)


@table("optimizer-final")
def _optimizer_final() -> Table:
    final = halves(stored("recipe-final"))
    return final.columns, final.to_numpy()


RECOVERY = {
    "originals-32x32": "32 originals (`data/texts`)",
    "classics-32x32": "32 classics (novels, not included)",
    "originals-8x64": "the first 8 originals",
    "originals-8x96": "the first 8 originals",
    "originals-8x128": "the first 8 originals",
    "originals-6x160": "the first 6 originals",
}
MOST_STEPS = 400
"""Budget of the default recipe in steps. A failed run counts with it."""


def recovery_runs(name: str) -> pd.DataFrame:
    """The rows of ``recovery-NAME.csv``."""
    return pd.read_csv(data_folder() / "bench" / f"recovery-{name}.csv")


@table("recovery-lengths", f"texts | tokens | exact | steps, median (a failure counts as {MOST_STEPS}) | file")
def _recovery_lengths() -> Rows:
    for name, texts in RECOVERY.items():
        runs = recovery_runs(name)
        steps = runs.steps.where(runs.exact, MOST_STEPS).median()
        yield texts, runs.tokens.iloc[0], shares(runs).label.iloc[-1], f"{steps:g}", f"`recovery-{name}.csv`"


@table("recovery-published")
def _recovery_published() -> Table:
    readings = summary(recovery_runs("originals-32"))
    return ("reading", *readings.columns), readings.reset_index().to_numpy()


# Speed -----------------------------------------------------------------------------------------------------------

MACHINES = {
    "cpu AMD EPYC (AVX512, AVX512 BF16)": "AMD EPYC, Zen 5, ours in bfloat16",
    "cpu Intel(R) Xeon(R) Processor": "Intel Xeon, AVX-512",
    "cpu AMD EPYC (AVX2)": "AMD EPYC, Zen 3, AVX2",
}
"""Device in ``speed.parquet`` -> its name in the report."""
OVER = {
    "both decode": "passages that both decode",
    "with failures": "all; a failure counts its full budget",
    "with failures, as they stopped": "all; a failure counts what it took",
    "with failures, and the metric": "all, full budget; the preconditioner charged to ours",
}


@table("speed", " | default | paper2025")
def _speed() -> Rows:
    runs = stored("speed")
    runs = runs[runs.device == next(iter(MACHINES))]
    both = [runs[runs.method == method] for method in ("memlab", "paper2025")]
    yield "decode", *(f"{t.decoded.sum()}/{len(t)}" for t in both)
    yield "steps, median (smallest – largest)", *(spread(t.steps, ",.0f") for t in both)
    yield "seconds per passage, median (smallest – largest)", *(spread(t.seconds, ",.1f") for t in both)
    yield "token passes per second, median", *(f"{t.tokens_per_second.median():.0f}" for t in both)
    yield "share of the core's matrix-product rate, median", *(percent(t.machine_share.median()) for t in both)
    yield "peak memory above the model", *(f"{t.peak_gib.max():.2f} GiB" for t in both)


@table("speed-ratios", "processor, one core | tokens | over | passages | their time over ours")
def _speed_ratios() -> Rows:
    runs = stored("speed")
    both_lengths = set(runs.device[(runs.method == "paper2025") & (runs.tokens == 32)])
    all_tokens = ratios(runs[runs.device.isin(both_lengths)]).assign(tokens="16 and 32")
    short = ratios(runs[runs.tokens == 16]).query("over == 'both decode'").assign(tokens="16")
    for row in pd.concat([all_tokens, short]).itertuples():
        ratio = Estimate(row.ratio, row.low, row.high)
        yield MACHINES[row.device], row.tokens, OVER[row.over], row.passages, f"{ratio:.0f}"


@table(
    "one-pass",
    "tokens | vectors | pass and decode disagree | proven by the pass | largest difference of logits, of all vectors | "
    "of the vector with the smallest | smallest margin | times as fast, median",
)
def _one_pass() -> Rows:
    for row in passes_summary(stored("one-pass")).itertuples(index=False, name=None):
        tokens, vectors, disagree, proven, largest, least, margin, quicker = row
        yield tokens, vectors, disagree, proven, f"{largest:.1e}", f"{least:.1e}", f"{margin:.2f}", f"{quicker:.0f}"


@table(
    "step-cpu",
    "passages x tokens | a step [fastest, slowest] | products with weights | attention's products | their share | "
    "peak memory above the model",
)
def _step_cpu() -> Rows:
    for row in stored("step").itertuples():
        step = f"{row.seconds:.2f} s [{row.fastest:.2f}, {row.slowest:.2f}]"
        products = f"{row.linear_seconds:.2f} s", f"{row.attention_seconds:.2f} s", percent(row.share)
        yield f"{row.passages} x {row.tokens}", step, *products, f"{row.peak_gib:.2f} GiB"


@table(
    "step-gpu",
    "passages x tokens | a step [fastest, slowest] | products with weights | their share | "
    "matrix products per second, with attention | peak memory above the model",
)
def _step_gpu() -> Rows:
    steps = stored("step-gpu")
    for row in steps[steps.linear_seconds.notna()].itertuples():
        step = f"{1e3 * row.seconds:.0f} ms [{1e3 * row.fastest:.0f}, {1e3 * row.slowest:.0f}]"
        products = f"{1e3 * row.linear_seconds:.0f} ms", percent(row.share_linear), f"{row.tflops:.0f} TFLOP/s"
        yield f"{row.passages} x {row.tokens}", step, *products, f"{row.peak_gib:.1f} GiB"


@table("step-graphs")
def _step_graphs() -> Table:
    steps = stored("step-gpu")
    steps = steps[steps.linear_seconds.isna()]
    steps = steps.assign(shape=steps.passages.astype(str) + " x " + steps.tokens.astype(str))
    shapes = [*dict.fromkeys(steps["shape"])]
    rows = []
    for (dtype, captured), some in steps.groupby(["dtype", "replayed"], sort=False):
        times = 1e3 * some.set_index("shape").seconds
        cells = [f"{times[shape]:.3g}" if shape in times else "" for shape in shapes]
        rows.append((f"{dtype}, {'captured' if captured else 'launched'}", *cells))
    return ("passages x tokens", *shapes), rows


# The position of the vector ----------------------------------------------------------------------------------------


@table(
    "sink-position",
    "model | steps with the vector alone, median | steps with *s* before, relative | steps with *s* after, relative | "
    "attention on position 0: vector alone | *s* before",
)
def _sink_position() -> Rows:
    toys = []
    for model, rows in sink_summary(stored("sink")).groupby("model", sort=False):
        t = rows.set_index("placement")
        before, after = (name for name in t.index if name != PLAIN)
        ratio, attention = t["steps, over without"], t["attention on position 0"]
        if model.startswith("toy:"):
            relative = [float(ratio[name].split()[0]) for name in (before, after)]
            toys.append((t.steps[PLAIN], *relative, attention[PLAIN], attention[before]))
        else:
            seen = f"{attention[PLAIN]:.2f}", f"{attention[before]:.2f}"
            yield model, f"{t.steps[PLAIN]:g}", ratio[before], ratio[after], *seen
    columns, specs = zip(*toys, strict=True), ("g", ".2f", ".2f", ".2f", ".2f")
    yield f"{len(toys)} toys", *(ends(column, spec) for column, spec in zip(columns, specs, strict=True))
