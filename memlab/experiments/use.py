"""What a vector is good for besides its own text, with controls: four parts, each asked behind every condition.

1. Continuation: what the true next tokens of a text cost behind its vector and the text, and behind the vector alone.
2. Cloze: sentences about a passage that lack their last word.
3. Instructions before and behind the vector: repeat, backwards, the first sentence, the third word.
4. Identification: which of 32 passages, and which of their topics, the vector speaks for.

The conditions are those of ``conditions``: the vector, another passage's, a random one, the text itself, and nothing.
What was expected is in ``measures.use_predictions``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from memlab.experiments import use_tasks as tasks
from memlab.experiments.conditions import (
    Condition,
    conditions,
    context_of,
    ids_of,
    random_like,
    read,
    read_many,
    trained_vectors,
)
from memlab.experiments.landscape.method import Context
from memlab.experiments.landscape.reading import written
from memlab.experiments.session import Session
from memlab.experiments.tables import require_columns
from memlab.measures.retrieval import ranks
from memlab.measures.use import (
    CLOZE,
    COLUMNS,
    CONTINUATION,
    IDENTIFICATION,
    INSTRUCTIONS,
    NOTHING,
    PARTS,
    RANDOM,
    TEXT,
    VECTOR,
)
from memlab.models import FrozenLM, Passage, PassageError
from memlab.results.store import Store
from memlab.texts import Text
from memlab.training.encoders import Encoder

KS = (1, 2, 4)
"""Numbers of vectors that are measured."""
RECITED = 8
"""Tokens at the start of an answer that show whether the model recites the passage."""
WROTE = 24
"""Tokens of an answer that are written freely. An output that may be the wanted one is written to its end."""
AHEAD = 32
"""Tokens of a text behind its passage whose cost is measured."""


@dataclass
class Material:
    """The passages, and what is asked about them."""

    lm: FrozenLM
    passages: Sequence[Passage]
    ahead: Sequence[np.ndarray]
    """Per passage the ids (m,) of the true next tokens of its text."""
    questions: Sequence[tasks.Question]
    candidates: Sequence[Passage]
    """The passages first, then others of the same length, for the identification."""
    topics: Sequence[str]
    """What each candidate is about."""
    _own: dict[tuple[bytes, ...], np.ndarray] = field(default_factory=dict)

    def gains(self, context: np.ndarray, costs: np.ndarray, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Bits (c,) that a condition saves of each text, against nothing. ``context``: ids behind the condition."""
        name = (context.tobytes(), *(ids.tobytes() for ids in texts))
        if name not in self._own:
            found = read_many(self.lm, context_of(self.lm, context), texts)
            self._own[name] = np.array([reading.bits.sum() for reading in found])
        return self._own[name] - costs


def material(
    lm: FrozenLM,
    texts: Sequence[Text],
    others: Sequence[Text],
    *,
    tokens: int = 64,
    ahead: int = AHEAD,
    asked: Sequence[tasks.Question] | None = None,
) -> Material:
    """What is asked about the first ``tokens`` tokens of ``texts``. ``others``: more texts, for the identification.

    Questions whose answer is no word of the passage are left out. Raises ``PassageError`` for a text that is too short.
    """
    passages = [lm.passage(text, tokens) for text in texts]
    longer = [lm.passage(text, len(p) + ahead) for text, p in zip(texts, passages, strict=True)]
    for passage, more in zip(passages, longer, strict=True):
        if len(more) <= len(passage) or not np.array_equal(more.ids[: len(passage)], passage.ids):
            raise PassageError(f"Text {passage.span.id!r} has other tokens if more of it is read. Give other tokens.")
    strings = {passage.span.id: passage.string for passage in passages}
    known = tasks.questions() if asked is None else asked
    return Material(
        lm, passages, [more.ids[len(p) :] for p, more in zip(passages, longer, strict=True)],
        [q for q in known if q.answer in strings.get(q.text, "")],
        [*passages, *(lm.passage(text, tokens) for text in others)],
        [tasks.topic(text) for text in (*texts, *others)],
    )  # fmt: skip


