"""Part of the cache as stored bytes: what is kept, what it costs, and that everything kept is the whole text."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from memlab import Store, load
from memlab.experiments.landscape import cache_bytes, cache_heads, cache_scores, caches, kept, measure, reading
from memlab.experiments.landscape.method import Context, LandscapeError
from memlab.experiments.session import Session
from memlab.measures.landscape import COLUMNS, above_the_bound
from memlab.measures.systems import REFERENCES, SYSTEMS
from memlab.probes.kept_cache import prefill
from memlab.texts import load_texts
from tests.conftest import random_passages

pytestmark = pytest.mark.slow  # the laws and known answers of many methods: a minute together

METHODS = caches.methods(None)
SHARED = [m for m in METHODS if m.bits == 16 and not m.compact and m.sink and m.what != "whole cache"]
CUE = "Again: "


@pytest.fixture(scope="module")
def passage(toy):
    return random_passages(toy, 1, 32, seed=5)[0]


@pytest.fixture
def prefixed(toy, monkeypatch):
    """The toy, with a token before every text."""
    monkeypatch.setitem(toy.__dict__, "sink_prefix", (7,))
    return toy


def read(lm, method, passage, cue=CUE):
    """(bytes, context) of a method; the reader is another copy of it."""
    method = method.with_cue(cue)
    data = method.store(lm, passage)
    return data, dataclasses.replace(method).context(lm, data, len(passage))


def bits_of(lm, context, passage, cue=CUE):
    return reading.token_bits(lm, context, passage.ids, measure.cue_ids(lm, cue))[0]


# Stored bytes ------------------------------------------------------------------------------------------------------


def test_every_method_has_a_name_of_its_own_and_a_system():
    assert len({m.name for m in METHODS}) == len(METHODS)
    assert {m.system for m in METHODS} <= {*SYSTEMS, *REFERENCES}
    assert {"HACK", "WindowKV", "SentenceKV"} <= {m.system for m in METHODS}
    assert all(m.family == "F4" and m.decoder == "read" and m.sees in ("nothing", "cue", "target") for m in METHODS)
    assert {m.system for m in METHODS if m.sees == "target"} == {"KVzip"}
    assert not any(name.lower() in m.name.lower() for m in METHODS for name in SYSTEMS)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_bytes_are_what_is_kept_and_nothing_else(prefixed, passage, method):
    """The size is that of the kept numbers and the choice, one size for all passages. The rest is zero and hidden."""
    lm, n = prefixed, len(passage)
    data, context = read(lm, method, passage)
    cache, count = context.cache, round(method.share * n) if method.system != "SentenceKV" else None
    numbers = cache.keep[:, :, 1:].sum().item() * lm.kv.shape[2] * 2
    assert data == dataclasses.replace(method.with_cue(CUE)).store(lm, passage)
    assert len(data) == len(read(lm, method, random_passages(lm, 2, n, seed=9)[1])[0])
    scales = 0
    if method.bits < 16:
        scales = 4 * (lm.kv.shape[0] * lm.kv.shape[1] * lm.kv.shape[2] + cache.keep[:, :, 1:].sum().item())
    choice = len(data) - scales - numbers * method.bits / 8
    assert -1 <= choice <= lm.kv.shape[0] * lm.kv.shape[1] * n / 8
    assert (cache.keep[:, :, 0] == method.sink).all()  # the sink prefix
    assert not cache.keys[:, :, 1:][~cache.keep[:, :, 1:]].any()
    assert not cache.values[:, :, 1:][~cache.keep[:, :, 1:]].any()
    if count is not None:
        assert cache.keep[:, :, 1:].sum() <= count * lm.kv.shape[0] * lm.kv.shape[1]
    if not method.compact and method.bits == 16:
        whole = prefill(lm, [7, *passage.ids])
        want = torch.where(cache.keep[..., None], whole.keys, 0.0)[:, :, 1:].bfloat16().float()
        torch.testing.assert_close(cache.keys[:, :, 1:], want, atol=0, rtol=0)
    other = read(lm, method, random_passages(lm, 2, n, seed=9)[1])[1].cache
    torch.testing.assert_close(cache.keys[:, :, 0], other.keys[:, :, 0], atol=0, rtol=0)


def test_the_sink_prefix_costs_nothing_and_is_the_readers_own(prefixed, passage):
    """Its keys and values are the same whatever follows, so the reader computes them. Other positions are not."""
    data, context = read(prefixed, kept.Kept(bits=32), passage)
    layers, heads, e = prefixed.kv.shape
    assert len(data) == 2 * 4 * layers * heads * e * len(passage)
    whole, alone = prefill(prefixed, [7, *passage.ids]), prefill(prefixed, [7])
    torch.testing.assert_close(whole.keys[:, :, :1], alone.keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(context.cache.values[:, :, :1], whole.values[:, :, :1], atol=1e-5, rtol=1e-5)
    second = prefill(prefixed, [7, passage.ids[0]])
    changed = prefill(prefixed, [8, passage.ids[0]])
    assert abs(second.keys[1, :, 1] - changed.keys[1, :, 1]).max() > 1e-3


def test_without_a_sink_prefix_the_first_token_is_kept_and_counted(toy, passage):
    """In each layer and head, whatever its score; the same budget without it keeps another position."""
    assert toy.sink_prefix == ()
    for kind in (caches.RandomPositions, caches.ShortKeys, caches.OfCue, caches.FirstAndLast):
        keep = read(toy, kind(share=0.25), passage)[1].cache.keep
        assert keep[..., 0].all()
        without = read(toy, kind(share=0.25, sink=False), passage)[1].cache.keep
        assert not without[..., 0].all()
        assert keep.sum() == without.sum() == 8 * keep.shape[0] * keep.shape[1]


def test_the_whole_cache_in_float32_is_the_whole_text(prefixed, passage):
    whole = bits_of(prefixed, Context(prefixed.embed(passage.ids)), passage)
    np.testing.assert_allclose(
        bits_of(prefixed, read(prefixed, kept.Kept(bits=32), passage)[1], passage), whole, atol=1e-4
    )
    plain = read(prefixed, kept.Kept(), passage)[1]
    exact = prefill(prefixed, [7, *passage.ids])
    torch.testing.assert_close(plain.cache.keys[:, :, 1:], exact.keys[:, :, 1:].bfloat16().float(), atol=0, rtol=0)
    hidden = read(prefixed, kept.Kept(bits=32, sink=False), passage)[1]
    assert abs(bits_of(prefixed, hidden, passage) - whole).max() > 1e-3


@pytest.mark.parametrize("kind", sorted({type(m) for m in SHARED}, key=lambda t: t.__name__), ids=lambda t: t.__name__)
def test_a_budget_of_everything_is_the_whole_cache(prefixed, passage, kind):
    whole = bits_of(prefixed, read(prefixed, kept.Kept(), passage)[1], passage)
    np.testing.assert_allclose(
        bits_of(prefixed, read(prefixed, kind(share=1.0), passage)[1], passage), whole, atol=1e-4
    )
    part = bits_of(prefixed, read(prefixed, kind(share=0.5), passage)[1], passage)
    assert abs(part - whole).max() > 1e-2


def test_moved_together_all_positions_stay_where_they_are(prefixed, passage):
    """Moved by nothing is kept. Moved for real, keys of layer 0 are those of the kept tokens alone."""
    data, context = read(prefixed, caches.FirstAndLast(share=0.5, compact=True, bits=32), passage)
    chosen = caches.FirstAndLast(share=0.5).known(prefixed, 32)[0, 0].numpy()
    assert context.cache.positions == 17
    alone = prefill(prefixed, [7, *passage.ids[chosen]])
    torch.testing.assert_close(context.cache.keys[0], alone.keys[0], atol=1e-4, rtol=1e-4)
    assert len(data) == len(read(prefixed, caches.FirstAndLast(share=0.5, bits=32), passage)[0])
    whole, same = (
        read(prefixed, caches.FirstAndLast(share=1.0, compact=moved), passage)[1].cache for moved in (False, True)
    )
    torch.testing.assert_close(whole.keys, same.keys, atol=1e-5, rtol=1e-5)
    with pytest.raises(LandscapeError, match="Keep positions"):
        read(prefixed, caches.OfRepetition(share=0.3, compact=True), passage)


def test_keys_are_those_of_a_pass_that_hides_nothing(prefixed, passage):
    """Fact 6: what is dropped is dropped after the pass. Keys computed without the dropped tokens differ."""
    keep = read(prefixed, caches.FirstAndLast(share=0.5, bits=32), passage)[1].cache
    whole = prefill(prefixed, [7, *passage.ids])
    index = keep.keep[1, 0]
    torch.testing.assert_close(keep.keys[1, :, index], whole.keys[1, :, index], atol=1e-5, rtol=1e-5)
    short = prefill(prefixed, np.array([7, *passage.ids])[index.numpy()])
    assert abs(short.values[1] - whole.values[1, :, index]).max() > 1e-2


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(1, 8), (13, 8), (0, 8)])
def test_rounded_numbers_move_by_half_a_step_at_most(bits, axis, shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 + torch.arange(8) * 5
    data = cache_bytes.pack(rows, bits, axis)
    back, end = cache_bytes.unpack(b"xx" + data, 2, *shape, bits, axis)
    assert end == len(data) + 2
    assert back.shape == shape
    if shape[0]:
        low, high = rows.amin(axis, keepdim=True), rows.amax(axis, keepdim=True)
        step = (high - low) / (2**bits - 1)
        # The lowest value and the step are bfloat16 of 8 significant bits: the step grows by a little.
        assert (abs(back - rows) <= step * 0.51 + (low.abs() + high.abs()) / 128 / (2**bits - 1) + 1e-6).all()
        held = (8 if axis == 0 else len(rows)) * 4
        assert len(data) == held + -(-rows.numel() * bits // 8)


def test_sixteen_bits_are_bfloat16_and_other_bits_are_refused():
    rows = torch.randn(5, 8)
    assert torch.equal(cache_bytes.unpack(cache_bytes.pack(rows, 16, 0), 0, 5, 8, 16, 0)[0], rows.bfloat16().float())
    assert torch.equal(cache_bytes.unpack(cache_bytes.pack(rows, 32, 1), 0, 5, 8, 32, 1)[0], rows)
    with pytest.raises(LandscapeError, match="Use 1 to 8"):
        cache_bytes.pack(rows, 12, 0)


def test_a_channel_of_large_keys_asks_for_scales_per_channel():
    """Channels of different size: scales per channel lose less. Tokens of different size: scales per token."""
    rows = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    wide = rows * torch.where(torch.arange(16) == 3, 50.0, 1.0)
    tall = rows * torch.where(torch.arange(32) == 3, 50.0, 1.0)[:, None]

    def loss(rows, axis):
        back = cache_bytes.unpack(cache_bytes.pack(rows, 4, axis), 0, 32, 16, 4, axis)[0]
        return float(((back - rows) ** 2 / rows.abs().amax(1 - axis if rows is tall else 0, keepdim=True) ** 2).sum())

    assert loss(wide, 0) < loss(wide, 1)
    assert loss(tall, 1) < loss(tall, 0)


# What is kept ------------------------------------------------------------------------------------------------------


def test_what_a_method_sees_is_what_its_choice_depends_on(prefixed, passage):
    """Fact 7. The cue changes what cue-aware methods keep, and only that."""
    for method in (m for m in SHARED if m.share == 0.25):
        one, *others = (
            read(prefixed, method, passage, cue)[1].cache.keep for cue in ("Again: ", "Next one: ", "\n", "?")
        )
        same = [torch.equal(one, other) for other in others]
        if method.sees == "cue":
            assert not all(same), method.name
        elif method.sees == "nothing" and method.system != "copying heads":  # chosen for a cue, on other passages
            assert all(same), method.name


def test_windows_partition_the_passage_and_layers_of_a_group_keep_the_same(toy):
    row = kept.Row(toy, random_passages(toy, 1, 37)[0].ids, (3, 4))
    for share in (0.25, 0.5, 0.9):
        keep = caches.Windows(share=share, groups=1).choose(row)
        assert (keep == keep[:1, :1]).all()
        assert keep.float().mean() <= share
        starts = keep[0, 0].view(-1)[: 37 // 8 * 8].view(-1, 8)
        assert (starts.all(1) | ~starts.any(1)).all()
    assert caches.Windows(share=1.0).choose(row).all()
    two = caches.Windows(share=0.6, groups=2).choose(row)
    assert two[0, 0].sum() > two[1, 0].sum()  # deeper groups keep less


def test_windows_by_hand():
    scores = torch.tensor([0.0, 1, 5, 5, 2, 2, 9])
    assert cache_scores.windows(scores, 1, 2).int().tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert cache_scores.windows(scores, 2, 2).int().tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert not cache_scores.windows(scores, 0, 2).any()


@pytest.mark.parametrize("groups", [1, 2, 5, 6])
def test_arithmetic_budgets(groups):
    for most in (1, 7, 8):
        for share in np.linspace(0, 1, 21):
            found = cache_scores.arithmetic(share, groups, most)
            assert len(found) == groups
            assert sum(found) == int(np.floor(round(share * groups * most, 6)))
            assert min(found) >= 0
            assert max(found) <= most
    assert cache_scores.arithmetic(0.5, 5, 100) == [75, 62, 50, 38, 25]  # equal steps of 12.5, rounded


def test_the_cues_attention_by_hand():
    """Two KV heads of two query heads each; the last two of five positions look."""
    shares = torch.zeros(4, 5, 5)
    shares[0, 3, 0], shares[1, 4, 0], shares[2, 3, 2], shares[3, 4, 1] = 0.8, 0.4, 0.6, 0.2
    plain = cache_scores.of_cue(shares, 2, 2, kernel=1)
    torch.testing.assert_close(plain[:, :3], torch.tensor([[0.3, 0, 0], [0, 0.05, 0.15]]))
    assert (plain[:, 3:] == plain[:, :3].max() + 1).all()
    smooth = cache_scores.of_cue(shares, 2, 2, kernel=3)
    torch.testing.assert_close(smooth[:, :3], torch.tensor([[0.1, 0.1, 0], [0.05 / 3, 0.2 / 3, 0.2 / 3]]))
    read_again = cache_scores.of_reading(shares, slice(3, 5), 2)
    torch.testing.assert_close(read_again[:, :3], torch.tensor([[0.8, 0, 0], [0, 0.2, 0.6]]))


def test_top_keeps_the_largest_within_the_budget():
    scores = torch.tensor([[[1.0, 3, 2, 3], [4.0, 3, 2, 1]]])
    keep = cache_scores.top(scores, torch.tensor([[2, 1]]))
    assert keep.int().tolist() == [[[0, 1, 0, 1], [1, 0, 0, 0]]]
    forced = torch.tensor([True, False, False, False])
    assert cache_scores.top(scores, torch.tensor([[2, 0]]), forced).int().tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0]]]


def test_the_oracle_shares_its_budget_over_layers_and_heads(toy, passage):
    """The sum is the budget; heads differ. Control: its lowest scores cost the reader more bits."""
    keep = caches.OfRepetition(share=0.25).choose(kept.Row(toy, passage.ids, (3, 4, 5)))
    counts = keep.sum(-1)
    assert counts.sum() == 8 * counts.numel()
    assert counts.unique().numel() > 1


def test_maps_along_diagonals_and_along_columns():
    """A Toeplitz map is structural, a map of columns contextual. Independent entries are neither."""
    rng, n = np.random.default_rng(0), 40
    rows, columns = np.indices((n, n))
    noise = 0.2 * rng.random((n, n))
    diagonals, verticals = rng.random(n)[np.abs(rows - columns)], rng.random(n)[columns]
    for sharp, want in ((diagonals, cache_scores.STRUCTURAL), (verticals, cache_scores.CONTEXTUAL)):
        found = cache_scores.explained(np.tril(sharp + noise))
        assert max(found) > 0.8
        assert min(found) < 0.3
        assert cache_scores.kind(*found) == want
    found = [cache_scores.explained(np.tril(rng.random((n, n)))) for _ in range(20)]
    assert abs(np.mean(found)) < 0.02
    assert {cache_scores.kind(*pair) for pair in found} == {0}
    sink = np.tril(noise + 5 * (columns == 0))  # the first column is where attention rests, and is left out
    assert cache_scores.kind(*cache_scores.explained(sink)) == 0
    assert cache_scores.explained(np.ones((2, 2))) == (0.0, 0.0)


def test_equal_budgets_are_the_uniform_way(toy, passage, monkeypatch):
    row = kept.Row(toy, passage.ids, (3, 4, 5))
    uniform = caches.OfCue(share=0.25).choose(row)
    kinds = np.array([[0, 1, 2, 2], [2, 2, 1, 0]])
    monkeypatch.setitem(cache_heads._KINDS, toy.fingerprint, kinds)
    assert torch.equal(caches.ByKind(share=0.25, ratio=1.0, own_rule=False).choose(row), uniform)
    both = caches.ByKind(share=0.25).choose(row)
    assert both.sum() == uniform.sum()
    counts = both.sum(-1).numpy()
    assert counts[kinds == 2].max() < counts[kinds != 2].min()
    assert both[0, 1, -1]
    assert both[0, 1].sum() == both[0, 1, -int(both[0, 1].sum()) + 1 :].sum() + 1  # the last ones and the first
    monkeypatch.setitem(cache_heads._KINDS, toy.fingerprint, np.full((2, 4), 2))
    assert torch.equal(caches.ByKind(share=0.25).choose(row), uniform)


def test_budgets_by_kind_keep_their_mean():
    rng = np.random.default_rng(0)
    for share in (0.1, 0.25, 0.5, 0.9, 1.0):
        kinds = rng.integers(0, 3, (6, 3))
        found = cache_scores.by_kind(kinds, share, 64, ratio=0.25)
        assert found.sum() == int(np.floor(round(share * 18 * 64, 6)))
        assert found.min() >= 0
        assert found.max() <= 64


def test_copying_heads_keep_all_or_nothing(toy, passage):
    keep = read(toy, caches.CopyingHeads(share=0.25), passage)[1].cache.keep
    assert (keep[..., 1:].all(-1) | ~keep[..., 1:].any(-1)).all()
    assert keep[..., 1:].all(-1).sum() == 2
    other = read(toy, caches.CopyingHeads(share=0.25), random_passages(toy, 2, 32, seed=9)[1])[1].cache.keep
    assert torch.equal(keep, other)


def test_sentences_end_where_their_marks_are(toy):
    text = toy.passage("One. Two three? Four\nA sentence that is rather long, and goes on")
    starts = caches.sentence_starts(toy, text.ids).nonzero()[0]
    assert [text.string[i] for i in starts[:3]] == ["O", " ", " "]
    assert starts[3] == text.string.index("\n") + 1
    assert starts[4] == starts[3] + caches.LONGEST
    part, budget = caches.parts_of(caches.sentence_starts(toy, text.ids), 0.5, torch.device("cpu"))
    count = len(text) // 2
    assert (part < 0).sum() + budget == count
    assert part[0] == -1
    assert part[-1] == -1
    inner = part[part >= 0]
    assert inner.unique().tolist() == list(range(int(inner.max()) + 1))
    for share, n in ((1.0, 1), (0.1, 3), (1.0, 2)):
        part, budget = caches.parts_of(np.ones(n, bool), share, torch.device("cpu"))
        assert (part < 0).sum() + budget == int(share * n)


def test_fetched_sentences_are_all_stored(toy, passage):
    """The saving is in what is read at a token, so the bytes are those of the whole cache and the sentences' starts."""
    data, context = read(toy, caches.FetchedSentences(share=0.25), passage)
    assert len(data) == len(read(toy, kept.Kept(), passage)[0]) + 4
    assert context.cache.keep.all()
    assert (context.cache.fetch.part < 0).sum() + context.cache.fetch.budget == 8
    assert caches.FetchedSentences(share=0.25).detail["share_read"] == 0.25


