"""F1: one position of a mem vector with numbers of its own in every layer, trained for each passage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from memlab.experiments.landscape.method import Base, Context, LandscapeError
from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.training.cram import cram


@dataclass(frozen=True)
class InEveryLayer(Base):
    """A vector at the input of each layer, at one position after the sink prefix. All numbers are stored as float32."""

    cued: bool = False
    family: str = "F1"
    system: str = "mem vector"
    recipe: Recipe = field(default_factory=Recipe.layers)

    @property
    def name(self) -> str:
        return "mem vector in every layer"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"bits_a_number": 32, "recipe": self.recipe.canonical()}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        (mem,) = cram(lm, passage, self.recipe, progress=False)
        if not mem.exact:
            raise LandscapeError(
                f"{passage!r} is not exact within {self.recipe.budget} steps. Give a recipe with a larger budget."
            )
        return mem.mem.astype("<f4").tobytes()

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        states = torch.from_numpy(np.frombuffer(data, "<f4").copy()).view(lm.layers.count, -1, lm.d)
        return Context(torch.zeros_like(states[0]), layers=states)
