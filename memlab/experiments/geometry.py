"""The tables that the notebooks on geometry open with: each is one function of the shelf's vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from memlab import geometry
from memlab.decoding import decode
from memlab.experiments import attention, paths, robustness
from memlab.models import FrozenLM, Passage, load
from memlab.runs import Plan, run
from memlab.store import Store, StoreError
from memlab.texts import load_texts
from memlab.vectors import MemVector


def solutions(store: Store, lm: FrozenLM, *, tokens: int = 32, least: int = 2) -> list[MemVector]:
    """Exact vectors of this model for passages of which there are at least so many, by text and seed.

    Of each text one passage in one context (k, prefix, suffix): that with the most solutions.
    """
    table = store.table()
    table = table[table.exact & (table.model == lm.name) & (table.tokens == tokens)]
    alike: dict[str, dict[tuple[object, ...], list[MemVector]]] = {}
    for key in table.sort_values(["text_id", "seed"], kind="stable").key:
        mem = store.get(key)
        if mem.fingerprint == lm.fingerprint and not mem.redaction:
            alike.setdefault(mem.text.id, {}).setdefault(paths.setting(mem), []).append(mem)
    most = (max(each.values(), key=len) for each in alike.values())
    return [mem for mems in most if len(mems) >= least for mem in mems]


def one_each(mems: Sequence[MemVector], count: int) -> list[MemVector]:
    """The first solution of each of up to ``count`` passages."""
    return list({mem.text.id: mem for mem in reversed(mems)}.values())[::-1][:count]


def path_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 16, steps: int = 80) -> pd.DataFrame:
    """Lines and curves between ``count`` pairs of solutions: ``pair way barrier`` and ``grids.evaluate``'s columns."""
    tables = []
    for i, (a, b) in enumerate(paths.pairs(mems, count)):
        for way, path in (("line", paths.line(lm, a, b)), ("curve", paths.curve(lm, a, b, steps=steps))):
            told = dict(pair=i, text_id=a.text.id, a=a.key, b=b.key, way=way, barrier=path.barrier, **path.table.attrs)
            tables.append(path.table.assign(**told))
    return pd.concat(tables, ignore_index=True)


def between_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 8) -> pd.DataFrame:
    """What is written between the vectors of different passages: ``pair first second t of_a of_b written``."""
    each = one_each(mems, 2 * count)
    tables = []
    for i, (a, b) in enumerate(zip(each[::2], each[1::2], strict=False)):
        table = paths.between_passages(lm, a, b)
        written = [lm.decode_ids(ids) for ids in table.ids]
        told = dict(pair=i, first=a.text.id, second=b.text.id, a=a.key, b=b.key, written=written)
        tables.append(table.drop(columns="ids").assign(**told))
    return pd.concat(tables, ignore_index=True)


def noise_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 12) -> pd.DataFrame:
    """``robustness.noise`` and ``robustness.dropout``: ``what amount`` beside their columns."""
    each = one_each(mems, count)
    noise = robustness.noise(lm, each).rename(columns={"radius": "amount"}).assign(what="noise")
    gone = robustness.dropout(lm, each).rename(columns={"dropped": "amount"}).assign(what="dropout")
    table = pd.concat([noise, gone], ignore_index=True)
    return table.assign(**{name: noise.attrs[name] + gone.attrs[name] for name in ("again", "agree")})


def radius_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 8, solutions_each: int = 2) -> pd.DataFrame:
    """``robustness.radii`` of a few solutions of each of ``count`` passages."""
    names = [mem.text.id for mem in one_each(mems, count)]
    chosen = [mem for name in names for mem in [m for m in mems if m.text.id == name][:solutions_each]]
    return robustness.radii(lm, chosen, among=mems, draws=1)


def plane_table(lm: FrozenLM, mems: Sequence[MemVector], *, points: int = 15) -> pd.DataFrame:
    """Two planes through the first passage's first two solutions: across to the third one, and at random."""
    first = [mem for mem in mems if mem.text.id == mems[0].text.id]
    a, b, c = first[:3]
    tables = []
    for name, third in (("through a third solution", c.mem), ("random", None)):
        table = robustness.plane(lm, a, b, third=third, points=points)
        tables.append(table.assign(plane=name, text_id=a.text.id, a=a.key, b=b.key, **table.attrs))
    return pd.concat(tables, ignore_index=True)


def attention_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 12) -> pd.DataFrame:
    """``attention.attention_mass`` of one solution a passage."""
    each = one_each(mems, count)
    return pd.concat(
        [attention.attention_mass(lm, mem).assign(text_id=mem.text.id, key=mem.key) for mem in each], ignore_index=True
    )


