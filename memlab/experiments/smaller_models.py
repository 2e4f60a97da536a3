"""Smaller models: what rounding, pruning and fewer layers do to perplexity, to stored vectors and to new ones.

The models, the predictions and the summary are in ``measures.smaller_models``. Texts: perplexity and stored vectors
are of the first texts of each kind; norms of inputs and changes of layers are measured on later ones.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.decoding.decode import fed_of, logits_stream
from memlab.errors import MemlabError
from memlab.experiments.landscape import information_capacity
from memlab.experiments.landscape.vectors import vector_of
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.landscape import edit_share
from memlab.measures.smaller_models import COLUMNS, HELD, SEARCH, TEXT, TRANSFER, VARIANTS, Variant
from memlab.measures.systems import ROWS
from memlab.models import FrozenLM, Passage, smaller
from memlab.probes.token_costs import gains, token_scores
from memlab.recipes import Recipe
from memlab.results.checks import EXACT, latest
from memlab.results.mem_vector import MemVector
from memlab.results.store import Store
from memlab.texts import load_texts
from memlab.training.cram import cram

PARTS = (TEXT, TRANSFER, SEARCH, HELD)
CALIBRATION = 256
"""Tokens of each later text on which norms and changes of layers are measured."""
PLAIN_BITS = 16
"""Bits of a weight that is not rounded."""


class NoModelError(MemlabError, LookupError):
    """A smaller model that cannot be made here. The message says what it needs."""

    exit_code = 2


Distil = Callable[[FrozenLM, FrozenLM], FrozenLM]
"""Trains a smaller model (second) to predict what the full model (first) predicts."""


@dataclass(frozen=True)
class Material:
    """What all models are measured on."""

    samples: Sequence[np.ndarray]
    """Token ids of texts, for the perplexity."""
    stored: Mapping[str, Sequence[MemVector]]
    """{kind of text: vectors of the full model}."""
    search: Mapping[str, Sequence[Passage]]
    """{kind of text: passages that a vector can hold}."""
    held: Mapping[str, Sequence[Passage]]
    """{kind of text: passages with more bits than a vector can hold}."""
    calibration: Sequence[np.ndarray]
    """Token ids of other texts."""
    search_steps: int = 200
    held_steps: int = 100


def material(lm: FrozenLM, shelf: Store, *, search_steps: int = 200, held_steps: int = 100) -> Material:
    """The passages of ``memlab bench smaller-models``: 12 texts, 24 stored vectors, 8 to search, 6 to fill vectors.

    New vectors are for 4 originals and 4 texts of random words of 64 tokens, and for 6 texts of random words of 128
    tokens: those have about 1,500 bits, more than a vector of the default model holds. ``shelf``: a store with vectors
    of the full model for the first 64 tokens of 12 originals and 12 texts of random words.
    """
    originals, random = load_texts("originals"), load_texts("random", count=ROWS)
    kinds = {"originals": originals[:ROWS], "random": random}
    short = {kind: [lm.passage(text, 64) for text in texts] for kind, texts in kinds.items()}
    return Material(
        samples=information_capacity.samples(lm, originals[:ROWS]),
        stored={kind: [vector_of(shelf, lm, p) for p in passages] for kind, passages in short.items()},
        search={kind: passages[:4] for kind, passages in short.items()},
        held={"random": [lm.passage(text, 128) for text in random[:6]]},
        calibration=[lm.passage(text, CALIBRATION).ids for text in originals[ROWS:]],
        search_steps=search_steps,
        held_steps=held_steps,
    )


@dataclass
class Maker:
    """Makes smaller models of one model. What they need of its activations is measured once."""

    lm: FrozenLM
    calibration: Sequence[np.ndarray]
    distil: Distil | None = None
    _seen: dict[str, Any] = field(default_factory=dict)

    def make(self, variant: Variant) -> FrozenLM:
        """The model of a variant. Raises ``NoModelError`` for a distilled one without ``distil``."""
        lm, name = self.lm, variant.name
        if variant.bits:
            return smaller.rounded(lm, variant.bits, shift=variant.shift, name=name)
        if variant.share:
            norms = self._once("norms", smaller.input_norms) if variant.by_effect else None
            return smaller.pruned(lm, variant.share, norms=norms, group=variant.group, name=name)
        if variant.early:
            count = lm.layers.count
            return smaller.without_layers(lm, range(count - variant.early, count), name=name)
        if not variant.fewer:
            return lm
        if variant.distilled and self.distil is None:
            raise NoModelError(f"{name} needs text to be trained on. Run `make corpus`, then try again.")
        changes = self._once("changes", smaller.layer_changes)
        fewer = smaller.without_layers(lm, smaller.least_changing(changes, variant.fewer), name=name)
        return self.distil(lm, fewer) if variant.distilled and self.distil else fewer

    def _once(self, what: str, measure: Callable[[FrozenLM, Sequence[np.ndarray]], Any]) -> Any:
        if what not in self._seen:
            self._seen[what] = measure(self.lm, self.calibration)
        return self._seen[what]


def smaller_models(
    session: Session,
    given: Material,
    variants: Sequence[Variant] = tuple(VARIANTS.values()),
    *,
    parts: Sequence[str] = PARTS,
    distil: Distil | None = None,
) -> pd.DataFrame:
    """The table with the columns ``measures.smaller_models.COLUMNS``: one row per model, part and passage.

    A part of a model that has rows in ``session.resume_from`` is not measured again, if the model that is made now is
    the same one. A model that cannot be made is left out, by name. New vectors go into ``session.store``, so a killed
    search goes on with the passages that are missing.
    """
    table = pd.DataFrame(columns=list(COLUMNS))
    if session.resume_from is not None and len(session.resume_from):
        require_columns(session.resume_from, COLUMNS)
        table = session.resume_from[list(COLUMNS)]
    maker = Maker(session.lm, given.calibration, distil)
    for variant in variants:
        missing = [part for part in parts if not _has(table, variant, part)]
        if not missing:
            continue
        try:
            model = maker.make(variant)
        except NoModelError as error:
            session.log(f"{variant.name} is left out: {error}")
            continue
        own = table[(table.model == variant.name) & (table.fingerprint != model.fingerprint)]
        if len(own):  # sums in another order can prune another weight
            session.log(f"{variant.name} is not the model of the earlier rows, so all of it is measured again")
            table = table.drop(own.index)
            missing = [part for part in parts if not _has(table, variant, part)]
        for part in missing:
            began = time.perf_counter()
            rows = _MEASURES[part](session, variant, model, given)
            each = (time.perf_counter() - began) / max(1, len(rows))
            fixed = {"model": variant.name, "kind": variant.kind, "part": part, "fingerprint": model.fingerprint,
                     "sink_prefix": str(list(model.sink_prefix)), "seconds": each}  # fmt: skip
            new = pd.DataFrame([row | fixed for row in rows]).reindex(columns=list(COLUMNS))
            table = _typed(pd.concat([part for part in (table, new) if len(part)], ignore_index=True))
            session.on_rows(table)
            session.log(f"{variant.name}: {part}: {each * len(rows):.0f} s")
    return table


def _has(table: pd.DataFrame, variant: Variant, part: str) -> bool:
    return bool(((table.model == variant.name) & (table.part == part)).any())


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """All columns of numbers as floats, so that a part which does not fill them does not change their type."""
    words = ("model", "kind", "part", "texts", "text_id", "sink_prefix", "fingerprint", "ids")
    return table.astype({name: float for name in COLUMNS if name not in words})


# The parts --------------------------------------------------------------------------------------------------------


def _text(session: Session, variant: Variant, model: FrozenLM, given: Material) -> list[dict[str, Any]]:
    row = information_capacity.row(model, given.samples)
    return [
        {name: row[name] for name in ("tokens", "text_bits", "code_bits", "flops")}
        | {"texts": "originals", "text_id": "", "stored_bits": stored_bits(variant, model), "weights": model.parameters}
    ]


def stored_bits(variant: Variant, model: FrozenLM) -> float:
    """Bits of all weights of a model: 16 for a weight that stays as it is.

    A rounded weight takes its bits, and its part of its block's scale and minimum, which are float16. A pruned matrix
    takes 16 bits for a weight that is left, and one bit per weight that says which are.
    """
    each = float(PLAIN_BITS)
    if variant.bits:
        each = variant.bits + 32 / smaller.BLOCK
    elif variant.share:
        each = PLAIN_BITS * (1 - variant.share) + 1
    inside = sum(m.weight.numel() for m in smaller.matrices(model.model, model.layers.path).values())
    return each * inside + PLAIN_BITS * (model.parameters - inside)


def _transfer(session: Session, variant: Variant, model: FrozenLM, given: Material) -> list[dict[str, Any]]:
    return [
        {"texts": kind, "text_id": mem.text.id, "tokens": mem.n} | moved(model, mem, other)
        for kind, mems in given.stored.items()
        for mem, other in zip(mems, [*mems[1:], mems[0]], strict=True)
    ]


def moved(model: FrozenLM, mem: MemVector, other: MemVector) -> dict[str, Any]:
    """What another model reads from a vector, float32, batch 1: costs of the text, and what it writes freely.

    ``other``: a vector of another passage with as many tokens, the control.
    """
    context, written = fed_of(model, [mem])
    with_mem, right = token_scores(model, mem.token_ids, context[0], written)
    fixed = torch.cat([model.embed(mem.prefix_ids), model.embed(mem.suffix_ids)])
    without, _ = token_scores(model, mem.token_ids, fixed)
    context, written = fed_of(model, [other])
    shuffled, _ = token_scores(model, mem.token_ids, context[0], written)
    steps = itertools.islice(logits_stream(model, [mem], "float32"), mem.n)
    ids = np.array([int(logits.argmax(-1)) for logits in steps])
    wrong = np.flatnonzero(ids != mem.token_ids)
    costs = {"bits_with": with_mem, "bits_without": without, "bits_shuffled": shuffled}
    scored = np.isfinite(without)
    return {name: float(bits[scored].sum()) for name, bits in costs.items()} | {
        "exact": not len(wrong),
        "exact_prefix": int(wrong[0]) if len(wrong) else mem.n,
        "right": int(right.sum()),
        "edit": edit_share(mem.token_ids, ids),
        "ids": ids.tolist(),
    }


def _search(session: Session, variant: Variant, model: FrozenLM, given: Material) -> list[dict[str, Any]]:
    return _new_vectors(session, model, given.search, given.search_steps)


def _held(session: Session, variant: Variant, model: FrozenLM, given: Material) -> list[dict[str, Any]]:
    return _new_vectors(session, model, given.held, given.held_steps)


def _new_vectors(
    session: Session, model: FrozenLM, passages: Mapping[str, Sequence[Passage]], steps: int
) -> list[dict[str, Any]]:
    kinds = [kind for kind, some in passages.items() for _ in some]
    recipe = Recipe.default(budget=steps)
    mems = cram(
        model, [p for some in passages.values() for p in some], recipe, session.store, progress=session.progress
    )
    costs = gains(model, mems)
    rows = []
    for kind, mem, cost in zip(kinds, mems, costs.itertuples(), strict=True):
        wrong = latest(mem.checks)[EXACT].first_wrong
        rows.append(
            {"texts": kind, "text_id": mem.text.id, "tokens": mem.n, "exact": mem.exact, "steps": mem.steps,
             "exact_prefix": mem.n if wrong is None else wrong,
             "bits_with": cost.bits_with, "bits_without": cost.bits_without}
        )  # fmt: skip
    return rows


_MEASURES: dict[str, Callable[[Session, Variant, FrozenLM, Material], list[dict[str, Any]]]] = {
    TEXT: _text,
    TRANSFER: _transfer,
    SEARCH: _search,
    HELD: _held,
}
