"""F6: exact mem vectors, stored in fewer bits. Codebooks, grids and anchors are shared by all vectors of a model.

What is learnt is learnt from the vectors of other texts: the shelf's exact vectors, except those of the landscape's own
rows (``systems.ROWS``). Published benchmarks of stored vectors (arXiv 2311.15578) compress tables of millions of
similar rows; here a few dozen examples of nearly isotropic vectors must teach a codebook that fits new ones.

Predicted before the run, 64 tokens: product codes recover nothing net at 1 bit a number, a third of the text at 2, and
90 % at 4, of which half is exact. A codebook per part is worse than one for all parts, because it learns from fewer
examples. Residual codes are exact as often as integers of one bit more: at 4 bits as int5. Residual codes of whole
vectors, low rank and hashing recover nothing net. Cosines to 1,024 words give every vector back exactly, cosines to 256
words nothing. Rounding in the model's basis at 3 bits a number is exact for half of the texts. ``fewer_bits`` predicts
the methods that search for the fewest bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.experiments import vector_codes
from memlab.experiments.landscape import reading
from memlab.experiments.landscape.method import Context, LandscapeError, Method
from memlab.experiments.landscape.vectors import input_vectors, vector_of
from memlab.experiments.vector_codes import Grids
from memlab.measures.quantisers import Cosines, HashFit, Levels, LowRankFit, ProductFit, Quantiser, ResidualFit
from memlab.measures.systems import ROWS, SAMPLED
from memlab.models import FrozenLM, Passage
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.texts import load_texts

KINDS = ("originals", "random")
"""Kinds of text in the landscape. Nothing is learnt from the vectors of the first ``systems.ROWS`` texts of each."""
SMALLEST = 8
"""Fewer vectors of other texts teach no codebook."""
STORAGE = "Learnable vector storage compression"
RELATIVE = "Relative Representations"
BASIS = "rounding in the preconditioner's basis"
SEARCHES = (
    "entropy-coded",
    "in the model's basis",
    "in the model's basis, milder",
    "error feedback",
    "trained on the grid",
)
"""Methods of ``vector_codes`` that are rows of the landscape."""
WORDS = (256, 576, 1024)
"""Anchors of a vector that is sent by its cosines."""
_fitted: dict[tuple[str, Any, str], Quantiser] = {}


@dataclass(frozen=True)
class _OfShelf:
    """What both kinds of method have. Their shared bits are known once they are fitted."""

    name: str
    shelf: Store | None
    system: str = STORAGE
    fixed_size: bool = True
    family: str = "F6"
    decoder: str = "read"
    sees: str = "nothing"
    cued: bool = False

    @property
    def shared_bits(self) -> float:
        """Bits of the codebook, basis or spreads. 0 before the first vector is stored."""
        sizes = [q.shared_bits for (name, path, _), q in _fitted.items() if (name, path) == (self.name, self._path)]
        return sizes[-1] if sizes else 0.0

    def with_cue(self, cue: str) -> Any:
        return self

    @property
    def _path(self) -> Any:
        return self.shelf.path if self.shelf else None

    def _once(self, lm: FrozenLM, make: Callable[[], Quantiser]) -> Quantiser:
        key = (self.name, self._path, lm.fingerprint)
        if key not in _fitted:
            _fitted[key] = make()
        return _fitted[key]


@dataclass(frozen=True)
class Stored(_OfShelf):
    """The vector of a passage, encoded by a quantiser that is fitted on the shelf."""

    make: Callable[[FrozenLM, np.ndarray], Quantiser] = lambda lm, vectors: LowRankFit(1).fit(vectors)
    """The quantiser of a model, from vectors (n, d) of other texts."""

    @property
    def detail(self) -> Mapping[str, Any]:
        return {}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        return self._quantiser(lm).encode(_vector(self.shelf, lm, passage).mem)

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        return Context(torch.from_numpy(self._quantiser(lm).decode(data)))

    def _quantiser(self, lm: FrozenLM) -> Quantiser:
        return self._once(lm, lambda: self.make(lm, np.concatenate([mem.mem for mem in fit_vectors(self.shelf, lm)])))


@dataclass(frozen=True)
class Fewest(_OfShelf):
    """The smallest code from which the passage is exact, by a method of ``experiments.vector_codes``."""

    by: str = "entropy-coded"
    fixed_size: bool = False
    system: str = BASIS

    @property
    def detail(self) -> Mapping[str, Any]:
        return {"by": self.by}

    def store(self, lm: FrozenLM, passage: Passage) -> bytes:
        code = vector_codes.METHODS[self.by](grids_of(self.shelf, lm), _vector(self.shelf, lm, passage))
        if code is None:
            raise LandscapeError(f"{passage!r} is exact at none of the sizes that are tried. Train a larger margin.")
        return code.data

    def context(self, lm: FrozenLM, data: bytes, tokens: int) -> Context:
        grid = self._once(lm, lambda: vector_codes.GRIDS[self.by](grids_of(self.shelf, lm)))
        return Context(torch.from_numpy(grid.decode(data)))


def grids_of(shelf: Store | None, lm: FrozenLM) -> Grids:
    """The grids of a shelf and a model. Raises ``LandscapeError`` if too few vectors of other texts are there."""
    return Grids(lm, np.concatenate([mem.mem for mem in fit_vectors(shelf, lm)]))


def fit_vectors(shelf: Store | None, lm: FrozenLM) -> tuple[MemVector, ...]:
    """The exact vectors (k = 1) of a shelf whose texts are in no row, by key. Raises ``LandscapeError``."""
    rows = {text.id for kind in KINDS for text in load_texts(kind, count=ROWS)}
    all_of_them = input_vectors(shelf, lm) if shelf else []
    found = tuple(mem for mem in all_of_them if mem.k == 1 and not _is_row(mem, rows))
    if len(found) < SMALLEST:
        raise LandscapeError(
            f"The store has {len(found)} exact vectors of {lm.name} of texts outside the measured ones, and a codebook "
            f"needs {SMALLEST}. Add some with `memlab cram`, or give the store that has them."
        )
    return found


def _is_row(mem: MemVector, rows: set[str]) -> bool:
    return mem.text.id in rows or mem.text.id.startswith(f"{SAMPLED}-")


def _vector(shelf: Store | None, lm: FrozenLM, passage: Passage) -> MemVector:
    mem = vector_of(shelf, lm, passage)
    if mem.k != 1:
        raise LandscapeError(f"{mem!r} has {mem.k} vectors, and codes here hold one. Give a passage with k = 1.")
    if mem.text.id in {other.text.id for other in fit_vectors(shelf, lm)}:
        raise LandscapeError(
            f"The codebook has learnt from {mem.text.id}. "
            f"Measure one of the first {ROWS} texts of {' or '.join(KINDS)}."
        )
    return mem


def words(lm: FrozenLM, count: int) -> np.ndarray:
    """(count, d): embeddings of tokens, evenly spread over the vocabulary. Every reader of the model has them."""
    return lm.embed(np.linspace(0, lm.vocabulary - 1, count).astype(np.int64)).cpu().double().numpy()


def sent(
    lm: FrozenLM, receiver: FrozenLM, passages: Sequence[Passage], shelf: Store, count: int = 1024
) -> pd.DataFrame:
    """What another model makes of vectors that it gets as cosines: a row per passage, in bits of the receiver.

    Anchors: ``count`` words that are one token in both vocabularies, each in its own model's embeddings. Columns
    ``text_id bits_without bits_with bits_shuffled``; the control reads the cosines of the next passage.
    """
    ours, theirs = ({model.decode_ids([i]): i for i in range(model.vocabulary)} for model in (lm, receiver))
    both = sorted(word for word in ours if word in theirs and word.strip().isalpha())
    chosen = [both[i] for i in np.linspace(0, len(both) - 1, count).astype(int)]
    sender, reader = (
        Cosines(model.embed([table[word] for word in chosen]).cpu().double().numpy(), 400 * model.d**0.5)
        for model, table in ((lm, ours), (receiver, theirs))
    )
    codes = [sender.encode(_vector(shelf, lm, passage).mem) for passage in passages]
    rows = []
    for i, passage in enumerate(passages):
        ids = receiver.passage(passage.string).ids
        own, other = (Context(torch.from_numpy(reader.decode(codes[j % len(codes)]))) for j in (i, i + 1))
        bits = [float(reading.token_bits(receiver, c, ids, ())[0].sum()) for c in (Context(), own, other)]
        rows.append((passage.span.id, *bits))
    return pd.DataFrame(rows, columns=["text_id", "bits_without", "bits_with", "bits_shuffled"])


def methods(shelf: Store) -> list[Method]:
    return [
        *(Stored(name, shelf, make=make) for name, make in _CODES.items()),
        Stored(
            "rounded in the model's basis, 3 bits a number", shelf, BASIS, fixed_size=False,
            make=lambda lm, fit: replace(Grids(lm, fit).shaped, rung=31),
        ),
        *(Fewest(f"{by}, fewest bits", shelf, by=by) for by in SEARCHES),
        *(Stored(f"cosines to {n:,} words", shelf, RELATIVE, make=partial(_cosines, count=n)) for n in WORDS),
    ]  # fmt: skip


def _cosines(lm: FrozenLM, vectors: np.ndarray, count: int) -> Quantiser:
    return Cosines(words(lm, count), float(np.linalg.norm(vectors, axis=1).mean()))


_CODES: dict[str, Callable[[FrozenLM, np.ndarray], Quantiser]] = {
    "product codes, 1 bit a number": lambda lm, fit: ProductFit(lm.d // 8, alike=True).fit(fit),
    "product codes, 2 bits a number": lambda lm, fit: ProductFit(lm.d // 4, alike=True).fit(fit),
    "product codes, 4 bits a number": lambda lm, fit: ProductFit(lm.d // 2, alike=True).fit(fit),
    "product codes, 2 bits a number, a codebook per part": lambda lm, fit: ProductFit(lm.d // 4).fit(fit),
    "residual codes, 4 bits a number": lambda lm, fit: ResidualFit(ProductFit(lm.d // 8, alike=True), 4).fit(fit),
    "residual codes, 5 bits a number": lambda lm, fit: ResidualFit(ProductFit(lm.d // 8, alike=True), 5).fit(fit),
    "residual codes of whole vectors": lambda lm, fit: ResidualFit(ProductFit(1), 8).fit(fit),
    "low rank, 16 numbers": lambda lm, fit: LowRankFit(16).fit(fit),
    "low rank, 64 numbers": lambda lm, fit: LowRankFit(64).fit(fit),
    "hashed to half of the numbers": lambda lm, fit: HashFit(lm.d // 2).fit(fit),
    "hashed to an eighth of the numbers": lambda lm, fit: HashFit(lm.d // 8).fit(fit),
    "integers of 5 bits": lambda lm, fit: Levels(31, lm.d),
}
