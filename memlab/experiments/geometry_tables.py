"""The tables that the notebooks on geometry open with: each is one function of the shelf's vectors."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from memlab.decoding.decode import decode
from memlab.measures import geometry
from memlab.models import FrozenLM, Passage, load
from memlab.probes import attention, paths, perturbation
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError
from memlab.sweeps.runner import Plan, run
from memlab.texts import load_texts
from memlab.training.cram import Progress, cram


def kind_of(mem: MemVector) -> str:
    """``prose`` or ``random words``."""
    return "random words" if mem.text.id.startswith("random-") else "prose"


def solutions(store: Store, lm: FrozenLM, *, tokens: int = 32, least: int = 2) -> list[MemVector]:
    """Exact vectors of this model for passages of which there are at least so many, by text and seed.

    Of each text one passage in one context (k, prefix, suffix), by one recipe (seeds apart): that with the most
    solutions. Vectors of one seed that were only trained longer or shorter are no two solutions.
    """
    alike: dict[str, dict[tuple[object, ...], list[MemVector]]] = {}
    for mem in _exact_ones(store, lm, tokens):
        alike.setdefault(mem.text.id, {}).setdefault((paths.setting(mem), _but_seed(mem)), []).append(mem)
    most = (max(each.values(), key=len) for each in alike.values())
    return [mem for mems in most if len(mems) >= least for mem in mems]


def one_each(mems: Iterable[MemVector], count: int) -> list[MemVector]:
    """The first solution of each of up to ``count`` passages, kinds of text in turn."""
    first = {mem.text.id: mem for mem in reversed(list(mems))}
    kinds: dict[str, list[MemVector]] = {}
    for name in sorted(first):
        kinds.setdefault(kind_of(first[name]), []).append(first[name])
    longest = max(map(len, kinds.values()), default=0)
    return [each[i] for i in range(longest) for each in kinds.values() if i < len(each)][:count]


# Of many solutions of a few passages ---------------------------------------------------------------------------------


def path_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 24, steps: int = 80) -> pd.DataFrame:
    """Lines and curves between ``count`` pairs of solutions, and ways as long that lead nowhere: ``pair way barrier``
    and ``grids.evaluate``'s columns.

    The barrier of a way to nowhere is how far the loss rises on its first half: no place of a line is farther than that
    from a solution.
    """
    tables = []
    for i, (a, b) in enumerate(paths.pairs(mems, count)):
        lost = paths.nowhere(lm, a, b, seed=i)
        height = float(lost.bits[lost.t <= 0.5].max() - lost.bits.iloc[0])
        ways = [("line", *_parts(paths.line(lm, a, b))), ("curve", *_parts(paths.curve(lm, a, b, steps=steps)))]
        for way, table, barrier in [*ways, ("nowhere", lost, height)]:
            told = dict(pair=i, text_id=a.text.id, kind=kind_of(a), a=a.key, b=b.key, way=way, barrier=barrier)
            tables.append(table.assign(**told, **table.attrs))
    return pd.concat(tables, ignore_index=True)


def _parts(path: paths.Path) -> tuple[pd.DataFrame, float]:
    return path.table, path.barrier


def between_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 6) -> pd.DataFrame:
    """What is written between the vectors of different passages: ``pair first second t of_a of_b written``.

    Pairs of all sorts: prose and random words, prose and prose, random words and random words.
    """
    each = one_each(mems, 2 * count)
    if len(each) < 2:
        raise StoreError(
            f"{len(each)} passages; expected two at least, to go from one to the other: memlab bench shelf"
        )
    # Kinds stand in turn, so that 0 and 1 differ in kind, and 2 and 4 do not.
    order = [i + j for i in range(0, len(each), 6) for j in (0, 1, 2, 4, 3, 5) if i + j < len(each)]
    tables = []
    for i, (one, other) in enumerate(zip(order[::2], order[1::2], strict=False)):
        a, b = each[one], each[other]
        table = paths.between_passages(lm, a, b)
        written = [lm.decode_ids(ids) for ids in table.ids]
        told = dict(pair=i, first=a.text.id, second=b.text.id, a=a.key, b=b.key, written=written)
        tables.append(table.drop(columns="ids").assign(**told))
    return pd.concat(tables, ignore_index=True)


def noise_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 12) -> pd.DataFrame:
    """All of ``robustness``'s ways to move a vector: ``what amount`` beside its columns."""
    each = one_each(mems, count)
    made = {
        "noise": perturbation.noise(lm, each),
        "dropout": perturbation.dropout(lm, each),
        "gradient": perturbation.along(lm, each, "gradient"),
        "first principal": perturbation.along(lm, each, "first principal", among=mems),
        "rounding": perturbation.rounding(lm, each),
    }
    names = {"radius": "amount", "dropped": "amount", "bits_a_number": "amount"}
    table = pd.concat([t.rename(columns=names).assign(what=what) for what, t in made.items()], ignore_index=True)
    sums = {name: sum(t.attrs[name] for t in made.values()) for name in ("again", "agree")}
    return table.assign(**sums, kind=table.key.map({mem.key: kind_of(mem) for mem in each}))


