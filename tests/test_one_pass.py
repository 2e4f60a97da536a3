"""One pass as the proof of a decode: it agrees with the decode, and stands back where it could be wrong."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memlab import FrozenLM, MemVector, ModelError, Recipe, Store, VectorError, check, cram, decode, load
from memlab.decoding import decode as decoding
from memlab.decoding import one_pass
from memlab.experiments import one_pass as experiment
from memlab.experiments.session import Session
from memlab.experiments.tiny_models import tiny_model
from memlab.models.families import FAMILIES
from memlab.scoring import objective
from memlab.texts import data_folder
from tests.conftest import random_passages
from tests.helpers import forged_file, generated, make_check, make_vector


@pytest.fixture(scope="module")
def lm():
    return load("toy:llama")


@pytest.fixture(scope="module")
def mems(lm):
    found = cram(lm, random_passages(lm, 6, 12), Recipe.default(k=4), progress=False)
    assert all(mem.exact for mem in found)
    return found


@pytest.fixture(autouse=True)
def nothing_measured():
    one_pass._measured.clear()
    yield
    one_pass._measured.clear()


def written_by(lm, n=24, seed=0, k=2, prefix=(), suffix=(), scale=0.3):
    """A vector of random numbers, with the text that transformers writes from it: exact, with whatever margin."""
    rng = np.random.default_rng(seed)
    mem = MemVector(
        mem=rng.standard_normal((k, lm.d)) * scale,
        token_ids=rng.integers(0, lm.vocabulary, n),
        prefix_ids=prefix,
        suffix_ids=suffix,
        model=lm.name,
        fingerprint=lm.fingerprint,
        recipe=Recipe.default(k=k),
    )
    return dataclasses.replace(mem, token_ids=generated(lm, mem, n))


def without_proof(outcome):
    return dataclasses.replace(outcome, proof="", margin=0.0)


def test_a_pass_proves_what_the_decode_says(lm, mems):
    # Nothing is known of this model at first, so enough positions are decoded before a pass counts.
    proofs = [check(lm, mem).proof for mem in mems]
    assert proofs == ["decode"] * 2 + ["one pass"] * 4  # 12 positions each, and 16 are enough
    for mem in mems:
        quick, long = check(lm, mem), check(lm, mem, one_pass=False)
        assert (quick.proof, long.proof) == ("one pass", "decode")
        assert without_proof(quick) == without_proof(long)
        assert abs(quick.margin - long.margin) <= one_pass.difference(lm).largest
        assert quick.exact
        assert quick.margin >= 100 * one_pass.difference(lm).largest


@pytest.mark.slow
def test_all_families_agree(any_toy):
    places = [dict(), dict(k=1, prefix=(3,)), dict(k=3, suffix=(9,)), dict(k=2, prefix=(1, 2), suffix=(5,)), dict(n=1)]
    right = [written_by(any_toy, seed=seed, **given) for seed, given in enumerate(places)]
    wrong = [mem.perturb(0.5 * float(np.linalg.norm(mem.mem)), seed=1) for mem in right]
    check(any_toy, written_by(any_toy, n=30))
    outcomes = [check(any_toy, mem) for mem in [*right, *wrong]]
    for mem, outcome in zip([*right, *wrong], outcomes, strict=True):
        assert without_proof(outcome) == without_proof(check(any_toy, mem, one_pass=False))
    assert all(outcome.exact for outcome in outcomes[: len(right)])
    proofs = {outcome.proof for outcome in outcomes}
    assert ("one pass" in proofs) == any_toy.family.dense


def test_rows_longer_than_any_that_was_compared_are_decoded(lm):
    for seed in range(2):
        check(lm, written_by(lm, n=20, seed=seed))
    assert one_pass.difference(lm).longest == 2 + 20 - 1
    for given, proof in ((dict(n=20), "one pass"), (dict(n=20, prefix=(1,)), "decode"), (dict(n=21), "one pass")):
        assert check(lm, written_by(lm, seed=7, **given)).proof == proof  # the decode with a prefix was one longer


@pytest.mark.slow
def test_a_cache_that_goes_wrong_beyond_the_window_is_found(monkeypatch):
    """Short rows agree. The first row that is longer than the sliding window is decoded, and it is not exact."""
    lm = load("toy:gemma3")
    mems = [written_by(lm, n=n, seed=n) for n in (40, 41, 42, 90)]
    plain, fed = type(lm).step, []

    def forgetful(self, dtype, **given):
        logits, cache = plain(self, dtype, **given)
        fed[:] = [1] if given.get("cache") is None else [fed[0] + 1]
        return (-logits if fed[0] > 64 else logits), cache

    monkeypatch.setattr(type(lm), "step", forgetful)
    assert [check(lm, mem).exact for mem in mems] == [True, True, True, False]
    monkeypatch.undo()
    one_pass._measured.clear()
    for mem in [written_by(lm, n=91), *mems]:  # the window itself is no reason for a difference
        outcome = check(lm, mem)
        assert outcome.exact
        assert without_proof(outcome) == without_proof(check(lm, mem, one_pass=False))
    assert one_pass.difference(lm).largest < 1e-3


def test_a_tie_is_decoded(lm):
    """Two tokens with one row in the head: argmax takes the first of them, and the margin is zero."""
    model = copy.deepcopy(lm.model)
    first = int(written_by(lm, n=1).token_ids[0])
    with torch.no_grad():
        model.lm_head.weight[95 if first < 95 else 94] = model.lm_head.weight[first]
    lm = FrozenLM.from_model(model, name="tied")
    mems = [written_by(lm, n=8, seed=seed) for seed in (0, 0, *range(6))]
    outcomes = [check(lm, mem) for mem in mems]
    tied = [outcome for outcome in outcomes if outcome.margin == 0]
    assert tied
    assert all(outcome.proof == "decode" and outcome.exact for outcome in tied)
    # Also if the two ways never differed by anything.
    one_pass.difference(lm).largest = 0.0
    seen = one_pass.read(lm, torch.zeros(1, 1, lm.d), np.array([first]))
    assert seen.margin == 0
    assert not seen.proves


@pytest.mark.parametrize("where", ["every layer", "layer 1"])
def test_vectors_in_layers_are_measured_apart(lm, where):
    rng = np.random.default_rng(0)
    recipe = Recipe.layers(k=2, where=where)
    rows = 2 * len(lm.layers.at(where))
    given = written_by(lm)
    mems = [dataclasses.replace(given, mem=rng.standard_normal((rows, lm.d)), recipe=recipe) for _ in range(3)]
    mems = [dataclasses.replace(mem, token_ids=decode(lm, [mem])[0]) for mem in mems]
    assert len({mem.token_ids.tobytes() for mem in mems}) > 1  # what is written into the layers is read
    check(lm, given)
    assert check(lm, given).proof == "one pass"
    outcomes = [check(lm, mem) for mem in mems]
    assert [outcome.proof for outcome in outcomes] == ["decode", "one pass", "one pass"]
    for mem, outcome in zip(mems, outcomes, strict=True):
        long = check(lm, mem, one_pass=False)
        assert without_proof(outcome) == without_proof(long)
        assert outcome.margin == pytest.approx(long.margin, abs=1e-4)
    assert one_pass.difference(lm, where).positions == 4 * given.n
    assert one_pass.difference(lm).positions == given.n


def test_the_margin_is_that_of_the_stored_numbers(lm, mems, tmp_path):
    for mem in mems[:2]:
        check(lm, mem)
    rounded = mems[2].quantise(5)
    loaded = MemVector.load(rounded.with_checks(check(lm, rounded)).save(tmp_path / "a.safetensors"))
    again = check(lm, loaded)
    assert again == loaded.checks[0]
    assert again.margin != check(lm, mems[2]).margin
    assert again.margin == pytest.approx(check(lm, loaded, one_pass=False).margin, abs=1e-3)
    # Numbers of more digits than a file holds are rounded before they are checked.
    finer = mems[2].with_mem(mems[2].mem.astype(np.float64) * (1 + 1e-9), "finer")
    assert check(lm, finer).margin == check(lm, MemVector.load(finer.save(tmp_path / "b.safetensors"))).margin


@pytest.mark.parametrize("name", ["mixtral", "mamba2", "jamba"])
def test_experts_and_recurrent_layers_are_always_decoded(name):
    lm = FrozenLM.from_model(tiny_model(name), name=name)
    assert [check(lm, written_by(lm, seed=seed)).proof for seed in range(3)] == ["decode"] * 3
    with pytest.raises(ModelError, match="always decode"):
        experiment.one_pass(Session(lm, None))


def test_families_that_are_called_dense_are():
    table = pd.read_parquet(data_folder() / "bench" / "families.parquet").set_index("model_type")
    for name in (family.model_type for family in FAMILIES.values() if family.dense):
        assert table.cache[name] == "past_key_values"
        assert table.cached_vs_uncached[name] < 1e-5
        assert not odd_parts(name)
    for name in ("mixtral", "mamba2", "jamba", "deepseek_v3", "qwen3_next"):  # control
        assert odd_parts(name)


def odd_parts(name):
    return [
        part
        for part, _ in tiny_model(name).named_modules()
        if any(
            word in part.lower() for word in ("expert", "router", "mamba", "mixer", "conv", "indexer", "linear_attn")
        )
    ]


def test_settings_that_change_after_the_measurement_begin_a_new_one(lm, mems):
    for mem in mems[:2]:
        check(lm, mem)
    assert check(lm, mems[2]).proof == "one pass"
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert check(lm, mems[2]).proof == "decode"
    finally:
        torch.set_float32_matmul_precision(before)
    assert check(lm, mems[2]).proof == "one pass"
    with torch.autocast("cpu", torch.bfloat16):
        assert check(lm, mems[2]).proof == "decode"
    lm.model.set_attn_implementation("eager")
    try:
        assert check(lm, mems[2]).proof == "decode"
    finally:
        lm.model.set_attn_implementation("sdpa")


def test_a_vector_without_logits_spoils_nothing():
    """Numbers so large that the logits are NaN: nothing is proven about it, and nothing is learnt from it."""
    lm = load("toy:gpt_neox")
    right = written_by(lm)
    check(lm, right)
    before = one_pass.difference(lm).largest
    huge = right.with_mem(np.full_like(right.mem, 3e38), "huge")
    outcome = check(lm, huge)
    assert (outcome.proof, outcome.exact, outcome.margin) == ("decode", False, -1e30)
    assert one_pass.difference(lm).largest == before
    assert check(lm, right).proof == "one pass"


def test_a_pass_without_logits_where_the_decode_has_some_ends_all_trust(lm, mems, monkeypatch):
    monkeypatch.setattr(one_pass, "_logits", lambda lm, fed, ids, written: torch.full((len(ids), 96), torch.nan))
    for mem in mems:
        assert check(lm, mem).proof == "decode"
    assert one_pass.difference(lm).largest == np.inf


def test_a_pass_that_needs_too_much_memory_is_not_made(lm, mems, monkeypatch):
    monkeypatch.setattr(one_pass, "LOGITS", 11 * 96)
    monkeypatch.setattr(one_pass, "_logits", lambda *_: pytest.fail("a pass"))
    assert [check(lm, mem).proof for mem in mems] == ["decode"] * 6


def test_files_say_how_a_check_was_proven(tmp_path):
    quick = dataclasses.replace(make_check(), proof="one pass")
    file = make_vector(checks=(make_check(), quick)).save(tmp_path / "a.safetensors")
    assert [c.proof for c in MemVector.load(file).checks] == ["decode", "one pass"]
    other = dataclasses.replace(make_check(), proof="a guess")
    with pytest.raises(VectorError, match="proof"):
        MemVector.load(make_vector(checks=(other,)).save(tmp_path / "b.safetensors"))
    # The first version of the file had no proof, whatever such a file claims.
    old = tmp_path / "c.safetensors"
    old.write_bytes(forged_file(schema=1, checks=[dataclasses.asdict(quick)]))
    assert [c.proof for c in MemVector.load(old).checks] == ["decode"]


def test_nothing_is_decoded_where_a_pass_is_the_proof(lm, mems, monkeypatch):
    for mem in mems[:2]:
        check(lm, mem)
    monkeypatch.setattr(lm, "step", lambda *_, **__: pytest.fail("a decode"))
    assert check(lm, mems[2]).exact


def test_a_small_margin_is_decoded(lm, mems):
    for mem in mems[:2]:
        check(lm, mem)
    found = one_pass.difference(lm)
    assert 0 < found.largest < 1e-3
    assert found.needed(found.longest) == 100 * found.largest
    leads = check(lm, mems[3]).margin
    found.largest = 1.01 * leads / 100
    assert check(lm, mems[3]).proof == "decode"
    found.largest = 0.99 * leads / 100
    assert check(lm, mems[3]).proof == "one pass"


def test_a_wrong_token_is_decoded(lm, mems):
    for mem in mems[:2]:
        check(lm, mem)
    other = mems[2].with_mem(mems[3].mem, "of another text")
    outcome = check(lm, other)
    assert (outcome.proof, outcome.exact) == ("decode", False)
    assert without_proof(outcome) == without_proof(check(lm, other, one_pass=False))


def test_a_cache_that_computes_something_else_is_found(lm, mems, monkeypatch):
    """A decode whose steps differ from the pass: the difference is measured, and from then on every check decodes."""
    plain = type(lm).step

    def drifting(self, dtype, **given):
        logits, cache = plain(self, dtype, **given)
        return logits + (0.2 * torch.randn_like(logits) if given.get("cache") is not None else 0), cache

    monkeypatch.setattr(type(lm), "step", drifting)
    for mem in mems:
        assert check(lm, mem).proof == "decode"
    assert one_pass.difference(lm).largest > 0.1


def test_a_disagreement_is_caught_by_the_long_way(lm, mems, monkeypatch):
    """A fault that begins after the measurement: the pass cannot see it, and the decode of ``one_pass=False`` does."""
    for mem in mems[:2]:
        check(lm, mem)
    plain = type(lm).step
    monkeypatch.setattr(type(lm), "step", lambda self, dtype, **given: (-plain(self, dtype, **given)[0], None))
    assert check(lm, mems[2]).exact
    assert not check(lm, mems[2], one_pass=False).exact
    # And once it was decoded, no pass is trusted any more.
    assert not check(lm, mems[2]).exact


def test_with_hooks_every_check_decodes(lm, mems):
    for mem in mems[:2]:
        check(lm, mem)
    hook = lm.model.lm_head.register_forward_hook(lambda module, args, out: out)
    try:
        assert check(lm, mems[2]).proof == "decode"
    finally:
        hook.remove()
    assert check(lm, mems[2]).proof == "one pass"


def test_hooks_that_only_collect_states_change_nothing(mems):
    """transformers 5 adds them when states are first asked for, and they stay: a panel of attention does that."""
    own = load("toy:llama")
    before = own.watch.hooks()
    own.model(input_ids=torch.tensor([[1, 2, 3]]), output_hidden_states=True)
    assert any(module._forward_hooks for module in own.model.modules())
    assert own.watch.hooks() == before == ()
    for mem in mems[:2]:
        check(own, mem)
    assert check(own, mems[2]).proof == "one pass"


def test_the_pass_that_proves_is_the_only_one_at_the_end_of_a_training(lm, mems, monkeypatch):
    """It decides, it is the check, and its cost of the text is the stored one."""
    for mem in mems[:2]:
        check(lm, mem)
    made = []
    scores = objective.Batch.scores

    def counted(self, vectors, dtype, **options):
        made.append(options.get("gradient", False))
        return scores(self, vectors, dtype, **options)

    monkeypatch.setattr(objective.Batch, "scores", counted)
    monkeypatch.setattr(decoding, "logits_stream", None)  # nothing may be decoded
    (mem,) = cram(lm, random_passages(lm, 1, 8, seed=5)[0], Recipe.default(k=2), progress=False)
    assert mem.exact
    assert mem.checks[0].proof == "one pass"
    assert made == [True] * (mem.steps + 1)  # training steps, and no other pass of the engine
    monkeypatch.undo()
    accuracy, bits, margin = decoding.teacher_forced(lm, mem)
    assert (mem.teacher_forced, accuracy) == (1.0, 1.0)
    assert mem.loss_bits == pytest.approx(bits, rel=1e-4)
    assert mem.margin == pytest.approx(margin, abs=1e-3)
    assert check(lm, mem, one_pass=False).exact


def test_other_settings_are_decoded(lm, mems):
    for mem in mems[:2]:
        check(lm, mem)
    for settings in (dict(batch=2), dict(cache=False), dict(first_given=True), dict(dtype="bfloat16")):
        assert check(lm, mems[2], **settings).proof == "decode"


def test_the_experiment_compares_each_vector_and_finds_a_disagreement(lm, mems, tmp_path, monkeypatch):
    store = Store(tmp_path)
    for mem in mems[:3]:
        store.put(mem)
    table = experiment.one_pass(Session(lm, store))
    assert sorted(table.key) == sorted(mem.key for mem in mems[:3])
    assert (table.pass_margin - table.decode_margin).abs().max() <= table.largest.max()
    found = experiment.summary(table).set_index("tokens")
    assert (found.vectors["all"], found.disagree["all"], found.proven["all"]) == (3, 0, 3)
    wrong = experiment.summary(table.assign(decoded_exact=[True, False, True])).set_index("tokens")
    assert wrong.disagree["all"] == 1
    # Rows are kept, and not measured again.
    monkeypatch.setattr(lm, "step", lambda *_, **__: pytest.fail("a decode"))
    again = experiment.one_pass(Session(lm, store, table))
    assert again.key.tolist() == table.key.tolist()
