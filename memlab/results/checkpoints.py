"""Checkpoints of long trainings: one file per passage, so that a killed program loses only minutes.

A checkpoint is not a result. Only a training of the same key, with the same software and dtype, continues from it. It
is deleted when that training ends.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from memlab.results.atomic import atomic_write
from memlab.results.file_format import payload_hash, tensor_bytes


class CheckpointStore:
    """The checkpoints in one folder, by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, key: str) -> Path:
        """Path of the checkpoint of a key. The file may not exist."""
        return self.folder / f"{key}.safetensors"

    def save(self, key: str, arrays: Mapping[str, np.ndarray], made_by: Mapping[str, Any]) -> bool:
        """Write a checkpoint, and replace an older one. ``made_by``: the software and dtype that can continue from it.

        Returns False with a warning if it cannot be written, because the training can go on without it.
        """
        metadata = {"made": json.dumps(made_by, sort_keys=True), "payload_sha256": payload_hash(arrays, made_by)}
        data = tensor_bytes(arrays, metadata)
        try:
            atomic_write(self.file(key), data)
        except OSError as error:
            warnings.warn(
                f"A checkpoint could not be written to {self.folder}: {error.strerror or error}. The training goes on, "
                "but if it is killed now, it starts again from the beginning. Free some space or fix the permissions.",
                stacklevel=2,
            )
            return False
        return True

    def load(self, key: str, made_by: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """The checkpoint of a key, or None. Warns if it is damaged, or if other software or another dtype made it."""
        file = self.file(key)
        if not file.is_file():
            return None
        try:
            with safetensors.safe_open(file, framework="numpy") as opened:
                entries = opened.metadata() or {}
                stored = json.loads(entries.get("made", "null"))
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}
            if stored and payload_hash(arrays, stored) != entries.get("payload_sha256"):
                raise ValueError("its contents do not match the hash in its metadata")
        except (safetensors.SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
            warnings.warn(
                f"{file} cannot be read ({error}). The training starts again from the beginning.", stacklevel=2
            )
            return None
        if stored != dict(made_by):
            warnings.warn(
                f"{file} was made by {stored}, but this is {dict(made_by)}. "
                "The training starts again from the beginning.",
                stacklevel=2,
            )
            return None
        return arrays

    def delete(self, key: str) -> None:
        """Delete the checkpoint of a key, because its training is over."""
        with suppress(OSError):  # read-only: the file may stay, because a key with a result never reads its checkpoint
            self.file(key).unlink(missing_ok=True)