def radius_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 6, solutions_each: int = 2) -> pd.DataFrame:
    """``robustness.radii`` of a few solutions of each of ``count`` passages."""
    names = [mem.text.id for mem in one_each(mems, count)]
    chosen = [mem for name in names for mem in [m for m in mems if m.text.id == name][:solutions_each]]
    return perturbation.radii(lm, chosen, among=mems, draws=1)


def plane_table(lm: FrozenLM, mems: Sequence[MemVector], *, cells: int = 8) -> pd.DataFrame:
    """Two planes through the first passage's first two solutions: across to the third one, and at random.

    ``third_x`` and ``third_y`` are where the third one lies.
    """
    first = [mem for mem in mems if mem.text.id == mems[0].text.id]
    a, b, c = first[:3]
    tables = []
    for name, third in (("through a third solution", c.mem), ("random", None)):
        table = perturbation.plane(lm, a, b, third=third, cells=cells)
        x, y = table.attrs.pop("third") or (None, None)
        told = dict(plane=name, text_id=a.text.id, a=a.key, b=b.key, third_x=x, third_y=y)
        tables.append(table.assign(**told, **table.attrs).astype({"third_x": float, "third_y": float}))
    return pd.concat(tables, ignore_index=True)


def attention_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 12) -> pd.DataFrame:
    """``attention.attention_mass`` of one solution a passage."""
    each = one_each(mems, count)
    return pd.concat(
        [attention.attention_mass(lm, mem).assign(text_id=mem.text.id, key=mem.key) for mem in each], ignore_index=True
    )


def knock_out_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 8) -> pd.DataFrame:
    """``attention.knock_outs`` of one solution a passage: of the vectors, and of the sink token before them."""
    tables = []
    for mem in one_each(mems, count):
        for what in ("mem", "prefix") if len(mem.prefix_ids) else ("mem",):
            table = attention.knock_outs(lm, mem, what=what)
            tables.append(table.assign(what=what, text_id=mem.text.id, key=mem.key))
    return pd.concat(tables, ignore_index=True)


def snap_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 12) -> pd.DataFrame:
    """Each vector's nearest token by cosine, and what is decoded when that token's embedding stands in its place."""
    embeddings = lm.embed(np.arange(lm.vocabulary)).cpu().numpy()
    rows = []
    for mem in one_each(mems, count):
        ids, cosine = geometry.nearest(mem.mem, embeddings, 1)
        snapped = mem.with_mem(embeddings[ids[:, 0]], "snapped to the nearest tokens")
        scaled = snapped.with_mem(
            geometry.unit(snapped.mem) * np.linalg.norm(mem.mem, axis=1, keepdims=True), "the same, as long as it was"
        )
        right = [int((got == mem.token_ids).sum()) for got in decode(lm, [mem, snapped, scaled])]
        tokens = " ".join(repr(lm.decode_ids([int(i)])) for i in ids[:, 0])
        rows.append((mem.key, mem.text.id, mem.n, tokens, float(cosine.mean()), *right))
    columns = ["key", "text_id", "tokens", "nearest", "cosine", "right", "right_snapped", "right_scaled"]
    return pd.DataFrame(rows, columns=columns)


