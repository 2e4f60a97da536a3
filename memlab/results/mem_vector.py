"""``MemVector``: a trained vector with all that is needed to decode it, and the checks that say what it decodes to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from memlab.recipes import Recipe, RecipeError
from memlab.results.atomic import atomic_write
from memlab.results.checks import Check, portability
from memlab.results.file_format import DamagedError, VectorError, canonical_json, pack, read_metadata, unpack
from memlab.texts import TextSpan

__all__ = ["DamagedError", "MemVector", "VectorError", "hash_ids", "make_key", "read_metadata"]


@dataclass(frozen=True, eq=False)
class MemVector:
    """Trained mem vectors of one passage.

    ``mem`` is (k, d) float32, ``token_ids`` (n,), ``prefix_ids`` (p,) and ``suffix_ids`` (s,) int64. The model's
    input is ``prefix_ids, mem, suffix_ids``; from it alone an *exact* vector writes ``token_ids``. Values never
    change: arithmetic and new checks return a new ``MemVector``.
    """

    mem: np.ndarray
    token_ids: np.ndarray
    prefix_ids: np.ndarray
    suffix_ids: np.ndarray
    model: str
    fingerprint: str
    """Hash of the weights it was trained for."""
    recipe: Recipe
    revision: str | None = None
    parent: str | None = None
    """``identity`` of the vector the training started from: its key, if it was what its key names."""
    checks: tuple[Check, ...] = ()
    teacher_forced: float | None = None
    """Share of all n tokens that are argmax while the true ones are fed (float32). Not a proof of decoding."""
    loss_bits: float | None = None
    """Cross-entropy of the passage after the vector, bits a token (float32, all n tokens)."""
    text: TextSpan = field(default_factory=TextSpan)
    steps: int = 0
    seconds: float = 0.0
    """Wall seconds from entering the bench to the last check."""
    trace: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """``step``, ``loss`` (bits a scored token) and ``accuracy`` (scored tokens, teacher-forced) at most 100 points."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    redaction: Mapping[str, Any] | None = None
    """Set when the token ids were taken out: ``token_sha256``, ``tokens`` and the ``key`` they gave."""

    def __post_init__(self) -> None:
        mem = np.ascontiguousarray(self.mem, dtype=np.float32)
        if mem.ndim != 2 or 0 in mem.shape:
            raise VectorError(f"mem has shape {np.shape(self.mem)}; expected (k, d), both at least 1")
        if not np.isfinite(mem).all():
            raise VectorError("mem holds numbers that are not finite: no model can be fed with it")
        object.__setattr__(self, "mem", _frozen(mem))
        for name in ("token_ids", "prefix_ids", "suffix_ids"):
            ids = np.asarray(getattr(self, name), dtype=np.int64)
            if ids.ndim != 1:
                raise VectorError(f"{name} has shape {ids.shape}; expected one row of token ids")
            object.__setattr__(self, name, _frozen(ids))

    def __repr__(self) -> str:
        state = "exact" if self.exact else "not exact" if self.checks else "unchecked"
        return f"<MemVector {self.key[:12]} {self.model} k={self.k} d={self.d} tokens={self.n} {state}>"

    # What it is ------------------------------------------------------------------------------------------------------

    @property
    def k(self) -> int:
        return int(self.mem.shape[0])

    @property
    def d(self) -> int:
        return int(self.mem.shape[1])

    @property
    def n(self) -> int:
        """Tokens of the passage, also after redaction."""
        return int(self.redaction["tokens"]) if self.redaction else len(self.token_ids)

    @property
    def key(self) -> str:
        """64 hex digits that name the inputs of the training (not its outcome)."""
        if self.redaction:
            return str(self.redaction["key"])
        return make_key(self.fingerprint, self.token_ids, self.prefix_ids, self.suffix_ids, self.recipe, self.parent)

    @property
    def is_original(self) -> bool:
        """It is what its key names: trained to the end, not derived from another and not interrupted."""
        return not (self.provenance.get("derived") or self.provenance.get("interrupted"))

    @property
    def lineage_id(self) -> str:
        """What a warm start names as its parent: the key, or a hash of key and numbers where those are others."""
        if self.is_original:
            return self.key
        return hashlib.sha256(self.key.encode() + self.mem.astype("<f4").tobytes()).hexdigest()

    @property
    def exact(self) -> bool:
        """An exact check was made of this very vector and passed."""
        return any(c.exact for c in self.checks)

    @property
    def portable(self) -> bool:
        """Exact, and also passed in bf16, without cache, and in a batch of 8. False while those were not tried."""
        return portability(self.checks) is True

    @property
    def margin(self) -> float | None:
        """Smallest logit margin of the exact check, None where there is none."""
        return next((c.margin for c in self.checks if c.exact), None)

    @property
    def token_sha256(self) -> str:
        """Hash of the token ids, the same before and after redaction."""
        return str(self.redaction["token_sha256"]) if self.redaction else hash_ids(self.token_ids)

    def matches(self, ids: Sequence[int] | np.ndarray) -> bool:
        """Whether ``ids`` are this vector's passage; works on a redacted vector too."""
        return hash_ids(np.asarray(ids, dtype=np.int64)) == self.token_sha256

    # Arithmetic for notebooks ----------------------------------------------------------------------------------------

    def with_mem(self, mem: np.ndarray, how: str) -> Self:
        """Another vector in this one's place. What was known of the old one (checks, trace, key's claim) is dropped."""
        if np.shape(mem) != self.mem.shape:
            raise VectorError(f"mem has shape {np.shape(mem)}; expected {self.mem.shape}, as in the vector it replaces")
        return dataclasses.replace(
            self,
            mem=mem,
            checks=(),
            teacher_forced=None,
            loss_bits=None,
            trace={},
            provenance={"derived": how, "from": self.key},
        )

    def with_checks(self, *checks: Check) -> Self:
        """The same vector with more checks."""
        return dataclasses.replace(self, checks=self.checks + checks)

    def lerp(self, other: MemVector, t: float) -> Self:
        """``(1 - t) * self + t * other``; t = 0 and t = 1 give the ends back bit for bit."""
        if other.mem.shape != self.mem.shape:
            raise VectorError(f"nothing lies between vectors of shape {self.mem.shape} and {other.mem.shape}")
        if t in (0, 1):
            return self.with_mem((self, other)[int(t)].mem, f"lerp {t}")
        return self.with_mem((1 - t) * self.mem + np.float32(t) * other.mem, f"lerp {t} towards {other.key}")

    def perturb(self, radius: float, *, seed: int = 0) -> Self:
        """A point at Euclidean distance ``radius``, in a direction drawn uniformly."""
        noise = np.random.default_rng(seed).standard_normal(self.mem.shape)
        noise *= radius / np.linalg.norm(noise)
        return self.with_mem((self.mem + noise).astype(np.float32), f"perturb radius {radius} seed {seed}")

    def quantise(self, bits: int) -> Self:
        """Rounded to a signed integer grid of ``bits`` bits, one scale for each of the k vectors (absmax)."""
        if not 2 <= bits <= 16:
            raise VectorError(f"quantise(bits={bits}): expected 2 to 16 bits")
        top = 2 ** (bits - 1) - 1
        scale = np.maximum(np.abs(self.mem).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / top
        return self.with_mem((np.round(self.mem / scale) * scale).astype(np.float32), f"quantise {bits} bits")

    def cast(self, dtype: str) -> Self:
        """Rounded to ``float16`` or ``bfloat16`` (to nearest, ties to even) and back to float32."""
        if dtype not in ("float16", "bfloat16"):
            raise VectorError(f"cast({dtype!r}); expected float16 or bfloat16")
        if dtype == "float16":
            with np.errstate(over="ignore"):
                rounded = self.mem.astype(np.float16).astype(np.float32)
            if not np.isfinite(rounded).all():
                raise VectorError(f"float16 ends at 65504, and this vector holds {np.abs(self.mem).max():.6g}")
        else:  # the upper half of a float32
            raw = self.mem.view(np.uint32)
            rounded = ((raw + 0x7FFF + ((raw >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
        return self.with_mem(rounded, f"cast {dtype}")

    def prune(self, kept: float) -> Self:
        """Each vector's smallest numbers set to 0, so that the share ``kept`` of them, the largest, is left."""
        if not 0 < kept <= 1:
            raise VectorError(f"prune({kept}); expected the share to keep, above 0 and at most 1")
        size = np.abs(self.mem)
        least = np.sort(size, axis=1)[:, self.d - max(1, round(kept * self.d)), None]
        return self.with_mem(np.where(size >= least, self.mem, np.float32(0)), f"prune to {kept}")

    def dropout(self, share: float, *, seed: int = 0) -> Self:
        """A random ``share`` of all its numbers set to 0."""
        if not 0 <= share <= 1:
            raise VectorError(f"dropout({share}); expected a share, 0 to 1")
        left = self.mem.copy().reshape(-1)
        left[np.random.default_rng(seed).permutation(left.size)[: round(share * left.size)]] = 0
        return self.with_mem(left.reshape(self.mem.shape), f"dropout {share} seed {seed}")

    def redacted(self) -> Self:
        """Without the text: token ids give way to their hash; text id, offsets and length stay, and so does the key."""
        if self.redaction:
            return self
        return dataclasses.replace(
            self,
            token_ids=np.empty(0, np.int64),
            redaction={"token_sha256": self.token_sha256, "tokens": self.n, "key": self.key},
        )

    def restored(self, ids: Sequence[int] | np.ndarray) -> Self:
        """The opposite of ``redacted``, by whoever has the token ids. Refuses any others."""
        if not self.matches(ids):
            raise VectorError(f"these {len(ids)} ids are not the {self.n} that were taken out of {self.key[:12]}")
        return dataclasses.replace(self, token_ids=np.asarray(ids, np.int64), redaction=None)

    # In and out ------------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The whole result as one safetensors file: tensors, and one metadata entry ``memlab``, JSON."""
        tensors = {"mem": self.mem, "prefix_ids": self.prefix_ids, "suffix_ids": self.suffix_ids}
        if not self.redaction:
            tensors["token_ids"] = self.token_ids
        meta = {
            "key": self.key,
            "model": self.model,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "parent": self.parent,
            "recipe": json.loads(self.recipe.to_json()),
            "checks": [dataclasses.asdict(c) for c in self.checks],
            "exact": self.exact,
            "teacher_forced": self.teacher_forced,
            "loss_bits": self.loss_bits,
            "text": dataclasses.asdict(self.text),
            "tokens": self.n,
            "k": self.k,
            "d": self.d,
            "steps": self.steps,
            "seconds": self.seconds,
            "trace": {name: list(values) for name, values in self.trace.items()},
            "provenance": dict(self.provenance),
            "redaction": dict(self.redaction) if self.redaction else None,
        }
        return pack(tensors, meta)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a file of one's own (the store names its own). Replaces what is there, never leaves half a file."""
        path = Path(path)
        atomic_write(path, self.to_bytes())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that ``save`` or the store wrote, and verify its payload hash."""
        tensors, meta = unpack(path)
        try:
            vector = cls(
                mem=tensors["mem"],
                token_ids=tensors.get("token_ids", np.empty(0, np.int64)),
                prefix_ids=tensors["prefix_ids"],
                suffix_ids=tensors["suffix_ids"],
                recipe=Recipe.from_json(json.dumps(meta["recipe"])),
                checks=tuple(Check(**c) for c in meta["checks"]),
                text=TextSpan(**meta["text"]),
                **{name: meta[name] for name in _PLAIN_FIELDS},
            )
        except RecipeError as error:  # a newer memlab's, it may be: no damage
            raise VectorError(f"{path} has a recipe that this memlab does not know: {error}") from None
        except KeyError as error:
            raise DamagedError(f"{path} holds no {error}") from None
        except VectorError as error:
            raise DamagedError(f"{path} holds no vector: {error}") from None
        # Tables are made from the metadata alone: what it says must be what the rest says.
        told = {"key": vector.key, "tokens": vector.n, "k": vector.k, "d": vector.d, "exact": vector.exact}
        for name, value in told.items():
            if meta[name] != value:
                raise DamagedError(f"{path} claims {name} {meta[name]!s:.12}, but its contents give {value!s:.12}")
        return vector


_PLAIN_FIELDS = (
    "model", "revision", "fingerprint", "parent", "teacher_forced", "loss_bits", "steps", "seconds", "trace",
    "provenance", "redaction",
)  # fmt: skip


def make_key(
    fingerprint: str,
    token_ids: np.ndarray,
    prefix_ids: np.ndarray,
    suffix_ids: np.ndarray,
    recipe: Recipe,
    parent: str | None = None,
) -> str:
    """Key of a result: hash of the weights' fingerprint, the ids, the recipe's canonical JSON, and a parent's key."""
    named: dict[str, Any] = {
        "weights": fingerprint,
        "token_ids": [int(i) for i in token_ids],
        "prefix_ids": [int(i) for i in prefix_ids],
        "suffix_ids": [int(i) for i in suffix_ids],
        "recipe": recipe.canonical(),
    }
    if parent:
        named["parent"] = parent
    return hashlib.sha256(canonical_json(named)).hexdigest()


def hash_ids(ids: np.ndarray) -> str:
    """Hash of token ids, the same on any machine."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()


def _frozen(array: np.ndarray) -> np.ndarray:
    # Own copy: freezing a caller's array, or sharing it, would be a surprise on either side.
    array = array.copy()
    array.flags.writeable = False
    return array