def knock_out_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 8) -> pd.DataFrame:
    """``attention.knock_outs`` of one solution a passage."""
    each = one_each(mems, count)
    return pd.concat(
        [attention.knock_outs(lm, mem).assign(text_id=mem.text.id, key=mem.key) for mem in each], ignore_index=True
    )


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


def length_table(lm: FrozenLM, shelf: Store, own: Store, *, count: int = 8, draws: int = 2) -> pd.DataFrame:
    """Exact radii along random directions, of ``count`` texts at every length that the shelf has."""
    table = _one_seed(lm, shelf)
    lengths = table.groupby("text_id").tokens.nunique()
    names = lengths[lengths == lengths.max()].index[:count]
    mems = [shelf.get(key) for key in table[table.text_id.isin(names)].key]
    return robustness.radii(lm, mems, ways=("random",), draws=draws)


def margin_table(
    lm: FrozenLM,
    shelf: Store,
    own: Store,
    *,
    tokens: int = 32,
    count: int = 8,
    margins: Sequence[float] = (0.25, 1.0, 4.0),
    draws: int = 2,
) -> pd.DataFrame:
    """Does it help to train on? The same passages until the decode's margin is as ``asked`` for (logits), and their
    exact radii along random directions. Trained into ``own``.
    """
    chosen = _at(lm, shelf, tokens)[:count]
    passages = [_passage(lm, mem) for mem in chosen]
    recipes = [chosen[0].recipe.replace(margin=margin) for margin in margins]
    mems = [mem for mem in run(Plan.of(lm, passages, recipes), own, progress=False).results if mem.exact]
    asked = {mem.key: mem.recipe.margin for mem in mems}
    found = robustness.radii(lm, mems, ways=("random",), draws=draws)
    return found.assign(asked=found.key.map(asked))


def space_table(
    lm: FrozenLM, shelf: Store, own: Store, *, other: str = "gemma-3-270m", tokens: int = 16
) -> pd.DataFrame:
    """The same texts in three spaces (this model, this model from another seed, another model): cosines of every two,
    ``space text_id other_id cosine``. Of each text its first ``tokens`` tokens, in each model's own.

    Only texts that are exact in all three. What the shelf lacks is trained into ``own``.
    """
    here = {mem.text.id: mem for mem in _at(lm, shelf, tokens)}
    recipe = next(iter(here.values())).recipe
    again = _exact(Plan.of(lm, [_passage(lm, mem) for mem in here.values()], recipe.replace(seed=recipe.seed + 1)), own)
    texts = {text.id: text for kind in ("originals", "random") for text in load_texts(kind, count=64)}
    second = load(other)
    there = _exact(
        Plan.grid(second, [texts[name] for name in here if name in texts], tokens=tokens, recipes=recipe), own
    )
    spaces = {f"{lm.name}, one seed": here, f"{lm.name}, another": again, other: there}
    names = [name for name in here if all(name in space for space in spaces.values())]
    rows = []
    for label, space in spaces.items():
        seen = geometry.cosines(np.stack([space[name].mem.reshape(-1) for name in names]))
        rows += [(label, a, b, float(seen[i, j])) for i, a in enumerate(names) for j, b in enumerate(names)]
    return pd.DataFrame(rows, columns=["space", "text_id", "other_id", "cosine"])


def _one_seed(lm: FrozenLM, shelf: Store) -> pd.DataFrame:
    """The shelf's exact vectors of this model and our recipe, one of each text and length."""
    table = shelf.table()
    table = table[table.exact & (table.model == lm.name) & table.recipe.str.startswith("default")]
    return table.sort_values(["text_id", "tokens", "seed"], kind="stable").drop_duplicates(["text_id", "tokens"])


def _at(lm: FrozenLM, shelf: Store, tokens: int) -> list[MemVector]:
    table = _one_seed(lm, shelf)
    found = [shelf.get(key) for key in table[table.tokens == tokens].key]
    if not found:
        raise StoreError(f"{shelf.path} has no exact vectors of {lm.name} for {tokens} tokens: memlab bench shelf")
    return found


def _passage(lm: FrozenLM, mem: MemVector) -> Passage:
    return dataclasses.replace(lm.passage_of_ids(mem.token_ids), span=mem.text)


def _exact(plan: Plan, store: Store) -> dict[str, MemVector]:
    return {mem.text.id: mem for mem in run(plan, store, progress=False).results if mem.exact}


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
OF_SHELF: dict[str, Callable[[FrozenLM, Store, Store], pd.DataFrame]] = {
    "lengths": length_table,
    "margins": margin_table,
    "spaces": space_table,
}
"""Of a whole shelf, and a store to train into."""