# Of a whole shelf, and a store to train into -------------------------------------------------------------------------


def length_table(
    lm: FrozenLM, shelf: Store, own: Store, *, tokens: int | None = None, count: int = 8, draws: int = 2
) -> pd.DataFrame:
    """Exact radii along random directions, of ``count`` texts, both kinds, at every length that the shelf has."""
    mems = _one_seed(lm, shelf, tokens)
    lengths = Counter(mem.text.id for mem in mems)
    whole = [mem for mem in mems if lengths[mem.text.id] == max(lengths.values())]
    names = {mem.text.id for mem in one_each(whole, count)}
    return perturbation.radii(lm, [mem for mem in whole if mem.text.id in names], ways=("random",), draws=draws)


def margin_table(
    lm: FrozenLM,
    shelf: Store,
    own: Store,
    *,
    tokens: int | None = None,
    count: int = 8,
    margins: Sequence[float] = (0.25, 1.0, 4.0),
    draws: int = 2,
) -> pd.DataFrame:
    """Does it help to train on? The same passages until the decode's margin is as ``asked`` for (logits), and their
    exact radii, along the same random directions. Trained into ``own``.

    Only passages that reached every margin in the recipe's budget, ``of`` so many: one that drops out where much is
    asked would make the others' mean look better.
    """
    chosen = one_each(_one_seed(lm, shelf, tokens or 32), count)
    passages = [_passage(lm, mem) for mem in chosen]
    recipes = [chosen[0].recipe.replace(margin=margin) for margin in margins]
    made = run(Plan.of(lm, passages, recipes), own, progress=False).whole()
    mems = [mem for mem in made if mem.exact and (mem.margin or 0) >= mem.recipe.margin]
    reached = Counter(mem.text.id for mem in mems)
    kept = [mem for mem in mems if reached[mem.text.id] == len(margins)]
    found = perturbation.radii(lm, kept, ways=("random",), draws=draws)
    return found.assign(asked=found.key.map({mem.key: mem.recipe.margin for mem in kept}), of=len(chosen))


def space_table(
    lm: FrozenLM, shelf: Store, own: Store, *, tokens: int | None = None, other: str = "gemma-3-270m"
) -> pd.DataFrame:
    """The same texts in three spaces (this model, this model from another seed, another model): cosines of every two,
    ``space text_id other_id kind cosine``. Of each text its first ``tokens`` (16) tokens, in each model's own.

    Only texts that are exact in all three. What the shelf lacks is trained into ``own``.
    """
    tokens = tokens or 16
    here = {mem.text.id: mem for mem in _one_seed(lm, shelf, tokens)}
    recipe = next(iter(here.values())).recipe
    again = _exact(Plan.of(lm, [_passage(lm, mem) for mem in here.values()], recipe.replace(seed=recipe.seed + 1)), own)
    texts = {text.id: text for kind in ("originals", "random") for text in load_texts(kind, count=64)}
    second = load(other)
    both = [texts[name] for name in here if name in texts]
    there = _exact(Plan.grid(second, both, tokens=tokens, recipes=recipe), own)
    spaces = {f"{lm.name}, one seed": here, f"{lm.name}, another": again, other: there}
    names = [name for name in here if all(name in space for space in spaces.values())]
    rows = []
    for label, space in spaces.items():
        seen = geometry.cosines(np.stack([space[name].mem.reshape(-1) for name in names]))
        kinds = [kind_of(here[name]) for name in names]
        rows += [(label, a, b, kinds[i], float(seen[i, j])) for i, a in enumerate(names) for j, b in enumerate(names)]
    return pd.DataFrame(rows, columns=["space", "text_id", "other_id", "kind", "cosine"])


