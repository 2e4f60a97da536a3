"""What a method is: it turns a passage into bytes, and bytes into what a reader sees before it reads the passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from memlab.errors import MemlabError
from memlab.models import FrozenLM, Passage
from memlab.probes.kept_cache import KeptCache


class LandscapeError(MemlabError, ValueError):
    """A method, a family or a passage that cannot be measured. The message says what to do."""

    exit_code = 2


@dataclass(frozen=True)
class Context:
    """What a reader knows before the passage. It comes from the stored bytes alone.

    The reader is the frozen model after ``sink prefix, embeddings, cue``, or after ``cache`` and the cue.
    """

    embeddings: torch.Tensor | None = None
    """(c, d) float32: input vectors after the sink prefix. None: nothing."""
    layers: torch.Tensor | None = None
    """(layers, c, d) float32: replaces the hidden states of the embeddings' positions at the input of each layer."""
    cache: KeptCache | None = None
    """Keys and values of earlier positions, the sink prefix among them. It takes the place of the embeddings."""
    given: Mapping[int, int] = field(default_factory=dict)
    """{position in the passage: token id} that the reader knows without the model. They cost no bits."""
    bag: Mapping[int, int] | None = None
    """{token id: times}: the reader knows the tokens of the passage, not their order. It needs no other context."""
    found: Callable[[np.ndarray], float] | None = None
    """For methods that identify a passage among others: the bits that a passage (n,) has been narrowed down by."""


@runtime_checkable
class Method(Protocol):
    """A way of storing a text. Its fields are the columns of a row."""

    @property
    def name(self) -> str:
        """The name of the row, unique: what it does and how far."""

    @property
    def system(self) -> str:
        """Name of the published system in ``measures.systems`` that it follows, or of a reference line there."""

    @property
    def family(self) -> str:
        """``F1`` to ``F6``."""

    @property
    def decoder(self) -> str:
        """How the bytes are read: ``read``, ``fill``, ``code`` or ``find``."""

    @property
    def sees(self) -> str:
        """What ``store`` looks at beyond the passage as a text: ``nothing``, ``cue``, or ``target`` (an oracle)."""

    @property
    def cued(self) -> bool:
        """Whether the cue stands between the context and the passage."""

    @property
    def fixed_size(self) -> bool:
        """Whether all passages of one length have codes of one size. Else the size is stored too."""

    @property
    def detail(self) -> Mapping[str, Any]:
        """Settings, as JSON."""

    def with_cue(self, cue: str) -> Method:
        """The method for readers that get this cue. Methods that look at the cue while they store need it."""

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        """The bytes to keep. Raises ``LandscapeError`` if the passage cannot be stored this way."""

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        """What a reader makes of the bytes. It also knows that the passage has ``tokens`` tokens."""


@dataclass(frozen=True)
class Base:
    """Defaults of a method."""

    system: str = ""
    family: str = ""
    decoder: str = "read"
    sees: str = "nothing"
    cued: bool = True
    fixed_size: bool = True
    shared_bits: float = 0
    """Bits that all passages share: codebooks, projections. They are not in the stored bits."""

    @property
    def detail(self) -> Mapping[str, Any]:
        return {}

    def with_cue(self, cue: str) -> Any:
        return self
