"""Measures methods: what they store of each passage, and what a reader recovers from it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.errors import MemlabError
from memlab.experiments.landscape import reading
from memlab.experiments.landscape.bits import stored_bits
from memlab.experiments.landscape.method import Context, LandscapeError, Method
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.landscape import COLUMNS, edit_share
from memlab.measures.systems import SAMPLED
from memlab.models import FrozenLM, Passage
from memlab.probes.token_costs import own_bits
from memlab.recipes import Recipe
from memlab.results.store import Store
from memlab.training.cram import cram

CUES = ("", "\n", "\n\n", "\nThe same text again:\n", "\nRepeat the text above, word for word:\n")
"""Words between a stored text, or its cache, and the passage that the reader writes."""

OTHERS = 24
"""Vectors of sampled passages that are in no row."""


def choose_cue(lm: FrozenLM, passages: Sequence[Passage]) -> str:
    """The cue of ``CUES`` after which these passages, read in full before it, are cheapest to the model.

    Choose it on passages that are in no row. A model without a tokenizer has no cue.
    """
    if lm.tokenizer is None:
        return ""
    costs = {
        cue: sum(
            float(reading.token_bits(lm, Context(lm.embed(p.ids)), p.ids, cue_ids(lm, cue))[0].sum()) for p in passages
        )
        for cue in CUES
    }
    return min(costs, key=lambda cue: costs[cue])


def cue_ids(lm: FrozenLM, cue: str) -> tuple[int, ...]:
    """Token ids of a cue. It may be white space only, which is no passage."""
    return tuple(int(i) for i in lm.tokenizer(cue, add_special_tokens=False)["input_ids"]) if cue else ()


def landscape(
    session: Session, texts: Mapping[str, Sequence[Passage]], methods: Sequence[Method], *, cue: str, write: bool = True
) -> pd.DataFrame:
    """One row per method and passage, with the columns ``measures.landscape.COLUMNS``.

    ``texts``: {kind of text: passages}, at least two passages of a kind, because the control reads what was stored of
    the next one. Rows of ``session.resume_from`` are not measured again. A passage that a method cannot store is left
    out, and the log says why. Without ``write`` readers write no text, so ``edit`` and ``ids`` are empty.
    """
    earlier = session.resume_from if session.resume_from is not None else pd.DataFrame(columns=list(COLUMNS))
    require_columns(earlier, COLUMNS)
    for kind, passages in texts.items():
        if len(passages) < 2:
            raise LandscapeError(f"{kind} has {len(passages)} passages, and the control needs another. Give two.")
    table = earlier
    for method in methods:
        for kind, passages in texts.items():
            done = set(table.text_id[(table.method == method.name) & (table.texts == kind)])
            if done >= {passage.span.id for passage in passages}:
                continue
            started = time.perf_counter()
            rows = _rows(session, method, kind, passages, cue, write)
            if rows:
                new = pd.DataFrame(rows, columns=list(COLUMNS))
                kept = table[~((table.method == method.name) & (table.texts == kind))]
                table = pd.concat([kept, new], ignore_index=True) if len(kept) else new
                session.on_rows(table)
            session.log(
                f"{method.family} {method.name}: {len(rows)} of {len(passages)} {kind} passages, "
                f"{time.perf_counter() - started:.0f} s"
            )
    return table


def _rows(
    session: Session, method: Method, kind: str, passages: Sequence[Passage], cue: str, write: bool
) -> list[dict[str, Any]]:
    lm = session.lm
    method = method.with_cue(cue)
    between = cue_ids(lm, cue) if method.cued else ()
    stored: list[tuple[Passage, bytes, Context, float, float]] = []
    for passage in passages:
        started = time.perf_counter()
        try:
            data = method.store(lm, passage)
        except MemlabError as error:
            session.log(f"{method.name}: {passage.span.id} is left out. {error}")
            continue
        read = time.perf_counter()
        context = method.context(lm, data, len(passage))
        stored.append((passage, data, context, read - started, time.perf_counter() - read))
    if not stored:
        return []
    readers = [context for _, _, context, *_ in stored]
    tokens = len(passages[0])
    if write and all(context.found is None for context in readers):
        ids = reading.written(lm, readers, tokens, [between] * len(readers))
    else:
        ids = [np.empty(0, np.int64)] * len(readers)
    rows = []
    for i, (passage, data, context, to_store, to_read) in enumerate(stored):
        other = readers[(i + 1) % len(readers)] if len(readers) > 1 else None
        rows.append(
            _row(lm, method, passage, context, other, between)
            | {
                "texts": kind,
                "stored_bits": stored_bits(data, fixed_size=method.fixed_size),
                "cue": cue if method.cued else "",
                "edit": edit_share(passage.ids, ids[i]) if write else np.nan,
                "ids": ids[i].tolist(),
                "seconds_store": to_store,
                "seconds_read": to_read,
            }
        )
    return rows


def _row(
    lm: FrozenLM, method: Method, passage: Passage, context: Context, other: Context | None, cue: Sequence[int]
) -> dict[str, Any]:
    without = float(own_bits(lm, passage.ids).sum())
    if context.found is not None:
        cost, shuffled = without - context.found(passage.ids), np.nan
        right = np.zeros(len(passage), bool)
        if other is not None and other.found is not None:
            shuffled = without - other.found(passage.ids)
    else:
        bits, right = reading.token_bits(lm, context, passage.ids, cue)
        cost = float(bits.sum())
        shuffled = np.nan if other is None else float(reading.token_bits(lm, other, passage.ids, cue)[0].sum())
    prefix = len(passage) if right.all() else int(right.argmin())
    exact = bool(right.all()) and np.array_equal(reading.written(lm, [context], len(passage), [cue])[0], passage.ids)
    return {
        "method": method.name,
        "system": method.system,
        "family": method.family,
        "text_id": passage.span.id,
        "tokens": len(passage),
        "shared_bits": float(getattr(method, "shared_bits", 0)),
        "decoder": method.decoder,
        "sees": method.sees,
        "bits_without": without,
        "bits_with": cost,
        "bits_shuffled": shuffled,
        "right": int(right.sum()),
        "exact_prefix": prefix,
        "exact": exact,
        "model": lm.name,
        "detail": json.dumps(dict(method.detail), sort_keys=True),
    }


def sampled_shelf(lm: FrozenLM, passages: Sequence[Passage], store: Store) -> None:
    """Trains a vector per sampled passage into a store, and ``OTHERS`` more for what codebooks learn from.

    A passage whose vector is not exact gets four.
    """
    others = sampled_passages(lm, OTHERS, len(passages[0]), seed=1, name="other")
    mems = cram(lm, [*passages, *others], Recipe.default(), store=store, progress=False)
    if left := [passage for passage, mem in zip(passages, mems[: len(passages)], strict=True) if not mem.exact]:
        cram(lm, left, Recipe.default(k=4), store=store, progress=False)


@torch.no_grad()
def sampled_passages(lm: FrozenLM, count: int, tokens: int, *, seed: int = 0, name: str = SAMPLED) -> list[Passage]:
    """Passages that the model itself wrote: sampled at temperature 1 from its whole vocabulary, after its sink prefix.

    On these, no method can recover more bits than it stores, on average.
    """
    generator = torch.Generator(lm.device).manual_seed(seed)
    if lm.sink_prefix:
        first = torch.tensor([list(lm.sink_prefix)] * count, device=lm.device)
        logits, cache = lm.step(torch.float32, ids=first)
    else:  # without context the first token is one of the vocabulary, all equally likely
        logits, cache = torch.zeros(count, lm.vocabulary, device=lm.device), None
    columns = []
    for _ in range(tokens):
        columns.append(torch.multinomial(torch.softmax(logits.double(), -1), 1, generator=generator))
        logits, cache = lm.step(torch.float32, ids=columns[-1], cache=cache)
    ids = torch.cat(columns, 1).cpu().numpy()
    return [lm.passage_of_ids(row, name=f"{name}-{i}") for i, row in enumerate(ids)]
