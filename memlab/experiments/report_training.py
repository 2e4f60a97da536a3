"""Tables of the report about training: the search, the speed, the place of the vector. See ``report_tables``."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from memlab.experiments.optimizer_study import halves, ranking
from memlab.experiments.recovery import shares, summary
from memlab.experiments.report_tables import Table, ends, joined, percent, share, spread, table
from memlab.experiments.sink_position import PLAIN
from memlab.experiments.sink_position import summary as sink_summary
from memlab.experiments.speed import ratios
from memlab.experiments.tables import stored
from memlab.measures.statistics import Estimate
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


@table("optimizer-screen")
def _optimizer_screen() -> Table:
    runs = stored("recipe-screen")
    places = ranking(runs).set_index("contender")
    exact = runs.groupby("contender").exact.agg(share)
    rows = []
    for setting, names in SCREEN.items():
        found = [places.loc[name] for name in names]
        rows.append((
            setting,
            exact[names[0]] if len(names) == 1 else joined(row.exact for row in found),
            joined(f"{row.median_steps:g}" if row.share > 0.5 else "–" for row in found),
            joined(f"{row.passes_per_exact:,.0f}" if row.share else "–" for row in found),
        ))  # fmt: skip
    return ("setting", "exact", "steps, median", "token passes per exact passage"), rows


@table("optimizer-final")
def _optimizer_final() -> Table:
    found = halves(stored("recipe-final"))
    return found.columns, found.to_numpy()


RECOVERY = {
    "originals-32x32": "32 originals (`data/texts`)",
    "classics-32x32": "32 classics (novels, not included)",
    "originals-8x64": "the first 8 originals",
    "originals-8x96": "the first 8 originals",
    "originals-8x128": "the first 8 originals",
    "originals-6x160": "the first 6 originals",
}
MOST_STEPS = 400
"""Budget of the default recipe, steps: what a failure counts as."""


def recovery_runs(name: str) -> pd.DataFrame:
    """The rows of ``recovery-NAME.csv``."""
    return pd.read_csv(data_folder() / "bench" / f"recovery-{name}.csv")


@table("recovery-lengths")
def _recovery_lengths() -> Table:
    rows = []
    for name, texts in RECOVERY.items():
        runs = recovery_runs(name)
        label = shares(runs).label.iloc[-1]
        steps = runs.steps.where(runs.exact, MOST_STEPS).median()
        rows.append((texts, runs.tokens.iloc[0], label, f"{steps:g}", f"`recovery-{name}.csv`"))
    return ("texts", "tokens", "exact", f"steps, median (a failure counts as {MOST_STEPS})", "file"), rows


@table("recovery-published")
def _recovery_published() -> Table:
    found = summary(recovery_runs("originals-32"))
    return ("reading", *found.columns), ((name, *found.loc[name]) for name in found.index)


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


@table("speed")
def _speed() -> Table:
    runs = stored("speed")
    runs = runs[runs.device == next(iter(MACHINES))]
    columns = {
        "default": runs[runs.method == "memlab"],
        "paper2025": runs[runs.method == "paper2025"],
    }
    cells: dict[str, Callable[[pd.DataFrame], str]] = {
        "decode": lambda t: f"{t.decoded.sum()}/{len(t)}",
        "steps, median (smallest – largest)": lambda t: spread(t.steps, ",.0f"),
        "seconds per passage, median (smallest – largest)": lambda t: spread(t.seconds, ",.1f"),
        "token passes per second, median": lambda t: f"{t.tokens_per_second.median():.0f}",
        "share of the core's matrix-product rate, median": lambda t: percent(t.machine_share.median()),
        "peak memory above the model": lambda t: f"{t.peak_gib.max():.2f} GiB",
    }  # fmt: skip
    return ("", *columns), ((name, *(cell(t) for t in columns.values())) for name, cell in cells.items())


@table("speed-ratios")
def _speed_ratios() -> Table:
    runs = stored("speed")
    both_lengths = set(runs.device[(runs.method == "paper2025") & (runs.tokens == 32)])
    all_tokens = ratios(runs[runs.device.isin(both_lengths)]).assign(tokens="16 and 32")
    short = ratios(runs[runs.tokens == 16]).query("over == 'both decode'").assign(tokens="16")
    rows = [
        (MACHINES[row.device], row.tokens, OVER[row.over], row.passages,
         format(Estimate(row.ratio, row.low, row.high), ".0f"))
        for row in pd.concat([all_tokens, short]).itertuples()
    ]  # fmt: skip
    return ("processor, one core", "tokens", "over", "passages", "their time over ours"), rows


@table("step-cpu")
def _step_cpu() -> Table:
    rows = [
        (f"{row.passages} x {row.tokens}", f"{row.seconds:.2f} s [{row.fastest:.2f}, {row.slowest:.2f}]",
         f"{row.linear_seconds:.2f} s", f"{row.attention_seconds:.2f} s", percent(row.share), f"{row.peak_gib:.2f} GiB")
        for row in stored("step").itertuples()
    ]  # fmt: skip
    heads = ("passages x tokens", "a step [fastest, slowest]", "products with weights", "attention's products",
             "their share", "peak memory above the model")  # fmt: skip
    return heads, rows


@table("step-gpu")
def _step_gpu() -> Table:
    found = stored("step-gpu")
    rows = [
        (f"{row.passages} x {row.tokens}",
         f"{1e3 * row.seconds:.0f} ms [{1e3 * row.fastest:.0f}, {1e3 * row.slowest:.0f}]",
         f"{1e3 * row.linear_seconds:.0f} ms", percent(row.share_linear), f"{row.tflops:.0f} TFLOP/s",
         f"{row.peak_gib:.1f} GiB")
        for row in found[found.linear_seconds.notna()].itertuples()
    ]  # fmt: skip
    heads = ("passages x tokens", "a step [fastest, slowest]", "products with weights", "their share",
             "matrix products per second, with attention", "peak memory above the model")  # fmt: skip
    return heads, rows


@table("step-graphs")
def _step_graphs() -> Table:
    found = stored("step-gpu")
    found = found[found.linear_seconds.isna()]
    found = found.assign(shape=found.passages.astype(str) + " x " + found.tokens.astype(str))
    shapes = [*dict.fromkeys(found["shape"])]
    rows = []
    for (dtype, captured), some in found.groupby(["dtype", "replayed"], sort=False):
        times = 1e3 * some.set_index("shape").seconds
        cells = [f"{times[s]:.3g}" if s in times else "" for s in shapes]
        rows.append((f"{dtype}, {'captured' if captured else 'launched'}", *cells))
    return ("passages x tokens", *shapes), rows


# The place of the vector -------------------------------------------------------------------------------------------


@table("sink-position")
def _sink_position() -> Table:
    found = sink_summary(stored("sink"))
    of = {model: rows.set_index("placement") for model, rows in found.groupby("model", sort=False)}
    placements = [name for name in found.placement.unique() if name != PLAIN]
    rows: list[tuple[object, ...]] = []
    toys = []
    for model, t in of.items():
        steps, seen = t["steps, over without"], t["attention on position 0"]
        if model.startswith("toy:"):
            numbers = [float(steps[name].split()[0]) for name in placements]
            toys.append((t.steps[PLAIN], *numbers, seen[PLAIN], seen[placements[0]]))
        else:
            rows.append((model, f"{t.steps[PLAIN]:g}", *(steps[name] for name in placements),
                         f"{seen[PLAIN]:.2f}", f"{seen[placements[0]]:.2f}"))  # fmt: skip
    columns, specs = zip(*toys, strict=True), ("g", ".2f", ".2f", ".2f", ".2f")
    rows.append((f"{len(toys)} toys", *(ends(column, spec) for column, spec in zip(columns, specs, strict=True))))
    heads = ("model", "steps with the vector alone, median", "steps with *s* before, relative",
             "steps with *s* after, relative", "attention on position 0: vector alone", "*s* before")  # fmt: skip
    return heads, rows
