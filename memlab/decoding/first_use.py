"""Stored vectors are checked when a process first uses them, so that *exact* is true of the model that runs.

A key names all that is known to decide what a model computes. Something else may still differ: a library, a hook, a
machine. One teacher-forced pass over the true tokens shows it at a fraction of the cost of a decode.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from memlab.decoding.decode import check
from memlab.models import FrozenLM
from memlab.results.checks import Check
from memlab.results.mem_vector import MemVector
from memlab.scoring.memory import MAX_POSITIONS, in_halves
from memlab.scoring.objective import Batch, Row

CHECKED = 32
"""Largest number of vectors of one call that are checked while none of them fails. A pass over a vector of 32 tokens
costs about a twelfth of its decode. A model that is not the vectors' own fails on nearly all of them."""
_known: WeakKeyDictionary[FrozenLM, dict[tuple[int, ...], dict[bytes, Check | None]]] = WeakKeyDictionary()
"""By model, its hooks and vector: the check that failed here, or None for a vector that is exact here."""


def remember_exact(lm: FrozenLM, mem: MemVector) -> None:
    """Note that this vector passed its exact check in this process."""
    _known_of(lm)[_digest(mem)] = None


def check_first_use(lm: FrozenLM, mems: Sequence[MemVector]) -> list[MemVector]:
    """The vectors, in order. Those that are exact by their files and not here get the check that says so.

    Exact vectors are checked once per process and model: in batches by a float32 pass that is fed the true tokens, and
    by a free decode if that pass finds a wrong token. Of more than ``CHECKED`` vectors, those with the smallest margins
    are checked, and the others only if one of these fails. Warns if a vector is not exact here.
    """
    known = _known_of(lm)
    new = sorted((mem for mem in mems if mem.exact and _digest(mem) not in known), key=lambda mem: mem.margin or 0.0)
    outcome = _outcome(lm, new[:CHECKED])
    rest = new[CHECKED:]
    known |= outcome | (_outcome(lm, rest) if any(outcome.values()) else dict.fromkeys(map(_digest, rest)))
    failures = {i: failed for i, mem in enumerate(mems) if mem.exact and (failed := known[_digest(mem)])}
    for i, failed in itertools.islice(failures.items(), 1):
        warnings.warn(
            f"{len(failures)} of {len(mems)} stored vectors were exact and are not exact with {lm.name} now. "
            f"{mems[i].key[:12]}: {what_changed(mems[i], failed)}. The model gives other logits than when it was "
            "trained, or this machine rounds differently. The store keeps its files.",
            stacklevel=4,
        )
    return [mem.with_checks(failures[i]) if i in failures else mem for i, mem in enumerate(mems)]


def _known_of(lm: FrozenLM) -> dict[bytes, Check | None]:
    # A hook can change every logit, so what is known without it is not known with it.
    return _known.setdefault(lm, {}).setdefault(lm.watch.hooks(), {})


def what_changed(mem: MemVector, now: Check | None) -> str:
    """Where an exact vector goes wrong now, and on what machine it was exact. None: its token ids are not known."""
    wrong = "it decodes to another text than its hash names"
    if now:
        wrong = f"token {(now.first_wrong or 0) + 1} of {now.tokens} is wrong, by {-now.margin:.3g} logits"
    origin = f"torch {mem.provenance.get('torch')} on {mem.provenance.get('machine')}"
    return f"{wrong}; it was exact with {origin}, with a margin of {mem.margin:.3g} logits"


def _outcome(lm: FrozenLM, mems: Sequence[MemVector]) -> dict[bytes, Check | None]:
    """By vector: its failed check, or None."""
    outcome: dict[bytes, Check | None] = {}
    for group in _groups(sorted(mems, key=lambda mem: Row.of(mem).length), MAX_POSITIONS.get(lm.device.type, 1024)):
        for mem, right in zip(group, in_halves(lambda part: _all_right(lm, part), group), strict=True):
            outcome[_digest(mem)] = None if right or (again := check(lm, mem)).exact else again
    return outcome


def _all_right(lm: FrozenLM, mems: Sequence[MemVector]) -> list[bool]:
    """Whether each token of each vector is argmax while the true tokens are fed. Never with hooks."""
    # The pass calls backbone and head separately, so hooks of the whole model or of the head would not run.
    if lm.watch.hooks():
        return [False] * len(mems)
    scores, _ = Batch(lm, [Row.of(mem) for mem in mems]).scores([torch.tensor(m.mem) for m in mems], torch.float32)
    return [bool(right) for right in scores.right == scores.scored]


def _groups(mems: Sequence[MemVector], positions: int) -> list[list[MemVector]]:
    """Vectors sorted by length, in groups of about that many positions."""
    groups: list[list[MemVector]] = []
    for mem in mems:
        if not groups or (len(groups[-1]) + 1) * Row.of(mem).length > positions:
            groups.append([])
        groups[-1].append(mem)
    return groups


def _digest(mem: MemVector) -> bytes:
    """Other stores may hold other numbers under the same key."""
    return hashlib.sha256(mem.key.encode() + mem.mem.tobytes()).digest()