def use(
    session: Session,
    given: Material,
    *,
    ks: Sequence[int] = KS,
    shelf: Store | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    parts: Sequence[str] = tuple(PARTS),
) -> pd.DataFrame:
    """The table with the columns ``measures.use.COLUMNS``.

    ``shelf``: a store that may have the vectors of the passages. Others are trained into ``session.store``. A part,
    item and condition that has rows of all passages in ``session.resume_from`` is not measured again.
    """
    table = pd.DataFrame(columns=list(COLUMNS))
    if session.resume_from is not None and len(session.resume_from):
        require_columns(session.resume_from, COLUMNS)
        table = session.resume_from[list(COLUMNS)]
    vectors = trained_vectors(session, given.passages, ks, shelf)
    items = [(part, item) for part in parts for item in PARTS[part]]
    for condition in conditions(session.lm, given.passages, vectors, encoders):
        for part, item in items:
            same = (table.part == part) & (table["item"] == item) & (table.condition == condition.name)
            same &= table.k == condition.k
            if {p.span.id for p in _asked(given, part, item)} <= set(table.text_id[same]):
                continue
            began = time.perf_counter()
            rows = _MEASURES[part](given, item, condition)
            fixed = {
                "part": part,
                "item": item,
                "condition": condition.name,
                "k": condition.k,
                "model": session.lm.name,
            }
            new = _typed(pd.DataFrame([row | fixed for row in rows]).reindex(columns=list(COLUMNS)))
            table = pd.concat([table[~same], new], ignore_index=True) if len(table) else new
            session.on_rows(table)
            name = f"{condition.name}, k = {condition.k}" if condition.k else condition.name
            session.log(f"{name}: {part}, {item}: {time.perf_counter() - began:.1f} s")
    return table


def _asked(given: Material, part: str, item: str) -> list[Passage]:
    """The passages of which a part has rows."""
    ids = {q.text for q in given.questions if q.kind == item}
    return [p for p in given.passages if part != CLOZE or p.span.id in ids]


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """All columns of numbers as floats, so that a part which does not fill them does not change their type."""
    words = ("part", "item", "condition", "text_id", "position", "words", "wrote", "model")
    numbers = [name for name in COLUMNS if name not in (*words, "k", "held_out")]
    filled = {name: table[name].astype(object).where(table[name].notna(), "") for name in words}
    held = table.held_out.astype(object).where(table.held_out.notna(), False).astype(bool)
    return table.assign(**filled, held_out=held).astype({"k": int, **dict.fromkeys(numbers, float)})


# The parts --------------------------------------------------------------------------------------------------------


def _continuation(given: Material, item: str, condition: Condition) -> list[dict[str, Any]]:
    rows = []
    for passage, ahead, stored in zip(given.passages, given.ahead, condition.rows, strict=True):
        between = passage.ids if item == "after its text" else passage.ids[:0]
        found = read(given.lm, context_of(given.lm, stored, between), ahead)
        right = int(found.right(ahead).sum())
        rows.append({"text_id": passage.span.id, "tokens": len(ahead), "bits": found.bits.sum(), "right": right})
    return rows


def _cloze(given: Material, item: str, condition: Condition) -> list[dict[str, Any]]:
    lm, rows = given.lm, []
    stored = {p.span.id: vectors for p, vectors in zip(given.passages, condition.rows, strict=True)}
    for question in given.questions:
        if question.kind != item:
            continue
        answers = [question.answer, *tasks.rivals(list(given.questions), question)]
        cue = ids_of(lm, tasks.GAP + question.question)
        choice = _choice(given, stored[question.text], cue, [ids_of(lm, f" {answer}") for answer in answers], 0)
        rows.append({"text_id": question.text, "words": f"{question.question} {question.answer}"} | choice)
    return rows


def _identification(given: Material, item: str, condition: Condition) -> list[dict[str, Any]]:
    lm = given.lm
    if item == "passage":
        cue, texts = np.zeros(0, np.int64), [p.ids for p in given.candidates]
    else:
        cue, texts = ids_of(lm, tasks.GAP + tasks.TOPIC), [ids_of(lm, f" {topic}") for topic in given.topics]
    return [
        {"text_id": passage.span.id} | _choice(given, stored, cue, texts, i)
        for i, (passage, stored) in enumerate(zip(given.passages, condition.rows, strict=True))
    ]


def _choice(given: Material, stored: Any, cue: np.ndarray, texts: Sequence[np.ndarray], right: int) -> dict[str, Any]:
    """What text number ``right`` costs behind what is stored and a cue, and its place among the texts."""
    found = read_many(given.lm, context_of(given.lm, stored, cue), texts)
    costs = np.array([reading.bits.sum() for reading in found])
    # Rounding must not make a place where nothing is saved.
    gains = np.round(given.gains(cue, costs, texts), 4)
    return {
        "tokens": len(texts[right]), "bits": costs[right], "among": len(texts),
        "right": int(found[right].right(texts[right]).sum()),
        "rank": ranks(-costs[None], [right])[0], "gain_rank": ranks(gains[None], [right])[0],
    }  # fmt: skip


