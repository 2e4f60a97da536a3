"""Smaller models as data: which are compared, what was expected of them, and a summary of what was measured.

The question is that of LLM-KICK (arXiv 2310.01382): does perplexity hide damage? Three measures of one model stand
beside its perplexity: do vectors that were trained on the full model still decode (transfer), does a new search find
exact vectors, and how many bits does a new vector hold.

Predicted on 30 November 2026, before the first run on the real model, and not changed since: ``PREDICTIONS``, and in
words: stored vectors break long before perplexity does, because they were tuned to one function. A new search breaks
after it: models with random weights can be searched, too, so what a vector can do depends little on what the weights
know. The weights of the default model come from blocks of 32 with 4 bits, so the rows "8 bits" and "4 bits" change
almost nothing, and the row with shifted blocks is the honest one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from memlab.measures.landscape import COLUMNS as LANDSCAPE
from memlab.measures.predictions import compared
from memlab.measures.statistics import bootstrap

FULL = "full model"
TEXT, TRANSFER, SEARCH, HELD = "text", "transfer", "search", "held"
"""Parts of the table. ``text``: perplexity and size of the model. ``transfer``: stored vectors of the full model.
``search``: new vectors, until exact. ``held``: new vectors for more than they can hold, a fixed number of steps."""
COLUMNS = (
    "model", "kind", "part", "texts", "text_id", "tokens", "bits_without", "bits_with", "bits_shuffled", "exact",
    "exact_prefix", "right", "edit", "steps", "text_bits", "code_bits", "flops", "stored_bits", "weights",
    "sink_prefix", "fingerprint", "seconds", "ids",
)  # fmt: skip
"""Columns of the table, one row per model, part and passage. Bits are of a whole passage, ``text_bits`` and
``code_bits`` of a token. ``stored_bits``: all weights of the model. ``sink_prefix``: the model's own, as text.
``bits_shuffled``: after another passage's vector. ``ids``: what a stored vector writes, ``edit``: how close that is."""
AFTER = {
    "rounded": "LLM-KICK",
    "pruned": "LLM-KICK",
    "fewer layers": "KD performance review",
    "distilled": "KD performance review",
    "early exit": "Model-compression survey",
}
"""{kind of smaller model: the system of the landscape that it follows}."""


