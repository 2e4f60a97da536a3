"""What a model is asked about a passage: cloze questions, instructions in several wordings, and topics.

The questions are in ``data/texts/cloze.json``. They were written for memlab, as the texts were. Each answer is a word
of the first 64 tokens of its text, as the default model's tokenizer cuts them.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import Any

from memlab.models import FrozenLM
from memlab.models.sentences import sentence_starts
from memlab.texts import Text, data_folder

GAP = "\n\n"
"""Between a passage, or its vector, and what follows it."""
TOPIC = "The text is about"
"""What a topic is scored after."""


@dataclass(frozen=True)
class Question:
    """A sentence about a text that lacks its last word."""

    text: str
    """Id of the text."""
    kind: str
    """``name``, ``number`` or ``thing``."""
    question: str
    answer: str


def questions() -> list[Question]:
    """Three questions about each of the first 12 originals.

    >>> next(q.answer for q in questions() if q.text == "fiction-salt-ferry" and q.kind == "thing")
    'lantern'
    """
    stored = json.loads((data_folder() / "texts" / "cloze.json").read_text(encoding="utf-8"))
    return [Question(**entry) for entry in stored]


def rivals(asked: list[Question], question: Question) -> list[str]:
    """The answers of other texts' questions of the same kind, each once, without the right one."""
    others = (q.answer for q in asked if q.kind == question.kind and q.text != question.text)
    return [answer for answer in dict.fromkeys(others) if answer != question.answer]


@dataclass(frozen=True)
class Instruction:
    """One wording of an instruction."""

    task: str
    """A name in ``TASKS``."""
    words: str
    held_out: bool
    """Whether a training under several contexts must not use it."""


_WORDINGS = {
    "repeat": (
        "Repeat the text word for word.",
        "Write down the text exactly as it is.",
        "Please give me a literal copy of the text.",
    ),
    "repeat backwards": (
        "Repeat the words of the text in reverse order.",
        "Write the text backwards, from the last word to the first.",
        "Begin at the end of the text and copy it word by word until you reach its start.",
    ),
    "first sentence": (
        "Repeat only the first sentence of the text.",
        "Write down the first sentence of the text and then stop.",
        "How does the text begin? Copy its opening sentence and nothing else.",
    ),
    "third word": (
        "Say the third word of the text.",
        "Write down the third word of the text.",
        "Which word is number three in the text?",
    ),
}
TASKS = tuple(_WORDINGS)
"""The instructions. Of the three wordings of each, the last one is held out."""
INSTRUCTIONS = tuple(
    Instruction(task, words, held_out=words == wordings[-1])
    for task, wordings in _WORDINGS.items()
    for words in wordings
)
"""Every wording of every instruction."""


def wanted(task: str, passage: str) -> str:
    """What a model that obeys writes. Raises ``KeyError`` for a task that is not in ``TASKS``.

    >>> [wanted(task, "Go on. It rains, still.") for task in TASKS]
    ['Go on. It rains, still.', 'still. rains, It on. Go', 'Go on.', 'It']
    """
    words = passage.split()
    starts = [*sentence_starts(passage), len(passage)]
    answers = {
        "repeat": passage,
        "repeat backwards": " ".join(reversed(words)),
        "first sentence": passage[starts[0] : starts[1]].rstrip(),
        "third word": words[min(2, len(words) - 1)].strip(string.punctuation + "“”‘’") or words[-1],
    }
    return answers[task]


SHORTER = ("first sentence", "third word")
"""Tasks whose output is shorter than the passage, so that a model must also end there to obey."""


def ends(lm: FrozenLM, token: int) -> bool:
    """Whether a token ends an answer: a special token, or a new line."""
    return token in set(getattr(lm.tokenizer, "all_special_ids", [])) or lm.decode_ids([token]).startswith("\n")


def topic(text: Text) -> str:
    """What a text is about, from its id: the words after its kind.

    >>> topic(Text("long-essay-the-uses-of-dust", "...")), topic(Text("typed", "..."))
    ('the uses of dust', 'typed')
    """
    name = text.id.removeprefix("long-")
    return name.removeprefix(f"{text.kind}-").replace("-", " ")


POSITIONS = ("before", "after", "chat")
"""Where an instruction stands. ``before``: in front of the vector, and the answer follows the vector at once.
``after``: behind the vector. ``chat``: in front of the vector, both in the user's turn of the model's chat template."""


def around(tokenizer: Any, position: str, instruction: str) -> tuple[str, str] | None:
    """The words before and after the vector; None if the model has no chat template. Raises ``ValueError``."""
    if position == "before":
        return f"{instruction}{GAP}", ""
    if position == "after":
        return "", f"{GAP}{instruction}{GAP}"
    if position != "chat":
        raise ValueError(f"There is no position {position!r}. Use one of: {', '.join(POSITIONS)}.")
    if not getattr(tokenizer, "chat_template", None):
        return None
    mark = "@@"
    turn = [{"role": "user", "content": f"{instruction}{GAP}{mark}"}]
    before, _, after = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True).partition(mark)
    return before, after
