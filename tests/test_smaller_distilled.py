"""Distillation: what it may never do, and that a killed one goes on where it was."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from memlab.errors import ArgumentError
from memlab.models import smaller
from memlab.results.checkpoints import CheckpointStore
from memlab.training import distillation
from memlab.training.distillation import Settings, distil, divergence, held_divergence

pytestmark = pytest.mark.slow
SETTINGS = Settings(rows=4, tokens=16, lr=3e-3)


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    return rng.integers(0, 96, 2000), [rng.integers(0, 96, 24) for _ in range(4)]


@pytest.fixture(scope="module")
def toy():
    from memlab.models import load

    return load("toy:llama")


@pytest.fixture(scope="module")
def less(toy):
    return smaller.without_layers(toy, [0])


def test_divergence_is_that_of_scipy_and_zero_for_equal_logits():
    teacher, student = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = entropy(teacher.softmax(-1).numpy(), student.softmax(-1).numpy(), axis=-1).mean()
    assert float(divergence(teacher, student)) == pytest.approx(float(expected), rel=1e-5)
    assert float(divergence(teacher, teacher + 3, 2.0)) == pytest.approx(0, abs=1e-6)
    warm = entropy((teacher / 2).softmax(-1).numpy(), (student / 2).softmax(-1).numpy(), axis=-1).mean()
    assert float(divergence(teacher, student, 2.0)) == pytest.approx(4 * float(warm), rel=1e-5)


def test_a_model_with_all_its_layers_has_nothing_to_learn(toy, text):
    same = smaller.without_layers(toy, ())
    run = distillation._Run(toy, same, *text, SETTINGS, None)
    assert held_divergence(toy, same.model, text[1]) == pytest.approx(0, abs=1e-6)
    assert run._gradient(0) == pytest.approx(0, abs=1e-6)
    assert max(float(p.grad.abs().max()) for p in run.weights.values()) < 1e-5
    # Control: without a layer there is a gradient.
    other = distillation._Run(toy, smaller.without_layers(toy, [1]), *text, SETTINGS, None)
    assert other._gradient(0) > 0.1
    assert max(float(p.grad.abs().max()) for p in other.weights.values()) > 1e-3


def test_distillation_comes_closer_on_held_out_text_and_leaves_embedding_and_head(toy, less, text):
    before = held_divergence(toy, less.model, text[1])
    done = distil(toy, less, *text, SETTINGS, steps=60)
    after = held_divergence(toy, done.lm.model, text[1])
    assert after < 0.7 * before
    assert done.trace[0, 1] == pytest.approx(before)
    assert after == pytest.approx(done.trace[:, 1].min(), rel=1e-5)
    for part in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(done.lm.model, part)().weight, getattr(less.model, part)().weight)
    assert done.lm.fingerprint not in (less.fingerprint, toy.fingerprint)
    assert held_divergence(toy, less.model, text[1]) == before  # the model that was given is as it was


def test_a_teacher_that_answers_for_other_tokens_teaches_little(toy, text, monkeypatch):
    """It still teaches how sure to be. The right answers, with the same settings, gain more than twice as much."""
    less, gentle = smaller.without_layers(toy, [1]), Settings(rows=4, tokens=16, lr=1e-4)
    right = distil(toy, less, *text, gentle, steps=20).trace[:, 1]

    def shuffled(teacher, student, temperature=1.0):
        return divergence(teacher.roll(5, 0) if temperature != 1 else teacher, student, temperature)

    monkeypatch.setattr(distillation, "divergence", shuffled)
    wrong = distil(toy, less, *text, gentle, steps=20).trace[:, 1]
    assert right[0] == wrong[0]
    assert right[0] - right[-1] > 2 * (wrong[0] - wrong[-1])


def test_a_training_that_only_does_harm_changes_nothing(toy, text):
    less = smaller.without_layers(toy, [1])
    done = distil(toy, less, *text, SETTINGS, steps=20)  # a step size that is much too large for this model
    assert done.trace[1:, 1].min() > done.trace[0, 1]
    assert done.lm.fingerprint == less.fingerprint


def test_a_killed_distillation_goes_on_and_gives_the_same_model(toy, less, text, tmp_path):
    whole = distil(toy, less, *text, SETTINGS, steps=12)
    seen = []

    def stop_at_five(step, steps, loss):
        seen.append(step)
        return step == 5

    stopped = distil(toy, less, *text, SETTINGS, steps=12, checkpoints=CheckpointStore(tmp_path), on_step=stop_at_five)
    assert stopped.steps == 5
    rest = distil(
        toy, less, *text, SETTINGS, steps=12, checkpoints=CheckpointStore(tmp_path),
        on_step=lambda step, *_: seen.append(step),
    )  # fmt: skip
    assert seen == [*range(1, 13)]
    assert rest.lm.fingerprint == whole.lm.fingerprint
    assert np.array_equal(rest.trace, whole.trace)
    again = distil(  # a finished one is read
        toy, less, *text, SETTINGS, minutes=1, checkpoints=CheckpointStore(tmp_path), on_step=seen.append
    )
    assert len(seen) == 12
    assert again.lm.fingerprint == whole.lm.fingerprint
    # Control: another text is another training.
    other = distil(toy, less, text[0][::-1], text[1], SETTINGS, steps=12, checkpoints=CheckpointStore(tmp_path))
    assert other.lm.fingerprint != whole.lm.fingerprint


def test_minutes_become_steps(toy, less, text):
    done = distil(toy, less, *text, SETTINGS, minutes=0.02)
    assert done.steps >= 1
    assert done.trace[-1, 0] == done.steps


def test_what_is_missing_is_said(toy, less, text):
    with pytest.raises(ArgumentError, match="either steps or minutes"):
        distil(toy, less, *text, SETTINGS)
    with pytest.raises(ArgumentError, match="There are 10 tokens to train on and 4 held-out rows"):
        distil(toy, less, text[0][:10], text[1], SETTINGS, steps=1)
