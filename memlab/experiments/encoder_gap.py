"""What a trained encoder reaches on a passage, what the search reaches, and what lies between, in three units.

1. In tokens: the exact horizon of the search against the encoder's exact prefix.
2. In bits: what the search takes off at most against what the encoder's vectors take off.
3. In steps: the step at which the cold search, which starts from noise, has the encoder's loss.

What was expected is in ``measures.encoder_predictions``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.experiments.landscape.method import Context
from memlab.experiments.landscape.reading import token_bits
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.encoder_gap import COLUMNS, steps_to_loss
from memlab.models import FrozenLM, Passage
from memlab.probes.token_costs import own_bits
from memlab.recipes import Recipe
from memlab.results.mem_vector import MemVector
from memlab.texts import Text
from memlab.training.cram import Progress, cram
from memlab.training.encoders import Encoder

TASKS = ((8, 1), (16, 1), (32, 1), (64, 1), (16, 4), (16, 8), (64, 8))
"""(tokens, vectors) that are measured: those that the default encoder is trained for."""


@dataclass
class Search:
    """A search from noise or from given vectors, and its loss before each step, bits per token."""

    mem: MemVector
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """Mean over the passages that were searched together."""


def started(
    lm: FrozenLM, passages: Sequence[Passage], recipe: Recipe, starts: Sequence[torch.Tensor | np.ndarray]
) -> list[MemVector]:
    """A result without a step per passage, with the vectors ``starts`` (k, d): what ``cram`` takes as its ``start``."""
    noise = cram(lm, list(passages), recipe.replace(budget=0), progress=False)
    return [
        mem.with_mem(np.asarray(start, np.float32), "start of a search")
        for mem, start in zip(noise, starts, strict=True)
    ]


def searches(
    lm: FrozenLM,
    passages: Sequence[Passage],
    recipe: Recipe,
    starts: Sequence[torch.Tensor | np.ndarray] | None = None,
) -> list[Search]:
    """Search all passages together, each from its start (k, d), or from noise. Nothing is stored.

    A start has no schedule behind it: the first turn has the angle ``recipe.lr``.
    """
    parents = None if starts is None else started(lm, passages, recipe, starts)
    losses: list[dict[int, float]] = [{} for _ in passages]

    def keep(now: Progress) -> None:
        for passage, step, bits in zip(now.passages, now.steps, now.loss_bits, strict=True):
            losses[passage][step] = bits

    began = time.perf_counter()
    mems = cram(lm, list(passages), recipe, start=parents, progress=False, on_step=keep)
    seconds = (time.perf_counter() - began) / max(1, len(mems))
    found = []
    for mem, of in zip(mems, losses, strict=True):
        known = dict(zip(mem.trace["step"], np.asarray(mem.trace["loss"], float), strict=True)) | of
        steps = sorted(known)
        found.append(
            Search(mem, np.interp(np.arange(steps[-1] + 1), steps, [known[s] for s in steps]).tolist(), seconds)
        )
    return found


def encoder_gap(
    session: Session,
    texts: Mapping[str, Sequence[Text]],
    encoders: Mapping[str, Encoder],
    *,
    constant: Encoder | None = None,
    tasks: Sequence[tuple[int, int]] = TASKS,
    recipe: Recipe | None = None,
) -> pd.DataFrame:
    """One row per encoder, task and passage, with the columns ``measures.encoder_gap.COLUMNS``.

    ``texts``: {kind: at least two texts}. Passages are the first tokens of each. Each passage is searched once per k,
    whatever the number of encoders. Rows of ``session.resume_from`` are not measured again.
    """
    lm = session.lm
    table = session.resume_from if session.resume_from is not None else pd.DataFrame(columns=list(COLUMNS))
    require_columns(table, COLUMNS)
    recipe = recipe or Recipe.default()
    for n, k in tasks:
        for kind, some in texts.items():
            here = table[(table.texts == kind) & (table.tokens == n) & (table.k == k)]
            passages = [lm.passage(text, n) for text in some]
            ids = {p.span.id for p in passages}
            missing = {name: e for name, e in encoders.items() if ids - set(here.text_id[here.encoder == name])}
            if not missing:
                continue
            found = searches(lm, passages, recipe.replace(k=k))
            rows = [
                row for name, encoder in missing.items() for row in _rows(encoder, name, passages, k, found, constant)
            ]
            new = pd.DataFrame(rows).assign(texts=kind, model=lm.name)[list(COLUMNS)]
            repeated = (table.texts == kind) & (table.tokens == n) & (table.k == k) & table.encoder.isin(list(missing))
            table = pd.concat([table[~repeated], new], ignore_index=True) if len(table) else new
            session.on_rows(table)
            session.log(
                f"{n} -> {k} {kind}: {1 - new.bits_with.sum() / new.bits_without.sum():.1%} recovered, "
                f"search of {new.search_steps.median():.0f} steps, {found[0].seconds:.1f} s a passage"
            )
    return table


def _rows(
    encoder: Encoder, name: str, passages: Sequence[Passage], k: int, found: Sequence[Search], constant: Encoder | None
) -> list[dict[str, Any]]:
    lm, vectors, seconds = encoder.lm, [], []
    for passage in passages:
        began = time.perf_counter()
        vectors.append(encoder.encode(passage.ids, k))
        seconds.append(time.perf_counter() - began)
    rows = []
    for i, (passage, search) in enumerate(zip(passages, found, strict=True)):
        bits, right = token_bits(lm, Context(vectors[i]), passage.ids, ())
        shuffled = token_bits(lm, Context(vectors[(i + 1) % len(vectors)]), passage.ids, ())[0].sum()
        steady = np.nan
        if constant is not None:
            steady = float(token_bits(lm, Context(constant.encode(passage.ids, k)), passage.ids, ())[0].sum())
        held = token_bits(lm, Context(torch.from_numpy(search.mem.mem.copy())), passage.ids, ())[0].sum()
        rows.append(
            {
                "text_id": passage.span.id,
                "tokens": len(passage),
                "k": k,
                "encoder": name,
                "bits_without": float(own_bits(lm, passage.ids).sum()),
                "bits_with": float(bits.sum()),
                "bits_shuffled": float(shuffled),
                "bits_constant": steady,
                "right": int(right.sum()),
                "exact_prefix": len(passage) if right.all() else int(right.argmin()),
                "search_bits": float(held),
                "search_steps": search.mem.steps,
                "search_exact": search.mem.exact,
                "steps_to_loss": steps_to_loss(search.losses, float(bits.sum()) / len(passage)),
                "seconds_encode": seconds[i],
                "seconds_search": search.seconds,
            }
        )
    return rows
