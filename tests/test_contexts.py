"""One vector under several contexts: its loss is the mean, it ends when all are right, and nothing else changes."""

import numpy as np
import pytest
import torch

from memlab import PassageError, Recipe, Store, cram
from memlab.decoding.decode import check, decode
from memlab.scoring.objective import Batch, Row
from memlab.training.contexts import checks_in, rows_in, together
from memlab.training.cram import CramInterrupted
from tests.conftest import random_passages

CONTEXTS = [((7, 8), ()), ((), (11,))]
RECIPE = Recipe.default(k=2, contexts=CONTEXTS)


@pytest.fixture(scope="module")
def trained(toy):
    (mem,) = cram(toy, random_passages(toy, 1, 6), RECIPE, progress=False)
    return mem


def test_the_vector_is_exact_in_each_context(toy, trained):
    assert trained.exact
    assert trained.provenance["exact_in_contexts"] == [True, True]
    # Written by hand, without the code that trained it: prefix, words, vectors, words, and then greedily on.
    for before, behind in [((), ()), *CONTEXTS]:
        fed = [toy.embed([*trained.prefix_ids, *before]), torch.tensor(trained.mem), toy.embed(list(behind))]
        rows = torch.cat([part.reshape(-1, toy.d) for part in fed])
        wrote = []
        for _ in range(trained.n):
            with torch.no_grad():
                wrote.append(int(toy.model(inputs_embeds=rows[None]).logits[0, -1].argmax()))
            rows = torch.cat([rows, toy.embed(wrote[-1:])])
        assert wrote == trained.token_ids.tolist()


def test_a_plain_vector_is_not(toy, trained):
    passage = toy.passage_of_ids(trained.token_ids)
    (plain,) = cram(toy, passage, RECIPE.replace(contexts=()), progress=False)
    assert plain.exact
    assert "exact_in_contexts" not in plain.provenance
    assert plain.key != trained.key
    assert [each.exact for each in checks_in(toy, plain, CONTEXTS)] == [False, False]
    assert plain.steps < trained.steps


def test_loss_and_gradient_are_means_over_the_contexts(toy):
    (passage,) = random_passages(toy, 1, 6)
    rows = rows_in(Row(passage.ids, [1], (), 1), CONTEXTS)
    assert [row.fixed_ids[: row.context] for row in rows] == [[1, 0], [1, 7, 8, 0], [1, 0, 11]]
    mem = torch.randn(1, toy.d, generator=torch.Generator().manual_seed(0))
    apart = []
    for row in rows:
        scores, gradients = Batch(toy, [row]).scores([mem], torch.float32, gradient=True)
        apart.append((float(scores.loss[0]), int(scores.right[0]), float(scores.min_margin[0]), gradients[0]))
    loss, right, margin, gradient = together(apart)
    assert loss == pytest.approx(np.mean([one[0] for one in apart]))
    assert right == min(one[1] for one in apart)
    assert margin == min(one[2] for one in apart)
    # The gradient of the mean, by autograd through all rows at once.
    free = mem.clone().requires_grad_()
    losses = []
    for row in rows:
        at = len(row.prefix_ids)
        fixed = toy.embed(row.fixed_ids)
        fed = torch.cat([fixed[:at], free, fixed[at + 1 :]])
        logits = toy.model(inputs_embeds=fed[None]).logits[0, row.context - 1 :]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(passage.ids)))
    (expected,) = torch.autograd.grad(torch.stack(losses).mean(), free)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def test_passages_with_and_without_contexts_train_together(toy, trained):
    passages = random_passages(toy, 3, 6)
    recipes = [RECIPE, RECIPE.replace(contexts=()), RECIPE.replace(contexts=CONTEXTS[:1])]
    mems = cram(toy, passages, recipes, progress=False)
    assert all(mem.exact for mem in mems)
    assert [len(mem.provenance.get("exact_in_contexts", [])) for mem in mems] == [2, 0, 1]
    assert mems[0].key == trained.key
    assert mems[0].steps == trained.steps
    assert mems[0].provenance["token_passes"] == 3 * 6 * (mems[0].steps + 1)


def test_it_resumes_from_a_checkpoint(toy, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("memlab.training.cram.CHECKPOINT_EVERY", 0)
    monkeypatch.setattr("memlab.training.cram.CHECKPOINT_AFTER", 0)
    store, passage = Store(tmp_path), toy.passage_of_ids(trained.token_ids)
    with pytest.raises(CramInterrupted):
        cram(toy, passage, RECIPE, store, progress=False, on_step=lambda now: now.steps[0] >= 4)
    (mem,) = cram(toy, passage, RECIPE, store, progress=False)
    assert mem.provenance["resumed"]
    assert mem.steps == trained.steps
    assert np.array_equal(mem.mem, trained.mem)
    assert store.get(mem.key).recipe == RECIPE
    assert store.get(mem.key).provenance["exact_in_contexts"] == [True, True]


def test_a_growing_text_grows_when_all_contexts_are_right(toy):
    (passage,) = random_passages(toy, 1, 8)
    (mem,) = cram(toy, passage, RECIPE.replace(grow=2), progress=False)
    assert mem.exact
    assert mem.provenance["exact_in_contexts"] == [True, True]
    assert np.array_equal(decode(toy, [mem], batch=1)[0], passage.ids)


def test_a_vector_in_every_layer_can_have_contexts(toy):
    (passage,) = random_passages(toy, 1, 5)
    (mem,) = cram(toy, passage, Recipe.layers(contexts=CONTEXTS), progress=False)
    assert mem.exact
    assert mem.provenance["exact_in_contexts"] == [True, True]
    assert check(toy, mem).exact


def test_contexts_are_checked_before_training(toy):
    (passage,) = random_passages(toy, 1, 5)
    with pytest.raises(PassageError, match="positions"):
        cram(toy, passage, RECIPE.replace(contexts=[((1,) * (toy.context or 10**4), ())]), progress=False)
    with pytest.raises(PassageError, match="token id"):
        cram(toy, passage, RECIPE.replace(contexts=[((toy.vocabulary,), ())]), progress=False)


def test_the_budget_may_end_before_all_are_right(toy, trained):
    passage = toy.passage_of_ids(trained.token_ids)
    (mem,) = cram(toy, passage, RECIPE.replace(budget=2), progress=False)
    assert mem.provenance["ended"] == "budget"
    assert len(mem.provenance["exact_in_contexts"]) == 2
    assert not all(mem.provenance["exact_in_contexts"])
