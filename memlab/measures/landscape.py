"""The landscape's table: bits stored and bits recovered, by method. The bound that no method can cross.

If a passage is drawn from the frozen model itself, what is stored plus what the passage still costs is a code for the
passage. So on average no method recovers more bits than it stores. On real text this is not a theorem: a method may
know something of the text's kind that the model does not.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from memlab.measures.statistics import bootstrap

COLUMNS = (
    "method", "system", "family", "text_id", "texts", "tokens", "stored_bits", "shared_bits", "cue", "decoder", "sees",
    "bits_without", "bits_with", "bits_shuffled", "right", "exact_prefix", "edit", "exact", "seconds_store",
    "seconds_read", "model", "detail", "ids",
)  # fmt: skip
"""Columns of a row: one method and one passage.

``stored_bits``: the size of the stored bytes, with their length if it varies. ``bits_without``: what the passage costs
the model behind its sink prefix. ``bits_with``: what it costs the reader. ``bits_shuffled``: what it costs a reader of
what was stored of another passage. ``right``: tokens that are the reader's first choice while the true ones are fed.
``exact_prefix``: those before the first wrong one. ``edit``: 1 - edit distance / tokens of the free decode, ``ids``.
``exact``: the free decode at batch 1 is the passage."""


def edit_share(ids: np.ndarray, written: np.ndarray) -> float:
    """1 minus the edit distance of two rows of ids (n,), (m,), divided by the longer length.

    >>> edit_share([1, 2, 3, 4], [1, 3, 4, 5])
    0.5
    """
    if not max(len(ids), len(written)):
        return 1.0
    before = np.arange(len(written) + 1)
    for i, token in enumerate(ids, 1):
        changed = before[:-1] + (np.asarray(written) != token)
        row = np.minimum(changed, before[1:] + 1)
        # Insertions: the smallest of what is to the left, one more per step.
        row = np.concatenate([[i], row]) - np.arange(len(written) + 1)
        before = np.minimum.accumulate(row) + np.arange(len(written) + 1)
    return float(1 - before[-1] / max(len(ids), len(written)))


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with ``stored_share`` and ``recovered_share``: both are shares of the passage's own bits.

    ``net_share``: recovered with its own bytes, minus recovered with those of another passage. It is NaN where those
    rule the passage out: a code is certain, also of a wrong text. ``read_share``: what the reader looks at, less than
    what is stored if it fetches parts. Shares may be negative.
    """
    own, other = table.bits_without, table.bits_shuffled.replace(np.inf, np.nan)
    looked_at = table.detail.map(lambda detail: json.loads(detail).get("share_read", 1.0)).astype(float)
    return table.assign(
        stored_share=table.stored_bits / own,
        read_share=table.stored_bits * looked_at / own,
        recovered_share=(own - table.bits_with) / own,
        net_share=(other - table.bits_with) / own,
        efficiency=(own - table.bits_with) / table.stored_bits.where(table.stored_bits > 0),
    )


def summary(table: pd.DataFrame, *, draws: int = 500) -> pd.DataFrame:
    """One row per method and kind of text: means over passages, and an interval of the recovered share over texts.

    Columns ``family system method texts passages stored_share recovered_share low high net_share efficiency exact
    exact_prefix seconds``.
    """
    rows = []
    for (family, system, method, texts), group in shares(table).groupby(
        ["family", "system", "method", "texts"], sort=False
    ):
        estimate = bootstrap(lambda t: float(t.recovered_share.mean()), group, draws=draws)
        rows.append(
            {
                "family": family,
                "system": system,
                "method": method,
                "texts": texts,
                "passages": len(group),
                "stored_share": group.stored_share.mean(),
                "recovered_share": group.recovered_share.mean(),
                "low": estimate.low,
                "high": estimate.high,
                "net_share": group.net_share.mean(),
                "efficiency": (group.bits_without - group.bits_with).sum() / max(group.stored_bits.sum(), 1),
                "exact": int(group.exact.sum()),
                "exact_prefix": group.exact_prefix.median(),
                "seconds": (group.seconds_store + group.seconds_read).mean(),
            }
        )
    return pd.DataFrame(rows)


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """The points of ``summary`` that no other point of their kind of text beats in both: fewer bits, more recovered."""
    best = []
    for _, group in points.groupby("texts", sort=False):
        ordered = group.sort_values(["stored_share", "recovered_share"], ascending=[True, False])
        best.append(ordered[ordered.recovered_share > ordered.recovered_share.cummax().shift(fill_value=-np.inf)])
    return pd.concat(best) if best else points


def above_the_bound(table: pd.DataFrame, *, errors: float = 3) -> pd.DataFrame:
    """One row per method: mean of recovered minus stored bits, its standard error, and whether it is above the bound.

    ``table``: rows on passages that the model itself wrote. ``above``: by more than ``errors`` standard errors.
    """
    rows = []
    for method, group in table.groupby("method", sort=False):
        over = (group.bits_without - group.bits_with - group.stored_bits).to_numpy(float)
        error = over.std(ddof=1) / np.sqrt(len(over)) if len(over) > 1 else np.inf
        rows.append((method, len(over), over.mean(), error, bool(over.mean() > errors * error)))
    return pd.DataFrame(rows, columns=["method", "passages", "over", "error", "above"])


def reader_ceiling(table: pd.DataFrame, column: str, name: str) -> float | None:
    """Recovered share of a reader of the whole text, mean over the rows of a kind of text or a text; None if unknown.

    ``column``: ``kind`` or ``text``. ``table``: rows with ``recovered_share``.
    """
    rows = table[(table.system == "full text") & (table.decoder == "read")]
    rows = rows[rows.texts == name] if column == "kind" else rows[rows.text_id == name]
    return float(rows.recovered_share.mean()) if len(rows) else None


def by_share(table: pd.DataFrame) -> pd.DataFrame:
    """One row per rule of keeping, share that is kept, and decoder: ``rule share decoder recovered_share method``.

    ``table``: rows of ``memlab bench landscape`` of one kind of text. The share is in a method's name, after the rule.
    Methods that change what they keep in another way as well have no row. The share of a reader that fetches parts is
    what it reads.
    """
    found = shares(table).assign(rule=table.method.str.extract(_RULE_AND_SHARE, expand=False))
    found = found[found.rule.notna()]
    found = found.assign(share=[_share_read(json.loads(detail)) for detail in found.detail])
    return found.groupby(["rule", "share", "decoder", "method"], as_index=False, sort=False).recovered_share.mean()


def _share_read(detail: dict[str, float]) -> float:
    return float(detail.get("share_read", detail["share"]))


_RULE_AND_SHARE = r"^(.+), \d+ ?%(?:,? (?:read|fill))?$"
"""A method's name: its rule, the share, and its decoder if it has two."""
