"""What an encoder is trained on: the frozen model's cross-entropy of the passage after its vectors, and two additions.

The frozen model is differentiated once per step, by the scoring that per-sample search uses. It gives the gradient at
the vectors, and autograd carries it on into the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from memlab.models import FrozenLM
from memlab.probes.token_costs import own_bits
from memlab.scoring.objective import Batch, Row
from memlab.training.encoders.encoder import Encoder

NATS = float(np.log(2))
"""Nats in a bit."""


def rows_of(lm: FrozenLM, ids: np.ndarray, sizes: Sequence[int]) -> list[Row]:
    """Rows of texts ``ids`` (b, n) behind the sink prefix and ``sizes`` (b,) input vectors."""
    return [Row(text, lm.sink_prefix, (), k) for text, k in zip(ids, sizes, strict=True)]


@torch.no_grad()
def bits_with(encoder: Encoder, ids: np.ndarray, k: int, dtype: torch.dtype | None = None) -> np.ndarray:
    """(b,) bits that each text of ``ids`` (b, n) costs the frozen model after its k vectors."""
    lm = encoder.lm
    vectors = list(encoder.vectors(torch.from_numpy(ids), k).cpu())
    scores, _ = Batch(lm, rows_of(lm, ids, [k] * len(ids))).scores(vectors, dtype or lm.dtype)
    return (scores.loss * scores.scored / NATS).numpy()


def bits_without(lm: FrozenLM, ids: np.ndarray) -> np.ndarray:
    """(b,) bits that each text costs without vectors. A token without context is one of the vocabulary, all equally."""
    return np.array([own_bits(lm, text).sum() for text in ids])


@torch.no_grad()
def window_bits(lm: FrozenLM, ids: np.ndarray, rows: int = 64) -> np.ndarray:
    """(N,) mean bits per token of windows ``ids`` (N, n) behind the sink prefix, but for the first without one.

    In the dtype of training: it ranks windows, and is no measurement.
    """
    found = []
    for start in range(0, len(ids), rows):
        some = torch.from_numpy(ids[start : start + rows])
        sink = torch.tensor(lm.sink_prefix, dtype=torch.long).expand(len(some), -1)
        fed, first = torch.cat([sink, some], 1), max(1, sink.shape[1])
        at = torch.arange(fed[:, :-1].numel()).view(len(some), -1)[:, first - 1 :].flatten().to(lm.device)
        targets = fed[:, first:].flatten().to(lm.device)
        nats, _ = lm.losses(lm.embed(fed[:, :-1]), at, targets, lm.dtype)
        found.append(nats.view(len(some), -1).mean(1).cpu().numpy() / NATS)
    return np.concatenate(found)


def with_text(lm: FrozenLM, ids: np.ndarray, vectors: torch.Tensor, kept: np.ndarray) -> list[torch.Tensor]:
    """Contexts (c, d), a row each: ``vectors`` (b, k, d), but embeddings of the text where ``kept`` (b, k) says so.

    Vector j stands for part j of k equal parts of the text ``ids`` (b, n).
    """
    embedded = lm.embed(ids).cpu()
    size = ids.shape[1] // vectors.shape[1]
    return [
        torch.cat(
            [
                embedded[i, j * size : (j + 1) * size] if kept[i, j] else vectors[i, j : j + 1]
                for j in range(vectors.shape[1])
            ]
        )
        for i in range(len(ids))
    ]


def backward(
    encoder: Encoder, ids: np.ndarray, k: int, random: np.random.Generator, bag: BagHead | None = None
) -> float:
    """Add the gradients of one step to the network's weights. Returns the cross-entropy, bits per token.

    ``ids`` (b, n): the texts. The loss is the mean over all their tokens.
    """
    lm, settings = encoder.lm, encoder.settings
    vectors = encoder.vectors(torch.from_numpy(ids), k)
    given = vectors.cpu()
    contexts = list(given)
    if settings.kept:
        contexts = with_text(lm, ids, given, random.random(given.shape[:2]) < settings.kept)
    fed = [context.detach() for context in contexts]
    scores, gradients = Batch(lm, rows_of(lm, ids, [len(c) for c in fed])).scores(fed, lm.dtype, gradient=True)
    weight = (1 - settings.teacher) / len(ids) / NATS
    loss = sum((c * (g * weight)).sum() for c, g in zip(contexts, gradients, strict=True))
    if settings.teacher:
        loss = loss + settings.teacher * towards_reader(lm, ids, vectors)
    if bag is not None:
        loss = loss + settings.bag * bag(encoder, ids, vectors)
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        loss.backward()
    return float(scores.loss.mean()) / NATS


def towards_reader(lm: FrozenLM, ids: np.ndarray, vectors: torch.Tensor) -> torch.Tensor:
    """Divergence (Kullback-Leibler), bits per token, of the model behind ``vectors`` from the model behind the text.

    Both are in float32. The reader sees ``sink prefix, text``, and then scores the text once more.
    """
    n, sink = ids.shape[1], lm.embed(list(lm.sink_prefix)).expand(len(ids), -1, -1)
    text = lm.embed(ids)
    with lm.lock:
        with torch.no_grad():
            read = lm.model(inputs_embeds=torch.cat([sink, text, text[:, :-1]], 1), use_cache=False).logits[:, -n:]
        told = lm.model(inputs_embeds=torch.cat([sink, vectors.to(text), text[:, :-1]], 1), use_cache=False).logits
    expected, found = log_softmax(read.flatten(0, 1), -1), log_softmax(told[:, -n:].flatten(0, 1), -1)
    return kl_div(found, expected, reduction="batchmean", log_target=True) / NATS


class BagHead(nn.Module):
    """A linear layer from an output vector to the words of its text, in any order (after arXiv 2211.08769).

    The scores of all tokens are inner products with their embeddings, and the largest over the vectors counts. The
    loss is the cross-entropy of the text's tokens. The layer is dropped after the training.
    """

    def __init__(self, lm: FrozenLM) -> None:
        super().__init__()
        self.change = nn.Linear(lm.d, lm.d)
        self._table = [lm.embed(torch.arange(lm.vocabulary)) / lm.embedding_stats["norm"]]  # no weight of this module

    def forward(self, encoder: Encoder, ids: np.ndarray, vectors: torch.Tensor) -> torch.Tensor:
        """Bits per token, for texts ``ids`` (b, n) and their ``vectors`` (b, k, d)."""
        unit = vectors / encoder.length(vectors.shape[1]) * encoder.lm.d**0.5
        scores = (self.change(unit) @ self._table[0].T).amax(1)
        each = scores[:, None].expand(-1, ids.shape[1], -1).flatten(0, 1)
        return cross_entropy(each, torch.from_numpy(ids).to(each.device).flatten()) / NATS
