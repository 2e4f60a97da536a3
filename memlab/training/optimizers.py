"""Update rules: from a passage's gradient to its next step. The engine calls them and knows nothing of their insides.

One object a passage, so that a passage's steps do not depend on who is trained beside it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch

from memlab.recipes import Recipe
from memlab.training.preconditioner import Preconditioner


class Optimizer(Protocol):
    """``step`` returns the change to be added to the (k, d) float32 vectors, given their gradient of that shape."""

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor: ...


def make_optimizer(
    recipe: Recipe, preconditioner: Preconditioner | None = None, *, begun: int | None = None
) -> Optimizer:
    """A fresh rule, with empty state, for one passage that begins with noise, or goes on where ``begun`` steps of its
    kind led (0: from a vector that was found in another way).
    """
    if recipe.rule == "rotation":
        return Rotation(recipe, preconditioner, begun)
    return FullMatrix(recipe) if recipe.rule == "fullmatrix" else AdamW(recipe)


def state_dict(rule: Optimizer) -> dict[str, torch.Tensor]:
    """All that a rule has come to: its tensors and numbers, and under its name those of a rule inside it."""
    found: dict[str, torch.Tensor] = {}
    for name, value in vars(rule).items():
        if isinstance(value, (torch.Tensor, int, float)):
            found[name] = torch.as_tensor(value)
        elif hasattr(value, "step"):
            found |= {f"{name}.{inner}": v for inner, v in state_dict(value).items()}
    return found


def load_state(rule: Optimizer, state: dict[str, torch.Tensor]) -> None:
    """Bring a fresh rule to where another of its kind and recipe stood."""
    for name, value in state.items():
        owner: Any = rule
        *path, last = name.split(".")
        for inner in path:
            owner = getattr(owner, inner)
        setattr(owner, last, value.clone() if value.dim() else value.item())


def step_size(recipe: Recipe, step: int) -> float:
    """The schedule: step size of step ``step`` (from 0) of the recipe's budget."""
    done = step / max(recipe.budget, 1)
    share = {
        "constant": 1.0,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "inverse": (1 + step) ** -0.5,
    }[recipe.schedule]
    return recipe.lr * share


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
        self.gram: torch.Tensor | None = None  # (k, history, history), float64

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        rate = step_size(self.recipe, self.steps)
        length = math.sqrt(mem.shape[-1])
        return -rate * (length * self.direction(gradient) + self.recipe.weight_decay * mem)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Unit (k, d), up the loss, given its gradient of that shape."""
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
        products = torch.einsum("khd,kd->kh", rows, gradient).double()
        self.gram[:, slot, :held] = products
        self.gram[:, :held, slot] = products
        self.steps += 1
        beta1, beta2 = self.recipe.betas
        age = (slot - torch.arange(held, dtype=torch.float64)) % size
        # Bias correction is left out: it scales the step, whose length is set below, and G and its damping alike.
        mean, root = beta1**age, (beta2**age).sqrt()
        inner = root[:, None] * self.gram[:, :held, :held] * root
        spectrum, basis = torch.linalg.eigh(inner)
        floor = self.recipe.damping * spectrum[:, -1:] + 1e-300
        shrunk = ((spectrum.clamp_min(0) + floor) ** -0.5)[..., None] * (basis.mT @ (mean / root)[:, None])
        mixture = root[:, None] * (basis @ shrunk)  # (k, held, 1): the step as a mixture of past gradients
        mixture = mixture / mixture.abs().amax(1, keepdim=True).clamp_min(1e-300)  # its length is set below anyway
        direction = (rows.mT @ mixture.to(rows)).squeeze(-1)
        return direction / direction.norm(dim=-1, keepdim=True).clamp_min(1e-30)


class Rotation:
    """Directions on a sphere: a step turns each vector by an angle, and what is descended is whitened.

    A vector of large norm acts through its direction alone: behind the model's normalisation its gradient shrinks
    as one over the norm, and every step makes it longer (a free rule therefore slows down as one over the steps, by
    accident). Here the norm is held, gradients are taken on the unit sphere, so that early and late ones count alike,
    and the angle follows the schedule. Coordinates are whitened with the model's own metric; in them the passage's
    gradients precondition as in ``FullMatrix``, the damping being the weight of the metric against them.
    """

    def __init__(self, recipe: Recipe, preconditioner: Preconditioner | None, begun: int | None) -> None:
        self.recipe, self.preconditioner, self.steps = recipe, preconditioner, begun or 0
        self.at_noise = begun is None
        self.inner = FullMatrix(recipe)

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        norm = mem.norm(dim=-1, keepdim=True)
        unit = mem / norm
        slope = self.inner.direction(self._whiten(_tangent(gradient * norm, unit)))
        ahead = -_tangent(self._whiten(slope), unit)
        ahead = ahead / ahead.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        # A first vector of noise is worth less than the first descent: turned there at once.
        angle = math.pi / 2 if self.at_noise else step_size(self.recipe, self.steps)
        self.steps, self.at_noise = self.steps + 1, False
        turned = math.cos(angle) * unit + math.sin(angle) * ahead
        return self.recipe.norm * math.sqrt(mem.shape[-1]) * turned - mem

    def _whiten(self, rows: torch.Tensor) -> torch.Tensor:
        return self.preconditioner.whiten(rows, self.recipe.whiten) if self.preconditioner else rows


def _tangent(rows: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    return rows - (rows * unit).sum(-1, keepdim=True) * unit
