"""Where long trainings stand: a file a passage beside a store's results, so that a kill costs minutes.

A state is no result: it is read by the training of the same key only, made by like software in the same dtype, and it
goes when that training is done.
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
import safetensors.numpy

from memlab.results.atomic import atomic_write
from memlab.results.file_format import payload_hash


class CheckpointStore:
    """The states in one folder, by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, key: str) -> Path:
        """Where the state of this key is, or would be."""
        return self.folder / f"{key}.safetensors"

    def save(self, key: str, arrays: Mapping[str, np.ndarray], made: Mapping[str, Any]) -> bool:
        """Keep a state in place of an older one; ``made`` says of what software and dtype it is. False: no room.

        A state that finds no room is no reason to stop what is in training: there is a warning.
        """
        told = {"made": json.dumps(made, sort_keys=True), "payload_sha256": payload_hash(arrays, made)}
        data = safetensors.numpy.save(dict(arrays), told)
        try:
            atomic_write(self.file(key), data)
        except OSError as error:
            warnings.warn(
                f"where a training stands could not be kept in {self.folder}: {error.strerror or error}. It goes on; "
                "killed, it would begin again",
                stacklevel=2,
            )
            return False
        return True

    def load(self, key: str, made: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """The state of a key; None where there is none, or it is damaged or made otherwise, which a warning says."""
        file = self.file(key)
        if not file.is_file():
            return None
        try:
            with safetensors.safe_open(file, framework="numpy") as opened:
                entries = opened.metadata() or {}
                told = json.loads(entries.get("made", "null"))
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}
            if told and payload_hash(arrays, told) != entries.get("payload_sha256"):
                raise ValueError("its contents do not match the hash stored in it")
        except (safetensors.SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
            warnings.warn(f"{file} cannot be read ({error}): the training begins anew", stacklevel=2)
            return None
        if told != dict(made):
            warnings.warn(f"{file} was made by {told}, this is {dict(made)}: the training begins anew", stacklevel=2)
            return None
        return arrays

    def delete(self, key: str) -> None:
        """The training of this key is over."""
        with suppress(OSError):  # read-only meanwhile: the state of a key that has a result is never read
            self.file(key).unlink(missing_ok=True)
