"""``Encoder``: a trained network that turns a text into k input vectors of a frozen model, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch

from memlab.models import FrozenLM
from memlab.results.atomic import atomic_write
from memlab.results.file_format import payload_hash, tensor_bytes
from memlab.training.encoders.networks import Network, network_of
from memlab.training.encoders.settings import EncoderError, Settings

FORMAT = 1
"""Version of the file."""


class Encoder:
    """A network, the model that it belongs to, and what is known of its training (``about``, JSON)."""

    def __init__(
        self, lm: FrozenLM, settings: Settings, network: Network | None = None, about: Mapping[str, Any] | None = None
    ) -> None:
        self.lm, self.settings = lm, settings
        self.network = network or network_of(lm, settings)
        self.about = dict(about or {})
        self.digest = ""
        """Hash of its file; empty if it was not loaded from one."""
        if min(settings.norm, settings.norm_of_many) < 0:
            raise EncoderError("A norm is negative. Give 0, for the embeddings' own length, or more.")

    @property
    def parameters(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.network.parameters())

    def length(self, k: int) -> float:
        """Length of each of k vectors."""
        norm = self.settings.norm if k == 1 else self.settings.norm_of_many
        return norm * self.lm.d**0.5 if norm else self.lm.embedding_stats["norm"]

    def encode(self, ids: Sequence[int] | np.ndarray, k: int = 1) -> torch.Tensor:
        """(k, d) float32 vectors, on the CPU, for the token ids (n,) of a text. Raises ``EncoderError``."""
        row = torch.from_numpy(np.array(ids, np.int64))[None]
        if row.ndim != 2 or not row.numel() or k < 1:
            raise EncoderError("An encoder takes one row of token ids, and gives at least one vector.")
        with torch.no_grad():
            return self.vectors(row, k)[0].cpu()

    def vectors(self, ids: torch.Tensor, k: int) -> torch.Tensor:
        """(b, k, d) float32 for texts of one length (b, n); with gradients if torch records them."""
        size = self.settings.segment
        if not size or ids.shape[1] <= size:
            return self._scaled(self.network(self.lm, ids, k), k)
        count = ids.shape[1] // size
        if ids.shape[1] % size or k % count:
            raise EncoderError(
                f"{ids.shape[1]} tokens in segments of {size} cannot share {k} vectors equally. "
                f"Give a multiple of {size} tokens, and as many vectors, or a multiple, as segments."
            )
        apart = self.network(self.lm, ids.reshape(-1, size), k // count)
        return self._scaled(apart, k).reshape(len(ids), k, -1)

    def _scaled(self, directions: torch.Tensor, k: int) -> torch.Tensor:
        return self.length(k) * torch.nn.functional.normalize(directions, dim=-1)

    def save(self, path: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write a safetensors file: the weights, and as JSON the settings, the model's fingerprint and a hash."""
        arrays = {name: tensor.to(dtype).cpu().numpy() for name, tensor in self.network.merged().items()}
        metadata = {
            "format": FORMAT,
            "model": self.lm.name,
            "fingerprint": self.lm.fingerprint,
            "settings": json.loads(replace(self.settings, whiten=0.0).to_json()),  # it is in the weights now
            "about": self.about,
        }
        metadata["payload_sha256"] = payload_hash(arrays, metadata)
        atomic_write(Path(path), tensor_bytes(arrays, {"memlab_encoder": json.dumps(metadata, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path, lm: FrozenLM) -> Encoder:
        """Read a file of ``save``. Raises ``EncoderError`` if it is damaged, or if it belongs to other weights."""
        metadata, arrays = read_file(path)
        if metadata["fingerprint"] != lm.fingerprint:
            raise EncoderError(
                f"{path} belongs to {metadata['model']} with the fingerprint {metadata['fingerprint'][:12]}, not to "
                f"{lm.name} with {lm.fingerprint[:12]}. Load that model, or train an encoder for this one."
            )
        encoder = cls(lm, Settings.from_json(json.dumps(metadata["settings"])), about=metadata["about"])
        tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
        try:
            encoder.network.load_state_dict(tensors)
        except RuntimeError as error:
            raise EncoderError(f"{path} does not fit its own settings: {error}") from None
        encoder.digest = metadata["payload_sha256"]
        return encoder


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(metadata, weights) of an encoder's file. Verifies the hash. Raises ``EncoderError``."""
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            metadata = json.loads((opened.metadata() or {}).get("memlab_encoder", "null"))
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}
    except FileNotFoundError:
        raise EncoderError(f"There is no file {path}. Run `memlab encoder ls`.") from None
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise EncoderError(f"{path} cannot be read: {error}") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise EncoderError(f"{path} is not an encoder of this version of memlab. Train it again.")
    if payload_hash(arrays, {k: v for k, v in metadata.items() if k != "payload_sha256"}) != metadata["payload_sha256"]:
        raise EncoderError(f"{path} is damaged: its contents do not match the hash in its metadata.")
    return metadata, arrays
