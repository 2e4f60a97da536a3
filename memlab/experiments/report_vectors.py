"""Tables of the report about the vectors: capacity, stored form, geometry. See ``report_tables``."""

from __future__ import annotations

import numpy as np
import pandas as pd

from memlab.experiments import travel
from memlab.experiments.precision import survived
from memlab.experiments.report_tables import Rows, Table, ends, table
from memlab.experiments.tables import stored
from memlab.measures import geometry, prediction
from memlab.measures.capacity import exact_estimates, horizons
from memlab.measures.capacity_fits import doublings, saturations
from memlab.measures.capacity_report import ratio_of_horizons
from memlab.measures.statistics import median_interval, share_label
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store

# Capacity ----------------------------------------------------------------------------------------------------------


def exact_horizons(k: int | None = None) -> pd.DataFrame:
    """``measures.capacity.horizons`` of the exact rows of ``capacity.parquet``; of ``k`` vectors, or of all."""
    runs = stored("capacity")
    reached = horizons(runs[runs.protocol == "exact"])
    return reached if k is None else reached[reached.k == k]


@table(
    "horizons",
    "texts | passages | horizon, tokens | horizon, bits | smallest – largest, tokens | token passes, median",
)
def _horizons() -> Rows:
    reached = exact_horizons(1)
    passes = reached.groupby("texts").token_passes.median()
    for row in exact_estimates(reached).itertuples():
        middle = f"{row.tokens:.0f}", f"{row.bits:.0f}"
        yield row.texts, row.passages, *middle, f"{row.least} – {row.most}", f"{passes[row.texts]:,.0f}"


@table("saturation", "texts | runs | not exact | C, bits | error of the fit, bits | exact, by length in tokens")
def _saturation() -> Rows:
    runs = stored("capacity").query("protocol == 'fixed'")
    for row in saturations(runs).to_dict("records"):
        by_length = runs[runs.texts == row["texts"]].groupby("length")
        lengths = ", ".join(f"{n}: {t.exact.sum()} of {len(t)}" for n, t in by_length)
        yield row["texts"], row["runs"], row["not exact"], format(row["C"], ",.0f"), f"{row['off']:.0f}", lengths


@table(
    "more-vectors",
    "texts | k | passages | tokens with k vectors | tokens with 2k vectors | "
    "ratio in tokens, median (smallest – largest) | ratio in bits, median",
)
def _more_vectors() -> Rows:
    several = exact_horizons()
    reached = several.set_index(["texts", "text_id", "k"]).horizon
    kinds = pd.CategoricalDtype([*dict.fromkeys(several.texts[several.k == 1])], ordered=True)
    ratios = doublings(several).query("texts != 'all'").astype({"texts": kinds}).sort_values(["k", "texts"])
    for row in ratios.itertuples():
        both = reached[row.texts].unstack("k").dropna(subset=[row.k, row.twice])
        ratio = f"{row.tokens:.2f}" + (f" ({row.least:.2f} – {row.most:.2f})" if row.passages > 1 else "")
        yield row.texts, row.k, row.passages, ends(both[row.k]), ends(both[row.twice]), ratio, f"{row.bits:.2f}"


@table(
    "prediction",
    "k | passages | error of the prediction, tokens | error of the mean of all others | "
    "error of the mean of others of its kind | inside the 90 % interval",
)
def _prediction() -> Rows:
    predicted = prediction.held_out(prediction.measured(stored("capacity")))
    for k, row in prediction.reports(predicted).items():
        errors = [row[f"{name}median_error"] for name in ("", "baseline_", "own_kind_")]
        cells = ("–" if np.isnan(error) else f"{error:.0f}" for error in errors)
        yield k, row["passages"], *cells, f"{row['inside'] * row['passages']:.0f}"


def same_work() -> tuple[pd.DataFrame, pd.DataFrame]:
    """(memlab, arXiv 2607.21231): horizons of ``horizon.parquet``, with equal token passes for each passage."""
    runs = stored("horizon")
    return horizons(runs[runs.way == "growing"]), horizons(runs[runs.way == "progressive2026"])


