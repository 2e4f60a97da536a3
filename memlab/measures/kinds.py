"""Steps and horizons of kinds of text in tokens and in bits, and how well they were predicted. No language model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from memlab.measures.capacity import horizons
from memlab.measures.statistics import bootstrap

STEPS, HORIZON = "steps", "horizon"
"""Parts of the table: passages of one length, and searches for the longest exact prefix."""
AHEAD = ("steps_ahead", "steps_ahead_low", "steps_ahead_high", "horizon_ahead", "horizon_ahead_low",
         "horizon_ahead_high")  # fmt: skip
"""What was predicted of a passage before training, with the ends of 90 % intervals: steps, and a horizon in tokens."""
COLUMNS = (
    "kind", "part", "text_id", "source", "length", "tokens", "tried", "seed", "exact", "exact_prefix", "steps",
    "token_passes", "accuracy", "bits", "norm", "ended", "recipe", "key", "own_bits", *AHEAD, "model",
)  # fmt: skip
"""Columns of the table: those of an attempt. ``own_bits``: what the passage costs the model without a vector."""
EXPECTED = {
    "code": (14, 20), "capitals": (15, 21), "german": (18, 27), "russian": (16, 28), "base64": (22, 30),
    "digits": (25, 38), "list": (10, 18), "table": (16, 28), "repeated": (8, 18), "invented": (20, 30),
}  # fmt: skip
"""{kind: interval of the median steps at 32 tokens}, written before the run. Code, capitals, German, base64 and digits
had been tried once on eight other passages, so their intervals are narrow."""


def by_kind(table: pd.DataFrame, *, draws: int = 1000) -> pd.DataFrame:
    """One row per kind: medians over passages, in the order of the table.

    ``steps`` with ``steps_low steps_high`` (95 %, bootstrap over passages), of passages that are exact; ``exact`` of
    ``passages``. ``bits``: bits a token of these passages. ``steps_ahead``: what was predicted. ``horizon`` (tokens)
    and ``horizon_bits`` of the ``reached`` passages whose horizon was searched, ``open`` of which failed at no length;
    ``horizon_ahead``; ``inside``: how many horizons lie in their 90 % interval.
    """
    rows = []
    for kind, group in table.groupby("kind", sort=False):
        rows.append({"kind": kind} | _steps(group[group.part == STEPS], draws) | _horizon(group[group.part == HORIZON]))
    return pd.DataFrame(rows)


def _steps(rows: pd.DataFrame, draws: int) -> dict[str, float]:
    exact = rows[rows.exact.astype(bool)]
    told = {"passages": len(rows), "exact": len(exact), "bits": float((rows.own_bits / rows.tokens).median())}
    told["steps_ahead"] = float(rows.steps_ahead.median())
    if len(exact):
        middle = bootstrap(lambda t: float(t.steps.median()), exact[["text_id", "steps"]], draws=draws)
        told |= {"steps": middle.value, "steps_low": middle.low, "steps_high": middle.high}
    return told


def _horizon(rows: pd.DataFrame) -> dict[str, float]:
    if rows.empty:
        return {}
    reached = horizons(rows.assign(texts="one", k=1, start=0))
    firsts = rows.groupby("text_id").first()
    bits = rows[rows.exact.astype(bool)].sort_values("tokens").groupby("text_id").own_bits.last()
    of = reached.set_index("text_id").horizon
    inside = of.between(firsts.horizon_ahead_low.reindex(of.index), firsts.horizon_ahead_high.reindex(of.index))
    return {
        "reached": len(reached),
        "horizon": float(of.median()),
        "horizon_bits": float(bits.reindex(of.index).fillna(0).median()),
        "horizon_ahead": float(firsts.horizon_ahead.median()),
        "inside": int(inside.sum()),
        "open": int(reached.failed_at.isna().sum()),
    }


def order_kept(points: pd.DataFrame, cause: str, effect: str) -> float:
    """Rank correlation (Spearman) of two columns of ``by_kind`` over kinds: 1 if one orders the other."""
    known = points[[cause, effect]].dropna()
    return float(known[cause].rank().corr(known[effect].rank())) if len(known) > 2 else np.nan
