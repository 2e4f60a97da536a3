import numpy as np
import pytest
import torch

from memlab import FrozenLM, MemVector, ModelError, Recipe, VectorError, check, cram, decode
from memlab.decoding.decode import check_portable, teacher_forced
from tests.conftest import random_passages
from tests.helpers import generated


def vector(lm, seed=0, k=2, n=6, prefix=(), suffix=()):
    rng = np.random.default_rng(seed)
    return MemVector(
        mem=rng.standard_normal((k, lm.d)) * 0.3,
        token_ids=rng.integers(0, lm.vocabulary, n),
        prefix_ids=np.array(prefix, np.int64),
        suffix_ids=np.array(suffix, np.int64),
        model=lm.name,
        fingerprint=lm.fingerprint,
        recipe=Recipe.default(k=k),
    )


def test_decode_equals_transformers_generate(any_toy):
    mems = [
        vector(any_toy, 0),
        vector(any_toy, 1, k=1, prefix=(3,)),
        vector(any_toy, 2, k=3, suffix=(9,)),
        vector(any_toy, 3),
    ]
    for mem, ids in zip(mems, decode(any_toy, mems, tokens=12), strict=True):
        np.testing.assert_array_equal(ids, generated(any_toy, mem, 12))


def test_on_token_counts_tokens_and_can_end_the_decode(toy):
    mem, seen = vector(toy, n=9), []
    whole = decode(toy, [mem])[0]
    (some,) = decode(toy, [mem], on_token=lambda tokens: seen.append(tokens) or tokens == 4)
    assert seen == [1, 2, 3, 4]
    np.testing.assert_array_equal(some, whole[:4])


def test_decode_length_defaults_to_the_passage(toy):
    assert [len(ids) for ids in decode(toy, [vector(toy, n=3), vector(toy, 1, n=7)])] == [3, 7]


def test_a_check_finds_the_first_wrong_token(any_toy):
    """The targets are generate's output with one token changed. The check must name that place."""
    mem = vector(any_toy)
    written = generated(any_toy, mem, 8)
    right = MemVector(**{**vars(mem), "token_ids": written})
    for settings in ({}, {"cache": False}, {"batch": 8}):
        result = check(any_toy, right, **settings)
        assert result.passed
        assert result.margin > 0
        assert (result.tokens, result.right) == (8, 8)
    wrong = written.copy()
    wrong[3] = (wrong[3] + 1) % any_toy.vocabulary
    result = check(any_toy, MemVector(**{**vars(mem), "token_ids": wrong}))
    assert (result.first_wrong, result.right, result.exact) == (3, 7, False)
    assert result.margin < 0


def test_the_margin_of_a_check_is_the_smallest_token_margin(toy):
    mem = vector(toy, k=1)
    ids = generated(toy, mem, 5)
    embeddings = torch.cat([torch.tensor(mem.mem), toy.model.get_input_embeddings()(torch.tensor(ids[:-1]))])
    top = toy.model(inputs_embeds=embeddings[None]).logits[0].topk(2, dim=-1).values
    result = check(toy, MemVector(**{**vars(mem), "token_ids": ids}))
    assert result.margin == pytest.approx(float((top[:, 0] - top[:, 1]).min()), rel=1e-3)


