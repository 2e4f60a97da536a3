"""The cram panel: the text develops, own words of any length, a forecast, three outcomes, and what to do next."""

import base64
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from memlab import Recipe, Store, cram, load
from memlab.experiments.tables import stored
from memlab.measures import forecast
from memlab.panels import OWN, cram_panel, outlook, readout
from memlab.panels.base import LivePanel
from memlab.panels.developing import MOST, Development
from memlab.probes.token_costs import token_scores
from memlab.scoring.objective import Batch, Row


@pytest.fixture
def panel(store):
    panel = cram_panel(load("toy:gemma3"), store)
    panel.tokens.value, panel.k.value = 8, 4
    return panel


def ready(panel):
    """Wait for the forecast."""
    panel.forecasting.wait(60)
    return panel


def crammed(panel):
    panel.start.click()
    return panel.wait(60)


# The argmax, from the same pass ---------------------------------------------------------------------------------------


def test_the_argmax_of_each_scored_token_comes_from_the_same_pass(any_toy):
    rng = np.random.default_rng(0)
    rows = [
        Row(rng.integers(0, any_toy.vocabulary, n), any_toy.sink_prefix, (), 2, first) for n, first in ((9, 1), (5, 2))
    ]
    mems = [torch.randn(2, any_toy.d, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    batch = Batch(any_toy, rows)
    plain, gradients = batch.scores(mems, torch.float32, gradient=True)
    scores, same = batch.scores(mems, torch.float32, gradient=True, argmax=True)
    assert plain.argmax == ()
    for name in ("loss", "right", "min_margin"):
        assert torch.equal(getattr(plain, name), getattr(scores, name))
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))
    for row, mem, ids in zip(rows, mems, scores.argmax, strict=True):
        context = torch.cat([any_toy.embed(np.array(row.prefix_ids, int)), mem])
        fed = torch.cat([context, any_toy.embed(row.token_ids[:-1])])[None]
        logits = any_toy.model(inputs_embeds=fed, use_cache=False).logits[0, len(context) - 1 :]
        assert ids.tolist() == logits.argmax(-1).tolist()[row.first_scored - 1 :]


def test_a_training_with_a_listener_has_the_same_result_and_argmax_agrees_with_accuracy(toy):
    passages = [toy.passage_of_ids([5, 9, 2]), toy.passage_of_ids([7, 1, 30, 4])]
    recipe, seen = Recipe.default(k=4), []
    alone = cram(toy, passages, recipe, progress=False)
    heard = cram(toy, passages, recipe, progress=False, on_step=seen.append)
    assert [a.mem.tobytes() for a in alone] == [b.mem.tobytes() for b in heard]
    assert [a.key for a in alone] == [b.key for b in heard]
    for now in seen:
        for index, ids, accuracy in zip(now.passages, now.argmax, now.accuracy, strict=True):
            assert np.mean(ids == passages[index].ids) == pytest.approx(accuracy)


# The text develops ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_text_develops_and_the_slider_goes_back(panel, monkeypatch):
    monkeypatch.setattr("memlab.panels.developing.REDRAW_EVERY", 0.0)
    shown, developing = [], panel.developing
    developing.text.observe(lambda change: shown.append(list(change["new"])), "kinds")
    places = []
    monkeypatch.setattr(panel.curve, "set", lambda **values: places.append(values["place"]))
    mem = crammed(ready(panel))
    waiting = [kinds.count("waiting") for kinds in shown if len(kinds) == 8]
    assert waiting[0] == 8
    assert waiting[-1] == 0
    assert len(waiting) > 3
    steps = developing.development.steps
    assert steps == list(range(mem.steps + 1))
    assert developing.slider.value == len(steps)
    assert "decoded from the vector alone" in developing.label.value

    # At each place of the slider: the tokens that were right then, and the rule in the chart.
    for i, accuracy in enumerate(mem.trace["accuracy"]):
        developing.slider.value = i
        assert developing.text.kinds.count("right") == round(8 * accuracy)
        assert f"step {i} of {mem.steps}" in developing.label.value
        assert places[-1] == i
    developing.slider.value = 0
    wrong = developing.text.kinds.index("waiting")
    assert re.fullmatch(rf"Token {wrong + 1} at step 0: the model would write '.*'.", developing.text.tips[wrong])
    developing.slider.value = len(steps)
    assert places[-1] == -1

    # A click on the curve is a place, too.
    panel._pick_step([{"step": 2}])
    assert developing.slider.value == 2


def test_each_token_tells_when_it_was_won_its_margin_and_what_it_costs(panel):
    mem = crammed(panel)
    tips = panel.developing.text.tips
    lm, won = panel.lm, panel.developing.development.won
    bits, _ = token_scores(lm, mem.token_ids, lm.embed(mem.prefix_ids))
    for i, tip in enumerate(tips):
        assert f"Won at step {won[i]}." in tip
        assert f"Costs {bits[i]:.1f} bits without the vector" in tip or np.isnan(bits[i])
    margins = [float(re.search(r"Margin ([\d.]+) logits", tip)[1]) for tip in tips]
    assert min(margins) == pytest.approx(mem.margin, abs=0.06)


