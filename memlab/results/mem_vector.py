"""``MemVector``: a trained vector, all that is needed to decode it, and the checks of what it decodes to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import fastjsonschema
import numpy as np

from memlab.errors import require_path
from memlab.recipes import Recipe, RecipeError
from memlab.results import file_format
from memlab.results import metadata as md
from memlab.results.atomic import atomic_write
from memlab.results.card import card
from memlab.results.checks import Check, exact_check, portability
from memlab.results.file_format import DamagedError, VectorError, canonical_json
from memlab.texts import TextSpan

__all__ = ["DamagedError", "MemVector", "VectorError", "hash_ids", "make_key", "read_metadata"]

_RECIPE = md.stored(md.ANY_OBJECT, lambda r: json.loads(r.to_json()), lambda value: Recipe.from_json(json.dumps(value)))
_TRACE = md.stored(
    {"type": "object", "additionalProperties": {"type": "array", "items": md.NUMBER}},
    lambda trace: {name: list(values) for name, values in trace.items()},
)
_REDACTION = md.stored(
    md.nullable(
        md.object_schema({"token_sha256": md.TEXT, "tokens": md.TOKENS, "key": md.TEXT}, additionalProperties=False)
    ),
    lambda redaction: dict(redaction) if redaction else None,
)


@dataclass(frozen=True, eq=False)
class MemVector:
    """Trained mem vectors of one passage. An *exact* vector makes the model write ``token_ids`` from it alone.

    ``mem`` is (k, d) float32, ``token_ids`` (n,), ``prefix_ids`` (p,) and ``suffix_ids`` (s,) int64. The model's input
    is ``prefix_ids, mem, suffix_ids``. Values never change: arithmetic and new checks return a new ``MemVector``.

    To add a metadata field, add a field here, raise ``file_format.SCHEMA``, and write a migration for older files.

    >>> import numpy as np
    >>> from memlab import MemVector, Recipe
    >>> ids = dict(token_ids=[5, 1, 9], prefix_ids=[0], suffix_ids=[])
    >>> MemVector(mem=np.ones((1, 4)), **ids, model="toy:llama", fingerprint="f" * 64, recipe=Recipe())
    <MemVector ecc874859bfc toy:llama k=1 d=4 tokens=3 unchecked>
    """

    mem: np.ndarray
    token_ids: np.ndarray
    prefix_ids: np.ndarray
    suffix_ids: np.ndarray
    model: str
    fingerprint: str
    """Hash of the weights and the configuration of the model that the vector was trained for."""
    recipe: Recipe = field(metadata=_RECIPE)
    revision: str | None = None
    parent: str | None = None
    """``lineage_id`` of the vector that the training started from."""
    checks: tuple[Check, ...] = field(default=(), metadata=md.stored_objects(Check))
    teacher_forced: float | None = None
    """Share of all n tokens that are argmax while the true tokens are fed (float32). Not a proof of decoding."""
    loss_bits: float | None = None
    """Cross-entropy of the passage after the vector, bits per token (float32, all n tokens)."""
    text: TextSpan = field(default_factory=TextSpan, metadata=md.stored_object(TextSpan))
    steps: int = 0
    seconds: float = 0.0
    """Wall time in seconds from admission by the scheduler to the last check."""
    trace: Mapping[str, Sequence[float]] = field(default_factory=dict, metadata=_TRACE)
    """``step``, ``loss`` (bits per scored token) and ``accuracy`` (scored tokens, teacher-forced); at most 100."""
    provenance: Mapping[str, Any] = field(default_factory=dict, metadata=md.stored(md.ANY_OBJECT, dict))
    redaction: Mapping[str, Any] | None = field(default=None, metadata=_REDACTION)
    """Set if the token ids were removed: their ``token_sha256``, the number of ``tokens``, and the ``key``."""

    def __post_init__(self) -> None:
        mem = np.ascontiguousarray(self.mem, dtype=np.float32)
        if mem.ndim != 2 or 0 in mem.shape:
            raise VectorError(f"mem has the shape {np.shape(self.mem)}; expected (k, d), both at least 1")
        if not np.isfinite(mem).all():
            raise VectorError("mem has numbers that are not finite. Give finite numbers.")
        object.__setattr__(self, "mem", _frozen(mem))
        for name in ("token_ids", "prefix_ids", "suffix_ids"):
            ids = np.asarray(getattr(self, name), dtype=np.int64)
            if ids.ndim != 1:
                raise VectorError(f"{name} has the shape {ids.shape}; expected one row of token ids")
            object.__setattr__(self, name, _frozen(ids))

    def __repr__(self) -> str:
        state = "exact" if self.exact else "not exact" if self.checks else "unchecked"
        return f"<MemVector {self.key[:12]} {self.model} k={self.k} d={self.d} tokens={self.n} {state}>"

    def _repr_html_(self) -> str:
        return card(self)

    # Properties ------------------------------------------------------------------------------------------------------

    @property
    def k(self) -> int:
        """Number of positions. With ``where`` of the recipe, ``mem`` has a row per layer and position."""
        return int(self.mem.shape[0]) if self.recipe.where == "input" else self.recipe.k

    @property
    def d(self) -> int:
        return int(self.mem.shape[1])

    @property
    def n(self) -> int:
        """Number of tokens of the passage, also after redaction."""
        return int(self.redaction["tokens"]) if self.redaction else len(self.token_ids)

    @property
    def key(self) -> str:
        """64 hex digits that name the inputs of the training, not its outcome."""
        if self.redaction:
            return str(self.redaction["key"])
        return make_key(self.fingerprint, self.token_ids, self.prefix_ids, self.suffix_ids, self.recipe, self.parent)

    @property
    def is_original(self) -> bool:
        """Whether this is the vector that its key names: trained to the end, and not derived or interrupted."""
        return not (self.provenance.get("derived") or self.provenance.get("interrupted"))

    @property
    def lineage_id(self) -> str:
        """The parent id of a warm start: the key, or, for a vector that is not original, a hash of key and numbers."""
        if self.is_original:
            return self.key
        return hashlib.sha256(self.key.encode() + self.mem.astype("<f4").tobytes()).hexdigest()

    @property
    def exact(self) -> bool:
        """Whether this vector passed its latest exact check."""
        return exact_check(self.checks) is not None

    @property
    def portable(self) -> bool:
        """Whether its latest check in each setting of ``PORTABLE`` passed. False also if one of them is missing."""
        return portability(self.checks) is True

    @property
    def margin(self) -> float | None:
        """Smallest margin of the latest exact check, in logits. None if it is not exact."""
        return check.margin if (check := exact_check(self.checks)) else None

    @property
    def token_sha256(self) -> str:
        """Hash of the token ids, the same before and after redaction."""
        return str(self.redaction["token_sha256"]) if self.redaction else hash_ids(self.token_ids)

    def matches(self, ids: Sequence[int] | np.ndarray) -> bool:
        """Whether ``ids`` are the passage of this vector. Works for a redacted vector too."""
        return hash_ids(np.asarray(ids, dtype=np.int64)) == self.token_sha256

    # Arithmetic for notebooks ----------------------------------------------------------------------------------------

    def with_mem(self, mem: np.ndarray, how: str) -> Self:
        """This vector with other numbers. Checks, measurements and trace are dropped, and it is no longer original."""
        if np.shape(mem) != self.mem.shape:
            raise VectorError(f"mem has the shape {np.shape(mem)}; expected {self.mem.shape}, as before")
        return dataclasses.replace(
            self, mem=mem, checks=(), teacher_forced=None, loss_bits=None, trace={},
            provenance={"derived": how, "from": self.key},
        )  # fmt: skip

    def with_checks(self, *checks: Check) -> Self:
        """This vector with more checks."""
        return dataclasses.replace(self, checks=self.checks + checks)

    def lerp(self, other: MemVector, t: float) -> Self:
        """``(1 - t) * self + t * other``. t = 0 and t = 1 return the ends, bit for bit."""
        if other.mem.shape != self.mem.shape:
            raise VectorError(
                f"The vectors have the shapes {self.mem.shape} and {other.mem.shape}. Give vectors of one shape."
            )
        if t in (0, 1):
            return self.with_mem((self, other)[int(t)].mem, f"lerp {t}")
        return self.with_mem((1 - t) * self.mem + np.float32(t) * other.mem, f"lerp {t} towards {other.key}")

    def perturb(self, radius: float, *, seed: int = 0) -> Self:
        """A point at Euclidean distance ``radius`` in a uniformly random direction."""
        noise = np.random.default_rng(seed).standard_normal(self.mem.shape)
        noise *= radius / np.linalg.norm(noise)
        return self.with_mem((self.mem + noise).astype(np.float32), f"perturb radius {radius} seed {seed}")

    def quantise(self, bits: int) -> Self:
        """Rounded to a signed integer grid of ``bits`` bits. Each of the k vectors has its own scale (absmax)."""
        if not 2 <= bits <= 16:
            raise VectorError(f"bits={bits} is not possible; expected 2 to 16 bits")
        top = 2 ** (bits - 1) - 1
        scale = np.maximum(np.abs(self.mem).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / top
        return self.with_mem((np.round(self.mem / scale) * scale).astype(np.float32), f"quantise {bits} bits")

    def cast(self, dtype: str) -> Self:
        """Rounded to ``float16`` or ``bfloat16`` (to nearest, ties to even) and back to float32."""
        if dtype not in ("float16", "bfloat16"):
            raise VectorError(f"dtype={dtype!r} is not possible; expected float16 or bfloat16")
        if dtype == "float16":
            with np.errstate(over="ignore"):
                rounded = self.mem.astype(np.float16).astype(np.float32)
            if not np.isfinite(rounded).all():
                raise VectorError(
                    f"This vector has a number {np.abs(self.mem).max():.6g}, but float16 ends at 65504. Use bfloat16."
                )
        else:  # bfloat16 is the upper half of a float32
            raw = self.mem.view(np.uint32)
            rounded = ((raw + 0x7FFF + ((raw >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
        return self.with_mem(rounded, f"cast {dtype}")

    def prune(self, kept: float) -> Self:
        """Keep the share ``kept`` of each vector's numbers, the largest in absolute value. Set the others to 0."""
        if not 0 < kept <= 1:
            raise VectorError(f"kept={kept} is not possible; expected a share above 0 and at most 1")
        size = np.abs(self.mem)
        least = np.sort(size, axis=1)[:, self.d - max(1, round(kept * self.d)), None]
        return self.with_mem(np.where(size >= least, self.mem, np.float32(0)), f"prune to {kept}")

    def dropout(self, share: float, *, seed: int = 0) -> Self:
        """Set a random ``share`` of all numbers to 0."""
        if not 0 <= share <= 1:
            raise VectorError(f"share={share} is not possible; expected 0 to 1")
        flat = self.mem.copy().reshape(-1)
        flat[np.random.default_rng(seed).permutation(flat.size)[: round(share * flat.size)]] = 0
        return self.with_mem(flat.reshape(self.mem.shape), f"dropout {share} seed {seed}")

    def redacted(self) -> Self:
        """Without the text: a hash replaces the token ids. Text id, offsets, length and key stay."""
        if self.redaction:
            return self
        return dataclasses.replace(
            self,
            token_ids=np.empty(0, np.int64),
            redaction={"token_sha256": self.token_sha256, "tokens": self.n, "key": self.key},
        )

    def restored(self, ids: Sequence[int] | np.ndarray) -> Self:
        """The opposite of ``redacted``: ``ids`` are the removed token ids. Raises ``VectorError`` for other ids."""
        if not self.matches(ids):
            raise VectorError(
                f"These {len(ids)} ids are not the {self.n} that were removed from {self.key[:12]}. Give those ids."
            )
        return dataclasses.replace(self, token_ids=np.asarray(ids, np.int64), redaction=None)

    # Files -----------------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The bytes of a safetensors file: tensors, and one metadata entry ``memlab`` (JSON)."""
        tensors = {"mem": self.mem, "prefix_ids": self.prefix_ids, "suffix_ids": self.suffix_ids}
        if not self.redaction:
            tensors["token_ids"] = self.token_ids
        computed = {name: getattr(self, attribute) for name, (attribute, _) in _COMPUTED.items()}
        return file_format.pack(tensors, md.write_fields(self) | computed)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a file, and replace an older one. Never leaves half a file."""
        require_path("path", path, "the name of a file")
        path = Path(path)
        atomic_write(path, self.to_bytes())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that ``save`` or a store wrote, and verify its hash. Raises ``VectorError``."""
        require_path("path", path, "the name of a file")
        tensors, metadata = file_format.unpack(path, _validate)
        try:
            vector = cls(
                mem=tensors["mem"],
                token_ids=tensors.get("token_ids", np.empty(0, np.int64)),
                prefix_ids=tensors["prefix_ids"],
                suffix_ids=tensors["suffix_ids"],
                **md.read_fields(cls, metadata),
            )
        except RecipeError as error:  # a newer memlab may have written it, so the file is not damaged
            raise VectorError(
                f"{path} has a recipe that this memlab does not know: {error}. Install a newer memlab."
            ) from None
        except KeyError as error:
            raise DamagedError(f"{path} is damaged: it has no tensor {error}") from None
        except VectorError as error:
            raise DamagedError(f"{path} does not hold a vector: {error}") from None
        # Tables use the metadata alone, so the computed metadata must agree with the rest of the file.
        for name, (attribute, _) in _COMPUTED.items():
            # Older versions wrote exact: true if any exact check passed, also if a later one failed.
            older = name == "exact" and metadata[name] and any(c.exact for c in vector.checks)
            if metadata[name] != (value := getattr(vector, attribute)) and not older:
                raise DamagedError(f"{path} claims {name} {metadata[name]!s:.12}, but its contents give {value!s:.12}")
        return vector


