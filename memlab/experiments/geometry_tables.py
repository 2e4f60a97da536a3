"""The tables behind the notebooks on geometry. Each is one function of stored vectors."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from memlab.decoding.decode import decode
from memlab.experiments.map_places import map_table
from memlab.experiments.session import Session
from memlab.experiments.solutions import kind_of, one_each, one_seed, solutions
from memlab.experiments.tables import UnknownTableError
from memlab.measures import geometry
from memlab.models import FrozenLM, Passage, load
from memlab.probes import attention, paths, perturbation
from memlab.probes.evaluate import OnProgress
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store, StoreError
from memlab.sweeps.runner import Plan, run
from memlab.texts import load_texts
from memlab.training.cram import Progress, cram


def path_table(
    lm: FrozenLM,
    mems: Sequence[MemVector],
    *,
    count: int = 24,
    steps: int = 80,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Lines and curves between ``count`` pairs of solutions: ``pair way barrier`` and the columns of ``evaluate``.

    ``bend`` (k * d numbers) is the control point of a curve, and empty for the other paths. ``on_progress`` counts the
    steps of a curve.

    The control ``nowhere`` is a line of the same length from a solution in a random direction. Its barrier is the rise
    of the loss (bits per token) on its first half: on a line between two solutions, no point is farther from one.
    """
    tables = []
    for i, (a, b) in enumerate(paths.pairs(mems, count)):
        away = paths.nowhere(lm, a, b, seed=i)
        rise = float(away.bits[away.t <= 0.5].max() - away.bits.iloc[0])
        line, curve = paths.line(lm, a, b), paths.curve(lm, a, b, steps=steps, on_progress=on_progress)
        assert curve.middle is not None
        none = np.zeros(0, np.float32)
        for name, table, barrier, bend in (
            ("line", line.table, line.barrier, none),
            ("curve", curve.table, curve.barrier, curve.middle.reshape(-1)),
            ("nowhere", away, rise, none),
        ):
            columns = dict(pair=i, text_id=a.text.id, kind=kind_of(a), a=a.key, b=b.key, way=name, barrier=barrier)
            counted = _with_recheck_counts(table.assign(**columns))
            tables.append(counted.assign(ids=table.ids, bend=[bend] * len(table)))
    return pd.concat(tables, ignore_index=True)


def _with_recheck_counts(table: pd.DataFrame) -> pd.DataFrame:
    """``evaluate``'s columns ``rechecked`` and ``agreed`` as counts over the table, ``again`` and ``agree``; no ids."""
    counts = {"again": int(table.rechecked.sum()), "agree": int(table.agreed.sum())}
    return table.drop(columns=["rechecked", "agreed", "ids"]).assign(**counts)


def between_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 6) -> pd.DataFrame:
    """What the model writes between the vectors of two passages: ``pair first second t of_a of_b written ids``.

    Pairs of all kinds: prose with random words, prose with prose, random words with random words.
    """
    chosen = one_each(mems, 2 * count)
    if len(chosen) < 2:
        raise StoreError(
            f"A path needs vectors of two passages, not {len(chosen)}. Train more with `memlab bench bundled`."
        )
    # The kinds alternate, so that 0 and 1 differ in kind, and 2 and 4 do not.
    order = [i + j for i in range(0, len(chosen), 6) for j in (0, 1, 2, 4, 3, 5) if i + j < len(chosen)]
    tables = []
    for i, (one, other) in enumerate(zip(order[::2], order[1::2], strict=False)):
        a, b = chosen[one], chosen[other]
        table = paths.between_passages(lm, a, b)
        written = [lm.decode_ids(ids) for ids in table.ids]
        columns = dict(pair=i, first=a.text.id, second=b.text.id, a=a.key, b=b.key, written=written)
        tables.append(table.assign(**columns))
    return pd.concat(tables, ignore_index=True)


def noise_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 12) -> pd.DataFrame:
    """Every perturbation of ``probes.perturbation``: ``what amount`` and its columns."""
    chosen = one_each(mems, count)
    perturbed = {
        "noise": perturbation.noise(lm, chosen),
        "dropout": perturbation.dropout(lm, chosen),
        "gradient": perturbation.along(lm, chosen, "gradient"),
        "first principal": perturbation.along(lm, chosen, "first principal", among=mems),
        "rounding": perturbation.rounding(lm, chosen),
    }
    names = {"radius": "amount", "dropped": "amount", "bits_a_number": "amount"}
    table = pd.concat([t.rename(columns=names).assign(what=what) for what, t in perturbed.items()], ignore_index=True)
    return _with_recheck_counts(table).assign(kind=table.key.map({mem.key: kind_of(mem) for mem in chosen}))


def radius_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 6, solutions_each: int = 2) -> pd.DataFrame:
    """``perturbation.radii`` of a few solutions of each of ``count`` passages."""
    names = [mem.text.id for mem in one_each(mems, count)]
    chosen = [mem for name in names for mem in [m for m in mems if m.text.id == name][:solutions_each]]
    return perturbation.radii(lm, chosen, among=mems, draws=1)


