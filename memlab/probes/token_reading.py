"""A vector's text token by token: what the model writes, how sure it is, and what it would have written instead."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import logits_stream, require_weights
from memlab.models import FrozenLM
from memlab.probes.token_costs import gains
from memlab.results.mem_vector import MemVector, VectorError
from memlab.scoring.objective import true_margin


class Reading(NamedTuple):
    """Result of ``read_tokens``."""

    tokens: pd.DataFrame
    """A row per token of the passage: ``position token written right margin rival before after``.

    ``token`` should stand there, ``written`` does. ``margin``: logit of the true token minus the best other logit,
    ``rival``; both in the free decode. ``before`` and ``after``: bits of the true token after the true text, without
    the vector and with it. ``before`` of the first token is NaN if nothing predicts it.
    """
    likely: pd.DataFrame
    """The likeliest tokens at each position of the free decode: ``position rank token probability true``."""
    ids: np.ndarray
    """(n,) the token ids that were written."""

    @property
    def first_wrong(self) -> int | None:
        """Index of the first token that is not the true one; None if all are right."""
        wrong = np.flatnonzero(~self.tokens.right.to_numpy())
        return int(wrong[0]) if len(wrong) else None


def read_tokens(lm: FrozenLM, mem: MemVector, *, top: int = 5) -> Reading:
    """Decode freely from the vector alone (float32, batch 1), and measure each token on the way.

    From the first wrong token on, the model reads its own words: the margins after it are those of another text.

    >>> from memlab import Recipe, cram, load
    >>> lm = load("toy:llama")
    >>> (mem,) = cram(lm, lm.passage_of_ids([5, 9, 2]), Recipe.default(k=4), progress=False)
    >>> reading = read_tokens(lm, mem)
    >>> reading.ids.tolist(), reading.first_wrong, bool((reading.tokens.margin > 0).all())
    ([5, 9, 2], None, True)
    """
    require_weights(lm, mem)
    if mem.redaction:
        raise VectorError(f"{mem!r} is redacted and has no token ids to compare with. Use mem.restored(ids).")
    top = min(top, lm.vocabulary)
    ids, margins, rivals, ranked, shares = [], [], [], [], []
    for true, logits in zip(mem.token_ids, itertools.islice(logits_stream(lm, [mem], "float32"), mem.n), strict=True):
        target = torch.tensor([int(true)], device=logits.device)
        best = logits.topk(top, dim=-1)
        chosen = best.indices[0].tolist()
        ids.append(chosen[0])
        margins.append(float(true_margin(logits, target)[0]))
        rivals.append(next(i for i in chosen if i != true))
        ranked.append(chosen)
        shares.append((best.values[0] - logits[0].logsumexp(-1)).exp().tolist())
    (costs,) = gains(lm, [mem]).to_dict("records")
    written = np.array(ids)
    tokens = pd.DataFrame(
        {
            "position": np.arange(1, mem.n + 1),
            "token": _texts(lm, mem.token_ids),
            "written": _texts(lm, written),
            "right": written == mem.token_ids,
            "margin": margins,
            "rival": _texts(lm, rivals),
            "before": costs["token_bits_without"],
            "after": costs["token_bits_with"],
        }
    )
    likely = pd.DataFrame(
        {
            "position": np.repeat(tokens.position, top),
            "rank": np.tile(np.arange(1, top + 1), mem.n),
            "token": _texts(lm, itertools.chain.from_iterable(ranked)),
            "probability": list(itertools.chain.from_iterable(shares)),
            "true": np.array(ranked).reshape(-1) == np.repeat(mem.token_ids, top),
        }
    ).reset_index(drop=True)
    return Reading(tokens, likely, written)


def _texts(lm: FrozenLM, ids: Any) -> list[str]:
    return [lm.decode_ids([int(i)]) for i in ids]
