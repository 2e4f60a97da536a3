"""Vectors on a coarse grid: the passage's own curvature for rounding, and training whose every step is rounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from memlab.decoding.decode import context_of, require_weights
from memlab.models import FrozenLM
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.scoring.objective import Batch, Row
from memlab.training.optimizers import make_optimizer
from memlab.training.preconditioner import preconditioner_of

ANGLE = 0.003
"""Angle of a step, radians. On a grid a few numbers should change per step: the end of a usual training has 0.05,
and from there the loss rises."""
NEARLY = -0.5
"""Smallest margin (logits) in a reduced dtype at which float32 may still be right."""


def margin_gradients(lm: FrozenLM, mem: MemVector) -> tuple[np.ndarray, np.ndarray]:
    """(gradients (n, d), margins (n,)): the margin of each token and its gradient at the one vector of a passage.

    Teacher-forced, in the dtype of training. A margin is the true token's logit minus the best other logit. It takes
    one backward pass per token.
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
        nats, _ = lm.losses(fed, torch.cat([at, at]), torch.cat([ids, others]), lm.dtype)
        margins = nats[len(ids) :] - nats[: len(ids)]
        rows = [torch.autograd.grad(margin, vector, retain_graph=True)[0].reshape(-1) for margin in margins]
    return torch.stack(rows).cpu().numpy(), margins.detach().cpu().numpy()


def train_on_grid(
    lm: FrozenLM, mem: MemVector, rounded: Callable[[np.ndarray], np.ndarray], start: np.ndarray, steps: int
) -> tuple[np.ndarray, MemVector | None, int]:
    """Train from ``start`` (k, d) until the *rounded* vector is right. Returns (vector, rounded or None, steps).

    Right: every token is the argmax, teacher-forced in float32. Whether it is exact, ``check`` decides.

    The loss and its gradient are those of the rounded vector, and the default optimizer moves the vector behind
    it: the straight-through estimator (Bengio, Léonard and Courville 2013).
    """
    require_weights(lm, mem)
    optimizer = make_optimizer(Recipe.default(lr=ANGLE, schedule="constant"), preconditioner_of(lm), 0)
    batch, hidden = Batch(lm, [Row.of(mem)]), torch.tensor(start)
    for step in range(steps + 1):
        point = torch.tensor(rounded(hidden.numpy()))
        scores, (gradient,) = batch.scores([point], lm.dtype, gradient=True)
        nearly = float(scores.min_margin[0]) > (0 if lm.dtype == torch.float32 else NEARLY)
        if nearly and float(batch.scores([point], torch.float32)[0].min_margin[0]) > 0:
            return hidden.numpy(), mem.with_mem(point.numpy(), "rounded"), step
        hidden = hidden + optimizer.step(hidden, gradient)
    return hidden.numpy(), None, steps


def _runners_up(lm: FrozenLM, fed: torch.Tensor, at: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(n,): the best token other than the true one at each position."""
    with torch.no_grad():
        logits = lm.weights(torch.float32)(inputs_embeds=fed.clone(), use_cache=False).logits[0, at].float()
        logits[torch.arange(len(ids)), ids] = -torch.inf
        return logits.argmax(-1)
