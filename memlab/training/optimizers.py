"""Optimizers: each turns the gradient of one passage's vectors into the next step.

A new optimizer is a subclass of ``Optimizer`` and one line in ``memlab.recipes.OPTIMIZERS``. The training engine calls
only ``step``; a checkpoint holds ``state``. Each passage has its own object, so its steps do not depend on the passages
that are trained with it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib import import_module

import torch

from memlab.recipes import OPTIMIZERS, SCHEDULES, Recipe, RecipeError, look_up
from memlab.training.preconditioner import Preconditioner


class Optimizer(ABC):
    """Base class. A subclass defines ``step`` and, if it remembers more than the step, its own ``State``."""

    @dataclass
    class State:
        """Everything that changes from step to step. A checkpoint holds these fields, by name.

        Fields are numbers, tensors or None. None: no value before the first step.
        """

        steps: int = 0

    def __init__(
        self, recipe: Recipe, preconditioner: Preconditioner | None = None, previous_steps: int | None = None
    ) -> None:
        """All optimizers take these arguments, and may ignore the last two.

        ``preconditioner``: the model's, if the recipe whitens. ``previous_steps``: None if training starts from noise.
        If it starts from a parent: the parent's steps if the same optimizer trained it, else 0.
        """
        self.recipe, self.preconditioner = recipe, preconditioner
        self.state = self.State()

    @abstractmethod
    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The change to add to ``mem``. All three are (k, d) float32. The arguments are not written to.

        It adds 1 to ``self.state.steps``, which ``step_size`` reads. ``AdamW`` is the example to copy.
        """


def make_optimizer(
    recipe: Recipe, preconditioner: Preconditioner | None = None, previous_steps: int | None = None
) -> Optimizer:
    """A fresh optimizer for one passage, see ``Optimizer``. Raises ``RecipeError`` if the name is not registered."""
    path = look_up(OPTIMIZERS, "rule", recipe.rule)
    module, _, name = path.partition(":")
    try:
        optimizer_class: type[Optimizer] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"OPTIMIZERS[{recipe.rule!r}] is {path!r}, which cannot be imported: {error}") from error
    return optimizer_class(recipe, preconditioner, previous_steps)


def step_size(recipe: Recipe, step: int) -> float:
    """Step size at ``step`` (from 0): the recipe's ``lr`` times its schedule."""
    return recipe.lr * look_up(SCHEDULES, "schedule", recipe.schedule)(step, recipe.budget)


class AdamW(Optimizer):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101), equal to torch's, for a tensor that is replaced at every step."""

    @dataclass
    class State(Optimizer.State):
        first: torch.Tensor | None = None
        """(k, d): decayed mean of the gradients."""
        second: torch.Tensor | None = None
        """(k, d): decayed mean of their squares."""

    state: State

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        state = self.state
        beta1, beta2 = self.recipe.betas
        rate = step_size(self.recipe, state.steps)
        if state.first is None or state.second is None:
            state.first, state.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state.steps += 1
        state.first = beta1 * state.first + (1 - beta1) * gradient
        state.second = beta2 * state.second + (1 - beta2) * gradient.square()
        mean = state.first / (1 - beta1**state.steps)
        scale = (state.second / (1 - beta2**state.steps)).sqrt() + 1e-8
        return -rate * (mean / scale + self.recipe.weight_decay * mem)


