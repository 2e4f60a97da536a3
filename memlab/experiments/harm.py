"""What a vector does to a text that has nothing to do with it: by distance, and by the layers that look at the vector.

A stranger's text stands behind ``sink prefix, vector, separator``. Its tokens are compared with the same tokens behind
``sink prefix, separator``: their cost in bits, and the model's first choices. The controls are another passage's
vector, a random vector of the same length, the real text of the passage, and nothing, whose harm is 0 by definition.
Published for comparison: a prepended vector ruins other tasks, and a random one does not (arXiv 2607.21231).
What was expected is in ``measures.use_predictions``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.errors import ArgumentError
from memlab.experiments.conditions import (
    Condition,
    Reading,
    conditions,
    context_of,
    ids_of,
    read,
    read_hiding,
    trained_vectors,
)
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.experiments.use import KS
from memlab.experiments.use_tasks import GAP
from memlab.measures.use import ANOTHER, DISTANCE, HARM_COLUMNS, HARM_PARTS, LAYERS, MODES, NOTHING, VECTOR
from memlab.models import FrozenLM, Passage
from memlab.probes.attention import attention_layers
from memlab.results.store import Store
from memlab.training.encoders import Encoder


def harm(
    session: Session,
    passages: Sequence[Passage],
    strangers: Sequence[Passage],
    *,
    ks: Sequence[int] = KS,
    shelf: Store | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    parts: Sequence[str] = HARM_PARTS,
    separator: str = GAP,
) -> pd.DataFrame:
    """The table with the columns ``measures.use.HARM_COLUMNS``.

    ``strangers``: one per passage, from another text. The layers are measured for the vectors with every k, and for
    other conditions with the smallest k. A part and condition with rows of all passages in ``session.resume_from`` is
    not measured again. Raises ``ArgumentError`` unless there is one stranger per passage.
    """
    if len(strangers) != len(passages):
        raise ArgumentError(f"{len(passages)} passages and {len(strangers)} strangers. Give one stranger per passage.")
    table = pd.DataFrame(columns=list(HARM_COLUMNS))
    if session.resume_from is not None and len(session.resume_from):
        require_columns(session.resume_from, HARM_COLUMNS)
        table = session.resume_from[list(HARM_COLUMNS)]
    lm, gap = session.lm, ids_of(session.lm, separator)
    vectors = trained_vectors(session, passages, ks, shelf)
    own = [read(lm, context_of(lm, gap), stranger.ids) for stranger in strangers]
    for condition in conditions(lm, passages, vectors, encoders):
        for part in parts:
            if part == LAYERS and not _has_layers(condition, min(ks)):
                continue
            same = (table.part == part) & (table.condition == condition.name) & (table.k == condition.k)
            if {passage.span.id for passage in passages} <= set(table.text_id[same]):
                continue
            began, rows = time.perf_counter(), []
            for passage, stranger, stored, without in zip(passages, strangers, condition.rows, own, strict=True):
                ids = {"text_id": passage.span.id, "stranger_id": stranger.span.id}
                rows += [row | ids for row in _MEASURES[part](lm, stored, gap, stranger, without)]
            fixed = {"part": part, "condition": condition.name, "k": condition.k, "model": lm.name}
            new = pd.DataFrame([row | fixed for row in rows])[list(HARM_COLUMNS)]
            table = pd.concat([table[~same], new], ignore_index=True) if len(table) else new
            session.on_rows(table)
            name = f"{condition.name}, k = {condition.k}" if condition.k else condition.name
            session.log(f"{name}: {part}: {time.perf_counter() - began:.1f} s")
    return table


def _has_layers(condition: Condition, smallest: int) -> bool:
    return condition.name not in (NOTHING, ANOTHER) and (condition.k <= smallest or condition.name == VECTOR)


def _by_distance(
    lm: FrozenLM, stored: torch.Tensor, gap: np.ndarray, stranger: Passage, without: Reading
) -> Iterator[dict[str, Any]]:
    found = read(lm, context_of(lm, stored, gap), stranger.ids)
    for i, same in enumerate(found.choices == without.choices):
        yield {"mode": MODES[0], "layer": -1, "distance": i + 1, "tokens": 1, "bits": float(found.bits[i]),
               "bits_nothing": float(without.bits[i]), "same": int(same)}  # fmt: skip


def _by_layer(
    lm: FrozenLM, stored: torch.Tensor, gap: np.ndarray, stranger: Passage, without: Reading
) -> Iterator[dict[str, Any]]:
    last, start = len(attention_layers(lm)), len(lm.sink_prefix)
    plans: list[tuple[str, int, Sequence[int]]] = [(MODES[0], -1, ())]
    for layer in range(last):
        plans += [("only", layer, [layer]), ("until", layer, range(layer + 1)), ("from", layer, range(layer, last))]
    context, hidden = context_of(lm, stored, gap), slice(start, start + len(stored))
    for mode, layer, layers in plans:
        found = read_hiding(lm, context, stranger.ids, hidden, layers)
        yield {"mode": mode, "layer": layer, "distance": 0, "tokens": len(stranger), "bits": float(found.bits.sum()),
               "bits_nothing": float(without.bits.sum()),
               "same": int(np.sum(found.choices == without.choices))}  # fmt: skip


_MEASURES = {DISTANCE: _by_distance, LAYERS: _by_layer}