# The table ---------------------------------------------------------------------------------------------------------


def test_all_methods_measure_and_none_is_above_the_bound(toy):
    """All through the table once; then four kinds on more passages that the model itself wrote."""
    few = {"sampled": measure.sampled_passages(toy, 2, 10)}
    table = measure.landscape(Session(toy, Store("/nonexistent"), progress=False), few, METHODS, cue=CUE)
    assert list(table.columns) == list(COLUMNS)
    assert set(table.method) == {m.name for m in METHODS}
    assert np.isfinite(table[["bits_with", "bits_shuffled", "stored_bits"]].to_numpy(float)).all()
    more = {"sampled": measure.sampled_passages(toy, 24, 6, seed=1)}
    chosen = [kept.Kept(bits=2), caches.OfRepetition(share=0.05, bits=1), caches.CopyingHeads(share=0.1)]
    table = measure.landscape(Session(toy, Store("/nonexistent"), progress=False), more, chosen, cue="")
    assert not above_the_bound(table).above.any()


def test_a_model_without_attention_is_left_out():
    lm = load("toy:mamba")
    few = {"sampled": measure.sampled_passages(lm, 2, 4)}
    lines = []
    session = Session(lm, Store("/nonexistent"), progress=lines.append)
    table = measure.landscape(session, few, METHODS[:2] + METHODS[-1:], cue=CUE)
    assert len(table) == 0


