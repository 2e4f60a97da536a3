"""Knock-outs summarized over passages: how many tokens stay right while something is hidden in some layers."""

from __future__ import annotations

import pandas as pd

from memlab.measures.statistics import mean_intervals


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Mean share of right tokens over passages: ``what mode layer accuracy low high``.

    ``table`` has a row per passage (``text_id``) of ``what mode layer accuracy``. ``low`` and ``high`` are a 95 %
    bootstrap interval over passages.

    >>> rows = [(text, 0, share) for text, share in zip("abcdef", [0, 1, 0, 1, 0, 1])]
    >>> table = pd.DataFrame(rows, columns=["text_id", "layer", "accuracy"]).assign(what="mem", mode="only")
    >>> by_layer(table).accuracy.tolist()
    [0.5]
    """
    wide = table.pivot_table(index="text_id", columns=["what", "mode", "layer"], values="accuracy", sort=False)
    low, high = mean_intervals(wide)
    return wide.mean().rename("accuracy").reset_index().assign(low=low, high=high)


def difference(table: pd.DataFrame) -> pd.DataFrame:
    """``mode difference low high``: tokens right with the vector hidden minus with the sink hidden, a share.

    The mean over all layers and passages, per mode, with a 95 % bootstrap interval over passages.

    >>> rows = [(text, what, right) for text in "abcdef" for what, right in (("mem", 0.75), ("prefix", 0.5))]
    >>> table = pd.DataFrame(rows, columns=["text_id", "what", "accuracy"]).assign(mode="only", layer=0)
    >>> difference(table).difference.tolist()
    [0.25]
    """
    means = table.groupby(["text_id", "mode", "what"], sort=False).accuracy.mean().unstack("what")
    gaps = (means["mem"] - means["prefix"]).unstack("mode")
    low, high = mean_intervals(gaps)
    return gaps.mean().rename("difference").reset_index().assign(low=low, high=high)
