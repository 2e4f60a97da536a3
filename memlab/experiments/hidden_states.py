"""Inside the model: the vector's position layer by layer, and states of one run that are put into another.

Three parts, each with controls:

- **slot**: the hidden state of the vector's position: how far it is from its input, from the state of another solution
  of the same passage, and from that of another passage's vector; what the logit lens sees in it.
- **text**: at which layer the text's next token leads, behind the vector and behind nothing.
- **patch**: the state of the vector's position at one layer is exchanged for another run's (activation patching), and
  the text is read. If the state of another solution does, the layers above need only what both have in common.

Two vectors per passage: two seeds of the default recipe. The published control is a vector of ``paper2025``
(arXiv 2502.13063), if the shelf has one. What was expected is in ``measures.hidden_states``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import context_of
from memlab.experiments.conditions import random_like, results_of
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.hidden_states import (
    COLUMNS,
    NOTHING,
    OTHER,
    OWN,
    PATCH,
    PUBLISHED,
    RANDOM,
    SLOT,
    STRANGER,
    TEXT,
    VECTOR,
)
from memlab.models import FrozenLM, Passage
from memlab.probes.hidden_states import lens, likeliest, patched, stream
from memlab.recipes import Recipe
from memlab.results.store import Store
from memlab.texts import Text
from memlab.training.cram import key_of


@dataclass(frozen=True)
class _Run:
    """A passage read behind something. ``states``: (layers + 1, c + n - 1, d)."""

    context: torch.Tensor
    slot: int
    """The vector's position."""
    states: torch.Tensor

    @property
    def here(self) -> torch.Tensor:
        """(layers + 1, d): the states of the vector's position."""
        return self.states[:, self.slot]


def hidden_states(
    session: Session, texts: Sequence[Text], *, tokens: int = 32, seeds: tuple[int, int] = (0, 1), shelf: Store | None
) -> pd.DataFrame:
    """The table with the columns ``measures.hidden_states.COLUMNS``. ``texts``: at least two.

    ``shelf``: a store that may have the vectors. A text with rows in ``session.resume_from`` is not measured again.
    """
    lm, table = session.lm, pd.DataFrame(columns=list(COLUMNS))
    if session.resume_from is not None and len(session.resume_from):
        require_columns(session.resume_from, COLUMNS)
        table = session.resume_from[list(COLUMNS)]
    passages = [lm.passage(text, tokens) for text in texts]
    first, second = (results_of(session, passages, Recipe.default(seed=seed), shelf) for seed in seeds)
    contexts = [[context_of(lm, mem) for mem in mems] for mems in (first, second)]
    slot = len(first[0].prefix_ids)
    for i, (text, passage) in enumerate(zip(texts, passages, strict=True)):
        if passage.span.id in set(table.text_id):
            continue
        j = (i + 1) % len(passages)
        own = _run(lm, contexts[0][i], passage, slot)
        other = _run(lm, contexts[1][i], passage, slot)
        stranger = _run(lm, contexts[0][j], passages[j], slot)
        drawn = torch.cat([own.context[:slot], random_like(own.context[slot:], passage.ids)])
        random = _run(lm, drawn, passage, slot)
        nothing = _run(lm, own.context[:slot], passage, slot)
        rows = _slot(lm, VECTOR, own, other, stranger, passage, passages[j])
        rows += _slot(lm, RANDOM, random, None, None, passage, passages[j])
        rows += _text(lm, VECTOR, own, passage) + _text(lm, RANDOM, random, passage)
        rows += _text(lm, NOTHING, nothing, passage)
        published = _published(lm, passage, shelf)
        if published is not None:
            rows += _slot(lm, PUBLISHED, published, None, None, passage, passages[j])
            rows += _text(lm, PUBLISHED, published, passage)
        for source, run, its in (
            (OWN, own, None), (OTHER, other, None), (STRANGER, stranger, passages[j]), (RANDOM, random, None),
        ):  # fmt: skip
            rows += _patch(lm, own, source, run, passage, its)
        fixed = {"text_id": passage.span.id, "texts": text.kind, "model": lm.name}
        new = _typed(pd.DataFrame([row | fixed for row in rows]).reindex(columns=list(COLUMNS)))
        table = pd.concat([table, new], ignore_index=True) if len(table) else new
        session.on_rows(table)
        session.log(f"{passage.span.id}: {len(rows)} rows")
    return table


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    words = ("part", "condition", "source", "text_id", "texts", "model")
    filled = {name: table[name].astype(object).where(table[name].notna(), "") for name in words}
    return table.assign(**filled).astype({"layer": int} | {n: float for n in COLUMNS if n not in (*words, "layer")})


