"""The loss compared with transformers', the gradient with finite differences, and padding with no padding."""

import numpy as np
import pytest
import torch

from memlab.scoring.objective import Batch, Row, true_margin


def rows_and_mems(lm, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(3, 1, (), ()), (9, 4, (5,), ()), (6, 2, (), (7, 8)), (4, 1, (3, 4), ())]
    rows = [Row(rng.integers(0, lm.vocabulary, n), prefix, suffix, k) for n, k, prefix, suffix in shapes]
    mems = [torch.tensor(rng.standard_normal((r.k, lm.d)) * 0.2, dtype=torch.float32) for r in rows]
    return rows, mems


def test_a_row_alone_and_in_a_mixed_padded_batch_agree(any_toy):
    rows, mems = rows_and_mems(any_toy)
    together, gradients = Batch(any_toy, rows).scores(mems, torch.float32, gradient=True)
    for i, (row, mem) in enumerate(zip(rows, mems, strict=True)):
        alone, (gradient,) = Batch(any_toy, [row]).scores([mem], torch.float32, gradient=True)
        assert float(together.loss[i]) == pytest.approx(float(alone.loss[0]), rel=1e-5)
        assert together.right[i] == alone.right[0]
        difference = (gradients[i] - gradient).norm() / gradient.norm()
        assert difference < 1e-5


def test_loss_equals_transformers_loss(any_toy):
    rows, mems = rows_and_mems(any_toy)
    scores, _ = Batch(any_toy, rows).scores(mems, torch.float32)
    embedding = any_toy.model.get_input_embeddings()
    for i, (row, mem) in enumerate(zip(rows, mems, strict=True)):
        ids = torch.tensor(row.token_ids)
        before = [embedding(torch.tensor(list(row.prefix_ids), dtype=torch.long)), mem]
        after = [embedding(torch.tensor(list(row.suffix_ids), dtype=torch.long)), embedding(ids)]
        with torch.no_grad():
            logits = any_toy.model(inputs_embeds=torch.cat(before + after)[None]).logits[0]
        predicting = logits[row.context - 1 : -1]
        expected = torch.nn.functional.cross_entropy(predicting, ids).item()
        assert float(scores.loss[i]) == pytest.approx(expected, rel=1e-4)
        assert scores.right[i] == (predicting.argmax(-1) == ids).sum()


def test_gradient_equals_finite_differences(any_toy):
    rows, mems = rows_and_mems(any_toy)
    batch = Batch(any_toy, rows)
    _, gradients = batch.scores(mems, torch.float32, gradient=True)
    for i, gradient in enumerate(gradients):
        step = gradient / gradient.norm() * 3e-3
        up, _ = batch.scores([*mems[:i], mems[i] + step, *mems[i + 1 :]], torch.float32)
        down, _ = batch.scores([*mems[:i], mems[i] - step, *mems[i + 1 :]], torch.float32)
        slope = float(up.loss[i] - down.loss[i]) / 6e-3
        assert slope == pytest.approx(float(gradient.norm()), rel=0.03)


def test_first_scored_leaves_out_the_first_token(toy):
    rng = np.random.default_rng(0)
    ids, mem = rng.integers(0, 96, 5), torch.randn(1, toy.d)
    full, _ = Batch(toy, [Row(ids, (), (), 1)]).scores([mem], torch.float32)
    tail, gradients = Batch(toy, [Row(ids, (), (), 1, first_scored=2)]).scores([mem], torch.float32, gradient=True)
    first, _ = Batch(toy, [Row(ids[:1], (), (), 1)]).scores([mem], torch.float32)
    assert tail.scored[0] == 4
    assert float(full.loss[0]) * 5 == pytest.approx(float(tail.loss[0]) * 4 + float(first.loss[0]), rel=1e-5)
    assert gradients[0].norm() > 0


def test_true_margin():
    logits = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [2.0, 2.0, 0.0]])
    np.testing.assert_allclose(true_margin(logits, torch.tensor([0, 1, 0])), [0.5, -2.0, 0.0])
