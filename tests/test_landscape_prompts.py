"""F2, hard prompts: each system's known answer, with a control that breaks it; the fill theorem; the bound."""

from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from memlab.experiments.landscape import prompt_choices as choices
from memlab.experiments.landscape import prompt_head, prompt_rewrites, prompt_scores, prompts, reading
from memlab.experiments.landscape.bits import stored_bits
from memlab.experiments.landscape.measure import cue_ids, sampled_passages
from memlab.experiments.landscape.method import Context, LandscapeError, Method
from memlab.experiments.landscape.prompt_codes import pack, unpack
from memlab.measures import selection
from memlab.measures.landscape import above_the_bound
from memlab.measures.systems import REFERENCES, SYSTEMS
from memlab.texts import load_texts
from tests.conftest import random_passages

pytestmark = pytest.mark.slow  # the laws and known answers of many methods: a minute together

CUE = "\nAgain:\n"
METHODS = {method.name: method.with_cue(CUE) for method in prompts.methods(None)}
TEXT = "The ferry left at nine. Nobody had told the cook. He stood on the quay with a pan. It rained. The pan filled."


@pytest.fixture(scope="module")
def passage(toy):
    return toy.passage(TEXT)


@pytest.fixture(scope="module")
def short(toy):
    return toy.passage(TEXT, 24)


def bits_with(lm, method, passage, cue=()):
    context = method.context(lm, method.store(lm, passage), len(passage))
    return float(reading.token_bits(lm, context, passage.ids, cue)[0].sum())


def test_the_methods_follow_the_systems_of_the_family():
    assert len(METHODS) == len(prompts.methods(None))
    assert {method.system for method in METHODS.values()} == {
        name for name, system in SYSTEMS.items() if system.family == "F2"
    } | {name for name, family in REFERENCES.items() if family == "F2"}
    for name, method in METHODS.items():
        assert isinstance(method, Method)
        assert method.family == "F2"
        assert name.endswith(method.decoder)
    assert {m.system for m in METHODS.values() if m.sees == "target"} == {"RECOMP", "CoLoR"}


@pytest.mark.parametrize("name", METHODS)
def test_the_bytes_give_the_kept_tokens_again(toy, short, name):
    method = METHODS[name]
    context = method.context(toy, method.store(toy, short), len(short))
    if isinstance(method, prompts.Written):
        expected = method.write(toy, short, method.share or 0)
        assert len(expected) <= len(short)
    else:
        kept = method.kept(toy, short) if isinstance(method, prompts.Kept) else range(len(short))
        expected = short.ids[kept]
        assert (np.diff(kept) > 0).all()
        if method.decoder == "fill":
            assert context.embeddings is None
            assert context.given == dict(zip(kept, expected, strict=True))
            return
    assert not context.given
    fed = torch.empty(0, toy.d) if context.embeddings is None else context.embeddings
    if getattr(method, "none_allowed", False) and len(expected):
        expected = np.concatenate([expected, cue_ids(toy, CUE)])
    torch.testing.assert_close(fed, toy.embed(expected))


# The fill theorem ----------------------------------------------------------------------------------------------------


def recovered_by_filling(lm, passage, kept):
    context = Context(given={int(i): int(passage.ids[i]) for i in kept})
    return float(prompt_scores.surprisal(lm, passage).sum() - reading.token_bits(lm, context, passage.ids, ())[0].sum())


def check_fill_theorem(lm, passage, draws):
    bits = prompt_scores.surprisal(lm, passage)
    rng = np.random.default_rng(0)
    for share in (0.1, 0.35, 0.75, 1):
        m = selection.count(len(passage), share)
        others = [rng.choice(len(passage), m, replace=False) for _ in range(draws)]
        most = recovered_by_filling(lm, passage, choices.dearest(lm, passage, share))
        least = recovered_by_filling(lm, passage, choices.cheapest(lm, passage, share))
        assert most == pytest.approx(np.sort(bits)[-m:].sum(), abs=1e-4)
        for kept in others:
            recovered = recovered_by_filling(lm, passage, kept)
            assert recovered == pytest.approx(bits[kept].sum(), abs=1e-4)
            assert least - 1e-4 <= recovered <= most + 1e-4
        assert least < most or m == len(passage)


