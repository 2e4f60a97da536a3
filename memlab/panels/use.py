"""Panel of use: ask the model for something, behind a vector and behind its text, and read both answers."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as w
import numpy as np
import pandas as pd
import torch

from memlab.experiments.conditions import ids_of
from memlab.experiments.use import RECITED, answers, obeyed, output
from memlab.experiments.use_tasks import GAP, INSTRUCTIONS, POSITIONS, around, questions
from memlab.measures.use import NOTHING, RANDOM, TEXT, VECTOR
from memlab.models import FrozenLM, Passage
from memlab.panels.decoded import token_pieces
from memlab.panels.instant import InstantPanel
from memlab.panels.picker import VectorPicker
from memlab.panels.style import badge, download_links, dropdown, row
from memlab.panels.tokens import TokenText
from memlab.results.mem_vector import MemVector, VectorError
from memlab.results.store import Store

HEADINGS = {
    VECTOR: "Behind the vector",
    TEXT: "Behind the text itself",
    RANDOM: "Behind a random vector of the same length",
    NOTHING: "Behind neither",
}
"""{what stands in the context: heading of its answer}, in the order in which they are shown."""
PLACES = {"before": "in front of it", "after": "behind it", "chat": "in front of it, as a chat"}
"""{place of the words: how the list calls it}."""
CONTINUE, OWN = "(nothing: let it go on)", "(my own words)"
LENGTHS = (16, 40, 80)
"""Tokens of an answer that can be chosen."""


def use_panel(lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> UsePanel:
    """Pick a vector and an instruction: what the model writes behind the vector, its text, a random vector, neither.

    ``mems``: the vectors that the list offers first. ``store``: your own, None for the default one.
    """
    return UsePanel(lm, mems, store)


class UsePanel(InstantPanel):
    """The panel of ``use_panel``. ``wrote`` holds the token ids of the answers, by what stood in the context."""

    def __init__(self, lm: FrozenLM, mems: Sequence[MemVector], store: Store | None = None) -> None:
        super().__init__()
        self.lm = lm
        self.wrote: dict[str, np.ndarray] = {}
        self.vector = VectorPicker(lm, mems, store)
        self.choice = dropdown("Ask for")
        self.words = w.Text(
            description="Words", placeholder="Type an instruction or a question", continuous_update=False,
            style={"description_width": "90px"}, layout=w.Layout(width="auto"),
        )  # fmt: skip
        known = [place for place in POSITIONS if around(lm.tokenizer, place, "") is not None]
        self.place = dropdown("Words stand", [(PLACES[place], place) for place in known], value="after")
        self.tokens = dropdown("Tokens", LENGTHS, value=LENGTHS[1])
        for control in (self.choice, self.place, self.tokens):
            control.layout.width = "auto"
        self.verdicts = {name: w.HTML() for name in HEADINGS}
        hint = "Coloured: the beginning of the passage, word for word."
        self.texts = {name: TokenText(heading, hint=hint, height="7em") for name, heading in HEADINGS.items()}
        self.links = w.HTML()
        self.outputs = [*self.verdicts.values(), *self.texts.values(), self.links]
        self._offer()
        self.vector.on_change(self._another)
        self.choice.observe(self._chosen, "value")
        self.words.observe(self._typed, "value")
        for control in (self.place, self.tokens):
            control.observe(self.ask, "value")
        sides = [
            w.VBox([self.verdicts[name], self.texts[name]], layout=w.Layout(flex="1 1 440px", min_width="340px"))
            for name in HEADINGS
        ]
        asked = row(self.choice, self.place, self.tokens)
        answered = w.HBox(sides, layout=w.Layout(flex_flow="row wrap"))
        self.show_widgets("use", self.vector, asked, self.words, self.status, answered, self.links)
        self.ask()

    def work(self) -> None:
        self.result, mem = None, self.vector.value
        if mem is None:
            self.wrote = {}
            self.clear()
            self.show_status("No vector is chosen.")
            return
        if mem.recipe.where != "input" or (tuple(mem.prefix_ids), len(mem.suffix_ids)) != (self.lm.sink_prefix, 0):
            self.wrote = {}
            self.clear()
            raise VectorError(
                f"{mem!r} does not stand at the model's input behind its sink prefix, as the controls do. Choose a "
                "vector of the default recipe."
            )
        self.show_status("Writing ...")
        passage = self.lm.passage_of_ids(mem.token_ids)
        words = self._around()
        task = next((each.task for each in INSTRUCTIONS if each.words == self.words.value), "")
        wanted = output(self.lm, task, passage) if task else self._answer(mem)
        count = max(self.tokens.value, len(wanted) + 1)
        vectors = torch.from_numpy(mem.mem.copy())
        self.wrote = answers(self.lm, vectors, passage, words, count)
        rows = []
        for name, ids in self.wrote.items():
            told = self._verdict(task, wanted, passage, ids)
            self._show(name, told, passage, ids[: self.tokens.value])
            rows.append((name, self.words.value, self.place.value, told, self.lm.decode_ids(ids)))
        table = pd.DataFrame(rows, columns=["context", "words", "position", "outcome", "wrote"])
        self.links.value = download_links(f"answers-{mem.key[:12]}", table.to_csv(index=False))
        self.result = mem
        self.show_status(f"Done: {self.tokens.value} tokens each, the likeliest token every time.")

    # What is asked ----------------------------------------------------------------------------------------------------

    def _around(self) -> tuple[str, str]:
        """The words before and after what stands in the context."""
        if not self.words.value:
            return "", ""
        if self._question() is not None:  # a sentence to complete stands behind, whatever the list says
            return "", GAP + self.words.value
        found = around(self.lm.tokenizer, self.place.value, self.words.value)
        assert found is not None
        return found

    def _question(self) -> tuple[str, str] | None:
        """(question, answer) if the words are a stored question about the text of the vector."""
        mem = self.vector.value
        asked = [q for q in questions() if mem is not None and (q.text, q.question) == (mem.text.id, self.words.value)]
        return (asked[0].question, asked[0].answer) if asked else None

    def _answer(self, mem: MemVector) -> np.ndarray:
        found = self._question()
        return ids_of(self.lm, f" {found[1]}") if found else mem.token_ids[:0]

    def _offer(self) -> None:
        """The list of instructions, and of questions about the text of the chosen vector."""
        mem, before = self.vector.value, self.choice.value
        about = [q.question for q in questions() if mem is not None and q.text == mem.text.id]
        asked = [(f"{each.task}: {each.words}", each.words) for each in INSTRUCTIONS]
        sentences = [(f"complete: {question}", question) for question in about]
        options = [(CONTINUE, ""), *asked, *sentences, (OWN, OWN)]
        self.choice.unobserve_all("value")
        self.choice.options = options
        values = [value for _, value in options]
        self.choice.value = before if before in values else INSTRUCTIONS[0].words
        self.choice.observe(self._chosen, "value")
        if self.choice.value != OWN:
            self.words.value = self.choice.value

    def _another(self, _: MemVector) -> None:
        self._offer()
        self.ask()

    def _chosen(self, _: object) -> None:
        if self.choice.value not in (OWN, self.words.value):
            self.words.value = self.choice.value  # which asks

    def _typed(self, _: object) -> None:
        values = [value for _, value in self.choice.options]
        self.choice.value = self.words.value if self.words.value in values else OWN
        self.ask()

    # What is shown ----------------------------------------------------------------------------------------------------

    def _verdict(self, task: str, wanted: np.ndarray, passage: Passage, ids: np.ndarray) -> str:
        """How an answer came out, in words."""
        if task and obeyed(self.lm, task, wanted, ids):
            return "as asked"
        if len(wanted) and not task and np.array_equal(ids[: len(wanted)], wanted):
            return "the right answer"
        if len(passage) >= RECITED and np.array_equal(ids[:RECITED], passage.ids[:RECITED]):
            return "the passage instead" if len(wanted) else "the passage"
        return "not as asked" if task else "another answer" if len(wanted) else ""

    def _show(self, name: str, told: str, passage: Passage, ids: np.ndarray) -> None:
        kind = "exact" if told in ("as asked", "the right answer") else "plain"
        mark = badge(kind, told.capitalize()) if told else ""
        self.verdicts[name].value = f'<div class="memlab-text"><b>{html.escape(HEADINGS[name])}</b> {mark}</div>'
        same = np.asarray(ids) == np.resize(passage.ids, len(ids)) if len(passage) else np.zeros(len(ids), bool)
        same[len(passage) :] = False
        begun = len(ids) if same.all() else int(same.argmin())
        self.texts[name].show(token_pieces(self.lm, ids), kinds=["first" if i < begun else "" for i in range(len(ids))])
