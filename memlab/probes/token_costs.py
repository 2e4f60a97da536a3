"""What each token of a passage costs the model, with its mem vector and without. Capacity is computed from this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import fed_of, require_weights
from memlab.models import FrozenLM, Overwrite
from memlab.results.mem_vector import MemVector, VectorError


def own_bits(lm: FrozenLM, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n,) ``lm.token_bits``, but a token that nothing precedes is one of the vocabulary, all equally likely."""
    bits = lm.token_bits(ids)
    return np.where(np.isnan(bits), np.log2(lm.vocabulary), bits)


def token_scores(
    lm: FrozenLM, ids: np.ndarray, context: torch.Tensor, written: Sequence[Overwrite] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """(bits, right), each (n,): cost of each token after ``context`` (c, d) and the true tokens; whether it is argmax.

    ``written`` replaces hidden states of the context at the inputs of layers. Float32, batch 1. Without a context the
    first token cannot be scored: its bits are NaN, and it is not right.
    """
    ids = np.asarray(ids, np.int64)
    fed = torch.cat([context, lm.embed(ids[:-1])])[None]
    unscored = 0 if len(context) else 1
    if len(ids) == unscored:
        return np.full(1, np.nan), np.zeros(1, bool)
    positions = torch.arange(len(context) - 1 + unscored, fed.shape[1], device=lm.device)
    targets = torch.from_numpy(ids[unscored:].copy()).to(lm.device)
    with torch.no_grad(), lm.lock:
        nats, margin = lm.losses(fed, positions, targets, torch.float32, written=written)
    bits = np.concatenate([np.full(unscored, np.nan), nats.cpu().double().numpy() / np.log(2)])
    return bits, np.concatenate([np.zeros(unscored, bool), (margin > 0).cpu().numpy()])


def gains(lm: FrozenLM, mems: Sequence[MemVector]) -> pd.DataFrame:
    """One row per vector: its passage's cost in bits and its argmax hits, with the vector and without it.

    Sums are over the tokens that the recipe scores and that can be scored in both cases: all n with a sink prefix, all
    but the first if nothing else precedes the text (as in arXiv 2502.13063). ``token_bits_*`` and ``token_right_*``
    hold the values per token (n,). Raises ``VectorError`` for a redacted vector.
    """
    return pd.DataFrame([_gain(lm, mem) for mem in mems])


def _gain(lm: FrozenLM, mem: MemVector) -> dict[str, Any]:
    require_weights(lm, mem)
    if mem.redaction:
        raise VectorError(f"{mem!r} is redacted and has no token ids to score. Restore them with mem.restored(ids).")
    prefix, suffix = lm.embed(mem.prefix_ids), lm.embed(mem.suffix_ids)
    context, written = fed_of(lm, [mem])
    with_mem, right = token_scores(lm, mem.token_ids, context[0], written)
    without, hit = token_scores(lm, mem.token_ids, torch.cat([prefix, suffix]))
    scored = np.isfinite(without) & (np.arange(mem.n) >= mem.recipe.first_scored - 1)
    return {
        "key": mem.key,
        "text_id": mem.text.id,
        "start": mem.text.start,
        "length": mem.n,
        "k": mem.k,
        "dtype": mem.provenance.get("dtype"),
        "scored": int(scored.sum()),
        "accuracy": float(right[scored].mean()) if scored.any() else float("nan"),
        "hits_with": int(right[scored].sum()),
        "hits_without": int(hit[scored].sum()),
        "bits_with": float(with_mem[scored].sum()),
        "bits_without": float(without[scored].sum()),
        "token_bits_with": with_mem,
        "token_bits_without": without,
        "token_right_with": right,
        "token_right_without": hit,
    }