@table("same-work", "texts | passages | memlab, tokens | arXiv 2607.21231, tokens | ratio, passage by passage")
def _same_work() -> Rows:
    ours, theirs = same_work()
    original = ours.source == "memlab originals"
    for name, mine in (("originals", ours[original]), ("classics", ours[~original]), ("both", ours)):
        others = theirs[theirs.text_id.isin(mine.text_id)]
        medians = format(median_interval(mine.horizon), ".0f"), format(median_interval(others.horizon), "g")
        yield name, len(mine), *medians, format(ratio_of_horizons(mine, others), ".1f")


@table(
    "published-protocol",
    "texts | tokens | teacher-forced accuracy, mean | passages with all tokens right by it | "
    "**exact**, from the vector alone | steps, median",
)
def _published_protocol() -> Rows:
    runs = stored("capacity").query("protocol == 'paper2025'")
    for (texts, tokens), some in runs.groupby(["texts", "length"], sort=False):
        forced = f"{some.accuracy.mean():.3f}", f"{(some.accuracy == 1).sum()}/{len(some)}"
        yield texts, tokens, *forced, share_label(some.exact), f"{some.steps.median():,g}"


# Stored form -------------------------------------------------------------------------------------------------------


@table("precision")
def _precision() -> Table:
    forms = stored("precision").query("not form.str.contains('numbers')")
    hits = forms.groupby("form").exact.sum()
    rows = [
        (row.form, f"{row.bits_a_number:g}", f"{hits[row.form]} [{row.low:.2f}, {row.high:.2f}]")
        for row in survived(forms).itertuples()
    ]
    return ("form", "bits per number", f"still exact, of {forms.key.nunique()}"), rows


@table("travel", "where | tokens | still exact")
def _travel() -> Rows:
    for row in travel.arrived(stored("travel")).itertuples():
        yield row.destination, row.tokens, f"{row.exact} of {row.vectors} [{row.low:.2f}, {row.high:.2f}]"


@table("codecs")
def _codecs() -> Table:
    sizes = stored("codecs")
    sizes = sizes.assign(bits_a_token=sizes.bits / sizes.tokens)
    cells = sizes.pivot_table(
        "bits_a_token", "codec", "texts", aggfunc=lambda x: f"{x.mean():.1f} [{x.min():.1f}, {x.max():.1f}]"
    )
    return ("", *cells.columns), ((name, *cells.loc[name]) for name in dict.fromkeys(sizes.codec))


# Geometry ----------------------------------------------------------------------------------------------------------


def bundled_solutions() -> list[MemVector]:
    """The bundled vectors of the 12 passages that have 16 solutions each."""
    store = Store.bundled()
    listed = store.table().query("exact and tokens == 32 and recipe.str.startswith('default')", engine="python")
    several = listed[listed.groupby("text_id").key.transform("size") >= 16]
    return [store.get(key) for key in several.sort_values(["text_id", "seed"]).key]


def seeds_apart() -> geometry.Apart:
    """Cosine distances within and between the passages of ``bundled_solutions``."""
    mems = bundled_solutions()
    return geometry.within_and_between([mem.mem[0] for mem in mems], [mem.text.id for mem in mems])


@table("geometry", "statement of arXiv 2502.13063 | here | null model | holds?")
def _geometry() -> Rows:
    store = Store.bundled()
    listed = store.table().query("recipe == 'paper2025' and tokens == 32")
    norms = median_interval([float(np.linalg.norm(store.get(key).mem)) for key in listed.key])
    yield "vectors of the published recipe: Euclidean norm, median", f"{norms:.1f}", "see below", "yes"
    apart = seeds_apart()
    yield (
        "seeds of one text: cosine distance within a text, and between texts",
        f"{apart.within:.3f} within, {apart.between:.3f} between; ratio {apart.ratio:.3f}",
        f"ratio 1: p = {apart.p:.3f}",
        "nearly, not quite",
    )
    barriers = geometry.barriers(stored("geometry-paths").assign(kind="all")).set_index("way")
    line, nowhere = barriers.loc["line"], barriers.loc["nowhere"]
    yield (
        "straight line between two solutions: barrier, bits per token, median",
        f"{line.barrier:.2f}; {line.exact_throughout} of {line.pairs} lines exact all the way",
        f"{nowhere.barrier:.2f}",
        "yes",
    )
