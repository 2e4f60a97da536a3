"""Which of a store's vectors to look at: solutions of the same passage, or one vector per text and length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from memlab.models import FrozenLM
from memlab.probes import paths
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError


def kind_of(mem: MemVector) -> str:
    """``prose`` or ``random words``."""
    return "random words" if mem.text.id.startswith("random-") else "prose"


def solutions(store: Store, lm: FrozenLM, *, tokens: int | None = 32, least: int = 2) -> list[MemVector]:
    """Exact vectors of this model for passages that have at least ``least`` of them, by text and seed.

    ``tokens=None``: passages of any length. Each text counts with one passage, one context (k, prefix, suffix) and one
    recipe (except for its seed): those with the most solutions. So two vectors of the same seed, of which one trained
    longer, never count as two solutions.
    """
    groups: dict[str, dict[tuple[object, ...], list[MemVector]]] = {}
    for mem in exact_ones(store, lm, tokens):
        groups.setdefault(mem.text.id, {}).setdefault((paths.setting(mem), _recipe_without_seed(mem)), []).append(mem)
    largest = (max(of_text.values(), key=len) for of_text in groups.values())
    return [mem for mems in largest if len(mems) >= least for mem in mems]


def one_each(mems: Iterable[MemVector], count: int) -> list[MemVector]:
    """The first solution of each of up to ``count`` passages, alternating between the kinds of text."""
    first = {mem.text.id: mem for mem in reversed(list(mems))}
    kinds: dict[str, list[MemVector]] = {}
    for name in sorted(first):
        kinds.setdefault(kind_of(first[name]), []).append(first[name])
    longest = max(map(len, kinds.values()), default=0)
    return [of_kind[i] for i in range(longest) for of_kind in kinds.values() if i < len(of_kind)][:count]


def exact_ones(store: Store, lm: FrozenLM, tokens: int | None = None) -> list[MemVector]:
    """This model's exact vectors that are not redacted, in order of text, length and seed."""
    table = store.table()
    table = table[table.exact.astype(bool) & (table.model == lm.name)]
    if tokens is not None:
        table = table[table.tokens == tokens]
    mems = map(store.get, table.sort_values(["text_id", "tokens", "seed"], kind="stable").key)
    return [mem for mem in mems if mem.fingerprint == lm.fingerprint and not mem.redaction]


def _recipe_without_seed(mem: MemVector) -> str:
    return mem.recipe.replace(seed=0).canonical()


def one_seed(lm: FrozenLM, vectors: Store, tokens: int | None = None) -> list[MemVector]:
    """One vector for each text and length, all by the recipe that most of these vectors were made with."""
    mems = exact_ones(vectors, lm, tokens)
    if not mems:
        length = "" if tokens is None else f" for {tokens} tokens"
        raise StoreError(
            f"{vectors.path} has no exact vectors of {lm.name}{length}. Train some with `memlab bench bundled`."
        )
    ((usual, _),) = Counter(map(_recipe_without_seed, mems)).most_common(1)
    first = {(mem.text.id, mem.n): mem for mem in reversed(mems) if _recipe_without_seed(mem) == usual}
    return list(first.values())[::-1]
