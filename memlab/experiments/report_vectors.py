"""Tables of the report about the vectors: capacity, stored form, geometry. See ``report_tables``."""

from __future__ import annotations

import numpy as np
import pandas as pd

from memlab.experiments.precision import survived
from memlab.experiments.report_tables import Table, ends, share, table
from memlab.experiments.tables import stored
from memlab.measures import geometry, prediction
from memlab.measures.capacity import exact_estimates, horizons
from memlab.measures.capacity_fits import doublings, saturations
from memlab.measures.capacity_report import ratio_of_horizons
from memlab.measures.statistics import median_interval
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store

# Capacity ----------------------------------------------------------------------------------------------------------


def exact_horizons(k: int | None = None) -> pd.DataFrame:
    """``measures.capacity.horizons`` of the exact rows of ``capacity.parquet``; of ``k`` vectors, or of all."""
    runs = stored("capacity")
    found = horizons(runs[runs.protocol == "exact"])
    return found if k is None else found[found.k == k]


@table("horizons")
def _horizons() -> Table:
    found = exact_horizons(1)
    passes = found.groupby("texts").token_passes.median()
    rows = [
        (row.texts, row.passages, format(row.tokens, ".0f"), format(row.bits, ".0f"), f"{row.least} – {row.most}",
         f"{passes[row.texts]:,.0f}")
        for row in exact_estimates(found).itertuples()
    ]  # fmt: skip
    heads = ("texts", "passages", "horizon, tokens", "horizon, bits", "smallest – largest, tokens",
             "token passes, median")  # fmt: skip
    return heads, rows


@table("saturation")
def _saturation() -> Table:
    runs = stored("capacity").query("protocol == 'fixed'")
    rows = []
    for row in saturations(runs).to_dict("records"):
        some = runs[runs.texts == row["texts"]]
        lengths = (f"{n}: {t.exact.sum()} of {len(t)}" for n, t in some.groupby("length"))
        rows.append((row["texts"], row["runs"], row["not exact"], format(row["C"], ",.0f"), f"{row['off']:.0f}",
                     ", ".join(lengths)))  # fmt: skip
    return ("texts", "runs", "not exact", "C, bits", "error of the fit, bits", "exact, by length in tokens"), rows


@table("more-vectors")
def _more_vectors() -> Table:
    several = exact_horizons()
    reached = several.set_index(["texts", "text_id", "k"]).horizon
    kinds = pd.CategoricalDtype([*dict.fromkeys(several.texts[several.k == 1])], ordered=True)
    found = doublings(several).query("texts != 'all'").astype({"texts": kinds}).sort_values(["k", "texts"])
    rows = []
    for row in found.itertuples():
        twice = reached[row.texts].unstack("k").dropna(subset=[row.k, row.twice])
        ratios = f"{row.tokens:.2f}" + (f" ({row.least:.2f} – {row.most:.2f})" if row.passages > 1 else "")
        rows.append((row.texts, row.k, row.passages, ends(twice[row.k]), ends(twice[row.twice]), ratios,
                     f"{row.bits:.2f}"))  # fmt: skip
    heads = ("texts", "k", "passages", "tokens with k vectors", "tokens with 2k vectors",
             "ratio in tokens, median (smallest – largest)", "ratio in bits, median")  # fmt: skip
    return heads, rows


@table("prediction")
def _prediction() -> Table:
    predicted = prediction.held_out(prediction.measured(stored("capacity")))
    rows = []
    for k, row in prediction.reports(predicted).items():
        own = row["own_kind_median_error"]
        rows.append((k, row["passages"], f"{row['median_error']:.0f}", f"{row['baseline_median_error']:.0f}",
                     "–" if np.isnan(own) else f"{own:.0f}", f"{row['inside'] * row['passages']:.0f}"))  # fmt: skip
    heads = ("k", "passages", "error of the prediction, tokens", "error of the mean of all others",
             "error of the mean of others of its kind", "inside the 90 % interval")  # fmt: skip
    return heads, rows


