"""What was measured about the files of a model, stored so that each fact is measured only once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from memlab.models.sources import cache_folder, weight_files
from memlab.results.atomic import atomic_write


class Facts:
    """Measured facts about the files of a model, stored so that each is measured only once.

    The facts are stored next to the weights if memlab converted the weights, else in the cache. They are discarded if
    the size, the time or a sample of the bytes of one of the model's files changes. Sizes and times are not enough: two
    fine-tunes have equal sizes, and images of containers set all times to one value.
    """

    def __init__(self, folder: Path) -> None:
        own = cache_folder() / "models"
        label = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
        self._file = folder / "memlab.json" if own in folder.parents else cache_folder() / "facts" / f"{label}.json"
        self._state = state_of(folder)
        try:
            known = json.loads(self._file.read_text())
            self.known: dict[str, Any] = known["facts"] if known["files"] == self._state else {}
        except (OSError, ValueError, KeyError, TypeError):
            self.known = {}

    def remember(self, **facts: Any) -> None:
        """Add facts, and write them to the file if possible."""
        self.known |= facts
        try:
            atomic_write(self._file, json.dumps({"files": self._state, "facts": self.known}, indent=1).encode())
        except OSError:
            pass  # with a read-only cache the next process measures them again


def embedding_stats(parts: Iterable[torch.Tensor]) -> dict[str, float]:
    """``std`` of all numbers and mean ``norm`` of a row, for an embedding that is given in parts (rows, d)."""
    total = square = norms = numbers = rows = 0.0
    for given in parts:
        part = given.cpu().double()
        total, square = total + part.sum().item(), square + part.square().sum().item()
        norms, numbers, rows = norms + part.norm(dim=-1).sum().item(), numbers + part.numel(), rows + len(part)
    return {"std": (square / numbers - (total / numbers) ** 2) ** 0.5, "norm": norms / rows}


def state_of(path: Path) -> list[list[Any]]:
    """Name, size, time and a sample of the bytes of each file of a model: of a folder, or of one file."""
    # A file .memlab.123.tmp is another process writing facts. It may vanish, and it is not part of the model.
    listed = {p for p in path.iterdir() if not p.name.startswith(("memlab.", ".memlab."))} if path.is_dir() else {path}
    # An index may name weights in other folders.
    files = sorted(p for p in listed.union(weight_files(path)) if p.is_file())
    return [[os.path.relpath(p, path), (s := p.stat()).st_size, s.st_mtime_ns, _sample(p)] for p in files]


def _sample(file: Path) -> str:
    """Hash of 32 blocks of 4 KiB, spread evenly over a file."""
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as handle:
        for block in range(32):
            handle.seek(size * block // 32)
            digest.update(handle.read(4096))
    return digest.hexdigest()