def test_won_counts_every_step_and_a_long_training_keeps_a_bounded_number():
    ids = np.array([5, 9])
    seen = Development(ids)
    for step in range(3 * MOST):
        seen.add(step, ids if step >= 777 else np.array([5, 1]), 1.0)
    assert seen.won.tolist() == [0, 777]
    assert len(seen.steps) <= MOST
    assert len(seen.steps) == len(seen.argmax) == len(seen.bits)
    assert np.unique(np.diff(seen.steps)).tolist() == [4]
    seen.add(3 * MOST, np.array([1, 9]), 1.0)
    assert seen.won.tolist() == [-1, 777]
    seen.add(3 * MOST + 1, np.array([9]), 1.0)  # a recipe that does not score the first token
    assert seen.won.tolist() == [-1, 777]


# Own words, the cut, the forecast -------------------------------------------------------------------------------------


def test_own_words_may_be_shorter_than_asked_for(panel):
    panel.source.value, panel.tokens.value = OWN, 24
    panel.words.value = "Tiny words"
    ready(panel)
    assert "10 tokens: all of it." in panel.ahead.value
    assert "beyond" not in panel.developing.text.kinds
    mem = crammed(panel)
    assert (mem.n, mem.text.id) == (10, "typed")
    if mem.exact:  # there are no more tokens to offer
        assert list(buttons(panel)) == ["Another seed"]


def test_an_edited_text_is_no_longer_the_one_that_the_list_names(panel):
    name = panel.source.value
    panel.words.value = "Other words"
    assert panel.source.value == OWN
    assert panel.words.value == "Other words"
    panel.source.value = name
    assert panel.words.value.startswith("The salt ferry")
    assert panel.source.value == name


def test_the_cut_is_marked_in_the_text(panel):
    ready(panel)
    text = panel.developing.text
    assert "The first 8 tokens" in panel.ahead.value
    assert text.kinds == [""] * 8 + ["beyond"] * 40
    assert text.bars == [7]
    assert "".join(text.pieces).startswith("The salt ferry")
    panel.tokens.value = 5
    ready(panel)
    assert text.kinds[:6] == [""] * 5 + ["beyond"]


def test_the_forecast_says_when_nothing_needs_training_and_explains_bad_text(panel, store):
    assert "bits." in ready(panel).ahead.value
    crammed(panel)
    panel.seed.value = 1
    assert "bits." in ready(panel).ahead.value
    panel.seed.value = 0
    assert "in your store" in ready(panel).ahead.value
    panel.words.value = "  "
    assert "There is no text yet" in ready(panel).ahead.value
    assert panel.developing.text.pieces == []


def test_the_forecast_is_about_what_is_crammed_also_if_one_does_not_wait_for_it(panel):
    ready(panel)
    panel.tokens.value = 5
    crammed(panel)
    assert panel.ahead.value.startswith('<div class="memlab-text">The first 5 tokens: ')
    assert "bits" in panel.ahead.value


def test_a_new_setting_replaces_the_last_result(panel):
    crammed(panel)
    assert panel.outcome.value
    assert panel.next.children
    panel.tokens.value = 6
    ready(panel)
    assert not panel.outcome.value
    assert not panel.next.children
    assert not panel.links.value
    assert panel.curve.chart is None
    assert panel.result is not None


def test_forecast_of_the_default_model_agrees_with_its_stored_runs():
    found = forecast.of_runs(stored("capacity"))
    runs = stored("capacity")
    done = runs[runs.protocol.isin(["fixed", "equal"]) & runs.exact]
    inside = fits = 0
    for run in done.itertuples():
        ahead = found.ahead(run.token_bits_without, run.k)
        inside += ahead.steps.low <= run.steps <= ahead.steps.high
        fits += ahead.chance >= 0.5
    assert inside / len(done) > 0.8
    assert fits / len(done) > 0.9
    # Far shorter texts than those it was fitted to: bundled vectors of 16 to 64 tokens, at 5.6 bits per token.
    table = Store.bundled().table()
    table = table[(table.model == "smollm2-135m") & (table.k == 1) & table.recipe.astype(str).str.startswith("default")]
    for n, steps in table[table.exact].groupby("tokens").steps.median().items():
        assert found.ahead(np.full(n, 5.6)).steps.value == pytest.approx(steps, rel=0.5)
    assert found.ahead(np.full(400, 5.6)).steps is None


