"""Many vectors in place of one: what each of them decodes to, freely and in batches, and a sample asked again alone."""

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

Watch = Callable[[int, int], bool | None]
"""Called with (done, of) after each batch; True stops the work."""


class Stopped(Exception):  # noqa: N818  # no error: somebody asked for it
    """The work was stopped by its ``watch``; nothing was kept of it."""


def evaluate(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    batch: int = 32,
    again: float = 0.05,
    seed: int = 0,
    watch: Watch | None = None,
) -> pd.DataFrame:
    """One row a vector, in order: ``bits`` (a token), ``accuracy`` and smallest ``margin`` (logits) under the text;
    ``right``, the tokens that a free decode has right, ``decodes``: all of them, and ``exact``.

    Decoding is free and batched, float32. What decodes is asked once more at batch 1, as *exact* demands; what does not
    counts as not exact. Whether a batch may be trusted with that: a random share ``again`` of those is decoded at batch
    1 too. ``table.attrs["again"]`` is how many they were, ``table.attrs["agree"]`` how many were not exact then either.
    """
    parts = []
    for start in range(0, len(mems), batch):
        some = list(mems[start : start + batch])
        part = _evaluated(lm, some, batch)
        exact = [decodes and decoding.check(lm, mem).exact for mem, decodes in zip(some, part.decodes, strict=True)]
        parts.append(part.assign(exact=exact))
        if watch and watch(min(start + batch, len(mems)), len(mems)):
            raise Stopped
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"decodes": [], "exact": []})
    wrong = np.flatnonzero(~table.decodes.to_numpy(bool))
    # A sample of its own for each table: the same places of every path would be asked again else.
    own = hashlib.sha256(b"".join(mem.mem.tobytes() for mem in mems)).digest()
    chosen = np.random.default_rng([seed, *own]).permutation(wrong)[: int(np.ceil(again * len(wrong)))]
    same = sum(not decoding.check(lm, mems[i]).exact for i in chosen)
    table.attrs |= {"again": len(chosen), "agree": int(same)}
    return table


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
            "tokens": [m.n for m in mems],
            "decodes": [n == m.n for n, m in zip(right, mems, strict=True)],
            "margin": scores.min_margin.tolist(),
        }
    )
