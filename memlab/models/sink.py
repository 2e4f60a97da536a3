"""The sink prefix: the special token after which a model predicts a text best. It stands before the vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from memlab.texts import originals

SINK_GAIN = 0.02
"""Nats per token that a prefix must gain on the bundled text to become the sink prefix."""


def candidates(
    special: Sequence[int],
    encode: Callable[[str], Mapping[str, Any]],
    nats: Callable[[Sequence[int], tuple[int, ...]], np.ndarray],
) -> dict[tuple[int, ...], float]:
    """{prefix: mean cross-entropy of tokens 2 to 256 of a bundled text, nats per token}: no prefix, each special token.

    ``nats(ids, prefix)`` is the cost of each id (n,).
    """
    if not special:
        return {(): 0.0}
    # All candidates score the same 255 tokens: without a prefix, nothing predicts the first token.
    text = next(t for t in originals() if t.id == "essay-on-waiting")
    ids = encode(text.string)["input_ids"][:256]
    prefixes: list[tuple[int, ...]] = [(), *((i,) for i in special)]
    return {prefix: float(nats(ids, prefix)[1:].mean()) for prefix in prefixes}


def best(costs: Mapping[tuple[int, ...], float]) -> tuple[int, ...]:
    """The prefix with the lowest cost, if it gains at least ``SINK_GAIN``; else ()."""
    lowest = min(costs, key=lambda prefix: costs[prefix])
    return lowest if costs[()] - costs[lowest] >= SINK_GAIN else ()