_COMPUTED = {
    "key": ("key", md.TEXT),
    "tokens": ("n", md.TOKENS),
    "k": ("k", md.COUNT),
    "d": ("d", md.COUNT),
    "exact": ("exact", md.FLAG),
}
"""{metadata: (attribute, JSON schema)}: computed from the rest of the file, for tables and other programs."""
METADATA_SCHEMA = md.object_schema(
    md.properties_of(MemVector) | {name: schema for name, (_, schema) in _COMPUTED.items()}
)
"""JSON schema of the metadata of the current version."""
_validate = fastjsonschema.compile(METADATA_SCHEMA, use_default=False)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``memlab`` metadata of a vector file. Does not read or verify the tensors."""
    return file_format.read_metadata(path, _validate)


def make_key(
    fingerprint: str,
    token_ids: np.ndarray,
    prefix_ids: np.ndarray,
    suffix_ids: np.ndarray,
    recipe: Recipe,
    parent: str | None = None,
) -> str:
    """Key of a result: hash of the weights' fingerprint, the ids, the recipe's canonical JSON and the parent's id."""
    inputs: dict[str, Any] = {
        "weights": fingerprint,
        "token_ids": [int(i) for i in token_ids],
        "prefix_ids": [int(i) for i in prefix_ids],
        "suffix_ids": [int(i) for i in suffix_ids],
        "recipe": recipe.canonical(),
    }
    if parent:
        inputs["parent"] = parent
    return hashlib.sha256(canonical_json(inputs)).hexdigest()


def hash_ids(ids: np.ndarray) -> str:
    """Hash of token ids, the same on every machine."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()


def _frozen(array: np.ndarray) -> np.ndarray:
    # A copy, because the caller may later change its own array.
    array = array.copy()
    array.flags.writeable = False
    return array
