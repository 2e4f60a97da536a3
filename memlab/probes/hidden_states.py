"""Inside the model: hidden states of a vector's position, what a layer would write, states put into another run.

The hooks are those of ``lm.layers``: ``stream`` reads hidden states, ``read_out`` is the logit lens, and an
``Overwrite`` puts a state into a run (activation patching). All passes are float32, batch 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from memlab.models import FrozenLM, Overwrite
from memlab.probes.token_costs import token_scores


@dataclass(frozen=True)
class Lens:
    """What the states of each layer would write at some positions: arrays (layers + 1, positions)."""

    bits: np.ndarray
    """Cost of the true next token."""
    rank: np.ndarray
    """Place of the true next token among all tokens by its logit; 1 is the first."""
    best: np.ndarray
    """Id of the likeliest token."""


def stream(lm: FrozenLM, context: torch.Tensor, ids: np.ndarray) -> torch.Tensor:
    """(layers + 1, c + n - 1, d): hidden states while a text's true tokens (n,) are fed after ``context`` (c, d).

    The first entry is the input of the first layer, the last one what leaves the last layer.
    """
    fed = torch.cat([context, lm.embed(np.asarray(ids, np.int64)[:-1]).reshape(-1, lm.d)])
    return lm.layers.stream(fed[None])[:, 0]


def lens(lm: FrozenLM, states: torch.Tensor, targets: np.ndarray) -> Lens:
    """The logit lens over ``states`` (layers + 1, p, d). ``targets`` (p,): the token that follows each position."""
    wanted = torch.from_numpy(np.asarray(targets, np.int64).copy()).to(lm.device)
    bits, rank, best = [], [], []
    for layer in states:  # a row of logits is large, so one layer at a time
        logits = lm.layers.read_out(layer[None])[0]
        own = logits.gather(1, wanted[:, None])
        bits.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none").cpu().numpy() / np.log(2))
        rank.append(1 + (logits > own).sum(1).cpu().numpy())
        best.append(logits.argmax(1).cpu().numpy())
    return Lens(np.stack(bits), np.stack(rank), np.stack(best))


def likeliest(lm: FrozenLM, states: torch.Tensor, count: int) -> np.ndarray:
    """(layers + 1, count) ids of the likeliest tokens by the logit lens, for one position's states (layers + 1, d)."""
    found = [lm.layers.read_out(layer[None, None])[0, 0].topk(count).indices for layer in states]
    return torch.stack(found).cpu().numpy()


def patched(
    lm: FrozenLM, context: torch.Tensor, ids: np.ndarray, states: torch.Tensor, at: int, layer: int
) -> tuple[np.ndarray, np.ndarray]:
    """(bits, right), each (n,): the cost of a text while ``states`` (m, d) stand at one layer's input.

    They replace those of the positions from ``at`` on. Layers below still show the positions after them the old states.
    """
    position = at + torch.arange(len(states), device=lm.device)
    written = Overwrite(layer, torch.zeros_like(position), position, states)
    return token_scores(lm, ids, context, [written])
