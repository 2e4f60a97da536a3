"""What an encoder is and how it is trained, as data. ``SETTINGS`` has those with a name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from memlab.errors import MemlabError


class EncoderError(MemlabError, ValueError):
    """An encoder or settings that cannot be used. The message says what to do."""

    exit_code = 2


@dataclass(frozen=True)
class Stage:
    """What is trained until a share of the planned tokens is done."""

    until: float
    tasks: tuple[tuple[int, int], ...]
    """(tokens, vectors). Each step draws one of them."""


FULL = (
    *[(8, 1)] * 2,
    *[(16, 1)] * 3,
    *[(32, 1)] * 2,
    *[(16, 4)] * 2,
    *[(16, 8)] * 2,
    (64, 1),
    (64, 8),
)
"""The tasks of the default encoder: 8 to 64 tokens in one vector, 16 tokens in 4 and 8, 64 in 8."""
CURRICULUM = (
    Stage(0.02, ((2, 1), (4, 1), (4, 2))),
    Stage(0.08, ((4, 1), (8, 1), (8, 2), (8, 4))),
    Stage(1.0, FULL),
)
"""Short texts first: a longer one teaches little before the shorter ones are learnt (after arXiv 2509.01092)."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is trained, except the corpus and the number of tokens."""

    network: str = "slots"
    """A name in ``networks.NETWORKS``."""
    norm: float = 400.0
    """Length of a vector that is alone, in units of sqrt(d). 0: the mean length of the model's token embeddings."""
    norm_of_many: float = 0.0
    """The same if there are two vectors or more."""
    whiten: float = 0.25
    """Power of the model's preconditioner in the coordinates of the last layer, as in the default recipe. 0: none."""
    width: int = 384
    layers: int = 2
    heads: int = 6
    reading_heads: int = 12
    """Heads of the attention that reads the tokens into the vectors."""
    longest: int = 64
    """Largest number of tokens."""
    most: int = 8
    """Largest number of vectors of the networks ``constant`` and ``states``."""
    segment: int = 0
    """Tokens that are encoded apart from all others. 0: the whole text together."""
    kept: float = 0.0
    """Share of the segments that stay text in training, drawn at random."""
    bag: float = 0.0
    """Weight of the bag-of-words loss (after arXiv 2211.08769)."""
    teacher: float = 0.0
    """Weight of the loss towards the model that reads the text itself, in place of cross-entropy (0 to 1)."""
    chosen: float = 1.0
    """Share of the training windows that is used."""
    choice: str = "best"
    """Which share: ``best``, ``random`` or ``worst``, by ``choosing.closeness``."""
    curriculum: tuple[Stage, ...] = CURRICULUM
    batch_tokens: int = 512
    """Tokens scored in a step."""
    most_rows: int = 128
    """Passages in a step at most."""
    lr: float = 2e-3
    warmup: int = 100
    """Steps until the learning rate is reached. It then falls to 2 % of it, as half a cosine."""
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0

    @property
    def tasks(self) -> tuple[tuple[int, int], ...]:
        """The different tasks of the last stage."""
        return tuple(dict.fromkeys(self.curriculum[-1].tasks))

    def stage(self, share: float) -> Stage:
        """The stage at a share of the planned tokens."""
        return next((stage for stage in self.curriculum if share < stage.until), self.curriculum[-1])

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, string: str) -> Settings:
        """Settings of ``to_json``. Raises ``EncoderError`` for fields that do not exist."""
        values: dict[str, Any] = json.loads(string)
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise EncoderError(f"Settings have no field {sorted(unknown)[0]!r}. A newer memlab wrote them.")
        if "curriculum" in values:
            stages = values["curriculum"]
            values["curriculum"] = tuple(Stage(s["until"], tuple((n, k) for n, k in s["tasks"])) for s in stages)
        return cls(**values)


def _only(*tasks: tuple[int, int]) -> tuple[Stage, ...]:
    """Short texts first, then only these tasks."""
    return (*CURRICULUM[:2], Stage(1.0, tasks))


@dataclass(frozen=True)
class Named:
    """Settings with a name."""

    settings: Settings
    says: str
    """What it is, in a few words."""
    after: str = ""
    """The published system that it follows, or nothing."""


_SHORT = _only((16, 1), (32, 1))
_SEGMENTS = (Stage(0.1, ((8, 2), (8, 4))), Stage(1.0, ((16, 4), (16, 8), (64, 16))))
_CHUNKS = (Stage(0.1, ((4, 1), (8, 2))), Stage(1.0, ((16, 4), (32, 8), (64, 16))))
_SINGLE = (Stage(0.1, ((4, 1), (8, 1))), Stage(1.0, ((16, 1), (32, 1), (64, 1))))
_DEFAULT = Settings()
SETTINGS: dict[str, Named] = {
    "slots": Named(_DEFAULT, "own small bidirectional network; learnt queries read the tokens"),
    "constant": Named(replace(_DEFAULT, network="constant"), "the same vector for every text: the control"),
    "states": Named(
        replace(_DEFAULT, network="states", lr=3e-4, curriculum=_only((16, 1), (32, 1), (16, 4))),
        "the frozen model's own slots and one linear layer",
        "UniICL",
    ),
    "segments": Named(
        replace(_DEFAULT, segment=8, norm=0.0, teacher=0.5, curriculum=_SEGMENTS),
        "segments of 8 tokens compressed apart, towards the model that reads the text",
        "CompLLM",
    ),
    "chunks": Named(
        replace(_DEFAULT, segment=4, norm=0.0, kept=0.25, curriculum=_CHUNKS),
        "one vector for each 4 tokens; the dearest chunks may stay text",
        "REFRAG",
    ),
    "bridge": Named(
        replace(_DEFAULT, network="bridge", curriculum=_SINGLE),
        "one vector from MiniLM's sentence vector, by two layers",
        "xRAG",
    ),
    "short": Named(
        replace(_DEFAULT, curriculum=_SHORT), "the default on 16 and 32 tokens in one vector: beside the next three"
    ),
    "bag": Named(replace(_DEFAULT, bag=0.1, curriculum=_SHORT), "the same with a bag-of-words loss", "RetroMAE v2"),
    "chosen": Named(
        replace(_DEFAULT, chosen=1 / 9, curriculum=_SHORT),
        "the same, trained on the ninth of the windows that a score likes best",
        "Compress & Align",
    ),
    "unchosen": Named(
        replace(_DEFAULT, chosen=1 / 9, choice="random", curriculum=_SHORT),
        "the same, trained on a ninth drawn at random: the control",
        "Compress & Align",
    ),
}
"""Encoders by name."""


def named(name: str) -> Named:
    """The settings of this name. Raises ``EncoderError``.

    >>> named("slots").settings.norm
    400.0
    """
    if name not in SETTINGS:
        raise EncoderError(f"There is no encoder {name!r}. Use one of: {', '.join(SETTINGS)}.")
    return SETTINGS[name]