def _run(lm: FrozenLM, context: torch.Tensor, passage: Passage, slot: int) -> _Run:
    return _Run(context, slot, stream(lm, context, passage.ids))


def _published(lm: FrozenLM, passage: Passage, shelf: Store | None) -> _Run | None:
    """The passage read behind a vector of the published recipe, if the shelf has one."""
    key = key_of(lm, passage, Recipe.paper2025())
    if shelf is None or key not in shelf:
        return None
    mem = shelf.get(key)
    return _run(lm, context_of(lm, mem), passage, len(mem.prefix_ids))


# The parts --------------------------------------------------------------------------------------------------------


def _slot(
    lm: FrozenLM, condition: str, run: _Run, other: _Run | None, stranger: _Run | None, passage: Passage, its: Passage
) -> list[dict[str, Any]]:
    found = lens(lm, run.here[:, None], passage.ids[:1])
    both = set(passage.ids.tolist()) & set(its.ids.tolist())
    own_words, its_words = set(passage.ids.tolist()) - both, set(its.ids.tolist()) - both
    seen = likeliest(lm, run.here, max(len(own_words), len(its_words)))
    rows = []
    for layer, state in enumerate(run.here):
        rows.append(
            {
                "part": SLOT,
                "condition": condition,
                "layer": layer,
                "norm": float(state.norm()),
                "with_input": _cosine(state, run.here[0]),
                "with_other": np.nan if other is None else _cosine(state, other.here[layer]),
                "with_stranger": np.nan if stranger is None else _cosine(state, stranger.here[layer]),
                "first_rank": int(found.rank[layer, 0]),
                "words": _share(seen[layer], own_words),
                "words_stranger": _share(seen[layer], its_words),
            }
        )
    return rows


def _share(ids: np.ndarray, words: set[int]) -> float:
    """Share of ``words`` among as many of the first ``ids``."""
    return len(words & set(ids[: len(words)].tolist())) / len(words)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def _text(lm: FrozenLM, condition: str, run: _Run, passage: Passage) -> list[dict[str, Any]]:
    scored = min(len(passage), run.states.shape[1])  # what nothing precedes cannot be read
    found = lens(lm, run.states[:, -scored:], passage.ids[-scored:])
    return [
        {"part": TEXT, "condition": condition, "layer": layer, "bits": found.bits[layer].mean(),
         "right": (found.rank[layer] == 1).mean()}
        for layer in range(len(found.bits))
    ]  # fmt: skip


def _patch(
    lm: FrozenLM, own: _Run, source: str, run: _Run, passage: Passage, its: Passage | None
) -> list[dict[str, Any]]:
    """The passage, and that of the source, read while the source's state stands at one layer's input."""
    rows = []
    for layer in range(len(own.here) - 1):
        state = run.here[layer][None]
        bits, right = patched(lm, own.context, passage.ids, state, own.slot, layer)
        row = {"part": PATCH, "condition": VECTOR, "source": source, "layer": layer, "bits": bits.mean()}
        row |= {"right": right.mean()}
        if its is not None:
            bits, right = patched(lm, own.context, its.ids, state, own.slot, layer)
            row |= {"source_bits": bits.mean(), "source_right": right.mean()}
        rows.append(row)
    return rows
