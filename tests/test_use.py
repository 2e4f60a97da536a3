"""Use and harm of vectors: theorems on a toy, known answers of the summaries, and each part run once."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from memlab import Recipe, Store, Text, charts, cram, load_texts
from memlab.cli import app
from memlab.errors import ArgumentError
from memlab.experiments import conditions as before
from memlab.experiments import use_tasks as tasks
from memlab.experiments import use_training
from memlab.experiments.harm import harm
from memlab.experiments.session import Session
from memlab.experiments.use import material, use
from memlab.measures import use as measures
from memlab.measures.systems import ROWS
from memlab.measures.use import ANOTHER, NOTHING, RANDOM, TEXT, VECTOR
from memlab.measures.use_predictions import (
    EXPECTED,
    EXPECTED_HARM,
    EXPECTED_LAYERS,
    harm_outcomes,
    use_outcomes,
)
from memlab.models import PassageError
from memlab.training.encoders import Encoder, Settings
from tests.chart_rules import faults

TEXTS = [
    Text(f"note-{word}-night", f"{i} {word} ferries wait. Nobody pays the toll today.", "typed")
    for i, word in enumerate(["red", "old", "new", "big"])
]
QUICK = [part for part in measures.PARTS if part != measures.INSTRUCTIONS]
QUESTIONS = [tasks.Question(text.id, "thing", "The ferries are", text.string.split()[1]) for text in TEXTS]


def ids(*some):
    return np.array(some, np.int64)


# Reading behind a context


def test_a_text_in_the_context_is_the_joined_text(any_toy):
    first, then = any_toy.passage_of_ids([5, 9, 2, 7]), ids(3, 8, 1)
    found = before.read(any_toy, before.context_of(any_toy, first.ids), then)
    joined = any_toy.token_bits([*first.ids, *then])
    np.testing.assert_allclose(found.bits, joined[len(first) :], rtol=1e-4, atol=1e-4)
    other = before.read(any_toy, before.context_of(any_toy, first.ids[::-1]), then)
    assert not np.allclose(found.bits, other.bits, rtol=1e-3)


def test_a_vector_that_is_the_embedding_of_a_token_is_that_token(toy):
    then = ids(3, 8, 1, 30)
    as_vector = before.read(toy, before.context_of(toy, toy.embed([17]), ids(4)), then)
    as_token = before.read(toy, before.context_of(toy, ids(17), ids(4)), then)
    np.testing.assert_array_equal(as_vector.bits, as_token.bits)
    np.testing.assert_array_equal(as_vector.choices, as_token.choices)
    other = before.read(toy, before.context_of(toy, toy.embed([18]), ids(4)), then)
    assert not np.allclose(other.bits, as_token.bits)


def test_texts_read_together_cost_what_they_cost_alone(toy):
    texts = [ids(3, 8, 1, 30), ids(5), ids(7, 7), ids(1, 2, 3, 4, 5, 6)]
    for context in (before.context_of(toy, ids(4, 9)), before.context_of(toy)):
        together = before.read_many(toy, context, texts, batch=3)
        for some, reading in zip(texts, together, strict=True):
            alone = before.read(toy, context, some)
            np.testing.assert_allclose(reading.bits, alone.bits, rtol=1e-5)
            np.testing.assert_array_equal(reading.choices, alone.choices)
            assert len(reading.bits) == len(reading.choices) == len(some)
    first = before.read(toy, before.context_of(toy), ids(5))
    assert first.bits.tolist() == [np.log2(toy.vocabulary)]
    assert not first.right(ids(5)).any()


def test_a_vector_that_no_layer_sees_is_absent_but_for_its_place(toy):
    vector, gap, then = torch.randn(2, toy.d, generator=torch.Generator().manual_seed(0)), ids(4), ids(3, 8, 1, 30)
    context, hidden, count = before.context_of(toy, ids(9), vector, gap), slice(1, 3), toy.layers.count
    without = before.context_of(toy, ids(9), gap, then[:-1])
    places = torch.tensor([[0, 3, 4, 5, 6]])  # those that the tokens have if the vector stands between them
    alike = {"attention_mask": torch.ones(1, 5), "use_cache": False}  # without a mask, a gap begins another sequence
    with torch.no_grad():
        logits = toy.model(inputs_embeds=without[None], position_ids=places, **alike).logits[0, -4:]
    bits = torch.nn.functional.cross_entropy(logits, torch.tensor(then), reduction="none") / np.log(2)
    unseen = before.read_hiding(toy, context, then, hidden, range(count))
    np.testing.assert_allclose(unseen.bits, bits.numpy(), rtol=1e-4)
    np.testing.assert_array_equal(unseen.choices, logits.argmax(-1).numpy())
    # The controls: hidden in no layer it is read as usual, and hidden in one layer it still does something.
    plain = before.read(toy, context, then)
    seen = before.read_hiding(toy, context, then, hidden, ())
    np.testing.assert_allclose(seen.bits, plain.bits, rtol=1e-4)
    for layer in range(count):
        partly = before.read_hiding(toy, context, then, hidden, [layer])
        assert not np.allclose(partly.bits, unseen.bits, rtol=1e-3)
        assert not np.allclose(partly.bits, plain.bits, rtol=1e-3)


def test_random_vectors_have_the_lengths_of_the_vectors_and_nothing_else():
    own = torch.randn(3, 384, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1.0], [20.0], [400.0]])
    drawn = before.random_like(own, ids(1, 2))
    torch.testing.assert_close(drawn.norm(dim=-1), own.norm(dim=-1))
    assert torch.nn.functional.cosine_similarity(own, drawn).abs().max() < 0.25
    assert torch.equal(drawn, before.random_like(own, ids(1, 2)))
    assert not torch.equal(drawn, before.random_like(own, ids(2, 1)))


# What is asked


def test_each_of_the_landscapes_originals_has_three_questions():
    asked, texts = tasks.questions(), {text.id: text for text in load_texts("originals", count=ROWS)}
    assert [q.text for q in asked] == [name for name in texts for _ in range(3)]
    for q in asked:
        start = texts[q.text].string[:330]
        assert q.answer in start.replace("-", " ").split() or any(w.strip('.,"?:;') == q.answer for w in start.split())
        assert q.answer.lower() not in q.question.lower().split()
        assert not q.question.endswith((" ", ".", "?"))
        others = tasks.rivals(asked, q)
        assert len(others) >= 8
        assert q.answer not in others
        assert not {o.answer for o in asked if o.text == q.text} & set(others)
    assert {q.kind for q in asked} == set(measures.PARTS[measures.CLOZE])


def test_what_an_obedient_model_writes():
    passage = 'He said: "Go on." It rains, still'
    assert tasks.wanted("repeat", passage) == passage
    assert tasks.wanted("repeat backwards", passage) == 'still rains, It on." "Go said: He'
    assert tasks.wanted("first sentence", passage) == 'He said: "Go on."'
    assert tasks.wanted("third word", passage) == "Go"
    assert tasks.wanted("third word", "One") == "One"
    with pytest.raises(KeyError):
        tasks.wanted("sing", passage)
    assert measures.PARTS[measures.INSTRUCTIONS] == tasks.TASKS
    for task in tasks.TASKS:
        wordings = [i for i in tasks.INSTRUCTIONS if i.task == task]
        assert [i.held_out for i in wordings] == [False, False, True]


def test_where_an_instruction_stands(toy):
    assert tasks.around(toy.tokenizer, "before", "Go.") == ("Go.\n\n", "")
    assert tasks.around(toy.tokenizer, "after", "Go.") == ("", "\n\nGo.\n\n")
    assert tasks.around(toy.tokenizer, "chat", "Go.") is None
    chat = SimpleNamespace(chat_template="...", apply_chat_template=lambda turn, **_: f"<u>{turn[0]['content']}</u><a>")
    assert tasks.around(chat, "chat", "Go.") == ("<u>Go.\n\n", "</u><a>")
    with pytest.raises(ValueError, match="Use one of: before, after, chat"):
        tasks.around(toy.tokenizer, "inside", "Go.")


def test_where_an_answer_ends(toy):
    letter, line = before.ids_of(toy, "a"), before.ids_of(toy, "\n")
    assert not tasks.ends(toy, int(letter[0]))
    assert tasks.ends(toy, int(line[0]))


# On a toy


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("use") / "store")


@pytest.fixture(scope="module")
def given(toy):
    return material(toy, TEXTS[:2], TEXTS[2:], tokens=8, ahead=6, asked=QUESTIONS)


@pytest.fixture(scope="module")
def used(toy, given, shelf):
    return use(Session(toy, shelf, progress=False), given, ks=(1,), parts=QUICK)


def part_of(table, part, condition, item=None):
    chosen = table[(table.part == part) & (table.condition == condition)]
    return chosen if item is None else chosen[chosen["item"] == item]


def test_the_material_is_cut_from_the_texts(toy, given):
    joined = np.concatenate([given.passages[0].ids, given.ahead[0]])
    assert TEXTS[0].string.startswith(toy.decode_ids(joined))
    assert len(given.ahead[0]) == 6
    assert given.topics == ["red night", "old night", "new night", "big night"]
    assert [q.text for q in given.questions] == [text.id for text in TEXTS[:2]]
    assert not material(toy, TEXTS[:2], [], tokens=4, ahead=6, asked=QUESTIONS).questions
    with pytest.raises(PassageError):
        material(toy, [Text("short", "12345678")], [], tokens=8)


def test_use_has_rows_of_each_part_and_condition(used):
    assert list(used.columns) == list(measures.COLUMNS)
    assert set(used.condition) == {NOTHING, TEXT, VECTOR, ANOTHER, RANDOM}
    counts = used.groupby(["part", "condition"]).size().unstack()
    assert counts.eq(counts[NOTHING], axis=0).all(axis=None)
    assert counts[NOTHING].to_dict() == {"continuation": 4, "cloze": 2, "identification": 4}


def test_nothing_after_the_text_is_the_text_and_nothing_saves_no_bits(used):
    text = part_of(used, measures.CONTINUATION, TEXT, "at once").set_index("text_id").bits
    nothing = part_of(used, measures.CONTINUATION, NOTHING, "after its text").set_index("text_id").bits
    pd.testing.assert_series_equal(text, nothing)
    places = measures.use_summary(used, draws=2).query("condition == 'nothing' and measure == 'place'")
    assert set(places.value) == {0.5}
    assert len(places) == 4
    found = measures.use_summary(used, draws=2).query("condition == 'nothing' and measure == 'found'")
    assert set(found.value) == {0.0}


def test_an_exact_vector_tells_its_passage_and_another_does_not(used):
    own = part_of(used, measures.IDENTIFICATION, VECTOR, "passage")
    assert own.gain_rank.tolist() == own["rank"].tolist() == [1, 1]
    assert (own.right == own.tokens).all()
    other = part_of(used, measures.IDENTIFICATION, ANOTHER, "passage")
    assert (other.gain_rank > 1).all()
    assert (other.bits > own.bits.to_numpy() + 10).all()


@pytest.mark.slow
def test_an_exact_vector_repeats_its_text_if_nothing_else_is_said(toy, given, shelf, monkeypatch):
    empty = tuple(tasks.Instruction(task, "", False) for task in tasks.TASKS)
    monkeypatch.setattr(tasks, "INSTRUCTIONS", empty)
    monkeypatch.setattr(tasks, "GAP", "")
    monkeypatch.setattr(tasks, "POSITIONS", ("before",))
    table = use(Session(toy, shelf, progress=False), given, ks=(1,), shelf=shelf, parts=[measures.INSTRUCTIONS])
    repeated = part_of(table, measures.INSTRUCTIONS, VECTOR, "repeat")
    assert (repeated.obeyed == 1).all()
    assert (repeated.recites == 1).all()
    assert (repeated.right == repeated.tokens).all()
    assert [wrote[:8] for wrote in repeated.wrote] == [passage.string for passage in given.passages]
    for condition in (NOTHING, ANOTHER, RANDOM):
        other = part_of(table, measures.INSTRUCTIONS, condition, "repeat")
        assert not other.obeyed.any()
        assert not other.recites.any()
    # It recites whatever it is told, and a text that goes on is no obedience to a task that ends sooner.
    rest = part_of(table, measures.INSTRUCTIONS, VECTOR).query("item != 'repeat'")
    assert (rest.recites == 1).all()
    assert not rest.obeyed.any()


def test_use_resumes(toy, given, shelf, used):
    logs, left = [], used[~((used.condition == RANDOM) | ((used.part == "cloze") & (used.condition == TEXT)))]
    session = Session(toy, shelf, left, logs.append, progress=False)
    again = use(session, given, ks=(1,), shelf=shelf, parts=QUICK)
    assert len(logs) == 1 + 2 + 1 + 2  # all questions are of one kind
    order = ["part", "item", "condition", "text_id", "position", "words"]
    both = [table.sort_values(order).reset_index(drop=True) for table in (used, again)]
    pd.testing.assert_frame_equal(*both)


def test_encodings_are_measured_next_to_vectors(toy, given, shelf):
    encoder = Encoder(toy, Settings(width=24, heads=2, reading_heads=2, longest=16, most=4, whiten=0.0))
    session = Session(toy, shelf, progress=False)
    table = use(session, given, ks=(1,), shelf=shelf, encoders={"slots": encoder}, parts=[measures.CONTINUATION])
    assert {"encoding by slots", "another encoding by slots"} < set(table.condition)
    assert table.k[table.condition == "encoding by slots"].tolist() == [1] * 4


@pytest.fixture(scope="module")
def harmed(toy, given, shelf):
    strangers = [toy.passage(text, 8) for text in TEXTS[2:]]
    return harm(Session(toy, shelf, progress=False), given.passages, strangers, ks=(1,), shelf=shelf)


def test_nothing_does_no_harm_and_a_text_does_what_a_text_does(toy, given, harmed):
    assert list(harmed.columns) == list(measures.HARM_COLUMNS)
    nothing = harmed[harmed.condition == NOTHING]
    assert (nothing.bits == nothing.bits_nothing).all()
    assert (nothing.same == 1).all()
    assert nothing.distance.tolist() == [*range(1, 9)] * 2
    text = harmed[(harmed.condition == TEXT) & (harmed.part == measures.DISTANCE)]
    gap = before.ids_of(toy, tasks.GAP)
    for passage, stranger in zip(given.passages, [toy.passage(text, 8) for text in TEXTS[2:]], strict=True):
        joined = toy.token_bits([*passage.ids, *gap, *stranger.ids])[-8:]
        np.testing.assert_allclose(text.bits[text.text_id == passage.span.id], joined, rtol=1e-4)
    assert (harmed[harmed.condition == VECTOR].bits != harmed[harmed.condition == VECTOR].bits_nothing).all()


def test_layers_that_are_hidden_add_up(toy, harmed):
    rows = harmed[harmed.part == measures.LAYERS]
    assert set(rows.condition) == {TEXT, VECTOR, RANDOM}
    last, by = toy.layers.count - 1, ["condition", "text_id"]
    whole = harmed[harmed.part == measures.DISTANCE].groupby(by).bits.sum()
    none = rows[rows["mode"] == "none"].set_index(by).bits
    np.testing.assert_allclose(none, whole[none.index], rtol=1e-4)
    every = [rows[(rows["mode"] == mode) & (rows.layer == layer)].set_index(by).bits
             for mode, layer in (("until", last), ("from", 0))]  # fmt: skip
    np.testing.assert_allclose(*every, rtol=1e-6)
    # Where nothing sees it, it does not matter which vector it is: the toy's attention knows distances only.
    assert every[0].groupby("text_id").std().max() < 1e-3 * every[0].mean()
    assert none.groupby("text_id").std().min() > 1e-3 * none.mean()


def test_harm_resumes_and_needs_a_stranger_per_passage(toy, given, shelf, harmed):
    logs, strangers = [], [toy.passage(text, 8) for text in TEXTS[2:]]
    session = Session(toy, shelf, harmed[harmed.condition != VECTOR], logs.append, progress=False)
    again = harm(session, given.passages, strangers, ks=(1,), shelf=shelf)
    assert len(logs) == 2
    order = ["part", "condition", "text_id", "mode", "layer", "distance"]
    both = [table.sort_values(order).reset_index(drop=True) for table in (harmed, again)]
    pd.testing.assert_frame_equal(*both)
    with pytest.raises(ArgumentError, match="2 passages and 1 strangers"):
        harm(session, given.passages, strangers[:1])


# Known answers of the summaries


def use_rows(part, item, condition, k, **columns):
    """A row per passage of 8; a value that is a function is called with the number of the passage."""
    blank = dict.fromkeys(measures.COLUMNS, np.nan) | {"position": "", "words": "", "held_out": False, "wrote": ""}
    labels = {"part": part, "item": item, "condition": condition, "k": k, "model": "m"}
    return pd.DataFrame(
        [
            blank | labels | {"text_id": f"t{i}"} | {n: v(i) if callable(v) else v for n, v in columns.items()}
            for i in range(8)
        ]
    )


@pytest.fixture(scope="module")
def made_up():
    rows = [
        use_rows("continuation", "at once", "text", 0, tokens=32, bits=lambda i: 128 + 32 * i, right=8),
        use_rows("continuation", "at once", "vector", 1, tokens=32, bits=lambda i: 192 + 32 * i, right=4),
        use_rows("cloze", "name", "vector", 1, tokens=2, bits=9, rank=5, gain_rank=lambda i: 1 + i % 2, among=11),
        use_rows("cloze", "thing", "vector", 1, tokens=2, bits=9, rank=5, gain_rank=11, among=11),
        use_rows("cloze", "number", "vector", 1, tokens=2, bits=9, rank=1, gain_rank=1, among=1),
        use_rows("instructions", "repeat", "vector", 1, tokens=64, bits=64, right=32, obeyed=lambda i: float(i < 2),
                 begun=16, recites=1.0, position="before"),
        use_rows("instructions", "repeat", "vector", 1, tokens=64, bits=64, right=32, obeyed=0.0,
                 begun=16, recites=1.0, position="before", held_out=True),
    ]  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_the_summary_has_the_known_answers(made_up):
    told = measures.use_summary(made_up, draws=200).set_index(["item", "condition", "measure"])
    assert told.value["at once", "text", "bits a token"] == 4 + 3.5
    assert told.value["name", "vector", "place"] == 0.05
    assert told.value["name", "vector", "found"] == 0.5
    assert told.value["thing", "vector", "place"] == 1
    assert told.value["all", "vector", "place"] == pytest.approx((0.05 + 1) / 2)
    assert ("number", "vector", "found") not in told.index  # one answer is no choice
    assert told.value["repeat", "vector", "obeyed"] == 0.125
    assert told.value["repeat", "vector", "begun"] == 0.25
    assert set(told.passages) == {8}
    assert (told.low <= told.value).all()
    assert (told.value <= told.high).all()
    apart = measures.held_out_wordings(made_up, draws=2).query("measure == 'obeyed'").set_index("held_out").value
    assert apart.to_dict() == {False: 0.25, True: 0.0}


def test_differences_are_paired_by_passage(made_up):
    told = measures.compared_with(made_up, "text", draws=200)
    (row,) = told[told.measure == "bits a token"].to_dict("records")
    assert row["value"] == row["low"] == row["high"] == 2  # the passages differ by far more than that
    alone = measures.use_summary(made_up, draws=200).query("condition == 'vector' and measure == 'bits a token'")
    assert (alone.high - alone.low).iloc[0] > 1
    assert measures.compared_with(made_up, "nothing", draws=2).empty


def test_a_control_with_vectors_is_compared_at_the_same_k(made_up):
    other = [use_rows("continuation", "at once", "random vector", k, tokens=1, bits=k, right=0) for k in (1, 2)]
    more = use_rows("continuation", "at once", "vector", 2, tokens=1, bits=10, right=0)
    told = measures.compared_with(pd.concat([made_up, *other, more]), "random vector", draws=2)
    values = told[(told.measure == "bits a token") & (told.condition == "vector")].set_index("k").value
    assert values.to_dict() == {1: 6 + 3.5 - 1, 2: 8}


def harm_rows(condition, k, harm_of, layers=4):
    fixed = {"condition": condition, "k": k, "model": "m", "stranger_id": "s"}
    rows = []
    for i in range(8):
        rows += [
            {"part": "distance", "mode": "none", "layer": -1, "distance": d, "tokens": 1, "text_id": f"t{i}",
             "bits_nothing": 5.0, "bits": 5 + harm_of / d, "same": int(d > 32)} | fixed
            for d in range(1, 65)
        ]  # fmt: skip
        plans = [("none", -1, 1.0)]
        plans += [("until", layer, 1 - (layer + 1) / layers) for layer in range(layers)]
        plans += [("only", layer, 0.25 if layer == 1 else 1.0) for layer in range(layers)]
        plans += [("from", layer, layer / layers) for layer in range(layers)]
        for mode, layer, left in plans:
            rows.append({"part": "layers", "mode": mode, "layer": layer, "distance": 0, "tokens": 64, "same": 0,
                         "text_id": f"t{i}", "bits_nothing": 320.0, "bits": 320 + 64 * left} | fixed)  # fmt: skip
    return pd.DataFrame(rows)


def test_harm_by_distance_and_by_layer():
    table = pd.concat([harm_rows("vector", 1, 2.0), harm_rows("random vector", 1, 0.0)])
    told = measures.harm_summary(table, draws=20).set_index(["condition", "measure", "first"]).value
    assert told["vector", "harm", 1] == 2
    assert told["vector", "harm", 2] == pytest.approx(2 * (1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert told["random vector", "harm", 1] == 0
    assert told["vector", "same", 17] == pytest.approx(32 / 48)
    left = measures.harm_by_layer(table, draws=20).query("condition == 'vector' and measure == 'harm'")
    assert left.set_index(["mode", "layer"]).value["until", 3] == 0
    (row, _) = measures.layers_that_harm(table).to_dict("records")
    assert row == {"condition": "vector", "k": 1, "harm": 1.0, "layer": 1, "only": 0.75, "until": 1}
    outcome = harm_outcomes(table).set_index("name")
    assert bool(outcome.held["harm, vector, k = 1, tokens 1 to 1"])
    assert outcome.measured["harm left, vector, k = 1, hidden until layer 33% of the way"] == 0.5
    assert outcome.held["harm, vector, k = 4, tokens 17 to 64"] is None


def test_predictions_are_of_rows_that_exist(used, harmed):
    for one in EXPECTED:
        assert one.item in (*measures.PARTS[one.part], "all")
        assert one.measure in measures.MEASURES[one.part]
        assert one.position in (*tasks.POSITIONS, "")
        assert bool(one.position) == (one.part == measures.INSTRUCTIONS)
        assert (one.k == 0) == (one.condition in (TEXT, NOTHING))
    for every in (EXPECTED, EXPECTED_HARM, EXPECTED_LAYERS):
        assert all(one.low <= one.high for one in every)
        assert len({one.name for one in every}) == len(every)
    told = use_outcomes(used)
    assert len(told) == len(EXPECTED)
    own = told.set_index("name").loc["identification, passage: found, vector, k = 1"]
    assert own.measured == 1
    assert bool(own.held)
    assert told[told.k > 1].measured.isna().all()
    assert len(harm_outcomes(harmed)) == len(EXPECTED_HARM) + len(EXPECTED_LAYERS)
    assert use_outcomes(used[:0]).measured.isna().all()
    assert harm_outcomes(harmed[:0]).measured.isna().all()


# Charts and commands


def test_the_charts_keep_the_rules(made_up):
    told = measures.use_summary(made_up, draws=20)
    table = pd.concat([harm_rows("vector", 1, 2.0), harm_rows("encoding by slots", 1, 0.0)])
    svgs = [
        charts.to_svg(charts.uses(told.query("measure == 'place'"), x_title="place of the right answer")),
        charts.to_svg(charts.harm_along(measures.harm_summary(table, draws=20).query("measure == 'harm'"))),
        charts.to_svg(
            charts.harm_left(
                measures.harm_by_layer(table, draws=20).query("measure == 'harm' and condition == 'vector'")
            )
        ),
    ]
    assert [faults(svg) for svg in svgs] == [[]] * 3
    assert "encoding by slots" in svgs[1]
    assert all(name in svgs[2] for name in ("in this layer", "up to this layer", "from this layer on"))
    assert "no data" in charts.to_svg(charts.uses(told[:0], x_title="place"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options", "rows"),
    [("use", ["--ahead", "4", "--part", "continuation"], 20), ("harm", ["--part", "distance"], 80)],
)
def test_the_commands_run_and_resume(command, options, rows, tmp_path):
    out = tmp_path / "rows.parquet"
    given = ["bench", command, "--model", "toy:llama", "--count", "2", "-n", "8", "--k", "1", *options,
             "--store", str(tmp_path / "store"), "--out", str(out)]  # fmt: skip
    first = CliRunner().invoke(app, given)
    assert first.exit_code == 0, first.output
    assert "predictions held" in first.output
    assert len(pd.read_parquet(out)) == rows
    second = CliRunner().invoke(app, given)
    assert second.exit_code == 0, second.output
    assert "random vector, k = 1" in first.output
    assert "random vector, k = 1:" not in second.output
    wrong = CliRunner().invoke(app, [*given, "--part", "song"])
    assert wrong.exit_code == 2
    assert "expected one of" in wrong.output
    missing = CliRunner().invoke(app, [*given, "--encoder", "slots", "--folder", str(tmp_path)])
    assert missing.exit_code == 2
    assert "encoder train slots" in missing.output


def test_a_table_of_another_command_is_refused(toy, given, shelf, harmed):
    session = Session(toy, shelf, harmed, progress=False)
    with pytest.raises(ValueError, match="another command wrote it"):
        use(session, given, ks=(1,), shelf=shelf)
    assert dataclasses.replace(session, resume_from=None).resume_from is None


# Training for use


def test_a_training_without_more_contexts_is_that_of_the_recipe(toy):
    recipe = Recipe.default(k=2)
    assert use_training.recipe_for(toy, recipe, [use_training.PLAIN]) == recipe


def test_a_vector_of_several_contexts_is_exact_in_all_of_them(toy, given):
    passage, contexts = given.passages[0], [use_training.PLAIN, ("Say it: ", ""), ("", "\nAgain:\n")]
    asked = use_training.recipe_for(toy, Recipe.default(k=2), contexts)
    assert [len(pair[0]) > 0 for pair in asked.contexts] == [True, False]
    (mem,) = cram(toy, passage, asked, progress=False)
    assert mem.exact
    assert mem.provenance["exact_in_contexts"] == [True, True]
    assert use_training.exact_in(toy, torch.tensor(mem.mem), passage, contexts).all()
    # The control: the plain vector takes fewer steps, and is exact in the plain context alone.
    (plain,) = cram(toy, passage, Recipe.default(k=2), progress=False)
    assert plain.steps < mem.steps
    assert use_training.exact_in(toy, torch.tensor(plain.mem), passage, contexts).tolist() == [True, False, False]


@pytest.mark.slow
def test_training_for_use_resumes(toy, given, monkeypatch, tmp_path):
    short = [tasks.Instruction("repeat", words, held) for words, held in (("Say:", False), ("Go:", True))]
    monkeypatch.setattr(use_training, "INSTRUCTIONS", short)
    session = Session(toy, Store(tmp_path), progress=False)
    table = use_training.use_training(session, given.passages, ks=(2,))
    assert list(table.columns) == list(use_training.COLUMNS)
    assert table.groupby("training").contexts.first().to_dict() == {"plain": 1, "before": 2, "before and after": 3}
    assert table.ended.all()
    assert (table.trained == 1).all()
    logs = []
    kept = table[(table.training != "before") | (table.text_id != table.text_id.iloc[0])]
    again = dataclasses.replace(session, resume_from=kept, log=logs.append)
    resumed, by = use_training.use_training(again, given.passages, ks=(2,)), ["training", "text_id"]
    pd.testing.assert_frame_equal(resumed.sort_values(by, ignore_index=True), table.sort_values(by, ignore_index=True))
    assert len(logs) == 1
    assert use_training.summary(table).passages.tolist() == [2, 2, 2]
