"""The gap between a trained encoder and the per-sample search, in tokens, in bits and in steps; and warm starts.

Tables: those of ``experiments.encoder_gap`` and ``experiments.encoder_warm_start``. Intervals are bootstraps over
passages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from memlab.measures.capacity import horizons as exact_horizons
from memlab.measures.capacity_fits import saturation
from memlab.measures.statistics import Estimate, bootstrap

COLUMNS = (
    "texts", "text_id", "tokens", "k", "encoder", "bits_without", "bits_with", "bits_shuffled", "bits_constant",
    "right", "exact_prefix", "search_bits", "search_steps", "search_exact", "steps_to_loss", "seconds_encode",
    "seconds_search", "model",
)  # fmt: skip
"""Columns of the gap's table: one encoder, one passage of ``tokens`` tokens, k vectors.

``bits_with``: what the passage costs after its own vectors; ``bits_shuffled``: after another passage's;
``bits_constant``: after a trained vector that is the same for all. ``search_bits``: after the vectors that the cold
search found. ``steps_to_loss``: the step, with a fraction, at which that search had the encoder's loss; NaN if it never
had. ``seconds_search``: the mean over the passages that were searched together."""
ARMS = ("cold", "own", "another", "constant", "gradient")
"""Where a search starts: noise, the passage's own encoding, another passage's, a constant vector, one gradient."""
WARM_COLUMNS = (
    "texts", "text_id", "tokens", "arm", "lr", "steps", "exact", "start_bits", "bits", "turned", "seconds", "model",
)  # fmt: skip
"""Columns of the table of warm starts: one search. ``lr``: its first angle. ``steps``: those that it took, with those
that made its start. ``start_bits``, ``bits``: cost of the passage at the start and at the end. ``turned``: cosine
between the first and the last vector, mean over the vectors."""


def steps_to_loss(losses: Sequence[float] | np.ndarray, loss: float) -> float:
    """The step, with a fraction, at which ``losses`` (one per step, from step 0) first reach ``loss``; NaN if never.

    >>> steps_to_loss([10.0, 6.0, 4.0], 5.0)
    1.5
    """
    values = np.asarray(losses, float)
    if not (values <= loss).any():
        return float("nan")
    at = int((values <= loss).argmax())
    return float(at) if not at else at - 1 + float((values[at - 1] - loss) / (values[at - 1] - values[at]))


def recovered(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with the share of the bits that is ``recovered``, and ``net`` of another passage's and of a constant.

    ``net``: what the own vectors take off beyond those of another passage. ``beyond_constant``: beyond the constant.
    """
    own = table.bits_without
    return table.assign(
        recovered=(own - table.bits_with) / own,
        net=(table.bits_shuffled - table.bits_with) / own,
        beyond_constant=(table.bits_constant - table.bits_with) / own,
    )


def encoder_summary(table: pd.DataFrame, *, draws: int = 1000) -> pd.DataFrame:
    """One row per encoder, kind of text, length and k: means over passages, and intervals of two of them.

    Columns ``encoder texts tokens k passages recovered low high net beyond_constant exact_prefix steps_to_loss
    steps_low steps_high reached search_steps seconds_encode``.
    """
    rows = []
    for labels, group in recovered(table).groupby(["encoder", "texts", "tokens", "k"], sort=False):
        share = bootstrap(lambda t: float(t.recovered.mean()), group, draws=draws)
        steps = bootstrap(lambda t: float(t.steps_to_loss.median()), group, draws=draws)
        rows.append(
            dict(zip(("encoder", "texts", "tokens", "k"), labels, strict=True))
            | {
                "passages": len(group),
                "recovered": share.value,
                "low": share.low,
                "high": share.high,
                "net": group.net.mean(),
                "beyond_constant": group.beyond_constant.mean(),
                "exact_prefix": group.exact_prefix.mean(),
                "steps_to_loss": steps.value,
                "steps_low": steps.low,
                "steps_high": steps.high,
                "reached": int(group.steps_to_loss.notna().sum()),
                "search_steps": group.search_steps.median(),
                "seconds_encode": group.seconds_encode.median(),
            }
        )
    return pd.DataFrame(rows)


