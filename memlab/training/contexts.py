"""One vector under several contexts: the rows that are trained together, and what the vector does in each context.

A recipe's ``contexts`` are words before and behind the vectors. The plain context is always the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from memlab.decoding.decode import check
from memlab.models import FrozenLM
from memlab.results.checks import Check
from memlab.results.mem_vector import MemVector
from memlab.scoring.objective import Row

Context = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids before and behind the vectors."""
Scored = tuple[float, int, float, torch.Tensor]
"""Loss in nats, right tokens, smallest margin in logits, gradient (k, d)."""


def rows_in(row: Row, contexts: Sequence[Context]) -> list[Row]:
    """The row itself, and the same vectors and passage in each context."""
    others = (
        replace(row, prefix_ids=[*row.prefix_ids, *before], suffix_ids=[*row.suffix_ids, *behind])
        for before, behind in contexts
    )
    return [row, *others]


def together(scored: Sequence[Scored]) -> Scored:
    """The scores of one vector from those in its contexts: mean loss and gradient, fewest right, smallest margin."""
    if len(scored) == 1:
        return scored[0]
    losses, right, margins, gradients = zip(*scored, strict=True)
    return float(np.mean(losses)), min(right), min(margins), torch.stack(gradients).mean(0)


def checks_in(lm: FrozenLM, mem: MemVector, contexts: Sequence[Context]) -> list[Check]:
    """The check of a free decode in each of the ``contexts``: float32, batch 1."""
    found = []
    for before, behind in contexts:
        there = replace(
            mem,
            prefix_ids=np.concatenate([mem.prefix_ids, np.array(before, np.int64)]),
            suffix_ids=np.concatenate([mem.suffix_ids, np.array(behind, np.int64)]),
        )
        found.append(check(lm, there))
    return found


def exact_in_contexts(lm: FrozenLM, mem: MemVector) -> dict[str, list[bool]]:
    """For the provenance: whether the vector is exact in each further context of its recipe. Empty without contexts."""
    contexts = mem.recipe.contexts
    return {"exact_in_contexts": [each.exact for each in checks_in(lm, mem, contexts)]} if contexts else {}
