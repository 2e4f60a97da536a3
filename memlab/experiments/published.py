"""Our horizons and published figures in one table, for charts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from memlab.experiments.tables import reference
from memlab.measures.capacity import bits_of_nats, bits_per_dimension, exact_estimates, theoretical_tokens
from memlab.measures.capacity_fits import at_several_k

PAPER = "99 % right while the true text is fed (arXiv 2502.13063)"
PROGRESSIVE = "all right while the true text is fed, best setting; mean, SD (arXiv 2607.21231)"
FREE = "decoded freely, every token, best setting; mean (arXiv 2607.21231)"
OURS = "decoded freely, every token; median, 95 % (memlab)"


def capacity_by_model(horizons: pd.DataFrame, sizes: Mapping[str, tuple[int, int]]) -> pd.DataFrame:
    """Tokens one vector holds, published and measured: ``model texts d theoretical tokens low high method``.

    ``horizons``: a table of ``capacity.horizons`` with rows of k = 1. ``sizes``: (d, vocabulary) of each model. The
    published natural text is PG-19. ``low`` and ``high`` are the 95 % interval of our median, or one standard deviation
    below and above the published mean. The largest lengths of arXiv 2502.13063 have neither.
    """
    paper = reference("paper2025-capacity").query("k == 1 and texts == 'pg19'").assign(method=PAPER)
    paper = paper.rename(columns={"max_tokens": "tokens"})
    grown = reference("progressive2026-horizon")
    grown["method"] = np.where(grown.counted == "teacher-forced", PROGRESSIVE, FREE)
    # Most models were run in several settings. A model holds at least the best result.
    grown = grown.sort_values(["counted", "horizon_tokens"], ascending=[False, True], kind="stable")
    grown = grown.groupby(["method", "model"], sort=False).tail(1)
    grown = grown.rename(columns={"horizon_tokens": "tokens"})
    sd = grown.horizon_tokens_sd
    grown = grown.assign(low=grown.tokens - sd, high=grown.tokens + sd)
    ours = exact_estimates(horizons[horizons.k == 1]).assign(method=OURS)
    ours["d"] = [sizes[name][0] for name in ours.model]
    ours["vocabulary"] = [sizes[name][1] for name in ours.model]
    table = pd.concat([paper, grown, _with_estimate_columns(ours)], ignore_index=True)
    table["theoretical"] = [theoretical_tokens(d, v) for d, v in zip(table.d, table.vocabulary, strict=True)]
    return table[["model", "texts", "d", "theoretical", "tokens", "low", "high", "method"]]


def more_vectors(horizons: pd.DataFrame) -> pd.DataFrame:
    """Tokens that k vectors hold, published and measured: ``model k tokens share series text_id``.

    ``share``: tokens per vector, divided by what one vector holds of the same passage (or of the same model).

    Our rows are single passages that were measured at several k: medians over different passages at each k would show
    differences between passages. Searches that ended because their token budget did are left out. The published values
    are the largest lengths, without a passage.
    """
    paper = reference("paper2025-capacity").query("texts == 'pg19'").rename(columns={"max_tokens": "tokens"})
    paper = paper[paper.groupby("model").k.transform("nunique") > 1]
    paper = paper.assign(series=paper.model + ", published")
    ours = at_several_k(horizons).rename(columns={"horizon": "tokens"})
    ours = ours.assign(series=ours.model + ", " + ours.texts)
    table = pd.concat([paper.assign(text_id=paper.model), ours], ignore_index=True)
    each = table.tokens / table.k
    alone = each.where(table.k == 1).groupby([table.series, table.text_id]).transform("first")
    return table.assign(share=each / alone)[["model", "k", "tokens", "share", "series", "text_id"]]


def bits_per_number(horizons: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Bits that one vector takes off a text, per number of the vector: ``model texts bits_per_dimension method``.

    ``horizons``: a table of ``capacity.horizons``. ``sizes``: d of each of its models. Ours are medians over passages;
    the published values are means, of PG-19.
    """
    paper = reference("paper2025-capacity").query("k == 1 and texts == 'pg19'").assign(method="published")
    paper["bits_per_dimension"] = bits_per_dimension(bits_of_nats(paper.information_gain_nats), paper.d)
    one = horizons[horizons.k == 1]
    ours = one.groupby(["model", "texts"], sort=False, as_index=False).information_gain_bits.median()
    gains = bits_per_dimension(ours.information_gain_bits, ours.model.map(sizes))
    table = pd.concat([ours.assign(bits_per_dimension=gains, method="ours"), paper], ignore_index=True)
    return table[["model", "texts", "bits_per_dimension", "method"]]


def _with_estimate_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Estimates as columns. The interval of few passages has an open end, which is stored as missing."""
    ends = {end: [getattr(estimate, end) for estimate in table.tokens] for end in ("low", "high")}
    values = [estimate.value for estimate in table.tokens]
    return table.assign(**ends, tokens=values).replace([np.inf, -np.inf], np.nan)
