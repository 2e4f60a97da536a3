"""F2: hard prompts. A few tokens stand for the passage: kept ones, or those of a shorter text or of titles.

A kept token is stored as a token, by an arithmetic code of the frozen model. Two decoders:

- **read**: the model sees the kept tokens before the cue, as a prompt.
- **fill**: the mask is stored too. The model runs over the passage, the kept tokens are given, and the gaps are the
  model's own. So the bits recovered are exactly what the kept tokens cost in their places (*fill theorem*), and of all
  choices of m tokens the m dearest recover most.

The tokens are coded one after another, as if they were a text, or kept as plain ids where that is shorter. A code of
each token in its place, after the model's own first choices in the gaps, was tried first on four passages: 5 % shorter
on prose, 5 to 20 % longer on random words, and 64 steps of the model whatever the share. So ``fill`` uses the same code
as ``read``.

A *unit* is a sentence, or a window of 8 tokens where a passage has fewer than 4 sentences: 64 tokens of prose have
about three, and random words have none. Methods that choose units or words keep about the share that they name; the
number of tokens is stored in a byte.

A method of ``sees="target"`` is an oracle: it reads the passage after its candidates before it chooses one.

Predicted before the run (64 tokens, the default model; shares of the passage's own bits):

- The reader's ceiling, the full text read, recovers 0.90 of prose and of random words.
- Filled, the dearest 10, 20, 35, 50, 75 % of the tokens recover 0.22, 0.40, 0.60, 0.77, 0.95 of prose and less of
  random words, where all tokens are dear: 0.17, 0.32, 0.51, 0.68, 0.90. Efficiency 0.75 at 10 %, 1 at 100 %.
- Read, the same tokens always recover less than filled: 0.40 at 50 %. Tokens apart break the copying that a row of
  neighbours allows, so the first and last 50 % (0.42) are about as good there as the dearest 50 %, and random ones are
  worst (0.28).
- The learnt head lies between random and surprisal. Words deleted by least change lie below surprisal, too.
- The oracle over units is best among the unit methods, by no more than 0.05 over coverage and PageRank, since every
  unit is worth about its own bits. Yes or No is as good as chance (AUC 0.5 +- 0.1 against the oracle's label).
- Most rewrites are refused (70 % or more), so that this method stands next to the full text.
- One or two tokens suffice to find a passage among 16. Titles recover less than 0.1, with an efficiency below 0.3.
- In its place a kept token costs 5 to 10 % less than in a row of kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memlab.experiments.landscape import prompt_choices as choices
from memlab.experiments.landscape.bits import pack_mask, unpack_mask
from memlab.experiments.landscape.measure import cue_ids
from memlab.experiments.landscape.method import Base, Context, Method
from memlab.experiments.landscape.prompt_codes import pack, pack_plain, unpack, unpack_plain
from memlab.experiments.landscape.prompt_rewrites import shorter, titles
from memlab.measures import selection
from memlab.models import FrozenLM, Passage
from memlab.results.store import Store


@dataclass(frozen=True)
class _Prompt(Base):
    """Settings of a hard prompt."""

    what: str = ""
    """What is kept, in words."""
    share: float | None = None
    """Share of the tokens; None: the method decides."""
    family: str = "F2"
    fixed_size: bool = False

    @property
    def name(self) -> str:
        share = "" if self.share is None else f", {self.share:.0%}".replace("%", " %")
        return f"{self.what}{share}, {self.decoder}"

    @property
    def detail(self) -> Mapping[str, Any]:
        return {} if self.share is None else {"share": self.share}


@dataclass(frozen=True)
class Raw(_Prompt):
    """All token ids, each in as many whole bits as the vocabulary needs."""

    fixed_size: bool = True

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        return pack_plain(lm, passage.ids)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        return _context(lm, unpack_plain(lm, data, tokens), range(tokens), self.decoder)


@dataclass(frozen=True)
class Kept(_Prompt):
    """Tokens of the passage, at positions that ``choose(lm, passage, share, ids of the cue)`` returns."""

    choose: choices.Chooser | None = None
    known: Callable[[int, float], np.ndarray] | None = None
    """In place of ``choose``: the positions as a function of n and the share. No mask is stored."""
    counted: bool = False
    """The number of kept tokens varies, so it is stored."""
    none_allowed: bool = False
    """The cue is part of the prompt, unless nothing is kept. So "nothing kept" is no context at all."""
    cue: str = ""
    """The cue of the readers, see ``with_cue``."""

    def with_cue(self, cue: str) -> Kept:
        return replace(self, cue=cue)

    def kept(self, lm: FrozenLM, passage: Passage) -> np.ndarray:
        """The kept positions, ascending."""
        share = self.share or 0
        if self.known:
            return self.known(len(passage), share)
        assert self.choose
        return self.choose(lm, passage, share, cue_ids(lm, self.cue))

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        kept, n = self.kept(lm, passage), len(passage)
        head = _number(len(kept), n) if self.counted else b""
        mask = b"" if self.known or self.decoder == "read" else pack_mask(kept, n)
        return head + mask + pack(lm, passage.ids[kept])

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        m = selection.count(tokens, self.share or 0)
        if self.counted:
            m, data = _numbered(data, tokens)
        if self.decoder == "read":
            cue = cue_ids(lm, self.cue) if self.none_allowed and m else ()
            return _context(lm, np.array([*unpack(lm, data, m), *cue], np.int64), range(m), "read")
        if self.known:
            kept = self.known(tokens, self.share or 0)
        else:
            size = len(pack_mask(range(m), tokens))
            kept, data = unpack_mask(data[:size], m, tokens), data[size:]
        return _context(lm, unpack(lm, data, m), kept, "fill")


@dataclass(frozen=True)
class Written(_Prompt):
    """Tokens that the frozen model writes about the passage: ``write(lm, passage, share)``."""

    write: Callable[[FrozenLM, Passage, float], np.ndarray] | None = None

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        assert self.write
        ids = self.write(lm, passage, self.share or 0)
        return _number(len(ids), len(passage)) + pack(lm, ids)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        m, data = _numbered(data, tokens)
        return _context(lm, unpack(lm, data, m), range(m), "read")


def _context(lm: FrozenLM, ids: np.ndarray, kept: Any, decoder: str) -> Context:
    if decoder == "fill":
        return Context(given={int(p): int(i) for p, i in zip(kept, ids, strict=True)})
    return Context(lm.embed(ids)) if len(ids) else Context()


def _number(m: int, n: int) -> bytes:
    """A number of tokens, in as many bytes as the length of the passage needs."""
    return m.to_bytes(-(-n.bit_length() // 8), "big")


def _numbered(data: bytes, n: int) -> tuple[int, bytes]:
    size = -(-n.bit_length() // 8)
    return int.from_bytes(data[:size], "big"), data[size:]


RATES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


def methods(shelf: Store) -> list[Method]:
    """All hard prompts. ``shelf`` is not used."""
    full = Raw(system="full text", what="full text, raw ids")
    found: list[Method] = [full, _filled(full)]
    for share in RATES:
        tokens = Kept(system="LLMLingua-2", what="surprisal-kept tokens", share=share, choose=choices.dearest)
        found += [tokens, _filled(tokens)]
    for share in (0.25, 0.5):
        head = Kept(
            system="LLMLingua-2",
            what="tokens kept by a learnt head",
            share=share,
            choose=choices.learnt,
            shared_bits=32 * 577,  # of the default model: a weight per number of its hidden state, and one more
        )
        drawn = Kept(system="random tokens", what="random tokens", share=share, known=choices.drawn)
        ends = Kept(system="first and last tokens", what="first and last tokens", share=share, known=choices.ends)
        found += [head, _filled(head), drawn, _filled(drawn), ends, _filled(ends)]
    for share in (0.5, 0.8):
        words = Kept(
            system="TCRA-LLM",
            what="words left by least change of the sentence vector",
            share=share,
            choose=choices.lasting,
            counted=True,
        )
        found += [words, _filled(words)] if share == 0.5 else [words]
    units: Mapping[str, tuple[str, choices.Chooser, tuple[float, ...]]] = {
        "units chosen for coverage": ("Semantic compression", choices.covering, (0.25, 0.5)),
        "units chosen by neighbours and page rank": ("Semantic compression", choices.central, (0.25, 0.5)),
        "units kept by the model's Yes or No": ("EXIT", choices.agreed, (0.25, 0.5)),
    }
    for what, (system, choose, shares) in units.items():
        found += [Kept(system=system, what=what, share=share, choose=choose, counted=True) for share in shares]
    for share in (0.25, 0.5):
        found.append(
            Kept(
                system="RECOMP",
                what="units that lower the loss most, or none",
                share=share,
                choose=choices.helping,
                counted=True,
                none_allowed=True,
                cued=False,
                sees="target",
            )
        )
    shortest = "shortest prompt by which the passage is still found"
    found.append(Kept(system="CoLoR", what=shortest, choose=choices.found, counted=True, sees="target"))
    found.append(Written(system="SCOPE", what="chunks rewritten", share=0.5, write=shorter))
    found.append(Written(system="PODTILE", what="titles of chapters", write=lambda lm, passage, _: titles(lm, passage)))
    return found


def _filled(method: Any) -> Any:
    """The same tokens, with their places, read by ``fill``."""
    return replace(method, decoder="fill", cued=False)