def plane_table(lm: FrozenLM, mems: Sequence[MemVector], *, cells: int = 8) -> pd.DataFrame:
    """Two planes through the first two solutions of the first passage: one through its third solution, one random.

    ``third_x`` and ``third_y`` are the coordinates of the third solution.
    """
    first = [mem for mem in mems if mem.text.id == mems[0].text.id]
    a, b, c = first[:3]
    tables = []
    for name, third in (("through a third solution", c.mem), ("random", None)):
        plane = perturbation.plane(lm, a, b, third=third, cells=cells)
        x, y = plane.third or (None, None)
        columns = dict(plane=name, text_id=a.text.id, a=a.key, b=b.key, third_x=x, third_y=y)
        table = plane.table.assign(**columns).astype({"third_x": float, "third_y": float})
        tables.append(_with_recheck_counts(table))
    return pd.concat(tables, ignore_index=True)


def attention_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 12) -> pd.DataFrame:
    """``attention.attention_mass`` of one solution per passage."""
    chosen = one_each(mems, count)
    tables = (attention.attention_mass(lm, mem).assign(text_id=mem.text.id, key=mem.key) for mem in chosen)
    return pd.concat(tables, ignore_index=True)


def knock_out_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 8) -> pd.DataFrame:
    """``attention.knock_outs`` of one solution per passage: of the vectors, and of the sink token before them."""
    tables = []
    for mem in one_each(mems, count):
        for what in ("mem", "prefix") if len(mem.prefix_ids) else ("mem",):
            table = attention.knock_outs(lm, mem, what=what)
            tables.append(table.assign(what=what, text_id=mem.text.id, key=mem.key))
    return pd.concat(tables, ignore_index=True)


def snap_table(lm: FrozenLM, mems: Sequence[MemVector], *, count: int = 12) -> pd.DataFrame:
    """The nearest token of each vector by cosine, and what is decoded if that token's embedding replaces the vector."""
    embeddings = lm.embed(np.arange(lm.vocabulary)).cpu().numpy()
    rows = []
    for mem in one_each(mems, count):
        ids, cosine = geometry.nearest(mem.mem, embeddings, 1)
        snapped = mem.with_mem(embeddings[ids[:, 0]], "snapped to the nearest tokens")
        norms = np.linalg.norm(mem.mem, axis=1, keepdims=True)
        scaled = snapped.with_mem(geometry.unit(snapped.mem) * norms, "the same, as long as it was")
        right = [int((got == mem.token_ids).sum()) for got in decode(lm, [mem, snapped, scaled])]
        tokens = " ".join(repr(lm.decode_ids([int(i)])) for i in ids[:, 0])
        rows.append((mem.key, mem.text.id, mem.n, tokens, float(cosine.mean()), *right))
    columns = ["key", "text_id", "tokens", "nearest", "cosine", "right", "right_snapped", "right_scaled"]
    return pd.DataFrame(rows, columns=columns)


def length_table(
    lm: FrozenLM, vectors: Store, store: Store, *, tokens: int | None = None, count: int = 8, draws: int = 2
) -> pd.DataFrame:
    """Exact radii along random directions, of ``count`` texts of both kinds, at every length in ``vectors``."""
    mems = one_seed(lm, vectors, tokens)
    lengths = Counter(mem.text.id for mem in mems)
    at_all_lengths = [mem for mem in mems if lengths[mem.text.id] == max(lengths.values())]
    names = {mem.text.id for mem in one_each(at_all_lengths, count)}
    return perturbation.radii(
        lm, [mem for mem in at_all_lengths if mem.text.id in names], only=("random",), draws=draws
    )


def margin_table(
    lm: FrozenLM,
    vectors: Store,
    store: Store,
    *,
    tokens: int | None = None,
    count: int = 8,
    margins: Sequence[float] = (0.25, 1.0, 4.0),
    draws: int = 2,
) -> pd.DataFrame:
    """Does longer training help? Exact radii along random directions, of vectors trained to each margin ``asked``
    (logits). The passages and the directions are the same at each margin. Vectors are trained into ``store``.

    Of the ``of`` passages, only those that reached every margin within the recipe's budget have rows. Otherwise
    passages that drop out at a large margin would make the mean of the others look better.
    """
    chosen = one_each(one_seed(lm, vectors, tokens or 32), count)
    passages = [_passage(lm, mem) for mem in chosen]
    recipes = [chosen[0].recipe.replace(margin=margin) for margin in margins]
    results = run(Plan.of(lm, passages, recipes), store, progress=False).whole()
    mems = [mem for mem in results if mem.exact and (mem.margin or 0) >= mem.recipe.margin]
    reached = Counter(mem.text.id for mem in mems)
    complete = [mem for mem in mems if reached[mem.text.id] == len(margins)]
    table = perturbation.radii(lm, complete, only=("random",), draws=draws)
    return table.assign(asked=table.key.map({mem.key: mem.recipe.margin for mem in complete}), of=len(chosen))