def test_ours_keeps_what_kvpress_keeps():
    """``python -m tests.kvpress_agreement`` writes this table. The same weights and tokens, in two environments."""
    table = pd.read_csv(Path(__file__).parents[1] / "data" / "bench" / "kvpress-agreement.csv")
    assert set(table.press) == {"KnormPress", "SnapKVPress", "StreamingLLMPress"}
    assert len(table) == 12
    assert (table.kvpress == "0.5.5").all()
    assert (table.kept_ours == table.kept_theirs).all()
    assert (table.share_agreed == 1).all()
    assert table.largest_key_difference[table.press == "SnapKVPress"].max() < 1e-4


# The real model ----------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_the_real_model_copies_from_its_cache(real):
    """Everything kept is the whole text. Heads that copy hold more than the cue's choice of the same size.

    Fact 5: half of the positions are read worse without the sink. The whole cache need not be: see the table.
    """
    passage = real.passage(load_texts("originals", count=13)[12], 48)
    cue = "\nThe same text again:\n"
    without = real.token_bits(passage.ids).sum()
    whole = bits_of(real, Context(real.embed(passage.ids)), passage, cue)
    full = bits_of(real, read(real, kept.Kept(bits=32), passage, cue)[1], passage, cue)
    np.testing.assert_allclose(full, whole, atol=1e-4)

    def share(method):
        return 1 - bits_of(real, read(real, method, passage, cue)[1], passage, cue).sum() / without

    every, oracle, copying, cue_chosen = (
        share(kind(share=part))
        for kind, part in (
            (kept.Kept, 1.0),
            (caches.OfRepetition, 0.25),
            (caches.CopyingHeads, 0.25),
            (caches.OfCue, 0.25),
        )
    )
    assert every == pytest.approx(1 - whole.sum() / without, abs=0.01)
    assert cue_chosen + 0.2 < copying < oracle + 0.1
    assert oracle == pytest.approx(every, abs=0.05)
    half = caches.FirstAndLast(share=0.5)
    assert share(dataclasses.replace(half, sink=False)) < share(half) - 0.02
