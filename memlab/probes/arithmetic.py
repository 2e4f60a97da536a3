"""Arithmetic on vectors: sums, mixtures and means of them, and what a model writes from the result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from memlab.decoding.decode import logits_stream, require_weights
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.results.mem_vector import MemVector, VectorError


class Operands(NamedTuple):
    """What a formula may use."""

    lm: FrozenLM
    a: MemVector
    b: MemVector
    c: MemVector
    others: Sequence[MemVector]
    """Vectors among which the other seeds of A's text are looked for."""


class Formula(NamedTuple):
    """One line of the list of formulas."""

    operands: str
    """Those of the letters A, B and C that it uses."""
    most: float
    """The largest t that makes sense; the smallest is 0, where the result is A, or nothing for "t x A"."""
    combine: Callable[[Operands, float], MemVector]


def _mixed(a: MemVector, other: np.ndarray, t: float, how: str) -> MemVector:
    """``(1 - t) a + t other``; at t = 0 the numbers of ``a``, bit for bit."""
    return a.with_mem(a.mem if t == 0 else ((1 - t) * a.mem + t * other).astype(np.float32), how)


def nearest_words(lm: FrozenLM, mem: MemVector) -> tuple[np.ndarray, np.ndarray]:
    """(ids, cosines), each (k,): the token whose embedding is nearest to each of the k vectors, by cosine."""
    embeddings = lm.embed(np.arange(lm.vocabulary)).cpu().numpy()
    ids, cosines = geometry.nearest(mem.mem, embeddings, 1)
    return ids[:, 0], cosines[:, 0]


def _word(of: Operands, t: float) -> MemVector:
    ids, _ = nearest_words(of.lm, of.a)
    norms = np.linalg.norm(of.a.mem, axis=1, keepdims=True)
    return _mixed(of.a, geometry.unit(of.lm.embed(ids).cpu().numpy()) * norms, t, f"{t:g} towards the nearest word")


def _seeds(of: Operands, t: float) -> MemVector:
    same = [m for m in of.others if m.token_sha256 == of.a.token_sha256 and m.mem.shape == of.a.mem.shape]
    if len(same) < 2:
        raise VectorError("The list has no second vector of A's text. Choose an A whose text has several seeds.")
    mean = np.mean([m.mem for m in same], axis=0)
    return _mixed(of.a, mean, t, f"{t:g} towards the mean of {len(same)} seeds")


def _analogy(of: Operands, t: float) -> MemVector:
    return of.a.with_mem(of.a.mem + np.float32(t) * (of.b.mem - of.c.mem), f"A + {t:g} (B - C)")


FORMULAS = {
    "(1 - t) A + t B": Formula("AB", 1, lambda of, t: _mixed(of.a, of.b.mem, t, f"{t:g} towards B")),
    "A + t (B - C)": Formula("ABC", 2, _analogy),
    "(1 - t) A + t (B + C) / 2": Formula(
        "ABC", 1, lambda of, t: _mixed(of.a, (of.b.mem + of.c.mem) / 2, t, f"{t:g} towards the mean of B and C")
    ),
    "t A": Formula("A", 3, lambda of, t: of.a.with_mem(np.float32(t) * of.a.mem, f"{t:g} A")),
    "(1 - t) A + t (nearest word, as long as A)": Formula("A", 1, _word),
    "(1 - t) A + t (mean of A's seeds)": Formula("A", 1, _seeds),
}
"""{formula: what it needs and does}. To add a formula, add a line."""


def combine(formula: str, operands: Operands, t: float) -> MemVector:
    """The vector that one of ``FORMULAS`` gives. It keeps A's passage and context. Raises ``VectorError``.

    >>> from memlab import Recipe, cram, load
    >>> lm = load("toy:llama")
    >>> a, b = cram(lm, [lm.passage_of_ids([5, 9, 2]), lm.passage_of_ids([7, 7])], Recipe.default(k=4), progress=False)
    >>> half = combine("(1 - t) A + t B", Operands(lm, a, b, b, []), 0.5)
    >>> bool(abs(half.mem - (a.mem + b.mem) / 2).max() < 1e-2)
    True
    """
    if formula not in FORMULAS:
        raise VectorError(f"formula={formula!r} is not known. Give one of: {'; '.join(FORMULAS)}.")
    used = [getattr(operands, letter.lower()) for letter in FORMULAS[formula].operands]
    if len({mem.mem.shape for mem in used}) > 1:
        shapes = ", ".join(str(mem.mem.shape) for mem in used)
        raise VectorError(f"The vectors have the shapes {shapes}. Choose vectors of one shape.")
    return FORMULAS[formula].combine(operands, t)


class Mixture(NamedTuple):
    """Result of ``read_mixture``; n is the length of the longer of the two passages."""

    ids: np.ndarray
    """(n,) the tokens that the model writes."""
    leads: np.ndarray
    """(n,) logit of each written token minus the next best: how sure the model is of it."""
    of_a: np.ndarray
    """(n,) whether the token is the one that A has at this place."""
    of_b: np.ndarray
    """(n,) the same for B."""
    distance_a: float
    """Distance to A, as a share of A's norm."""
    distance_b: float
    """Distance to B, as a share of A's norm; NaN for another shape."""


def read_mixture(lm: FrozenLM, mem: MemVector, a: MemVector, b: MemVector) -> Mixture:
    """Decode ``mem`` freely (float32, batch 1), and say whose tokens it writes, and how far it is from ``a`` and ``b``.

    >>> from memlab import Recipe, cram, load
    >>> lm = load("toy:llama")
    >>> a, b = cram(lm, [lm.passage_of_ids([5, 9, 2]), lm.passage_of_ids([7, 7])], Recipe.default(k=4), progress=False)
    >>> read_mixture(lm, a, a, b).of_a.tolist(), read_mixture(lm, a, a, b).distance_a
    ([True, True, True], 0.0)
    """
    n = max(a.n, b.n)
    require_weights(lm, mem, n)
    best = [logits[0].topk(2) for logits in itertools.islice(logits_stream(lm, [mem], "float32"), n)]
    ids = np.array([int(top.indices[0]) for top in best])

    def same(other: MemVector) -> np.ndarray:
        found = np.zeros(n, bool)
        found[: other.n] = ids[: other.n] == other.token_ids
        return found

    def distance(other: MemVector) -> float:
        if other.mem.shape != mem.mem.shape:
            return float("nan")
        return float(np.linalg.norm(mem.mem - other.mem) / np.linalg.norm(a.mem))

    leads = np.array([float(top.values[0] - top.values[1]) for top in best])
    return Mixture(ids, leads, same(a), same(b), distance(a), distance(b))