def test_filling_recovers_exactly_what_the_kept_tokens_cost(toy, passage):
    check_fill_theorem(toy, passage, draws=5)


def test_a_wrong_token_is_no_code_of_the_passage(toy, passage):
    """The control of the theorem: the gain is not paid for tokens that are not the passage's."""
    wrong = int(passage.ids[3] + 1) % toy.vocabulary
    bits, right = reading.token_bits(toy, Context(given={3: wrong}), passage.ids, ())
    assert np.isinf(bits[3])
    assert not right[3]


def test_tokens_are_an_arithmetic_code_or_plain_ids(toy):
    """What the model writes itself is cheap and coded; tokens it does not expect cost more than their ids."""
    for expected in (True, False):
        ids = [5]
        while len(ids) < 12:
            logits = toy.model(torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax() if expected else logits.argmin()))
        data, plain = pack(toy, np.array(ids)), 12 * 7  # 96 tokens: 7 bits
        assert unpack(toy, data, 12).tolist() == ids
        ideal = toy.token_bits(ids)[1:].sum() + np.log2(96)
        if expected:
            assert ideal - 1 <= 8 * len(data) <= ideal + 10 < plain
        else:
            assert ideal > 8 * len(data) == 8 * -(-plain // 8)
    assert pack(toy, np.empty(0, np.int64)) == b""
    assert unpack(toy, b"", 0).tolist() == []


def test_everything_kept_is_the_full_text(toy, short):
    full = bits_with(toy, METHODS["full text, raw ids, read"], short)
    assert bits_with(toy, METHODS["surprisal-kept tokens, 100 %, read"], short) == pytest.approx(full, abs=1e-6)
    assert bits_with(toy, METHODS["surprisal-kept tokens, 100 %, fill"], short) == 0
    assert bits_with(toy, METHODS["full text, raw ids, fill"], short) == 0
    for choose in (choices.lasting, choices.covering, choices.central, choices.agreed, choices.learnt):
        assert choose(toy, short, 1.0).tolist() == list(range(len(short)))


# Scores --------------------------------------------------------------------------------------------------------------


def test_costs_of_many_rows_are_those_of_each_alone(any_toy):
    lm = any_toy
    passages = random_passages(lm, 6, 9)
    for cue in ((), (3, 4)):
        parts = [p.ids[:m] for m, p in enumerate(passages)]
        targets = [p.ids[: 9 - m] for m, p in enumerate(passages)]
        alone = [
            float(reading.token_bits(lm, Context(lm.embed(part)), target, cue)[0].sum())
            for part, target in zip(parts, targets, strict=True)
        ]
        np.testing.assert_allclose(prompt_scores.costs(lm, parts, targets, cue), alone, atol=1e-3)


def test_units_are_sentences_or_windows(toy, passage, short):
    pieces = [toy.decode_ids(passage.ids[a:b]).strip() for a, b in prompt_scores.units(toy, passage)]
    assert pieces == [sentence + "." for sentence in TEXT.rstrip(".").split(". ")]
    assert prompt_scores.units(toy, short) == [(0, 8), (8, 16), (16, 24)]
    words = [toy.decode_ids(passage.ids[a:b]).strip() for a, b in prompt_scores.words(toy, passage)]
    assert words == TEXT.split()


def test_nothing_is_fitted_on_a_row(toy):
    rows = {text.id for kind in ("originals", "random") for text in load_texts(kind, count=12)}
    fitted = {passage.span.id for passage in prompt_scores.fit_passages(toy, 16, 15)}
    assert len(fitted) == 15
    assert not rows & fitted


def test_page_rank_prefers_the_hub():
    """A hub with four things that are like it and not like each other; the control: all things alike rank alike."""
    hub, arms = np.ones(4), np.eye(4)
    ranks = prompt_scores.page_rank(np.vstack([arms[:2], hub, arms[2:]]))
    assert ranks.argmax() == 2
    assert ranks.sum() == pytest.approx(1)
    np.testing.assert_allclose(prompt_scores.page_rank(np.ones((5, 3)), neighbours=4), 1 / 5, atol=1e-6)


def test_the_head_learns_what_states_say_and_nothing_from_shuffled_labels():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    states, groups = rng.standard_normal((480, 20)), np.repeat(np.arange(12), 40)
    labels = states @ rng.standard_normal(20) > 0
    seen, new = groups < 9, groups >= 9

    def auc(marks):
        model = prompt_head.fit(states[seen], marks[seen], groups[seen])
        return roc_auc_score(labels[new], model.decision_function(states[new]))

    assert auc(labels) > 0.95
    assert 0.2 < auc(rng.permutation(labels)) < 0.8


# Each system's rule --------------------------------------------------------------------------------------------------


def test_words_are_deleted_whole(toy, passage):
    whole = prompt_scores.words(toy, passage)
    for share in (0.2, 0.5, 0.8):
        kept = set(choices.lasting(toy, passage, share).tolist())
        assert len(kept) <= selection.count(len(passage), share)
        assert all(len(kept & set(range(*word))) in (0, word[1] - word[0]) for word in whole)


def test_an_oracle_that_may_keep_nothing_never_loses(toy):
    """The control: the same passages read after unrelated text cost more than without it, in some cases."""
    passages = random_passages(toy, 8, 24, seed=3)
    method, lost = METHODS["units that lower the loss most, or none, 50 %, read"], 0
    for i, passage in enumerate(passages):
        without = prompt_scores.surprisal(toy, passage).sum()
        assert bits_with(toy, method, passage) <= without + 1e-3
        unrelated = [passages[i - 1].ids[:8]]
        lost += prompt_scores.costs(toy, unrelated, [passage.ids], cue_ids(toy, CUE))[0] > without
    assert lost > 0


def test_yes_shares_lie_between_none_and_all(toy, passage):
    parts = [toy.decode_ids(passage.ids[a:b]) for a, b in prompt_scores.units(toy, passage)]
    shares = prompt_rewrites.yes_shares(toy, TEXT[:40], parts)
    assert shares.shape == (5,)
    assert selection.above(shares, 0).tolist() == list(range(5))
    assert selection.above(shares, 1 + 1e-6).tolist() == []
    kept = choices.agreed(toy, passage, 0.5)
    assert (np.diff(kept) > 0).all()
    assert 0 < len(kept) < len(passage)


def test_the_shortest_prompt_that_is_still_found(toy):
    one, two, *others = random_passages(toy, 8, 24, seed=5)
    candidates = [np.arange(m) for m in range(20)]
    assert choices.shortest_found(toy, one, [], candidates, ()).tolist() == []
    everything = list(range(24))
    assert choices.shortest_found(toy, one, [one.ids[:16]], candidates, ()).tolist() == everything
    assert choices.shortest_found(toy, one, [p.ids[:16] for p in others], [], ()).tolist() == everything
    kept = choices.shortest_found(toy, one, [two.ids[:16]], candidates, cue_ids(toy, CUE))
    heads = [one.ids[:16], two.ids[:16]]
    before = prompt_scores.costs(toy, [one.ids[:0]] * 2, heads, cue_ids(toy, CUE))
    for candidate in candidates[1 : len(kept)]:  # no shorter one finds it
        saved = before - prompt_scores.costs(toy, [one.ids[candidate]] * 2, heads, cue_ids(toy, CUE))
        assert saved[0] <= saved[1] + choices.HELPS


ANSWERS = {
    "": None,
    "ferry quay": None,  # too short to have all keywords
    TEXT + TEXT: None,
    "{words}": "{words}",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_rewrite_is_shorter_and_keeps_the_keywords_or_is_refused(toy, passage, monkeypatch, answer):
    needed = prompt_rewrites.keywords(TEXT, max(1, len(passage) // 16))
    assert len(needed) == 6
    said = answer.format(words=" ".join(needed))
    monkeypatch.setattr(prompt_rewrites, "say", lambda lm, request, most: (said, True))
    ids = prompt_rewrites.rewritten(toy, passage.ids, 40)
    if ANSWERS[answer] is None:
        assert ids.tolist() == passage.ids.tolist()
    else:
        assert len(ids) < len(passage)
        assert all(word in toy.decode_ids(ids) for word in needed)
    monkeypatch.setattr(prompt_rewrites, "say", lambda lm, request, most: (said, False))
    assert prompt_rewrites.rewritten(toy, passage.ids, 40).tolist() == passage.ids.tolist()


def test_without_rewriting_the_chunks_are_the_text(toy, passage, monkeypatch):
    monkeypatch.setattr(prompt_rewrites, "say", lambda lm, request, most: ("", True))
    assert prompt_rewrites.shorter(toy, passage, 0.25).tolist() == passage.ids.tolist()
    chunks = prompt_rewrites.chunks(toy, passage)
    assert all(stop - start >= prompt_rewrites.SHORT for start, stop in chunks)
    assert all(one[1] == other[0] for one, other in pairwise(chunks))


def test_titles_see_earlier_ones_and_fall_back_to_the_dearest_word(toy, passage, monkeypatch):
    requests, answers = [], iter(["Nine", "Nine", ""])
    monkeypatch.setattr(prompt_rewrites, "chapters", lambda lm, p: [(0, 23), (23, 49), (49, len(passage))])
    monkeypatch.setattr(prompt_rewrites, "say", lambda lm, r, most: (requests.append(r) or next(answers), True))
    first, second, third = toy.decode_ids(prompt_rewrites.titles(toy, passage)).split("\n")
    assert first == "Nine"
    assert "Nine" not in requests[0].replace(TEXT[:23], "")
    assert "Earlier titles: Nine." in requests[1]
    assert second in TEXT[23:49].split()
    assert f"Earlier titles: Nine; {second}." in requests[2]
    bits = prompt_scores.surprisal(toy, passage)
    dearest = max((w for w in prompt_scores.words(toy, passage) if w[0] >= 49), key=lambda w: bits[slice(*w)].sum())
    assert third == TEXT[slice(*dearest)].strip()


def test_a_model_without_a_tokenizer_is_told(short, toy):
    silent = SimpleNamespace(tokenizer=None, name="silent")
    with pytest.raises(LandscapeError, match="silent has no tokenizer"):
        prompt_rewrites.request_ids(silent, "Yes?")


# The bound -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peeking(prompts.Kept):
    """A cheat: it stores nothing, and knows the passage."""

    passage: object = None

    def store(self, lm, passage):
        return b""

    def context(self, lm, data, tokens):
        return Context(given=dict(enumerate(self.passage.ids[: tokens // 2].tolist())))


LEFT_OUT = ("learnt", "Yes or No", "found", "titles", " 10 %", " 20 %", " 25 %", " 75 %", " 80 %")
BOUND = [name for name in METHODS if not any(part in name for part in LEFT_OUT)]


def test_no_prompt_recovers_more_than_it_stores_on_average(toy):
    """On text that the model wrote itself. A method that peeks is caught."""
    import pandas as pd

    rows = []
    for passage in sampled_passages(toy, 12, 8, seed=1):
        without = prompt_scores.surprisal(toy, passage).sum()
        peeking = Peeking(system="full text", what="peeking", passage=passage)
        for method in [*(METHODS[name] for name in BOUND), replace(peeking, decoder="fill")]:
            stored = stored_bits(method.store(toy, passage), fixed_size=method.fixed_size)
            rows.append((method.name, without, bits_with(toy, method, passage), stored))
    table = pd.DataFrame(rows, columns=["method", "bits_without", "bits_with", "stored_bits"])
    over = above_the_bound(table).set_index("method").above
    assert list(over.index[over]) == ["peeking, fill"]


# The default model ---------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_fill_theorem(real):
    (text,) = load_texts("originals", count=1)
    check_fill_theorem(real, real.passage(text, 48), draws=1)


@pytest.mark.real
def test_real_chapters_begin_where_another_text_does(real):
    """Two texts in one: the cut is within a sentence of the seam, mostly. The control: a text alone is rarely cut.

    A text alone has parts, too, so it is cut more often than the level of the null model.
    """
    parts = [real.passage(text, 120) for text in load_texts("originals")[12:28]]
    alone = np.mean([len(prompt_rewrites.chapters(real, part)) > 1 for part in parts])
    near = []
    for one, other in zip(parts[::2], parts[1::2], strict=True):
        passage = real.passage_of_ids(np.concatenate([one.ids, other.ids]), name="spliced")
        pieces = [start for start, _ in prompt_scores.units(real, passage)]
        cuts = [pieces.index(start) for start, _ in prompt_rewrites.chapters(real, passage)][1:]
        seam = int(np.searchsorted(pieces, 120, side="right")) - 1
        near.append(any(abs(cut - seam) <= 1 for cut in cuts))
    assert np.mean(near) >= 0.5
    assert alone <= 0.25
