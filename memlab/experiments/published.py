"""Our horizons beside published figures, in one table a chart can take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from memlab.experiments.tables import reference
from memlab.measures.capacity import exact_estimates, theoretical_tokens
from memlab.measures.capacity_fits import at_several_k

PAPER = "99 % right while the true text is fed (arXiv 2502.13063)"
PROGRESSIVE = "all right, grown token by token; mean, SD (arXiv 2607.21231)"
OURS = "decoded freely, every token; median, 95 % (memlab)"


def capacity_by_model(horizons: pd.DataFrame, sizes: Mapping[str, tuple[int, int]]) -> pd.DataFrame:
    """Tokens one vector holds, published and measured: ``model texts theoretical tokens low high method``.

    ``horizons``: ``capacity.horizons`` with k = 1 among them; ``sizes``: (d, vocabulary) of their models. Published
    natural text is PG-19. ``low`` and ``high`` are the 95 % interval of our median, and a standard deviation to either
    side of the published means; the papers' largest lengths have neither.
    """
    paper = reference("paper2025-capacity").query("k == 1 and texts == 'pg19'").assign(method=PAPER)
    paper = paper.rename(columns={"max_tokens": "tokens"})
    grown = reference("progressive2026-horizon").query("setting != 'inside a learned rank-256 subspace'")
    # Two learning rates of one model: what it holds is at least the better one.
    grown = grown.sort_values("horizon_tokens").groupby("model", sort=False).tail(1).assign(method=PROGRESSIVE)
    grown = grown.rename(columns={"horizon_tokens": "tokens"})
    sd = grown.horizon_tokens_sd
    grown = grown.assign(low=grown.tokens - sd, high=grown.tokens + sd)
    mine = exact_estimates(horizons[horizons.k == 1]).assign(method=OURS)
    mine["d"] = [sizes[name][0] for name in mine.model]
    mine["vocabulary"] = [sizes[name][1] for name in mine.model]
    table = pd.concat([paper, grown, _drawn(mine)], ignore_index=True)
    table["theoretical"] = [theoretical_tokens(d, v) for d, v in zip(table.d, table.vocabulary, strict=True)]
    return table[["model", "texts", "theoretical", "tokens", "low", "high", "method"]]


def more_vectors(horizons: pd.DataFrame) -> pd.DataFrame:
    """Tokens that k vectors hold, published and measured: ``model k tokens series text_id``.

    Ours passage by passage, of those measured at several k: medians over whichever passages each k was tried on would
    tell of the passages. What ended only because the search did is left out. Published are the largest lengths, of no
    passage.
    """
    paper = reference("paper2025-capacity").query("texts == 'pg19'").rename(columns={"max_tokens": "tokens"})
    paper = paper[paper.groupby("model").k.transform("nunique") > 1]
    paper = paper.assign(series=paper.model + ", published")
    mine = at_several_k(horizons).rename(columns={"horizon": "tokens"})
    mine = mine.assign(series=mine.model + ", " + mine.texts)
    table = pd.concat([paper.assign(text_id=paper.model), mine], ignore_index=True)
    return table[["model", "k", "tokens", "series", "text_id"]]


def _drawn(found: pd.DataFrame) -> pd.DataFrame:
    """Estimates as columns; the interval of a handful of passages is open, and no line."""
    ends = {end: [getattr(estimate, end) for estimate in found.tokens] for end in ("low", "high")}
    values = [estimate.value for estimate in found.tokens]
    return found.assign(**ends, tokens=values).replace([np.inf, -np.inf], np.nan)