def output(lm: FrozenLM, task: str, passage: Passage) -> np.ndarray:
    """Token ids (m,) of what a model writes that obeys an instruction of ``use_tasks.TASKS``."""
    return passage.ids if task == "repeat" else ids_of(lm, tasks.wanted(task, passage.string))


def obeyed(lm: FrozenLM, task: str, ids: np.ndarray, wrote: np.ndarray) -> bool:
    """Whether an answer is the wanted output ``ids``, and ends there if the task is shorter than the passage.

    ``wrote``: at least one token more than ``ids``.
    """
    ended = task not in tasks.SHORTER or tasks.ends(lm, int(wrote[len(ids)]))
    return bool(np.array_equal(wrote[: len(ids)], ids) and ended)


def answers(
    lm: FrozenLM, vectors: torch.Tensor, passage: Passage, words: tuple[str, str], tokens: int
) -> dict[str, np.ndarray]:
    """{condition: what the model writes, ids (tokens,)}: behind the vectors (k, d), random ones, the text, and nothing.

    ``words``: those before and after what stands in the context, see ``use_tasks.around``. Greedy, in float32.
    """
    empty = lm.embed(passage.ids[:0]).reshape(0, lm.d)
    rows = {
        VECTOR: vectors.to(lm.device), RANDOM: random_like(vectors, passage.ids).to(lm.device),
        TEXT: lm.embed(passage.ids), NOTHING: empty,
    }  # fmt: skip
    held = [_held(lm, _standing(lm, words, row)) for row in rows.values()]
    return dict(zip(rows, written(lm, held, tokens, [()] * len(held)), strict=True))


def _standing(lm: FrozenLM, words: tuple[str, str], stored: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of the context: words, what is stored, words."""
    before, after = (lm.embed(ids_of(lm, part)).reshape(-1, lm.d) for part in words)
    return before, stored, after


def _held(lm: FrozenLM, parts: Sequence[torch.Tensor]) -> Context:
    """The same as the context of a free decode, which adds the sink prefix itself."""
    return Context(context_of(lm, *parts)[len(lm.sink_prefix) :])


def _instructions(given: Material, item: str, condition: Condition) -> list[dict[str, Any]]:
    # Up to the first wrong token, a pass over the wanted output and the free decode agree. So only an output without a
    # wrong token is decoded to its end.
    lm, rows = given.lm, []
    outputs = [output(lm, item, passage) for passage in given.passages]
    for instruction in (i for i in tasks.INSTRUCTIONS if i.task == item):
        for position in tasks.POSITIONS:
            words = tasks.around(lm.tokenizer, position, instruction.words)
            if words is None:
                continue
            stands = [_standing(lm, words, stored) for stored in condition.rows]
            found = [read(lm, context_of(lm, *parts), ids) for parts, ids in zip(stands, outputs, strict=True)]
            held = [_held(lm, parts) for parts in stands]
            decoded = written(lm, held, WROTE, [()] * len(held))
            for i, (passage, ids, reading) in enumerate(zip(given.passages, outputs, found, strict=True)):
                hits, wrote = reading.right(ids), decoded[i]
                if hits.all() and len(ids) >= len(wrote):
                    (wrote,) = written(lm, [held[i]], len(ids) + 1, [()])
                rows.append(
                    {"text_id": passage.span.id, "position": position, "words": instruction.words,
                     "held_out": instruction.held_out, "tokens": len(ids), "bits": reading.bits.sum(),
                     "right": int(hits.sum()), "begun": len(ids) if hits.all() else int(hits.argmin()),
                     "obeyed": float(hits.all() and obeyed(lm, item, ids, wrote)),
                     "recites": float(np.array_equal(wrote[:RECITED], passage.ids[:RECITED])),
                     "wrote": lm.decode_ids(wrote)}
                )  # fmt: skip
    return rows


_MEASURES: dict[str, Callable[[Material, str, Condition], list[dict[str, Any]]]] = {
    CONTINUATION: _continuation,
    CLOZE: _cloze,
    INSTRUCTIONS: _instructions,
    IDENTIFICATION: _identification,
}
