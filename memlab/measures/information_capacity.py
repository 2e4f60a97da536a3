"""Information capacity of a model, by the formula of arXiv 2511.08066: what it saves, per doubling of its cost.

Information capacity = (bits of the text's UTF-8 per token - bits of the model's code per token + bias) / log2 of the
FLOPs per token. Formula, constants and FLOPs are those of the paper's own program. The bias makes models of one series
about equal, on their texts; on other texts it is not calibrated, so the value without it is reported too.
"""

from __future__ import annotations

import math

BIAS = {"mixed": -24.0, "Chinese": -18.7, "other": -27.0}
"""Their constants, bits per token, by kind of text: their mixed set, Chinese web pages, and their other sets."""
TOKENS = 1024
"""Their samples have at most this many tokens, and FLOPs are the mean over so many steps of decoding."""


def flops_per_token(
    *, d: int, layers: int, heads: int, kv_heads: int, ff: int, vocabulary: int, tokens: int = TOKENS,
    head_width: int | None = None,
) -> float:  # fmt: skip
    """Mean FLOPs of one decoding step over the first ``tokens`` steps: 2 per multiplication with addition.

    Projections, attention over the tokens before (not the token itself), a gated feed-forward of width ``ff``, and the
    head over the vocabulary. ``head_width``: their program takes d / heads, rounded down, also for models whose heads
    are wider (Gemma 3), so that is the default.
    """
    width = d // heads if head_width is None else head_width
    projections = 2 * d * width * (2 * heads + 2 * kv_heads)
    if head_width is None:  # their queries and outputs are d wide, even if the heads do not divide d
        projections = 2 * d * (2 * d + 2 * kv_heads * width)
    attention = 4 * heads * width * (tokens - 1) / 2
    return layers * (projections + attention + 6 * d * ff) + 2 * d * vocabulary


def information_capacity(text_bits: float, code_bits: float, flops: float, bias: float = BIAS["mixed"]) -> float:
    """Their measure. ``text_bits`` and ``code_bits``: per token. ``flops``: per token. ``bias``: of ``BIAS``, or 0."""
    return (text_bits - code_bits + bias) / math.log2(flops)
