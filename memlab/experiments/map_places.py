"""Where the bundled vectors lie on flat maps: laid out once and stored, because UMAP takes half a minute to start."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pandas as pd

from memlab.experiments.solutions import exact_ones
from memlab.experiments.tables import UnknownTableError, stored
from memlab.measures import geometry
from memlab.models import FrozenLM
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store


def map_table(lm: FrozenLM, vectors: Store, store: Store, *, tokens: int | None = None) -> pd.DataFrame:
    """Every exact vector of ``vectors`` on each map of ``geometry.flat_map`` (its default seed 0 and 15 neighbours).

    Columns ``key content method x y``. ``content`` is a hash of the vector's numbers, because a key does not cover
    them. Nothing is trained, so ``store`` is not used.
    """
    mems = exact_ones(vectors, lm, tokens)
    x = np.stack([mem.mem.reshape(-1) for mem in mems])
    methods = [method for method in get_args(geometry.Map) if method == "pca" or len(mems) >= 5]
    tables = []
    for method in methods:
        flat = geometry.flat_map(x, method).astype(np.float32)
        columns = dict(key=[mem.key for mem in mems], content=[_content(mem) for mem in mems], method=method)
        tables.append(pd.DataFrame({**columns, "x": flat[:, 0], "y": flat[:, 1]}))
    return pd.concat(tables, ignore_index=True)


def stored_places(mems: Sequence[MemVector]) -> dict[str, np.ndarray]:
    """{method: (n, 2)} of the maps that come with memlab; empty unless all these vectors are on them, number by number.

    A part of the bundled vectors gets its places on the map of all of them.

    >>> store = Store.bundled()
    >>> sorted(stored_places([store.get(store.find("6485f145d1da"))]))
    ['pca', 'tsne', 'umap']
    """
    try:
        table = stored("geometry-map").set_index(["key", "content"])
    except UnknownTableError:  # the table is made from the vectors, so there is a time before it
        return {}
    keys = pd.MultiIndex.from_tuples([(mem.key, _content(mem)) for mem in mems])
    places = {}
    for method, rows in table.groupby("method"):
        if not keys.isin(rows.index).all():
            return {}
        places[str(method)] = rows.loc[keys, ["x", "y"]].to_numpy(float)
    return places


def _content(mem: MemVector) -> str:
    return hashlib.sha256(np.ascontiguousarray(mem.mem, "<f4").tobytes()).hexdigest()[:16]