def test_outlook_says_whether_it_will_fit_and_how_long_it_takes(monkeypatch):
    class Model:
        name = "smollm2-135m"

        def prefix_ids(self, prefix):
            return [0]

    lm = Model()
    outlook.note_step(lm, 2.5, 50)  # 0.05 s per position
    short = outlook.outlook(lm, np.full(24, 5.0), Recipe.default())
    assert short.startswith("120 bits. One vector holds about ")
    assert "it will fit. About " in short
    seconds = float(re.search(r"About (\d+)\ss on this machine", short)[1])
    steps = outlook.forecaster(lm.name).ahead(np.full(24, 5.0)).steps.value
    assert seconds == pytest.approx(steps * 0.05 * 25, abs=1)
    long = outlook.outlook(lm, np.full(300, 5.0), Recipe.default())
    assert "it will not fit. All 400 steps take about" in long
    assert "3 vectors hold about" in outlook.outlook(lm, np.full(300, 5.0), Recipe.default(k=3))


# Outcomes, and what next ----------------------------------------------------------------------------------------------


def too_much(panel, monkeypatch, budget=3):
    """Cram with so few steps that the result cannot be exact."""
    default = Recipe.default
    monkeypatch.setattr(Recipe, "default", lambda **changes: default(**({"budget": budget} | changes)))
    panel.tokens.value, panel.k.value = 60, 1
    return crammed(panel)


def buttons(panel):
    return {child.description: child for child in panel.next.children if hasattr(child, "on_click")}


@pytest.mark.slow
def test_not_exact_looks_different_and_says_where_it_goes_wrong(panel, store, monkeypatch):
    mem = too_much(panel, monkeypatch)
    assert not mem.exact
    wrong = panel.developing.text.kinds.index("wrong")
    assert f"tokens wrong, first at {wrong + 1}</span>" in panel.outcome.value
    assert f"token {wrong + 1} is " in panel.outcome.value
    assert "memlab-badge-wrong" in panel.outcome.value
    assert panel.developing.text.focus == wrong
    assert panel.developing.text.below[wrong] == panel.lm.decode_ids([mem.token_ids[wrong]]).strip() or "␣"
    assert "Done" not in panel.status.value
    assert "Not exact after 3 steps" in panel.status.value
    assert list(buttons(panel)) == ["Go on from here", "40 tokens", "2 vectors", "Another seed"]

    # Go on: a new training that starts from this vector.
    buttons(panel)["Go on from here"].click()
    child = panel.wait(60)
    assert child.parent == mem.lineage_id
    assert set(store.keys()) == {mem.key, child.key}
    buttons(panel)["2 vectors"].click()
    assert panel.wait(60).k == 2
    assert panel.wait(60).parent is None


def test_an_exact_vector_offers_more_and_other_notebooks(panel, store):
    mem = crammed(panel)
    assert list(buttons(panel)) == ["12 tokens", "Another seed"]
    links = "".join(child.value for child in panel.next.children if hasattr(child, "value"))
    files = re.findall(r'href="([^"]+)"', links)
    assert len(files) == 3
    assert all((Path(__file__).parents[1] / "notebooks" / file).exists() for file in files)
    buttons(panel)["Another seed"].click()
    other = panel.wait(60)
    assert (other.recipe.seed, other.n) == (1, mem.n)
    assert panel.seed.value == 1
    buttons(panel)["12 tokens"].click()
    assert panel.wait(60).n == 12


def test_stop_before_the_second_step_shows_text_and_no_chart(panel):
    watch = LivePanel.watch

    def stop_at_once(now):
        watch(panel, now)
        type(panel).watch(panel, now)
        panel.stopping.set()

    panel.watch = stop_at_once
    panel.tokens.value, panel.k.value = 60, 1
    mem = crammed(panel)
    assert mem.steps == 1
    assert panel.curve.chart is None
    assert "Stopped at step 1" in panel.status.value
    assert "wrong" in panel.developing.text.kinds
    assert next(iter(buttons(panel))) == "Go on from here"
    assert panel.links.value.count("download=") == 2  # table and vector


def test_readout_shows_a_badge_and_the_right_token_below_a_wrong_one(panel, monkeypatch):
    mem = too_much(panel, monkeypatch)
    shown = readout(panel.lm, mem)
    assert "memlab-badge-wrong" in shown.facts.value
    wrong = [i for i, kind in enumerate(shown.text.kinds) if kind == "wrong"]
    assert shown.text.focus == wrong[0]
    assert all(shown.text.below[i] for i in wrong)
    assert f"should be {panel.lm.decode_ids([mem.token_ids[wrong[0]]])!r}" in shown.text.tips[wrong[0]]
    exact = replace(mem, checks=())
    assert "memlab-badge-exact" not in readout(panel.lm, exact).facts.value


def test_the_python_of_a_result_makes_it_again(panel, store, monkeypatch):
    mem = crammed(panel)
    code = base64.b64decode(re.search(r'\.py" href="data:text/x-python;base64,([^"]*)', panel.links.value)[1]).decode()
    monkeypatch.setattr("memlab.Store", lambda: store)
    space = {}
    exec(code, space)
    assert space["mem"].key == mem.key
    data = base64.b64decode(re.search(r"data:application/octet-stream;base64,([^\"]*)", panel.links.value)[1])
    assert data == mem.to_bytes()