class FullMatrix(Optimizer):
    """Full-matrix preconditioning with a normalised step. Each of the k vectors has its own matrix.

    G (d, d) is the decayed second moment of the gradient, m (d,) its decayed mean, l the largest eigenvalue of G. The
    step is ``(G + damping * l)^(-1/2) m``, rescaled to the norm sqrt(d) and multiplied by the step size. (Full-matrix
    AdaGrad, Duchi et al. 2011, with decay and momentum.) It is worth its cost because the objective is deterministic
    and has only a few hundred dimensions.

    G is never formed. It equals H' diag(w) H, where H (h, d) holds the last h gradients. With B = diag(w)^(1/2) H, the
    identity ``(B'B + e)^(-1/2) B' = B' (BB' + e)^(-1/2)`` leaves an (h, h) problem for any d, and m is itself a mixture
    of the rows of H. For the first ``history`` gradients the result is exactly that of the full matrix.
    """

    @dataclass
    class State(Optimizer.State):
        gradients: torch.Tensor | None = None
        """(k, up to history, d): a ring of the last gradients."""
        gram: torch.Tensor | None = None
        """(k, history, history) float64: their inner products."""

    state: State

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        rate = step_size(self.recipe, self.state.steps)
        length = math.sqrt(mem.shape[-1])
        return -rate * (length * self.direction(gradient) + self.recipe.weight_decay * mem)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Unit vectors (k, d) of the preconditioned mean gradient. Adds ``gradient`` to the history."""
        state, size = self.state, self.recipe.history
        k, d = gradient.shape
        if state.gradients is None or state.gram is None:
            state.gradients = gradient.new_zeros(k, min(size, 32), d)
            state.gram = torch.zeros(k, size, size, dtype=torch.float64)
        slot = state.steps % size
        if slot >= state.gradients.shape[1]:  # grows as it fills: most passages end long before the ring is full
            room = gradient.new_zeros(k, min(state.gradients.shape[1], size - slot), d)
            state.gradients = torch.cat([state.gradients, room], dim=1)
        state.gradients[:, slot] = gradient
        count = min(state.steps + 1, size)
        rows = state.gradients[:, :count]
        products = torch.einsum("khd,kd->kh", rows, gradient).double()
        state.gram[:, slot, :count] = products
        state.gram[:, :count, slot] = products
        state.steps += 1
        beta1, beta2 = self.recipe.betas
        age = (slot - torch.arange(count, dtype=torch.float64)) % size
        # No bias correction: it would scale the step, whose length is set below, and G together with its damping.
        mean, root = beta1**age, (beta2**age).sqrt()
        inner = root[:, None] * state.gram[:, :count, :count] * root
        spectrum, basis = torch.linalg.eigh(inner)
        floor = self.recipe.damping * spectrum[:, -1:] + 1e-300
        shrunk = ((spectrum.clamp_min(0) + floor) ** -0.5)[..., None] * (basis.mT @ (mean / root)[:, None])
        mixture = root[:, None] * (basis @ shrunk)  # (k, count, 1): the step as a mixture of past gradients
        mixture = mixture / mixture.abs().amax(1, keepdim=True).clamp_min(1e-300)  # its length is set below anyway
        direction = (rows.mT @ mixture.to(rows)).squeeze(-1)
        return direction / direction.norm(dim=-1, keepdim=True).clamp_min(1e-30)


class Rotation(Optimizer):
    """Vectors on a sphere: a step turns each vector by an angle, along a whitened gradient.

    A vector of large norm acts through its direction alone. Behind the model's normalisation its gradient shrinks as
    one over the norm, and every step makes the vector longer. With a free norm the turns therefore shrink as one over
    the steps, by accident. Here the norm is constant. Gradients are taken on the unit sphere, so that early and late
    gradients have equal weight, and the schedule sets the angle. The model's preconditioner whitens coordinates. In
    these coordinates the passage's gradients precondition as in ``FullMatrix``; the damping is the weight of the
    model's preconditioner relative to these gradients.
    """

    @dataclass
    class State(Optimizer.State):
        at_noise: bool = True
        """The vectors are the initial noise: no step was taken."""
        inner: FullMatrix.State = field(default_factory=FullMatrix.State)

    state: State

    def __init__(
        self, recipe: Recipe, preconditioner: Preconditioner | None = None, previous_steps: int | None = None
    ) -> None:
        super().__init__(recipe, preconditioner, previous_steps)
        self.inner = FullMatrix(recipe)
        self.state = self.State(previous_steps or 0, previous_steps is None, self.inner.state)

    def step(self, mem: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        norm = mem.norm(dim=-1, keepdim=True)
        unit = mem / norm
        direction = self.inner.direction(self._whiten(_tangent(gradient * norm, unit)))
        ahead = -_tangent(self._whiten(direction), unit)
        length = ahead.norm(dim=-1, keepdim=True)
        ahead = ahead / length.clamp_min(1e-30)
        # The first vector is noise and worth less than the first descent direction: turn all the way to that direction.
        # Not in all layers at once: each direction is one of descent while the others stay.
        jump = self.state.at_noise and self.recipe.where != "every layer"
        angle = math.pi / 2 if jump else step_size(self.recipe, self.state.steps)
        self.state.steps, self.state.at_noise = self.state.steps + 1, False
        turned = math.cos(angle) * unit + math.sin(angle) * ahead
        turned = torch.where(length > 1e-30, turned, unit)  # without a gradient a turn would end in a vector of zeros
        return self.recipe.norm * math.sqrt(mem.shape[-1]) * turned - mem

    def _whiten(self, rows: torch.Tensor) -> torch.Tensor:
        return self.preconditioner.whiten(rows, self.recipe.whiten) if self.preconditioner else rows


def _tangent(rows: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """``rows`` (k, d) without their part along ``unit`` (k, d)."""
    return rows - (rows * unit).sum(-1, keepdim=True) * unit
