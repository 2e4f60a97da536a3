"""The landscape's protocol: real bytes, the bound that nothing crosses, a cheat that is caught, rows that resume."""

import json
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch

from memlab import Recipe, Store, cram, load
from memlab.experiments import codecs as model_codes
from memlab.experiments.landscape import bits, measure, reading
from memlab.experiments.landscape.method import Base, Context, LandscapeError
from memlab.experiments.landscape.registry import methods
from memlab.experiments.landscape.vectors import Vector, pack, unpack
from memlab.experiments.session import Session
from memlab.experiments.tables import TableError, stored, stored_landscape
from memlab.measures.landscape import COLUMNS, above_the_bound, by_share, edit_share, frontier, shares, summary
from memlab.measures.smaller_models import AFTER
from memlab.measures.systems import FAMILIES, REFERENCES, SYSTEMS


@pytest.fixture(scope="module")
def lm():
    return load("toy:llama")


@dataclass(frozen=True)
class Nothing(Base):
    name: str = "nothing"

    def store(self, lm, passage):
        return b""

    def context(self, lm, data, tokens):
        return Context()


@dataclass(frozen=True)
class Ids(Base):
    """All tokens as numbers of one byte: known for certain."""

    name: str = "all tokens"

    def store(self, lm, passage):
        return bytes(passage.ids.tolist())

    def context(self, lm, data, tokens):
        return Context(given=dict(enumerate(data)))


@dataclass(frozen=True)
class Peeking(Ids):
    """A cheat: it keeps the passage on itself and stores a number."""

    name: str = "peeking"
    kept: list = field(default_factory=list, compare=False)

    def store(self, lm, passage):
        self.kept.append(passage.ids)
        return bytes([len(self.kept) % 256])

    def context(self, lm, data, tokens):
        return Context(given=dict(enumerate(self.kept[(data[0] - 1) % 256].tolist())))


def sampled_table(lm, chosen, count=256, tokens=12):
    passages = {"sampled": measure.sampled_passages(lm, count, tokens)}
    return measure.landscape(Session(lm, Store("/nonexistent"), progress=False), passages, chosen, cue="")


@pytest.mark.slow
def test_no_method_recovers_more_than_it_stores_and_a_cheat_is_caught(lm):
    table = sampled_table(lm, [Nothing(), Ids(), Peeking()])
    bound = above_the_bound(table).set_index("method")
    assert not bound.above["nothing"]
    assert not bound.above["all tokens"]
    assert bound.above["peeking"]
    nothing = table[table.method == "nothing"]
    assert np.allclose(nothing.bits_with, nothing.bits_without, atol=1e-3)
    assert (nothing.stored_bits == 0).all()
    all_of_it = table[table.method == "all tokens"]
    assert (all_of_it.bits_with == 0).all()
    assert all_of_it.exact.all()
    assert (all_of_it.edit == 1).all()
    assert (all_of_it.stored_bits == 8 * 12).all()
    # What is stored of another passage is no help: a wrong certainty is no code at all.
    assert np.isinf(all_of_it.bits_shuffled).mean() > 0.9


def test_sampled_passages_come_from_the_model(lm):
    """Their mean cost is the model's entropy: sampling and scoring agree. Another model's samples cost it more."""
    passages = measure.sampled_passages(lm, 400, 8, seed=1)
    costs, entropies = [], []
    for passage in passages[:100]:
        bits_ = lm.token_bits(passage.ids)
        costs.append(bits_[1:].sum())
        fed = torch.cat([lm.embed(list(lm.sink_prefix)), lm.embed(passage.ids[:-1])])[None]
        with torch.no_grad():
            p = torch.softmax(lm.model(inputs_embeds=fed).logits[0, -(len(passage) - 1) :].double(), -1)
        entropies.append(float(-(p * p.log2()).sum()))
    over = np.array(costs) - np.array(entropies)
    assert abs(over.mean()) < 3 * over.std() / np.sqrt(len(over))
    uniform = np.random.default_rng(0).integers(0, lm.vocabulary, (100, 8))
    assert np.mean([lm.token_bits(row)[1:].sum() for row in uniform]) > np.mean(costs) + 1
    assert np.array_equal(passages[3].ids, measure.sampled_passages(lm, 400, 8, seed=1)[3].ids)


def test_a_reader_writes_what_it_scores(lm):
    """The free decode before its first wrong token is what the scores call right; batches agree with single rows."""
    passages = measure.sampled_passages(lm, 6, 10)
    contexts = [Context(lm.embed(p.ids)) for p in passages] + [Context(given={0: 3, 5: 9})]
    together = reading.written(lm, contexts, 10, [()] * 7)
    for context, ids in zip(contexts, together, strict=True):
        assert np.array_equal(reading.written(lm, [context], 10, [()])[0], ids)
        assert reading.token_bits(lm, context, ids, ())[1][1:].all()
    assert together[-1][0] == 3
    assert together[-1][5] == 9