def test_a_check_with_the_first_token_given_is_not_exact(toy):
    mem = vector(toy, k=1)
    first = int(generated(toy, mem, 1)[0])
    other = (first + 1) % toy.vocabulary
    embedding = toy.model.get_input_embeddings()
    seeded = torch.cat([torch.tensor(mem.mem), embedding(torch.tensor([other]))])[None]
    rest = toy.model.generate(
        inputs_embeds=seeded, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    seeded_mem = MemVector(**{**vars(mem), "token_ids": np.array([other, *rest[0].tolist()])})
    given = check(toy, seeded_mem, first_given=True)
    assert given.passed
    assert not given.exact
    assert given.tokens == 4
    assert check(toy, seeded_mem).first_wrong == 0
    with pytest.raises(VectorError, match="nothing to decode"):
        check(toy, vector(toy, n=1), first_given=True)


def test_a_check_uses_the_settings_it_records(toy, monkeypatch):
    (mem,) = cram(toy, random_passages(toy, 1, 4), Recipe.default(k=4), progress=False)
    seen, step = [], toy.step

    def recording(kind, **fed):
        rows = len(fed["embeddings"] if fed.get("ids") is None else fed["ids"])
        seen.append((kind, fed.get("cache") is not None, rows))
        return step(kind, **fed)

    monkeypatch.setattr(toy, "step", recording)
    for settings, kind, cached, rows in (
        (dict(dtype="bfloat16"), torch.bfloat16, True, 1), (dict(cache=False), torch.float32, False, 1),
        (dict(batch=8), torch.float32, True, 8),
    ):  # fmt: skip
        seen.clear()
        check(toy, mem, **settings)
        assert {(k, n) for k, _, n in seen} == {(kind, rows)}
        assert any(c for _, c, _ in seen) == cached


def test_portable_needs_checks_in_all_four_settings(toy):
    (mem,) = cram(toy, random_passages(toy, 1), Recipe.default(k=2), progress=False)
    assert mem.exact
    assert not mem.portable
    full = check_portable(toy, mem)
    assert len(full.checks) == 4
    assert full.portable == all(c.passed for c in full.checks)
    assert check_portable(toy, full).checks == full.checks


def test_teacher_forced_scores_use_the_true_prefix(toy):
    mem = vector(toy, k=1)
    ids = torch.tensor(mem.token_ids)
    embeddings = torch.cat([torch.tensor(mem.mem), toy.model.get_input_embeddings()(ids[:-1])])[None]
    logits = toy.model(inputs_embeds=embeddings).logits[0]
    accuracy, bits, _ = teacher_forced(toy, mem)
    assert accuracy == pytest.approx(float((logits.argmax(-1) == ids).float().mean()))
    assert bits == pytest.approx(torch.nn.functional.cross_entropy(logits, ids).item() / np.log(2), rel=1e-4)


def test_other_weights_and_bad_settings_are_refused(toy):
    from memlab import load

    other = load("toy:qwen2")
    for call in (lambda: decode(other, [vector(toy)]), lambda: check(other, vector(toy))):
        with pytest.raises(ModelError, match=r"trained for toy:llama .* is toy:qwen2"):
            call()
    with pytest.raises(ValueError, match="expected one of"):
        check(toy, vector(toy), dtype="int3")
    with pytest.raises(VectorError, match="redacted"):
        check(toy, vector(toy).redacted())


def test_a_model_from_memory_decodes_vectors_of_the_same_weights(toy):
    mem = vector(toy)
    from memlab.models.toys import toy as make_toy

    again = FrozenLM.from_model(*make_toy("llama"), name="elsewhere")
    np.testing.assert_array_equal(decode(again, [mem])[0], decode(toy, [mem])[0])


def test_nan_logits_are_not_exact(toy, monkeypatch):
    """The argmax of NaN logits is 0, so a passage of zeros would look exact."""
    mem = MemVector(**{**vars(vector(toy)), "token_ids": np.zeros(3, np.int64)})
    monkeypatch.setattr(toy, "step", lambda *_, **__: (torch.full((1, 96), torch.nan), None))
    result = check(toy, mem)
    assert (result.exact, result.first_wrong) == (False, 0)
    assert result.margin < 0


def test_no_more_tokens_are_decoded_than_the_context_holds(toy):
    (mem,) = cram(toy, toy.passage_of_ids([5, 9, 2]), Recipe.default(k=2, budget=1), progress=False)
    with pytest.raises(VectorError, match=r"513 positions, .* only 512\. Decode fewer"):
        decode(toy, mem, 512)
    assert len(decode(toy, mem, 5)[0]) == 5