@dataclass(frozen=True)
class Variant:
    """A smaller model, as data. At most one way of making it smaller is set, and ``distilled`` may be added."""

    name: str
    kind: str
    """Its kind in the survey of compression (arXiv 2402.09748): rounded, pruned, fewer layers, distilled, early exit.
    """
    bits: int = 0
    """Weights rounded to this many bits, in blocks of 32 with a scale and a minimum each."""
    shift: int = 0
    """First column of the first block."""
    share: float = 0.0
    """Share of the weights that are set to 0."""
    by_effect: bool = False
    """Which weights: those of least magnitude times norm of their input (Wanda, arXiv 2306.11695), not of least
    magnitude."""
    group: int = 0
    """The share holds in each group of this many weights of a row; 0: in each row."""
    fewer: int = 0
    """Layers left out, those that change their input least (after ShortGPT, arXiv 2403.03853)."""
    early: int = 0
    """Layers left out at the end; norm and head stay."""
    distilled: bool = False
    """Trained afterwards to predict what the full model predicts."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(FULL, "full"),
        Variant("8 bits", "rounded", bits=8),
        Variant("4 bits", "rounded", bits=4),
        Variant("4 bits, blocks shifted", "rounded", bits=4, shift=16),
        Variant("3 bits", "rounded", bits=3),
        Variant("2 bits", "rounded", bits=2),
        Variant("smallest 10 % pruned", "pruned", share=0.1),
        Variant("smallest 25 % pruned", "pruned", share=0.25),
        Variant("smallest 50 % pruned", "pruned", share=0.5),
        Variant("least effect 50 % pruned", "pruned", share=0.5, by_effect=True),
        Variant("least effect 2 of 4 pruned", "pruned", share=0.5, by_effect=True, group=4),
        Variant("2 layers fewer", "fewer layers", fewer=2),
        Variant("4 layers fewer", "fewer layers", fewer=4),
        Variant("exit 2 layers early", "early exit", early=2),
        Variant("exit 4 layers early", "early exit", early=4),
        Variant("4 layers fewer, distilled", "distilled", fewer=4, distilled=True),
    )
}
"""The models that are compared, by name."""


@dataclass(frozen=True)
class Prediction:
    """An interval that a column of ``summary`` should lie in, for one model."""

    model: str
    quantity: str
    low: float
    high: float


PREDICTIONS = (
    Prediction(FULL, "search_exact", 0.75, 1.0),
    Prediction(FULL, "transfer_exact", 1.0, 1.0),
    Prediction("8 bits", "more_bits", -0.005, 0.005),
    Prediction("8 bits", "transfer_exact", 0.9, 1.0),
    Prediction("4 bits", "more_bits", -0.005, 0.005),
    Prediction("4 bits", "transfer_exact", 0.9, 1.0),
    Prediction("4 bits, blocks shifted", "more_bits", 0.05, 0.4),
    Prediction("4 bits, blocks shifted", "transfer_exact", 0.0, 0.3),
    Prediction("4 bits, blocks shifted", "transfer_recovered", 0.5, 0.95),
    Prediction("4 bits, blocks shifted", "held_share", 0.93, 1.05),
    Prediction("3 bits", "more_bits", 0.4, 2.0),
    Prediction("3 bits", "transfer_exact", 0.0, 0.05),
    Prediction("3 bits", "held_share", 0.8, 1.05),
    Prediction("2 bits", "more_bits", 3.0, 12.0),
    Prediction("2 bits", "transfer_recovered", -0.5, 0.15),
    Prediction("2 bits", "search_exact", 0.0, 0.75),
    Prediction("2 bits", "held_share", 0.2, 0.9),
    Prediction("smallest 10 % pruned", "more_bits", 0.0, 0.05),
    Prediction("smallest 10 % pruned", "transfer_exact", 0.2, 0.9),
    Prediction("smallest 25 % pruned", "more_bits", 0.05, 0.5),
    Prediction("smallest 25 % pruned", "transfer_exact", 0.0, 0.2),
    Prediction("smallest 50 % pruned", "more_bits", 1.5, 7.0),
    Prediction("smallest 50 % pruned", "held_share", 0.5, 1.0),
    Prediction("least effect 50 % pruned", "more_bits", 0.8, 3.0),
    Prediction("least effect 2 of 4 pruned", "more_bits", 1.5, 5.0),
    Prediction("least effect 2 of 4 pruned", "held_share", 0.6, 1.0),
    Prediction("2 layers fewer", "more_bits", 0.2, 1.2),
    Prediction("2 layers fewer", "transfer_exact", 0.0, 0.05),
    Prediction("4 layers fewer", "more_bits", 0.8, 3.0),
    Prediction("4 layers fewer", "held_share", 0.8, 1.05),
    Prediction("exit 2 layers early", "more_bits", 0.5, 4.0),
    Prediction("exit 4 layers early", "more_bits", 1.0, 6.0),
    Prediction("4 layers fewer, distilled", "more_bits", 0.2, 1.0),
    Prediction("4 layers fewer, distilled", "held_share", 0.85, 1.05),
)
"""All of them."""


def summary(table: pd.DataFrame, *, draws: int = 1000) -> pd.DataFrame:
    """One row per model of a table with ``COLUMNS``, in the order of ``VARIANTS``, then others.

    ``more_bits``: bits a token more than the full model's; ``perplexity_share``: the full model's perplexity over this
    one's, 2^-more_bits. ``transfer_*``: share of stored vectors that are exact, mean share of each passage's tokens
    before the first wrong one, and mean share of the passage's bits that are recovered, by this model's own count.
    ``search_exact``: share of new searches that end exact; ``search_steps``: median steps of those. ``held_bits``: mean
    bits that a new vector takes off; ``held_share``: the same over the full model's on the same passages, with the ends
    ``held_low`` and ``held_high`` of a 95 % interval over passages. ``weight_bits``: bits stored per weight of the full
    model. What a part did not measure is missing.
    """
    order = [name for name in VARIANTS if name in set(table.model)]
    order += [name for name in dict.fromkeys(table.model) if name not in VARIANTS]
    full = table[table.model == FULL]
    return pd.DataFrame([_summary(table[table.model == name], full, draws) for name in order])


def _summary(rows: pd.DataFrame, full: pd.DataFrame, draws: int) -> dict[str, object]:
    text, whole = _part(rows, TEXT), _part(full, TEXT)
    moved, found, held = _part(rows, TRANSFER), _part(rows, SEARCH), _part(rows, HELD)
    more = float(text.code_bits.mean() - whole.code_bits.mean()) if len(text) and len(whole) else np.nan
    low, high, ratio = _held_share(held, _part(full, HELD), draws)
    exact = found.exact.astype(bool)
    return {
        "model": rows.model.iloc[0],
        "kind": rows.kind.iloc[0],
        "code_bits": _mean(text.code_bits),
        "more_bits": more,
        "perplexity_share": 2.0**-more,
        "weight_bits": _mean(text.stored_bits) / _mean(whole.weights),
        "flops": _mean(text.flops),
        "text_bits": _mean(text.text_bits),
        "transfer_exact": _mean(moved.exact),
        "transfer_prefix": _mean(moved.exact_prefix / moved.tokens),
        "transfer_recovered": _mean(1 - moved.bits_with / moved.bits_without),
        "search_exact": _mean(found.exact),
        "search_steps": float(found.steps[exact].median()) if exact.any() else np.nan,
        "held_bits": _mean(held.bits_without - held.bits_with),
        "held_share": ratio,
        "held_low": low,
        "held_high": high,
        "passages": int(moved.text_id.nunique()),
    }


def _part(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    return rows[rows.part == part]


def _mean(values: pd.Series) -> float:
    return float(values.astype(float).mean()) if len(values) else np.nan


def _held_share(held: pd.DataFrame, full: pd.DataFrame, draws: int) -> tuple[float, float, float]:
    """(low, high, ratio) of the bits held, paired by passage."""
    taken = [(rows.bits_without - rows.bits_with).groupby(rows.text_id).first() for rows in (held, full)]
    both = pd.concat(taken, axis=1, keys=["this", "full"]).dropna().reset_index()
    if both.empty:
        return np.nan, np.nan, np.nan
    estimate = bootstrap(lambda pairs: float(pairs.this.sum() / pairs.full.sum()), both, draws=draws)
    return estimate.low, estimate.high, estimate.value


def outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """One row per prediction: ``model quantity low high measured held``. ``held`` is missing if nothing was measured.

    ``table``: of ``COLUMNS``.
    """
    known = summary(table, draws=1).set_index("model") if len(table) else pd.DataFrame()
    rows = []
    for p in PREDICTIONS:
        value = float(known.loc[p.model, p.quantity]) if p.model in known.index else np.nan
        rows.append(compared(p, value))
    return pd.DataFrame(rows)


def landscape_rows(table: pd.DataFrame, stored_bits: float) -> pd.DataFrame:
    """Rows of the landscape, family F7: stored vectors of the full model, read by a smaller one.

    ``stored_bits``: those of a vector. ``bits_without`` is the full model's, as in all rows of the landscape.
    """
    moved = _part(table, TRANSFER)
    own = moved[moved.model == FULL].set_index("text_id").bits_without
    rows = moved[(moved.model != FULL) & moved.text_id.isin(own.index)]
    found = pd.DataFrame(
        {
            "method": "mem vector read by: " + rows.model,
            "system": rows.kind.map(AFTER),
            "family": "F7",
            "stored_bits": stored_bits,
            "shared_bits": 0.0,
            "cue": "",
            "decoder": "read",
            "sees": "nothing",
            "bits_without": rows.text_id.map(own),
            "exact": rows.exact.astype(bool),
            "exact_prefix": rows.exact_prefix.astype(int),
            "seconds_store": np.nan,
            "seconds_read": np.nan,
            "detail": "{}",
        }
    )
    same = ["text_id", "texts", "tokens", "bits_with", "bits_shuffled", "right", "edit", "model", "ids"]
    whole = rows[same].astype({"tokens": int})  # the part on texts has none, so they are stored with a fraction
    return found.join(whole)[list(LANDSCAPE)].reset_index(drop=True)


def breaks_first(points: pd.DataFrame) -> pd.DataFrame:
    """One row per measure: at how many of the models it fell further than perplexity did, of a ``summary``.

    Both are shares of the full model's: ``perplexity_share`` against ``transfer_exact``, ``search_exact`` and
    ``held_share``. Models whose perplexity did not change by 1 % are left out, because nothing could break first.
    """
    changed = points[(points.model != FULL) & ((1 - points.perplexity_share).abs() > 0.01)]
    whole = points[points.model == FULL]
    rows = []
    for name in ("transfer_exact", "search_exact", "held_share"):
        own = changed[name].astype(float) / (float(whole[name].iloc[0]) if len(whole) else np.nan)
        known = own.notna()
        sooner = int((own[known] < changed.perplexity_share[known]).sum())
        rows.append({"measure": name, "models": int(known.sum()), "broke_before_perplexity": sooner})
    return pd.DataFrame(rows)