def same_work() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Horizons of ``horizon.parquet``: ours and those of arXiv 2607.21231, which had equal token passes."""
    runs = stored("horizon")
    return horizons(runs[runs.way == "growing"]), horizons(runs[runs.way == "progressive2026"])


@table("same-work")
def _same_work() -> Table:
    ours, theirs = same_work()
    original = ours.source == "memlab originals"
    rows = []
    for name, mine in (("originals", ours[original]), ("classics", ours[~original]), ("both", ours)):
        others = theirs[theirs.text_id.isin(mine.text_id)]
        cells = format(median_interval(mine.horizon), ".0f"), format(median_interval(others.horizon), "g")
        rows.append((name, len(mine), *cells, format(ratio_of_horizons(mine, others), ".1f")))
    return ("texts", "passages", "memlab, tokens", "arXiv 2607.21231, tokens", "ratio, passage by passage"), rows


@table("published-protocol")
def _published_protocol() -> Table:
    runs = stored("capacity").query("protocol == 'paper2025'")
    rows = [
        (texts, tokens, f"{some.accuracy.mean():.3f}", f"{(some.accuracy == 1).sum()}/{len(some)}", share(some.exact),
         f"{some.steps.median():,g}")
        for (texts, tokens), some in runs.groupby(["texts", "length"], sort=False)
    ]  # fmt: skip
    heads = ("texts", "tokens", "teacher-forced accuracy, mean", "passages with all tokens right by it",
             "**exact**, from the vector alone", "steps, median")  # fmt: skip
    return heads, rows


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


@table("codecs")
def _codecs() -> Table:
    found = stored("codecs")
    found = found.assign(each=found.bits / found.tokens)
    cells = found.pivot_table(
        "each", "codec", "texts", aggfunc=lambda x: f"{x.mean():.1f} [{x.min():.1f}, {x.max():.1f}]"
    )
    return ("", *cells.columns), ((name, *cells.loc[name]) for name in dict.fromkeys(found.codec))


# Geometry ----------------------------------------------------------------------------------------------------------


def bundled_solutions() -> list[MemVector]:
    """The bundled vectors of the 12 passages of which there are 16 solutions."""
    store = Store.bundled()
    listed = store.table().query("exact and tokens == 32 and recipe.str.startswith('default')", engine="python")
    several = listed[listed.groupby("text_id").key.transform("size") >= 16]
    return [store.get(key) for key in several.sort_values(["text_id", "seed"]).key]


def seeds_apart() -> geometry.Apart:
    """Cosine distances within and between the passages of ``bundled_solutions``."""
    mems = bundled_solutions()
    return geometry.within_and_between([mem.mem[0] for mem in mems], [mem.text.id for mem in mems])


@table("geometry")
def _geometry() -> Table:
    store = Store.bundled()
    listed = store.table().query("recipe == 'paper2025' and tokens == 32")
    norms = median_interval([float(np.linalg.norm(store.get(key).mem)) for key in listed.key])
    apart = seeds_apart()
    ways = geometry.barriers(stored("geometry-paths").assign(kind="all")).set_index("way")
    line, nowhere = ways.loc["line"], ways.loc["nowhere"]
    rows = [
        ("vectors of the published recipe: Euclidean norm, median", f"{norms:.1f}", "see below", "yes"),
        ("seeds of one text: cosine distance within a text, and between texts",
         f"{apart.within:.3f} within, {apart.between:.3f} between; ratio {apart.ratio:.3f}",
         f"ratio 1: p = {apart.p:.3f}", "nearly, not quite"),
        ("straight line between two solutions: barrier, bits per token, median",
         f"{line.barrier:.2f}; {line.exact_throughout} of {line.pairs} lines exact all the way",
         f"{nowhere.barrier:.2f}", "yes"),
    ]  # fmt: skip
    return ("statement of arXiv 2502.13063", "here", "null model", "holds?"), rows
