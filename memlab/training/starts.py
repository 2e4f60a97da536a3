"""Where a training starts: from noise, or from what a trained encoder writes for the passage."""

from __future__ import annotations

import hashlib

import torch

from memlab.models import FrozenLM, Passage
from memlab.recipes import Recipe
from memlab.training.encoders.shelf import loaded

DEFAULT = "slots"
"""The encoder whose vectors a search may start from."""


def initial_mem(lm: FrozenLM, passage: Passage, recipe: Recipe) -> torch.Tensor:
    """The vectors that training starts from, (k, d), or (layers * k, d) if they are written into layers.

    ``start="noise"``: normal noise with the standard deviation of the embeddings. The seed depends only on the recipe's
    seed and on the passage, so batch and order do not matter. ``start="encoding"``: what the default encoder of
    ``memlab encoder`` writes, at the recipe's norm. It reads as many tokens as it was trained for, and no more. Raises
    ``EncoderError`` if no encoder is trained for the model, or for more vectors than tokens. The key of a result does
    not name the encoder's file; the provenance has its hash.
    """
    if recipe.start == "encoding":
        encoder = loaded(DEFAULT, lm)
        mem = encoder.encode(passage.ids[: encoder.settings.longest], recipe.k)
        return on_sphere(mem, recipe) if recipe.norm else mem
    name = f"memlab init {recipe.seed} {passage.ids.tolist()}"
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    rows = recipe.k * max(1, len(lm.layers.at(recipe.where)))
    return torch.randn(rows, lm.d, generator=torch.Generator().manual_seed(seed)) * lm.embedding_stats["std"]


def on_sphere(rows: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """``rows`` (k, d) at the recipe's norm, from where its optimizer turns them."""
    length: float = recipe.norm * rows.shape[-1] ** 0.5
    return torch.nn.functional.normalize(rows, dim=-1) * length


def start_digest(lm: FrozenLM, recipe: Recipe) -> dict[str, str]:
    """``{"encoder": hash of its file}`` for a recipe that starts from an encoder's vectors; else empty."""
    return {"encoder": loaded(DEFAULT, lm).digest} if recipe.start == "encoding" else {}