def test_mem_vectors_are_read_from_their_bytes(lm, tmp_path):
    store = Store(tmp_path)
    passages = [lm.passage_of_ids(np.random.default_rng(i).integers(0, 96, 6), name=f"p{i}") for i in range(3)]
    mems = cram(lm, passages, Recipe.default(k=4), store=store, progress=False)
    assert all(mem.exact for mem in mems)
    table = measure.landscape(
        Session(lm, store, progress=False), {"toys": passages}, methods(store, ["F1"], None)[:2], cue=""
    )
    float32, fewest = (table[table.method == name] for name in ("mem vector, float32", "mem vector, fewest bits"))
    assert float32.exact.all()
    assert fewest.exact.all()
    assert (float32.stored_bits == 32 * 4 * lm.d).all()
    assert (fewest.stored_bits.to_numpy() < float32.stored_bits.to_numpy() / 2).all()
    assert (table.bits_shuffled > table.bits_with).all()
    missing = lm.passage_of_ids([1, 2, 3], name="absent")
    with pytest.raises(LandscapeError, match=r"no exact vector of .*absent.*memlab cram"):
        Vector(shelf=store).store(lm, missing)


@pytest.mark.parametrize("width", [2, 5, 7, 16])
def test_rounded_vectors_are_packed_as_they_are_rounded(lm, width):
    (mem,) = cram(lm, lm.passage_of_ids([5, 9]), Recipe.default(k=2, budget=1), progress=False)
    data = pack(mem.mem, width)
    assert np.array_equal(unpack(data, mem.d), mem.quantise(width).mem)
    assert len(data) == 2 + 4 * 2 + -(-2 * mem.d * width // 8)


def test_a_mask_is_the_number_of_a_choice():
    """Every choice has its own number, and none is larger than their count."""
    from itertools import combinations
    from math import comb

    seen = {bits.pack_mask(kept, 7) for kept in combinations(range(7), 3)}
    assert len(seen) == comb(7, 3)
    assert max(int.from_bytes(data, "big") for data in seen) == comb(7, 3) - 1
    for kept in combinations(range(7), 3):
        assert bits.unpack_mask(bits.pack_mask(kept, 7), 3, 7).tolist() == list(kept)
    assert bits.unpack_mask(bits.pack_mask([], 5), 0, 5).tolist() == []
    with pytest.raises(LandscapeError, match="Position 9 is not one of 7"):
        bits.pack_mask([9], 7)


def test_codes_of_ids_do_not_need_their_number_of_bits(lm):
    passage = measure.sampled_passages(lm, 1, 20)[0]
    data = bits.pack_ids(lm, passage.ids)
    assert np.array_equal(bits.unpack_ids(lm, data, 20), passage.ids)
    assert 8 * len(data) - model_codes.encode(lm, passage.ids).bits in range(8)
    damaged = bytes([data[0] ^ 0x40]) + data[1:]
    try:
        assert not np.array_equal(bits.unpack_ids(lm, damaged, 20), passage.ids)
    except ValueError:
        pass


def test_sizes_that_vary_carry_their_length():
    assert bits.stored_bits(b"abc", fixed_size=True) == 24
    assert bits.stored_bits(b"abc", fixed_size=False) == 24 + 5
    assert bits.stored_bits(b"", fixed_size=False) == 1


def test_edit_share():
    assert edit_share([1, 2, 3], [1, 2, 3]) == 1
    assert edit_share([1, 2, 3], [4, 5, 6]) == 0
    assert edit_share([1, 2, 3, 4], [2, 3, 4]) == 0.75
    assert edit_share([], []) == 1
    assert edit_share([1], []) == 0
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = rng.integers(0, 3, rng.integers(0, 9)), rng.integers(0, 3, rng.integers(0, 9))
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
        for i in range(len(a)):
            for j in range(len(b)):
                step = table[i, j] + (a[i] != b[j])
                table[i + 1, j + 1] = min(step, table[i, j + 1] + 1, table[i + 1, j] + 1)
        assert edit_share(a, b) == pytest.approx(1 - table[-1, -1] / max(len(a), len(b), 1))


def test_rows_resume(lm):
    passages = {"sampled": measure.sampled_passages(lm, 3, 6)}
    shown = []
    first = measure.landscape(Session(lm, Store("/nonexistent"), log=shown.append), passages, [Ids()], cue="")
    assert list(first.columns) == list(COLUMNS)
    assert len(shown) == 1
    again = measure.landscape(
        Session(lm, Store("/nonexistent"), first, shown.append), passages, [Ids(), Nothing()], cue=""
    )
    assert len(shown) == 2
    assert again.method.value_counts().to_dict() == {"all tokens": 3, "nothing": 3}
    pd.testing.assert_frame_equal(again[again.method == "all tokens"].reset_index(drop=True), first)
    with pytest.raises(TableError, match="no column method"):
        measure.landscape(Session(lm, Store("/nonexistent"), pd.DataFrame({"a": [1]})), passages, [Ids()], cue="")


def test_one_passage_is_refused_and_one_that_does_not_fit_is_left_out(lm):
    class Picky(Ids):
        def store(self, lm, passage):
            if passage.span.id == "sampled-1":
                raise LandscapeError("This passage is too short. Give a longer one.")
            return super().store(lm, passage)

    passages, shown = measure.sampled_passages(lm, 3, 6), []
    table = measure.landscape(
        Session(lm, Store("/nonexistent"), log=shown.append), {"sampled": passages}, [Picky()], cue=""
    )
    assert table.text_id.tolist() == ["sampled-0", "sampled-2"]
    assert "sampled-1 is left out. This passage is too short." in shown[0]
    with pytest.raises(LandscapeError, match="control needs another"):
        measure.landscape(Session(lm, Store("/nonexistent")), {"sampled": passages[:1]}, [Ids()], cue="")


def test_summaries(lm):
    rows = [
        dict(method="a", stored_bits=10, bits_without=100, bits_with=95, bits_shuffled=101),
        dict(method="b", stored_bits=50, bits_without=100, bits_with=20, bits_shuffled=90),
        dict(method="c", stored_bits=60, bits_without=100, bits_with=30, bits_shuffled=99),
    ]
    common = dict(family="F2", system="s", texts="t", exact=False, exact_prefix=0, seconds_store=1, seconds_read=1)
    common |= dict(detail="{}", decoder="read")
    table = pd.DataFrame([row | common | {"text_id": f"{i}"} for row in rows for i in range(8)])
    points = summary(table).set_index("method")
    assert points.recovered_share.to_dict() == pytest.approx({"a": 0.05, "b": 0.8, "c": 0.7})
    assert points.net_share.b == pytest.approx(0.7)
    assert points.efficiency.b == pytest.approx(1.6)
    assert (points.low <= points.recovered_share + 1e-9).all()
    assert (points.high >= points.recovered_share - 1e-9).all()
    assert frontier(points.reset_index()).method.tolist() == ["a", "b"]
    assert shares(table).stored_share.iloc[0] == 0.1
    assert shares(table.assign(bits_shuffled=np.inf)).net_share.isna().all()
    assert (shares(table).read_share == shares(table).stored_share).all()
    fetched = shares(table.assign(detail='{"share_read": 0.25}'))
    assert fetched.read_share.iloc[0] == pytest.approx(0.025)
    assert fetched.stored_share.iloc[0] == 0.1


def test_rules_of_keeping_are_lines_over_the_share_kept():
    rows = [("first words, 10 %, read", 0.1, 5), ("first words, 10 %, fill", 0.1, 50), ("all, 12%", 0.125, 60),
            ("all, 12% read", 0.12, 70), ("all, 12%, 4 bits a number", 0.125, 1), ("x, int5", None, 1)]  # fmt: skip
    parts = {"all, 12% read": {"share": 1, "share_read": 0.12}}  # it stores all, and reads a part
    table = pd.DataFrame(
        [
            dict(method=name, detail=json.dumps(parts.get(name, {"share": share})),
                 decoder="fill" if "fill" in name else "read",
                 stored_bits=10, bits_without=100, bits_with=100 - bits + i, bits_shuffled=100)
            for name, share, bits in rows
            for i in (-1, 1)
        ]
    )  # fmt: skip
    found = by_share(table).set_index(["rule", "share", "decoder"]).recovered_share
    assert found.to_dict() == pytest.approx(
        {("first words", 0.1, "read"): 0.05, ("first words", 0.1, "fill"): 0.5, ("all", 0.125, "read"): 0.6,
         ("all", 0.12, "read"): 0.7}
    )  # fmt: skip


def test_unknown_families_and_methods_are_named(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(LandscapeError, match="no family 'F9'"):
        methods(store, ["F9"])
    with pytest.raises(LandscapeError, match="no method 'x'"):
        methods(store, ["F1"], ["x"])


def test_every_system_is_measured(tmp_path):
    chosen = methods(Store(tmp_path))
    names = [method.name for method in chosen]
    assert len(set(names)) == len(names)
    assert len(SYSTEMS) == 25
    assert {method.system for method in chosen} <= {*SYSTEMS, *REFERENCES}
    assert {method.family for method in chosen} <= set(FAMILIES)
    assert len(stored("information-capacity")) >= 2  # a table of models, not of methods
    measured = {*stored_landscape().system, "Information Capacity"}
    assert set(SYSTEMS) <= measured
    assert measured <= {method.system for method in chosen} | {*AFTER.values(), "Information Capacity"}
    for method in chosen:
        assert method.family == SYSTEMS[method.system].family if method.system in SYSTEMS else True
        json.dumps(dict(method.detail))