def norm_table(lm: FrozenLM, shelf: Store, own: Store, *, tokens: int | None = None, count: int = 8) -> pd.DataFrame:
    """Norms where the recipe leaves them free (``Recipe.fullmatrix``), step by step: ``text_id kind tokens step norm``,
    what the text costs the model without a vector (``bits``), and ``last``: the exact vector.

    ``count`` texts, both kinds, at every length that the shelf has. Trained anew each time, since stores keep no ways.
    """
    mems = _one_seed(lm, shelf, tokens)
    names = {mem.text.id for mem in one_each(mems, count)}
    chosen = [mem for mem in mems if mem.text.id in names]
    recipe = Recipe.fullmatrix(k=chosen[0].k)
    costs = [float(np.nansum(lm.token_bits(mem.token_ids))) for mem in chosen]
    rows: list[tuple[Any, ...]] = []

    def row(i: int, step: int, mem: np.ndarray, last: bool) -> None:
        at, norm = chosen[i], float(np.linalg.norm(mem, axis=1).mean())
        rows.append((at.text.id, kind_of(at), at.n, step, norm, costs[i], last))

    def watch(now: Progress) -> bool:
        for i, step, mem in zip(now.passages, now.steps, now.vectors, strict=True):
            row(i, step, mem.numpy(), False)
        return False

    made = cram(lm, [_passage(lm, mem) for mem in chosen], recipe, progress=False, on_step=watch)
    for i, mem in enumerate(made):
        if mem.exact:
            row(i, mem.steps, mem.mem, True)
    return pd.DataFrame(rows, columns=["text_id", "kind", "tokens", "step", "norm", "bits", "last"])


def _exact_ones(store: Store, lm: FrozenLM, tokens: int | None = None) -> list[MemVector]:
    """This model's exact vectors, ids and all, by text, length and seed."""
    table = store.table()
    table = table[table.exact.astype(bool) & (table.model == lm.name)]
    if tokens is not None:
        table = table[table.tokens == tokens]
    mems = map(store.get, table.sort_values(["text_id", "tokens", "seed"], kind="stable").key)
    return [mem for mem in mems if mem.fingerprint == lm.fingerprint and not mem.redaction]


def _but_seed(mem: MemVector) -> str:
    return mem.recipe.replace(seed=0).canonical()


def _one_seed(lm: FrozenLM, shelf: Store, tokens: int | None = None) -> list[MemVector]:
    """One vector of each text and length, all by the recipe that most of the shelf was made with."""
    mems = _exact_ones(shelf, lm, tokens)
    if not mems:
        at = "" if tokens is None else f" for {tokens} tokens"
        raise StoreError(f"{shelf.path} has no exact vectors of {lm.name}{at}: memlab bench shelf")
    ((usual, _),) = Counter(map(_but_seed, mems)).most_common(1)
    return list({(mem.text.id, mem.n): mem for mem in reversed(mems) if _but_seed(mem) == usual}.values())[::-1]


def _passage(lm: FrozenLM, mem: MemVector) -> Passage:
    return dataclasses.replace(lm.passage_of_ids(mem.token_ids), span=mem.text)


def _exact(plan: Plan, store: Store) -> dict[str, MemVector]:
    return {mem.text.id: mem for mem in run(plan, store, progress=False).whole() if mem.exact}


TABLES: dict[str, Callable[[FrozenLM, Sequence[MemVector]], pd.DataFrame]] = {
    "paths": path_table,
    "between": between_table,
    "noise": noise_table,
    "radii": radius_table,
    "planes": plane_table,
    "attention": attention_table,
    "knockouts": knock_out_table,
    "snapped": snap_table,
}
"""Of many solutions of a few passages. By the name they are stored under, ``geometry-NAME``."""
OF_SHELF: dict[str, Callable[..., pd.DataFrame]] = {
    "lengths": length_table,
    "margins": margin_table,
    "spaces": space_table,
    "norms": norm_table,
}
"""Of a whole shelf, and a store to train into; ``tokens`` where they take one length."""
