"""The panel of information: it reads while one types, says where vectors end, and crams."""

import numpy as np
import pytest

from memlab import Store, load
from memlab.experiments.tables import stored
from memlab.measures import prediction
from memlab.panels import OWN, information_panel


@pytest.fixture(scope="module")
def predictor():
    rng = np.random.default_rng(0)
    return prediction.fit([rng.exponential(6, 100) for _ in range(6)], [20, 25, 30, 22, 27, 24])


@pytest.fixture
def panel(predictor, tmp_path):
    panel = information_panel(load("toy:gemma3"), predictor, Store(tmp_path))
    panel.wait(60)
    panel.source.value = OWN
    panel.wait(60)
    return panel


def typed(panel, words):
    panel.words.value = words
    panel.wait(60)


def test_typing_is_enough(panel):
    assert "Type or paste" in panel.status.value
    assert panel.start.disabled
    typed(panel, "The <b>salt</b>\nferry left Quell")
    assert "".join(panel.text.pieces) == "The <b>salt</b>\nferry left Quell"
    assert len(panel.bits) == len(panel.text.pieces)
    assert panel.text.shades == pytest.approx(np.clip(np.nan_to_num(panel.bits) / 16, 0, 1))
    assert f"Token 5: {panel.bits[4]:.1f} bits; {np.nansum(panel.bits[:5]):,.0f} bits so far." == panel.text.tips[4]
    assert f"{len(panel.bits)} tokens, {np.nansum(panel.bits):.0f} bits" in panel.summary.value
    assert not panel.start.disabled
    typed(panel, "")
    assert panel.text.pieces == []
    assert panel.summary.value == panel.ahead.value == ""


def test_only_the_last_of_many_keys_is_read(panel, monkeypatch):
    read, token_bits = [], panel.lm.token_bits
    monkeypatch.setattr(panel.lm, "token_bits", lambda ids: read.append(len(ids)) or token_bits(ids))
    for words in ("T", "Th", "The", "The s", "The salt ferry"):
        panel.words.value = words
    panel.wait(60)
    assert len(read) <= 2  # the first may have begun
    assert "".join(panel.text.pieces) == "The salt ferry"


def test_a_bar_stands_where_each_vector_ends(panel, predictor):
    typed(panel, "Seven green kettles argued about the weather until the postman sat down among them. " * 3)
    ends = panel.ends(panel.bits)
    assert len(ends) >= 2
    for k, end in enumerate(ends, 1):
        assert end == round(predictor.horizon(panel.bits, k).value)
        assert panel.text.below[end - 1] == (f"{k} vectors" if k > 1 else "1 vector")
    assert panel.text.bars == [end - 1 for end in ends]
    needed = predictor.vectors_needed(panel.bits)
    assert f"<b>{needed}</b> vectors (measured: up to 1)" in panel.summary.value
    assert f"the first <b>{ends[0]}</b> tokens" in panel.summary.value
    assert panel.start.description == f"Cram the first {ends[0]} tokens and see"
    panel.tokens.value = 5
    assert panel.start.description == "Cram the first 5 tokens and see"


def test_no_interval_of_one_number(tmp_path):
    panel = information_panel(load("toy:gemma3"), prediction.of_runs(stored("capacity")), Store(tmp_path))
    typed(panel, "The salt ferry")
    assert "all of it (nearly certain)" in panel.summary.value
    assert "zone" not in panel.text.kinds
    assert panel.text.bars == []
    words = "Seven green kettles argued about the weather until the postman sat down among them. "
    n = 1
    while True:  # a text that ends within the interval
        typed(panel, words[: 20 * n] if 20 * n < len(words) else words * (20 * n // len(words)))
        horizon = panel.predictor.horizon(panel.bits, 1)
        if horizon.high >= len(panel.bits) > horizon.low:
            break
        n += 1
        assert n < 40
    assert f"at least {round(horizon.low)}" in panel.summary.value
    assert panel.text.kinds.count("zone") == len(panel.bits) - round(horizon.low)


@pytest.mark.slow
def test_the_panel_crams_what_it_predicts(panel):
    typed(panel, "The salt ferry left Quell at first light")
    panel.tokens.value = 3
    panel.start.click()
    mem = panel.wait(60)
    assert mem.n == 3
    assert "".join(panel.developing.text.pieces) == "The"
    assert "memlab-badge" in panel.verdict.value
    assert list(panel.store.keys()) == ([mem.key] if mem.is_original else [])
    typed(panel, "Another text")
    assert panel.verdict.value == ""  # what was crammed belonged to another text


def test_a_bundled_text_keeps_its_name_until_it_is_edited(panel, monkeypatch):
    crammed = []
    monkeypatch.setattr(panel, "train", lambda lm, passage, *rest: crammed.append(passage.span.id) or 1 / 0)
    panel.source.value = "fiction-salt-ferry"
    panel.wait(60)
    panel.tokens.value = 3
    for words in (panel.words.value, "Other words."):
        typed(panel, words)
        panel.start.click()
        panel.wait(60)
    assert crammed == ["fiction-salt-ferry", "typed"]
    assert panel.source.value == OWN


def test_a_text_that_is_too_long_is_explained(panel):
    typed(panel, "x" * 5000)
    assert "longer than toy:gemma3" in panel.status.value
    assert panel.text.pieces == []
    assert panel.start.disabled