def space_table(
    lm: FrozenLM, vectors: Store, store: Store, *, tokens: int | None = None, other: str = "gemma-3-270m"
) -> pd.DataFrame:
    """The cosine of every pair of texts in three spaces: this model, this model with another seed, another model.

    Columns ``space text_id other_id kind cosine``. Each text is cut to ``tokens`` (16) tokens of each model. Only texts
    that are exact in all three spaces have rows. Vectors that ``vectors`` lacks are trained into ``store``.
    """
    tokens = tokens or 16
    first_seed = {mem.text.id: mem for mem in one_seed(lm, vectors, tokens)}
    recipe = next(iter(first_seed.values())).recipe
    passages = [_passage(lm, mem) for mem in first_seed.values()]
    second_seed = _exact(Plan.of(lm, passages, recipe.replace(seed=recipe.seed + 1)), store)
    texts = {text.id: text for kind in ("originals", "random") for text in load_texts(kind, count=64)}
    chosen = [texts[name] for name in first_seed if name in texts]
    other_model = _exact(Plan.grid(load(other), chosen, tokens=tokens, recipes=recipe), store)
    spaces = {f"{lm.name}, one seed": first_seed, f"{lm.name}, another": second_seed, other: other_model}
    names = [name for name in first_seed if all(name in space for space in spaces.values())]
    rows = []
    for label, space in spaces.items():
        cosines = geometry.cosines(np.stack([space[name].mem.reshape(-1) for name in names]))
        for (a, name), (b, other_name) in itertools.product(enumerate(names), repeat=2):
            rows.append((label, name, other_name, kind_of(first_seed[name]), float(cosines[a, b])))
    return pd.DataFrame(rows, columns=["space", "text_id", "other_id", "kind", "cosine"])


def norm_table(
    lm: FrozenLM, vectors: Store, store: Store, *, tokens: int | None = None, count: int = 8
) -> pd.DataFrame:
    """Norms at each step of ``Recipe.fullmatrix``, which leaves them free, for ``count`` texts at every length.

    Columns ``text_id kind tokens step norm``, the ``bits`` that the text costs the model without a vector, and
    ``last``, true for the exact vector. The vectors are trained each time, because stores keep no trajectories.
    """
    mems = one_seed(lm, vectors, tokens)
    names = {mem.text.id for mem in one_each(mems, count)}
    chosen = [mem for mem in mems if mem.text.id in names]
    recipe = Recipe.fullmatrix(k=chosen[0].k)
    costs = [float(np.nansum(lm.token_bits(mem.token_ids))) for mem in chosen]
    rows: list[tuple[Any, ...]] = []

    def row(i: int, step: int, mem: np.ndarray, last: bool) -> None:
        trained, norm = chosen[i], float(np.linalg.norm(mem, axis=1).mean())
        rows.append((trained.text.id, kind_of(trained), trained.n, step, norm, costs[i], last))

    def record(now: Progress) -> bool:
        for i, step, mem in zip(now.passages, now.steps, now.vectors, strict=True):
            row(i, step, mem.numpy(), False)
        return False

    results = cram(lm, [_passage(lm, mem) for mem in chosen], recipe, progress=False, on_step=record)
    for i, mem in enumerate(results):
        if mem.exact:
            row(i, mem.steps, mem.mem, True)
    return pd.DataFrame(rows, columns=["text_id", "kind", "tokens", "step", "norm", "bits", "last"])


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
"""Tables of many solutions of a few passages, by name. They are stored as ``geometry-NAME``."""
OF_STORE: dict[str, Callable[..., pd.DataFrame]] = {
    "lengths": length_table,
    "margins": margin_table,
    "spaces": space_table,
    "norms": norm_table,
    "map": map_table,
}
"""Tables of one store of vectors and another store to train into; ``tokens`` restricts a table to one length."""


def geometry_tables(
    session: Session, vectors: Store, names: Sequence[str] = (), *, tokens: int | None = None
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each table as (name, table). ``names``: which tables, default all.

    ``vectors``: the store to look at. Vectors trained for a table go into ``session.store``. ``tokens``: length of the
    passages, default each table's own. Raises ``StoreError`` if ``vectors`` has too few exact vectors, and
    ``UnknownTableError`` for a name that is not in ``TABLES`` or ``OF_STORE``.
    """
    if unknown := [name for name in names if name not in {**TABLES, **OF_STORE}]:
        known = ", ".join([*TABLES, *OF_STORE])
        raise UnknownTableError(f"There is no table {', '.join(unknown)}. Use some of: {known}.")
    lm, names = session.lm, names or [*TABLES, *OF_STORE]
    mems = solutions(vectors, lm, tokens=tokens or 32, least=3)
    if not mems and any(name in TABLES for name in names):
        raise StoreError(
            f"{vectors.path} has no passage of {tokens or 32} tokens with three exact solutions of {lm.name}. "
            "Train some with `memlab bench bundled`."
        )
    for name in names:
        if name in TABLES:
            yield name, TABLES[name](lm, mems)
        else:
            yield name, OF_STORE[name](lm, vectors, session.store, tokens=tokens)
