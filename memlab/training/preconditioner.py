"""The model's preconditioner: the second moment of the loss gradient at a random input vector, measured once per model.

A vector of large norm acts through its direction. Models react to some directions a thousand times more than to others.
Which directions these are depends on the model, not on the passage. Gradients at random directions before random
tokens show them in seconds, and training needs far fewer steps in whitened coordinates (``memlab bench optimizer``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from memlab.models import FrozenLM
from memlab.models.sources import cache_folder
from memlab.results.atomic import atomic_write
from memlab.scoring.memory import in_halves
from memlab.scoring.objective import Batch, Row
from memlab.texts import data_folder

SAMPLES = 768
"""Random directions that are measured."""
TOKENS = 16
"""Random tokens after each direction."""
AT_ONCE = 32
"""Directions per pass."""
NORM = 400.0
"""Norm of the random vectors, in units of sqrt(d). At this norm a vector acts through its direction alone."""
FLOOR = 1e-3
"""Added to the spectrum, as a share of its largest value. 768 samples cannot distinguish smaller values from 0."""

_known: WeakKeyDictionary[FrozenLM, Preconditioner] = WeakKeyDictionary()


@dataclass(frozen=True)
class Preconditioner:
    """Eigenvectors ``basis`` (r, d) and eigenvalues ``spectrum`` (r,) of the second moment of unit gradients."""

    basis: torch.Tensor
    spectrum: torch.Tensor

    def whiten(self, rows: torch.Tensor, power: float) -> torch.Tensor:
        """``(second moment + floor)^(-power)`` times each of ``rows`` (k, d), up to a common factor."""
        floor = FLOOR * float(self.spectrum.max())
        change = (floor / (self.spectrum + floor)) ** power - 1
        return rows + ((rows @ self.basis.T) * change) @ self.basis

    @cached_property
    def digest(self) -> str:
        """Short hash, for the provenance of vectors that were trained with it (stored as ``metric``)."""
        data = b"".join(t.numpy().tobytes() for t in (self.basis, self.spectrum))
        return hashlib.sha256(data).hexdigest()[:16]


def preconditioner_of(lm: FrozenLM, *, progress: bool = False) -> Preconditioner:
    """The model's preconditioner: from memory, shipped with memlab, from the disk cache, or measured now.

    That of the default model is shipped. To measure one takes 768 short rows: 25 seconds for 135 M weights on a core,
    minutes for 1.5 B.
    """
    if lm not in _known:
        _known[lm] = _cached(lm, progress)
    return _known[lm]


def _cached(lm: FrozenLM, progress: bool) -> Preconditioner:
    if not lm.has_files:
        return measure_preconditioner(lm, progress=progress)
    name = f"{lm.fingerprint}.safetensors"
    file = cache_folder() / "metrics" / name
    for known in (data_folder() / "preconditioners" / name, file):
        try:
            return Preconditioner(**load_file(known))
        except (OSError, SafetensorError, TypeError):
            continue
    preconditioner = measure_preconditioner(lm, progress=progress)
    try:
        atomic_write(file, save({"basis": preconditioner.basis, "spectrum": preconditioner.spectrum}))
    except OSError:
        pass  # a read-only cache costs only time
    return preconditioner


def measure_preconditioner(lm: FrozenLM, *, progress: bool = False) -> Preconditioner:
    """The model's preconditioner, measured now even if it is cached."""

    def gradients(pairs: Sequence[tuple[Row, torch.Tensor]]) -> list[torch.Tensor]:
        return Batch(lm, [row for row, _ in pairs]).scores([mem for _, mem in pairs], lm.dtype, gradient=True)[1]

    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    rows = []
    label = f"measuring {lm.name}, once per model"
    for _ in tqdm(range(SAMPLES // AT_ONCE), desc=label, leave=False, disable=not progress):
        passages = [Row(rng.integers(0, lm.vocabulary, TOKENS), lm.sink_prefix, (), 1) for _ in range(AT_ONCE)]
        units = [torch.nn.functional.normalize(torch.randn(1, lm.d, generator=generator)) for _ in passages]
        mems = [unit * (NORM * lm.d**0.5) for unit in units]
        for unit, gradient in zip(units, in_halves(gradients, [*zip(passages, mems, strict=True)]), strict=True):
            tangent = gradient - (gradient * unit).sum() * unit
            rows.append(torch.nn.functional.normalize(tangent))
    samples = torch.cat(rows).double()
    # The SVD works on the smaller side: (d, d), or (samples, samples) for wide models.
    _, values, basis = torch.linalg.svd(samples / len(samples) ** 0.5, full_matrices=False)
    return Preconditioner(basis.float().contiguous(), values.square().float())
