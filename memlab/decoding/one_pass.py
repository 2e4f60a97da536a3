"""One pass over the true tokens as the proof of a free decode, where the margin leaves no doubt.

A float32 pass at batch 1 over context and passage gives each token's logits after the true tokens before it. If every
token is the argmax, then by induction the greedy decode writes the passage: up to the difference between the two ways
of computing a logit, which round differently. That difference is measured here, on this model and machine. The pass is
taken as the proof if every token leads by ``TIMES`` times the largest difference that was ever measured. Otherwise the
vector is decoded token by token, and that decode is one more measurement.

The pass is the model's own forward, as the steps of a decode are. What could make the two differ by more than rounding
is kept out: see ``possible`` for the models, ``Difference.needed`` for longer rows (sliding windows, kernels and
rotary angles that depend on the length), and ``difference`` for settings that were changed after the measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch

from memlab.models import FrozenLM, Overwrite
from memlab.scoring.objective import true_margin

TIMES = 100
"""A margin of so many times the largest measured difference is a proof."""
ENOUGH = 16
"""Positions that are compared before any pass is a proof."""
COMPARED = 64
"""Largest number of positions of one decode whose logits are compared. Margins are compared at every position."""
NO_MARGIN = -1e30
"""The margin of logits that are not finite numbers. JSON has neither NaN nor infinity."""
LOGITS = 1 << 28
"""Largest number of logits of a pass. A passage that needs more memory is decoded."""


@dataclass
class Difference:
    """Difference of logits between a pass and the decode, as far as it was measured."""

    positions: int = 0
    """Positions that were compared."""
    longest: int = 0
    """Positions, context included, of the longest row that was compared to its end."""
    largest: float = 0.0
    """Largest difference of a logit or of a margin, and at least the rounding of the largest logit."""

    def needed(self, length: int) -> float:
        """The margin, in logits, from which a pass over a row of ``length`` positions is a proof.

        Infinite as long as too little was compared, or no row of that length.
        """
        return TIMES * self.largest if self.positions >= ENOUGH and length <= self.longest else np.inf

    def reset(self) -> None:
        """Forget what was measured, as in a new process."""
        self.positions, self.longest, self.largest = 0, 0, 0.0

    def include(self, other: Difference) -> None:
        """Add what was measured elsewhere."""
        self.positions += other.positions
        self.longest = max(self.longest, other.longest)
        self.largest = max(self.largest, other.largest)


_measured: WeakKeyDictionary[FrozenLM, dict[tuple[object, ...], Difference]] = WeakKeyDictionary()


def difference(lm: FrozenLM, where: str = "input") -> Difference:
    """What was measured of this model in this process, with vectors at ``where`` (as in a recipe) and these settings.

    The settings are what a program may change between two checks: the precision of float32 products, autocast, and the
    implementation of attention.
    """
    settings = (
        where,
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled(lm.device.type),
        getattr(lm.model.config, "_attn_implementation", None),
    )
    return _measured.setdefault(lm, {}).setdefault(settings, Difference())


def possible(lm: FrozenLM, tokens: int = 1) -> bool:
    """Whether one pass can prove a passage of ``tokens`` tokens with this model. If not, only a decode can.

    Not for a model with a hook: it may do one thing to a whole row and another to its last token. Not for a model of a
    family that is not known to be ``Family.dense``.
    """
    usual = lm.family.dense and lm.behaviour.cache_name == "past_key_values"
    return usual and not lm.watch.hooks() and tokens * lm.vocabulary <= LOGITS


@dataclass(frozen=True)
class Pass:
    """What one float32 pass over a context and the true tokens says of them."""

    margins: torch.Tensor
    """(n,) logits by which each token leads the best other one; negative if it is not the argmax."""
    bits: float
    """Mean cross-entropy of the tokens, bits."""
    needed: float
    """The margin from which the pass is a proof, logits."""

    @property
    def margin(self) -> float:
        """The smallest margin, logits. NaN if a logit is not a number."""
        return float(self.margins.min())

    @property
    def accuracy(self) -> float:
        """Share of the tokens that are the argmax, while the true tokens are fed."""
        return float((self.margins > 0).double().mean())

    @property
    def proves(self) -> bool:
        """Whether the greedy decode writes all tokens. Neither NaN nor a tie proves anything."""
        return 0 < self.margin >= self.needed


def read(
    lm: FrozenLM, fed: torch.Tensor, ids: np.ndarray, written: Sequence[Overwrite] = (), *, where: str = "input"
) -> Pass | None:
    """One pass over tokens ``ids`` (n,) after a context ``fed`` (1, c, d). None: no pass of that length is a proof."""
    needed = difference(lm, where).needed(fed.shape[1] + len(ids) - 1)
    if not np.isfinite(needed):
        return None
    logits, targets = _logits(lm, fed, ids, written), _tensor(ids, lm.device)
    nats = torch.nn.functional.cross_entropy(logits, targets)
    return Pass(true_margin(logits, targets), float(nats) / np.log(2), needed)


def margins(lm: FrozenLM, fed: torch.Tensor, ids: np.ndarray, written: Sequence[Overwrite] = ()) -> torch.Tensor:
    """(n,) margins of tokens ``ids`` (n,) after a context ``fed`` (1, c, d) and the true tokens. Float32, one pass."""
    return true_margin(_logits(lm, fed, ids, written), _tensor(ids, lm.device))


@torch.no_grad()
def _logits(lm: FrozenLM, fed: torch.Tensor, ids: np.ndarray, written: Sequence[Overwrite]) -> torch.Tensor:
    """(n, V) logits of a float32 pass where tokens ``ids`` (n,) stand."""
    model = lm.weights(torch.float32)
    rows = torch.cat([fed, lm.embed(ids[None, :-1])], 1)
    last = {"logits_to_keep": len(ids)} if lm.behaviour.takes_mask else {}
    with lm.lock, lm.layers.written(model, written):
        logits: torch.Tensor = model(inputs_embeds=rows, use_cache=False, **last).logits
    return logits[0, -len(ids) :].float()


def _tensor(ids: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(ids, np.int64)).to(device)


class Comparison:
    """Collects the logits of a decode as long as its tokens are right, and compares them with those of a pass."""

    def __init__(self, tokens: int) -> None:
        self._at = set(np.linspace(0, tokens - 1, COMPARED).round().astype(int).tolist())
        self._kept: dict[int, torch.Tensor] = {}
        self._margins: list[float] = []

    def add(self, logits: torch.Tensor, margin: float) -> None:
        """The logits (1, V) and the true token's margin at the next position. All tokens before it are right."""
        if len(self._margins) in self._at:
            self._kept[len(self._margins)] = logits[0]
        self._margins.append(margin)

    def finish(
        self, lm: FrozenLM, fed: torch.Tensor, ids: np.ndarray, written: Sequence[Overwrite] = (), *, where: str
    ) -> None:
        """Compare, and remember the difference. ``ids`` (n,): all true tokens. ``fed``: the context, (1, c, d)."""
        count = len(self._margins)
        passed = _logits(lm, fed, ids[:count], written)
        if self._margins[-1] <= NO_MARGIN and not passed[-1].isfinite().all():  # neither way gives numbers
            count -= 1
            self._kept.pop(count, None)
            passed = passed[:count]
        if not self._kept:
            return
        decoded = torch.stack([*self._kept.values()])
        apart = [float((passed[[*self._kept]] - decoded).abs().max())]
        leads = torch.tensor(self._margins[:count], device=passed.device)
        apart.append(float((true_margin(passed, _tensor(ids[:count], passed.device)) - leads).abs().max()))
        apart.append(float(decoded.abs().max()) * torch.finfo(torch.float32).eps)
        largest = max(one if np.isfinite(one) else np.inf for one in apart)
        difference(lm, where).include(Difference(count, fed.shape[1] + count - 1, largest))
