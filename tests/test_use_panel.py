"""The panel of use on a small model: what it asks, what it says of the answers, and what stands in the contexts."""

import io

import numpy as np
import pandas as pd
import pytest

from memlab import Recipe, Store, cram, load_texts
from memlab.decoding.decode import decode
from memlab.experiments.use_tasks import INSTRUCTIONS, questions
from memlab.measures.use import NOTHING, RANDOM, TEXT, VECTOR
from memlab.panels import use_panel
from memlab.panels.use import CONTINUE, OWN


@pytest.fixture(scope="module")
def mems(toy):
    passages = [toy.passage(text, 8) for text in load_texts("originals")[:2]]
    found = cram(toy, passages, Recipe.default(k=2), progress=False)
    assert all(mem.exact for mem in found)
    return found


@pytest.fixture
def panel(toy, mems, tmp_path):
    made = use_panel(toy, list(mems), Store(tmp_path))
    made.wait(60)
    return made


def chosen(panel, value):
    panel.choice.value = value
    panel.wait(60)


def test_without_words_the_vector_writes_its_text(toy, mems, panel):
    assert panel.choice.options[0] == (CONTINUE, "")
    chosen(panel, "")
    assert set(panel.wrote) == {VECTOR, RANDOM, TEXT, NOTHING}
    assert np.array_equal(panel.wrote[VECTOR][: mems[0].n], mems[0].token_ids)
    assert np.array_equal(panel.wrote[VECTOR][: mems[0].n], decode(toy, [mems[0]], batch=1)[0])
    assert "The passage" in panel.verdicts[VECTOR].value
    assert "The passage" not in panel.verdicts[NOTHING].value
    assert panel.texts[VECTOR].kinds[: mems[0].n + 1] == ["first"] * mems[0].n + [""]


def test_an_instruction_may_be_obeyed(mems, panel, monkeypatch):
    repeat = next(each for each in INSTRUCTIONS if each.task == "repeat")
    chosen(panel, repeat.words)
    assert len(panel.wrote[VECTOR]) == 40
    # An answer is as asked if it is the passage, whatever comes next.
    whole = np.concatenate([mems[0].token_ids, [0] * 40])[:40]
    monkeypatch.setattr(
        "memlab.panels.use.answers", lambda *args: dict.fromkeys((VECTOR, RANDOM, TEXT, NOTHING), whole)
    )
    panel.tokens.value = 16
    panel.wait(60)
    assert "As asked" in panel.verdicts[TEXT].value
    assert len(panel.texts[TEXT].pieces) == 16
    backwards = next(each for each in INSTRUCTIONS if each.task == "repeat backwards")
    chosen(panel, backwards.words)
    assert "The passage instead" in panel.verdicts[TEXT].value


def test_questions_are_about_the_chosen_text(mems, panel, monkeypatch):
    asked = [q for q in questions() if q.text == mems[0].text.id]
    values = [value for _, value in panel.choice.options]
    assert {q.question for q in asked} <= set(values)
    seen = []

    def answered(lm, vectors, passage, words, tokens):
        seen.append(words)
        right = lm.tokenizer(f" {asked[0].answer}", add_special_tokens=False)["input_ids"]
        return {VECTOR: np.array([*right, 0]), TEXT: np.array([0] * (len(right) + 1))}

    monkeypatch.setattr("memlab.panels.use.answers", answered)
    chosen(panel, asked[0].question)
    assert seen[-1] == ("", f"\n\n{asked[0].question}")
    assert "The right answer" in panel.verdicts[VECTOR].value
    assert "Another answer" in panel.verdicts[TEXT].value
    # Questions about another text are not offered for this vector.
    panel.vector.choice.value = 1
    panel.wait(60)
    assert asked[0].question not in [value for _, value in panel.choice.options]


def test_own_words_stand_where_the_list_says(panel, monkeypatch):
    seen = []
    monkeypatch.setattr("memlab.panels.use.answers", lambda lm, v, p, words, n: seen.append(words) or {})
    panel.words.value = "What is this about?"
    panel.wait(60)
    assert panel.choice.value == OWN
    assert seen[-1] == ("", "\n\nWhat is this about?\n\n")
    panel.place.value = "before"
    panel.wait(60)
    assert seen[-1] == ("What is this about?\n\n", "")


def test_the_answers_can_be_downloaded(panel):
    import base64
    import re

    chosen(panel, INSTRUCTIONS[0].words)
    data = re.search(r"base64,([^\"]+)", panel.links.value)[1]
    table = pd.read_csv(io.StringIO(base64.b64decode(data).decode()))
    assert list(table.context) == [VECTOR, RANDOM, TEXT, NOTHING]
    assert (table.words == INSTRUCTIONS[0].words).all()


def test_a_vector_that_stands_elsewhere_is_refused(toy, mems, panel, tmp_path):
    passage = toy.passage_of_ids(mems[0].token_ids)
    for recipe in (Recipe.layers(budget=1), Recipe.default(prefix="none" if toy.sink_prefix else (1,), budget=1)):
        made = use_panel(toy, cram(toy, passage, recipe, progress=False), Store(tmp_path))
        made.wait(60)
        assert "Choose a vector of the default recipe" in made.status.value
        assert "panel.result" not in made.status.value
        assert made.wrote == {}


def test_without_a_vector_nothing_is_asked(toy, tmp_path):
    panel = use_panel(toy, [], Store(tmp_path))
    panel.wait(60)
    assert "No vector is chosen" in panel.status.value
    assert panel.wrote == {}
