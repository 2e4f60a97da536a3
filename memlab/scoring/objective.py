"""Loss, gradient and teacher-forced scores of many passages in one pass, with mixed lengths and k.

Rows are ``prefix, mem, suffix, t1 ... t(N-1)``, padded on the right. The last token is scored and never fed. Causal
models attend only to the left, so padding needs no mask and rows do not affect each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch

from memlab.models import FrozenLM
from memlab.results.mem_vector import MemVector, VectorError
from memlab.scoring.cuda_graphs import Layout, graph_cache_of
from memlab.scoring.places import Place, Places


@dataclass(frozen=True)
class Row:
    """One passage in a pass."""

    token_ids: np.ndarray
    prefix_ids: Sequence[int]
    suffix_ids: Sequence[int]
    k: int
    first_scored: int = 1
    where: str = "input"
    """Where the vectors stand, as in a recipe."""

    @classmethod
    def of(cls, mem: MemVector, first_scored: int = 1) -> Self:
        """The row of a finished vector."""
        if mem.redaction:
            raise VectorError(f"{mem!r} is redacted: it has no token ids to score. Use mem.restored(ids).")
        return cls(
            mem.token_ids, mem.prefix_ids.tolist(), mem.suffix_ids.tolist(), mem.k, first_scored, mem.recipe.where
        )

    @property
    def context(self) -> int:
        """Number of positions before the first token of the text."""
        return len(self.prefix_ids) + self.k + len(self.suffix_ids)

    @property
    def length(self) -> int:
        """Number of positions fed."""
        return self.context + len(self.token_ids) - 1

    @property
    def fixed_ids(self) -> list[int]:
        """The ids fed, with 0 at the places of the vectors."""
        return [*self.prefix_ids, *[0] * self.k, *self.suffix_ids, *self.token_ids[:-1].tolist()]


@dataclass(frozen=True)
class Scores:
    """Scores per passage, in order. All tensors are (rows,), on the CPU."""

    loss: torch.Tensor
    """Mean cross-entropy of the scored tokens, nats."""
    right: torch.Tensor
    """Number of scored tokens that are argmax, teacher-forced."""
    scored: torch.Tensor
    """Number of scored tokens."""
    min_margin: torch.Tensor
    """Smallest margin of a scored token: its logit minus the best other logit."""
    argmax: tuple[torch.Tensor, ...] = ()
    """Per passage the ids (scored,) of the largest logits, if they were asked for and the pass was no CUDA graph."""


class Batch:
    """The constant part of a training step: embeddings of the fixed tokens, places of the vectors, scored tokens."""

    def __init__(self, lm: FrozenLM, rows: Sequence[Row]) -> None:
        self.lm = lm
        size = max(r.length for r in rows)
        ids = torch.zeros(len(rows), size, dtype=torch.long)
        scored, targets = [], []
        for i, row in enumerate(rows):
            if row.first_scored > len(row.token_ids):
                raise ValueError(
                    f"first_scored={row.first_scored}, but the passage has {len(row.token_ids)} tokens. "
                    "Give a smaller first_scored."
                )
            ids[i, : row.length] = torch.tensor(row.fixed_ids)
            scored.append(torch.arange(i * size + row.context + row.first_scored - 2, i * size + row.length))
            targets.append(torch.from_numpy(row.token_ids[row.first_scored - 1 :].copy()))
        self.scored = torch.tensor([len(t) for t in targets])
        self.positions = int(ids.numel())
        self._count = self.scored.to(lm.device)
        self._targets = torch.cat(targets).to(lm.device)
        self._owner = torch.repeat_interleave(torch.arange(len(rows)), self.scored).to(lm.device)
        self._rows = rows

        # Indices into all positions of all rows. Gathering by a mask would wait for the device; by index it does not.
        self._places = Places(lm, [Place(row.where, len(row.prefix_ids), row.k) for row in rows])
        self._scored = torch.cat(scored).to(lm.device)
        self._fixed = lm.embed(ids)

    def _per_passage(self, values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(len(self.scored)).index_add_(0, self._owner, values)

    def scores(
        self, mems: Sequence[torch.Tensor], dtype: torch.dtype, *, gradient: bool = False, argmax: bool = False
    ) -> tuple[Scores, list[torch.Tensor]]:
        """Score vectors, each (k, d) float32, or (k * layers, d) if they are written into layers; see ``Places``.

        With ``gradient`` also d loss / d vectors, float32, in the same shapes. With ``argmax`` also the ids of the
        largest logits.

        Vectors and gradients are on the CPU, where optimizers work. The pass waits for the device only at its end.
        """
        with self.lm.lock, torch.set_grad_enabled(gradient):
            ks = [m.shape[0] for m in mems]
            flat = torch.cat(list(mems)).detach().to(self.lm.device)
            graphs = graph_cache_of(self.lm) if gradient and not self._places.in_layers else None
            if graphs and (replayed := graphs.run(self.lm, self, self._layout, flat, dtype)):
                table, joined = (tensor.cpu() for tensor in replayed)
                return self._scores(table.double()), list(joined.split(ks))
            flat.requires_grad_(gradient)
            embeddings, written = self._places.put(self._fixed, flat)
            ids = torch.empty_like(self._targets) if argmax else None
            nats, margins = self.lm.losses(embeddings, self._scored, self._targets, dtype, ids, written)
            loss = self._per_passage(nats) / self._count
            gradients: list[torch.Tensor] = []
            if gradient:
                # Passages share no variable, so the gradient of the sum holds each passage's own gradient.
                (joined,) = torch.autograd.grad(loss.sum(), flat)
                gradients = list(joined.cpu().split(ks))
        scores = self._to_scores(loss, margins)
        if ids is not None:
            scores = replace(scores, argmax=tuple(ids.cpu().split(self.scored.tolist())))
        return scores, gradients

    def _to_scores(self, loss: torch.Tensor, margins: torch.Tensor) -> Scores:
        with torch.no_grad():
            smallest = torch.full_like(loss, torch.inf).scatter_reduce_(0, self._owner, margins, "amin")
            right = self._per_passage((margins > 0).float())
            return self._scores(torch.stack([loss.detach(), right, smallest]).cpu().double())  # one wait for the device

    def _scores(self, table: torch.Tensor) -> Scores:
        return Scores(table[0], table[1].long(), self.scored, table[2])

    @cached_property
    def _layout(self) -> Layout:
        """The rows in the form that ``cuda_graphs`` needs."""
        return [
            (
                row.fixed_ids, len(row.prefix_ids), row.k, row.token_ids[row.first_scored - 1 :],
                row.context + row.first_scored - 2,
            )
            for row in self._rows
        ]  # fmt: skip


def true_margin(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Margins (r,): the target's logit minus the best other logit, for logits (r, V), targets (r,). > 0 is argmax."""
    top = logits.topk(2, dim=-1)
    true = logits.gather(-1, targets[:, None]).squeeze(-1)
    other = torch.where(top.indices[:, 0] == targets, top.values[:, 1], top.values[:, 0])
    return true - other
