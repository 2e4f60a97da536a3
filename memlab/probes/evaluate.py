"""Decodes many vectors in batches: which are exact, what each costs, and whether batch decoding can be trusted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from memlab.decoding import decode as decoding
from memlab.models import FrozenLM
from memlab.results.mem_vector import MemVector
from memlab.scoring.objective import Batch, Row

OnProgress = Callable[[int, int], bool | None]
"""Called with (done, total) during long work. Returns True to stop it."""


class Stopped(Exception):  # noqa: N818  # not an error: the user wanted it
    """``on_progress`` stopped the work. There is no result."""


def evaluate(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    batch: int = 32,
    recheck: float = 0.05,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """One row per vector, in order. Decoding is free-running, in batches, in float32.

    ``bits`` (per token), ``accuracy`` and ``margin`` (smallest, in logits) are teacher-forced. ``right``: number of
    tokens that decode correctly. ``ids``: the decoded tokens. ``decodes``: whether all are correct. ``exact``: whether
    the vector also decodes at batch 1; only vectors with ``decodes`` are checked there.

    A vector that fails in a batch might still be exact. To test this, a random share ``recheck`` of the vectors that
    fail is decoded at batch 1. ``rechecked`` marks these rows. ``agreed`` marks those that fail at batch 1, too.
    """
    parts = []
    for start in range(0, len(mems), batch):
        group = list(mems[start : start + batch])
        part = _evaluated(lm, group, batch)
        exact = [decodes and decoding.check(lm, mem).exact for mem, decodes in zip(group, part.decodes, strict=True)]
        parts.append(part.assign(exact=exact))
        if on_progress and on_progress(min(start + batch, len(mems)), len(mems)):
            raise Stopped
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"decodes": [], "exact": []})
    wrong = np.flatnonzero(~table.decodes.to_numpy(bool))
    # The random generator depends on the vectors. Otherwise the same places of all paths would be rechecked.
    digest = hashlib.sha256(b"".join(mem.mem.tobytes() for mem in mems)).digest()
    chosen = np.random.default_rng([seed, *digest]).permutation(wrong)[: int(np.ceil(recheck * len(wrong)))]
    rechecked, agreed = np.zeros((2, len(mems)), bool)
    rechecked[chosen] = True
    agreed[[i for i in chosen if not decoding.check(lm, mems[i]).exact]] = True
    return table.assign(rechecked=rechecked, agreed=agreed)


def _evaluated(lm: FrozenLM, mems: list[MemVector], batch: int) -> pd.DataFrame:
    rows = [Row.of(m) for m in mems]
    for mem in mems:
        decoding.require_weights(lm, mem)
    scores, _ = Batch(lm, rows).scores([torch.tensor(m.mem) for m in mems], torch.float32)
    decoded = decoding.decode(lm, mems, batch=batch)
    right = [int((ids == m.token_ids).sum()) for m, ids in zip(mems, decoded, strict=True)]
    return pd.DataFrame(
        {
            "bits": (scores.loss / np.log(2)).tolist(),
            "accuracy": (scores.right / scores.scored).tolist(),
            "right": right,
            "ids": decoded,
            "tokens": [m.n for m in mems],
            "decodes": [n == m.n for n, m in zip(right, mems, strict=True)],
            "margin": scores.min_margin.tolist(),
        }
    )
