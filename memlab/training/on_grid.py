"""Vectors on a coarse grid: the passage's own curvature for rounding, and training whose every step is rounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from memlab.decoding.decode import check, context_of, require_weights
from memlab.models import FrozenLM
from memlab.results.mem_vector import MemVector
from memlab.scoring.objective import Batch, Row
from memlab.training.optimizers import make_optimizer
from memlab.training.preconditioner import preconditioner_of


def margin_gradients(lm: FrozenLM, mem: MemVector) -> tuple[np.ndarray, np.ndarray]:
    """(gradients (n, d), margins (n,)): the margin of each token and its gradient at the one vector of a passage.

    Float32, teacher-forced. A margin is the true token's logit minus the best other logit. One backward pass per token.
    """
    require_weights(lm, mem)
    ids = torch.from_numpy(mem.token_ids.copy()).to(lm.device)
    vector = torch.tensor(mem.mem, device=lm.device, requires_grad=True)
    first = len(mem.prefix_ids)
    context = context_of(lm, mem)
    with lm.lock, torch.enable_grad():
        fed = torch.cat([context[:first], vector, context[first + mem.k :], lm.embed(ids[:-1])])[None]
        at = torch.arange(len(context) - 1, fed.shape[1], device=lm.device)
        others = _runners_up(lm, fed.detach(), at, ids)
        nats, _ = lm.losses(fed, torch.cat([at, at]), torch.cat([ids, others]), torch.float32)
        margins = nats[len(ids) :] - nats[: len(ids)]
        rows = [torch.autograd.grad(margin, vector, retain_graph=True)[0].reshape(-1) for margin in margins]
    return torch.stack(rows).cpu().numpy(), margins.detach().cpu().numpy()


def train_on_grid(
    lm: FrozenLM, mem: MemVector, rounded: Callable[[np.ndarray], np.ndarray], start: np.ndarray, steps: int
) -> tuple[np.ndarray, MemVector | None, int]:
    """Train from ``start`` (k, d) until the *rounded* vector is exact. Returns (vector, rounded or None, steps).

    The loss and its gradient are those of the rounded vector, and the optimizer of the recipe moves the vector behind
    it: the straight-through estimator (Bengio, Léonard and Courville 2013).
    """
    require_weights(lm, mem)
    recipe = mem.recipe
    optimizer = make_optimizer(recipe, preconditioner_of(lm) if recipe.whiten else None, mem.steps)
    batch, hidden = Batch(lm, [Row.of(mem)]), torch.tensor(start)
    for step in range(steps + 1):
        point = mem.with_mem(rounded(hidden.numpy()), "rounded")
        scores, (gradient,) = batch.scores([torch.tensor(point.mem)], torch.float32, gradient=True)
        if float(scores.min_margin[0]) > 0 and check(lm, point).exact:
            return hidden.numpy(), point, step
        hidden = hidden + optimizer.step(hidden, gradient)
    return hidden.numpy(), None, steps


def _runners_up(lm: FrozenLM, fed: torch.Tensor, at: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(n,): the best token other than the true one at each position."""
    with torch.no_grad():
        logits = lm.weights(torch.float32)(inputs_embeds=fed.clone(), use_cache=False).logits[0, at].float()
        logits[torch.arange(len(ids)), ids] = -torch.inf
        return logits.argmax(-1)