def of_the_search(capacity: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(horizons, runs) of single vectors, from a table of ``memlab capacity``: the search's side of the gap.

    Horizons are of vectors that grew until they were not exact any more; ``runs`` are those with a fixed number of
    steps on passages of several lengths.
    """
    single = capacity[capacity.k == 1]
    return exact_horizons(single[single.protocol == "exact"]), single[single.protocol == "fixed"]


def gap_in_tokens(table: pd.DataFrame, horizons: pd.DataFrame, *, draws: int = 1000) -> Estimate:
    """Median over passages of (h + 1) / (e + 1): the exact horizon of the search, and the encoder's exact prefix.

    ``horizons``: ``texts text_id horizon``. Of a passage's lengths the longest prefix in one vector counts.
    """
    single = table[table.k == 1]
    best = single.groupby(["texts", "text_id"], as_index=False).exact_prefix.max()
    both = best.merge(horizons[["texts", "text_id", "horizon"]], on=["texts", "text_id"])
    if both.empty:
        return Estimate(float("nan"), float("nan"), float("nan"))
    return bootstrap(lambda t: float(((t.horizon + 1) / (t.exact_prefix + 1)).median()), both, draws=draws)


def gap_in_bits(table: pd.DataFrame, runs: pd.DataFrame, *, draws: int = 1000) -> tuple[Estimate, Estimate, float]:
    """(saturation of the encoder's single vectors, that of the search, their ratio), bits. ``runs``: as for
    ``saturation_interval``.
    """

    def held(rows: pd.DataFrame) -> float:
        return saturation(rows.bits_without, rows.bits_with)

    encoder = bootstrap(held, table[table.k == 1], draws=draws)
    search = bootstrap(held, runs[["text_id", "bits_without", "bits_with"]], draws=draws)
    return encoder, search, search.value / encoder.value if encoder.value > 0 else float("inf")


def gap_in_units(table: pd.DataFrame, horizons: pd.DataFrame, runs: pd.DataFrame, *, draws: int = 1000) -> pd.DataFrame:
    """The gap in three units, one row each: ``unit search encoder ratio low high``, with 95 % intervals of the ratio.

    In tokens: medians of the exact horizon h and of the encoder's exact prefix e; the ratio is the median of
    (h + 1) / (e + 1). In bits: what single vectors take off at most. In steps, per length: those of the search to an
    exact vector, and to the encoder's loss.
    """
    single = table[table.k == 1]
    prefixes = single.groupby("text_id").exact_prefix.max()
    known = horizons[horizons.text_id.isin(prefixes.index)]
    tokens = gap_in_tokens(table, horizons, draws=draws)
    rows = [("tokens written exactly", float(known.horizon.median()), float(prefixes.median()), *tokens)]
    own, found, times = gap_in_bits(table, runs, draws=draws)
    least, most = (found.low / own.high, found.high / own.low) if own.low > 0 else (np.nan, np.nan)
    rows.append(("bits taken off at most", found.value, own.value, times, least, most))
    for n, some in single.groupby("tokens"):
        reached = some[some.steps_to_loss > 0]
        if len(reached):
            ratio = bootstrap(lambda t: float((t.search_steps / t.steps_to_loss).median()), reached, draws=draws)
            rows.append(
                (f"steps, {n} tokens", float(some.search_steps.median()), float(some.steps_to_loss.median()), *ratio)
            )
    return pd.DataFrame(rows, columns=["unit", "search", "encoder", "ratio", "low", "high"])


# Warm starts --------------------------------------------------------------------------------------------------------


def halves(text_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """(choosing, telling): every other text in the order given."""
    ids = list(dict.fromkeys(text_ids))
    return ids[::2], ids[1::2]


def chosen_rates(table: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and length: the ``lr`` with the fewest steps on the choosing half. Columns ``arm tokens lr``.

    The mean counts. A search that did not end exact counts twice its steps.
    """
    half = table[table.text_id.isin(_half(table, 0))]
    cost = half.assign(cost=np.where(half.exact, half.steps, 2 * half.steps))
    means = cost.groupby(["arm", "tokens", "lr"], as_index=False, sort=False).cost.mean()
    best: pd.DataFrame = means.loc[means.groupby(["arm", "tokens"], sort=False).cost.idxmin(), ["arm", "tokens", "lr"]]
    return best.reset_index(drop=True)


def savings(table: pd.DataFrame, *, draws: int = 1000) -> pd.DataFrame:
    """One row per arm, length and kind of text, and of all kinds together: steps that the arm saves over ``cold``.

    Paired by passage, on the telling half, with the step size of ``chosen_rates``. ``saved``: share of the cold
    search's steps, summed over passages. Only passages that are exact in both arms count; ``lost``: the others.
    Columns ``arm tokens texts lr passages lost cold steps saved low high``.
    """
    told = table[table.text_id.isin(_half(table, 1))].merge(chosen_rates(table), on=["arm", "tokens", "lr"])
    pair = ["texts", "text_id", "tokens"]
    cold = told.loc[told.arm == "cold", [*pair, "steps", "exact"]]
    rows = []
    for (arm, tokens), group in told[told.arm != "cold"].groupby(["arm", "tokens"], sort=False):
        both = group.merge(cold, on=pair, suffixes=("", "_cold"))
        for texts in ["all", *dict.fromkeys(both.texts)]:
            some = both if texts == "all" else both[both.texts == texts]
            paired = some[some.exact & some.exact_cold.astype(bool)]
            saved = Estimate(float("nan"), float("nan"), float("nan"))
            if len(paired):
                saved = bootstrap(lambda t: 1 - float(t.steps.sum() / t.steps_cold.sum()), paired, draws=draws)
            rows.append(
                {
                    "arm": arm,
                    "tokens": tokens,
                    "texts": texts,
                    "lr": group.lr.iloc[0],
                    "passages": len(paired),
                    "lost": len(some) - len(paired),
                    "cold": paired.steps_cold.mean(),
                    "steps": paired.steps.mean(),
                    "saved": saved.value,
                    "low": saved.low,
                    "high": saved.high,
                }
            )
    return pd.DataFrame(rows)


def break_even(training_seconds: float, steps_saved: float, seconds_a_step: float) -> float:
    """Passages after which an encoder's training is paid back by the steps that it saves; infinite if it saves none.

    >>> break_even(7200, 5, 0.1)
    14400.0
    """
    gain = steps_saved * seconds_a_step
    return training_seconds / gain if gain > 0 else float("inf")


def _half(table: pd.DataFrame, which: int) -> list[str]:
    """Text ids of one half of each kind of text."""
    return [i for _, group in table.groupby("texts", sort=False) for i in halves(group.text_id)[which]]
