"""Update rules: from a passage's gradient to its next step. The engine calls them and knows nothing of their insides.

One object a passage, so that a passage's steps do not depend on who is trained beside it.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch

from memlab.recipes import Recipe


class Rule(Protocol):
    """``step`` returns the change to be added to the (k, d) float32 vectors, given their gradient of that shape."""

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor: ...


def make_rule(recipe: Recipe) -> Rule:
    """A fresh rule, with empty state, for one passage."""
    rules: dict[str, type[AdamW] | type[FullMatrix]] = {"fullmatrix": FullMatrix, "adamw": AdamW}
    return rules[recipe.rule](recipe)


def step_size(recipe: Recipe, step: int) -> float:
    """The schedule: step size of step ``step`` (from 0) of the recipe's budget."""
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * step / max(recipe.budget, 1)))
    return recipe.lr


class AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101), as torch has it, for a tensor that is replaced every step."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.steps = 0
        self.first: torch.Tensor | float = 0.0
        self.second: torch.Tensor | float = 0.0

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        beta1, beta2 = self.recipe.betas
        rate = step_size(self.recipe, self.steps)
        self.steps += 1
        self.first = beta1 * self.first + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient.square()
        mean = self.first / (1 - beta1**self.steps)
        scale = (self.second / (1 - beta2**self.steps)).sqrt() + 1e-8
        return -rate * (mean / scale + self.recipe.weight_decay * mem)


class FullMatrix:
    """Full-matrix preconditioning with a normalised step, each of the k vectors on its own.

    With G the decayed second moment of the gradient g (d, d), m its decayed mean and l the largest eigenvalue of G,
    the step is ``(G + damping * l)^(-1/2) m`` rescaled to the norm sqrt(d) and times the step size. (Full-matrix
    AdaGrad, Duchi et al. 2011, with decay and momentum.) The objective is deterministic and has a few hundred
    dimensions, which is why this pays.

    G is never formed. It is H' diag(w) H for the (h, d) matrix H of the last h gradients, so with B = diag(w)^(1/2) H
    the identity ``(B'B + e)^(-1/2) B' = B' (BB' + e)^(-1/2)`` leaves an (h, h) problem, for any d; and m is itself a
    mixture of the rows of H. Until ``history`` gradients have come this is the full matrix, exactly.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.steps = 0
        self.gradients: torch.Tensor | None = None  # (k, history, d), a ring
        self.gram: torch.Tensor | None = None  # (k, history, history) on the CPU, float64

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        k, d = gradient.shape
        size = self.recipe.history
        if self.gradients is None or self.gram is None:
            self.gradients = gradient.new_zeros(k, min(size, 32), d)
            self.gram = torch.zeros(k, size, size, dtype=torch.float64)
        slot = self.steps % size
        if slot >= self.gradients.shape[1]:  # grown as it fills: most passages end long before the ring is full
            room = gradient.new_zeros(k, min(self.gradients.shape[1], size - slot), d)
            self.gradients = torch.cat([self.gradients, room], dim=1)
        self.gradients[:, slot] = gradient
        held = min(self.steps + 1, size)
        rows = self.gradients[:, :held]
        # Small, and wanted in float64, which not every accelerator has: on the CPU.
        products = torch.einsum("khd,kd->kh", rows, gradient).cpu().double()
        self.gram[:, slot, :held] = products
        self.gram[:, :held, slot] = products

        beta1, beta2 = self.recipe.betas
        age = (slot - torch.arange(held, dtype=torch.float64)) % size
        self.steps += 1
        # Bias correction is left out: it scales the step, whose length is set below, and G and its damping alike.
        mean, root = beta1**age, (beta2**age).sqrt()
        inner = root[:, None] * self.gram[:, :held, :held] * root
        spectrum, basis = torch.linalg.eigh(inner)
        floor = self.recipe.damping * spectrum[:, -1:] + 1e-300
        shrunk = (spectrum.clamp_min(0) + floor).rsqrt()[..., None] * (basis.mT @ (mean / root)[:, None])
        mixture = root[:, None] * (basis @ shrunk)  # (k, held, 1): the step as a mixture of past gradients
        mixture = mixture / mixture.abs().amax(1, keepdim=True).clamp_min(1e-300)  # its length is set below anyway
        direction = (rows.mT @ mixture.to(rows)).squeeze(-1)
        length = direction.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        rate = step_size(self.recipe, self.steps - 1)
        return -rate * (math.sqrt(d) * direction / length + self.recipe.weight_decay * mem)
