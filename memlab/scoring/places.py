"""Where the vectors of a batch stand: at the input of the model, or written into the inputs of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memlab.models import FrozenLM, Overwrite


@dataclass(frozen=True)
class Place:
    """The vectors of one row of a batch."""

    where: str
    """As in a recipe: ``input``, ``every layer`` or ``layer 7``."""
    first: int
    """Position of the first vector."""
    k: int
    """Number of positions."""


class Places:
    """Puts vectors where they belong.

    A row has one vector per position and layer, all positions of a layer together, the first layer first. Where no
    vector stands at the input, the input of its position is a vector of zeros.
    """

    def __init__(self, lm: FrozenLM, places: Sequence[Place]) -> None:
        rows: list[int] = []
        at: list[int] = []
        taken: list[int] = []
        written: dict[int, list[list[int]]] = {}
        count = 0
        for row, place in enumerate(places):
            layers = lm.layers.at(place.where)
            positions = range(place.first, place.first + place.k)
            rows += [row] * place.k
            at += positions
            taken += [-1] * place.k if layers else range(count, count + place.k)
            for i, layer in enumerate(layers):
                here = [[row, position, count + i * place.k + j] for j, position in enumerate(positions)]
                written.setdefault(layer, []).extend(here)
            count += place.k * max(1, len(layers))
        self.count = count
        """Number of vectors of all rows."""
        self._taken = torch.tensor(taken, device=lm.device)
        self._written = {layer: torch.tensor(here, device=lm.device).T for layer, here in written.items()}
        self._row, self._position = torch.tensor([rows, at], device=lm.device)

    @property
    def in_layers(self) -> bool:
        """Whether any vector is written into a layer."""
        return bool(self._written)

    def put(self, fixed: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, list[Overwrite]]:
        """``fixed`` (b, s, d) with the ``vectors`` (count, d) that are inputs, and the others as overwrites."""
        inputs = vectors
        if self.in_layers:  # row -1 of this table is zeros
            inputs = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])[self._taken]
        at = self._row * fixed.shape[1] + self._position
        embeddings = fixed.flatten(0, 1).index_copy(0, at, inputs).view_as(fixed)
        overwrites = [
            Overwrite(layer, row, position, vectors[index]) for layer, (row, position, index) in self._written.items()
        ]
        return embeddings, overwrites
