"""Laws that every registered optimizer obeys, and what each of them computes."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from memlab import Recipe, RecipeError, cram
from memlab.recipes import OPTIMIZERS, SCHEDULES
from memlab.results.checkpoints import CheckpointStore
from memlab.stop_rules import STOP_RULES, ExactStop
from memlab.training.job import TrainingJob
from memlab.training.optimizers import FullMatrix, Optimizer, make_optimizer, step_size
from memlab.training.preconditioner import Preconditioner
from memlab.training.state import STATE, load_state_arrays, state_arrays
from tests.conftest import random_passages
from tests.default_optimizers import DEFAULT_OPTIMIZERS

D = 16
CASES = {
    f"{name} {i}": recipe for name, entry in DEFAULT_OPTIMIZERS.items() for i, recipe in enumerate(entry["recipes"])
}
every_optimizer = pytest.mark.parametrize("recipe", CASES.values(), ids=CASES)


def gradients(steps, k=2, d=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(k, d, generator=generator) for _ in range(steps)]


def fresh(recipe, d=D):
    basis = torch.linalg.qr(torch.randn(d, 5, generator=torch.Generator().manual_seed(3))).Q.T
    return make_optimizer(recipe, Preconditioner(basis, torch.logspace(0, -2, 5)) if recipe.whiten else None)


def walk(optimizer, mem, stream):
    """Vectors after each gradient."""
    path = []
    for gradient in stream:
        mem = mem + optimizer.step(mem, gradient)
        path.append(mem)
    return path


# Laws of every optimizer ---------------------------------------------------------------------------------------------


def test_every_registered_optimizer_has_an_entry_in_the_table():
    assert set(DEFAULT_OPTIMIZERS) == set(OPTIMIZERS)
    for name, entry in DEFAULT_OPTIMIZERS.items():
        assert entry["recipes"]
        assert all(recipe.rule == name and recipe.k == 2 for recipe in entry["recipes"])
        assert isinstance(make_optimizer(entry["recipes"][0]), Optimizer)


@every_optimizer
def test_optimizer_descends_a_bowl(recipe):
    """A quadratic loss with a condition number of 10, with its minimum at norm sqrt(d)."""
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    bowl = turn @ torch.diag(torch.logspace(-0.5, 0.5, D)) @ turn.T
    minimum = torch.nn.functional.normalize(torch.randn(2, D, generator=generator), dim=-1) * D**0.5
    mem = torch.randn(2, D, generator=generator) * 0.1

    def loss(mem):
        return float(((mem - minimum) @ bowl * (mem - minimum)).sum())

    first, optimizer = loss(mem), fresh(recipe)
    for _ in range(100):
        mem = mem + optimizer.step(mem, 2 * (mem - minimum) @ bowl)
    assert loss(mem) < first / 10


@pytest.mark.parametrize("steps", [0, 1, 9])
@every_optimizer
def test_optimizer_state_round_trips_through_a_checkpoint(recipe, steps, tmp_path):
    """The next steps are equal bit for bit."""
    optimizer, stream = fresh(recipe), gradients(steps + 5, d=D)
    mem = [torch.ones(2, D), *walk(optimizer, torch.ones(2, D), stream[:steps])][-1]
    checkpoints = CheckpointStore(tmp_path)
    assert checkpoints.save("key", state_arrays(optimizer.state), {})
    resumed = fresh(recipe)
    load_state_arrays(resumed.state, checkpoints.load("key", {}))
    for one, other in zip(walk(optimizer, mem, stream[steps:]), walk(resumed, mem, stream[steps:]), strict=True):
        assert torch.equal(one, other)


@every_optimizer
def test_zero_and_tiny_gradients_give_finite_vectors(recipe):
    zeros = torch.zeros(2, D)
    for stream in ([zeros] * 3, [zeros, zeros + 1e-25, zeros], [*gradients(2, d=D), zeros, zeros]):
        assert all(torch.isfinite(mem).all() for mem in walk(fresh(recipe), torch.ones(2, D), stream))


@every_optimizer
def test_optimizer_counts_its_steps(recipe):
    """The schedule reads the count: without it every step would have the size of the first."""
    optimizer, mem = fresh(recipe), torch.ones(2, D)
    for step, gradient in enumerate(gradients(3, d=D), 1):
        mem = mem + optimizer.step(mem, gradient)
        assert optimizer.state.steps == step


@every_optimizer
def test_steps_do_not_depend_on_batch_mates(recipe):
    """Two passages that step in turn take the steps that each takes alone."""
    streams, starts = [gradients(6, d=D, seed=s) for s in (1, 2)], [torch.ones(2, D), torch.full((2, D), -0.5)]
    alone = [walk(fresh(recipe), mem, stream) for mem, stream in zip(starts, streams, strict=True)]
    optimizers, mems = [fresh(recipe), fresh(recipe)], list(starts)
    for step in range(6):
        for i in range(2):
            mems[i] = mems[i] + optimizers[i].step(mems[i], streams[i][step])
            assert torch.equal(mems[i], alone[i][step])


@every_optimizer
def test_each_of_the_k_vectors_steps_alone(recipe):
    stream, start = gradients(6, d=D), torch.randn(2, D, generator=torch.Generator().manual_seed(0))
    together = walk(fresh(recipe), start, stream)[-1]
    for i in range(2):
        alone = walk(fresh(recipe), start[i : i + 1], [g[i : i + 1] for g in stream])[-1]
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-4)


@every_optimizer
def test_optimizer_does_not_write_to_its_arguments(recipe):
    """The measured vectors are kept as a result, so no step may change them."""
    optimizer = fresh(recipe)
    for gradient in gradients(3, d=D):
        mem, before = torch.ones(2, D), gradient.clone()
        optimizer.step(mem, gradient)
        assert torch.equal(mem, torch.ones(2, D))
        assert torch.equal(gradient, before)


# Registries ----------------------------------------------------------------------------------------------------------


class SignDescent(Optimizer):
    """What a reader of the README would add."""

    def step(self, mem, gradient):
        rate = step_size(self.recipe, self.state.steps)
        self.state.steps += 1
        return -rate * gradient.sign()


def test_a_new_optimizer_is_one_class_and_one_line(toy, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "sign", f"{__name__}:SignDescent")
    recipe = Recipe(k=4, rule="sign", lr=0.02, budget=20)
    assert isinstance(make_optimizer(recipe), SignDescent)
    (mem,) = cram(toy, random_passages(toy, 1, 4), recipe, progress=False)
    assert mem.recipe.rule == "sign"
    assert mem.trace["loss"][-1] < mem.trace["loss"][0]


def test_new_schedules_and_stop_rules_are_one_line(toy, monkeypatch):
    class LowLoss(ExactStop):
        def is_met(self, recipe, exact, min_margin):
            return exact and min_margin >= 2 * recipe.margin

    monkeypatch.setitem(SCHEDULES, "halved", lambda step, budget: 0.5)
    monkeypatch.setitem(STOP_RULES, "twice the margin", LowLoss())
    recipe = Recipe.default(k=4, schedule="halved", stop="twice the margin")
    assert step_size(recipe, 7) == recipe.lr / 2
    (mem,) = cram(toy, random_passages(toy, 1, 4), recipe, progress=False)
    assert mem.provenance["ended"] == "twice the margin"
    assert mem.margin >= 2 * recipe.margin


@pytest.mark.parametrize(("field", "table"), [("rule", OPTIMIZERS), ("schedule", SCHEDULES), ("stop", STOP_RULES)])
def test_an_unknown_name_raises_and_names_what_exists(toy, field, table):
    known = ", ".join(table)
    with pytest.raises(RecipeError, match=f"recipe's {field} is 'sgd'. Give one of: {known}"):
        Recipe(**{field: "sgd"})
    forged = Recipe()
    object.__setattr__(forged, field, "sgd")  # as if a plug-in had removed its name again
    use = {
        "rule": lambda: make_optimizer(forged),
        "schedule": lambda: step_size(forged, 0),
        "stop": lambda: TrainingJob(toy, 0, random_passages(toy, 1)[0], forged, None),
    }
    with pytest.raises(RecipeError, match=known):
        use[field]()


# The checkpoint format -----------------------------------------------------------------------------------------------


def test_names_in_a_checkpoint_are_pinned(toy):
    """A renamed field is a new format: change this test and ``STATE`` together."""
    assert STATE == 2
    for entry in DEFAULT_OPTIMIZERS.values():
        optimizer = fresh(entry["recipes"][0])
        walk(optimizer, torch.ones(2, D), gradients(1, d=D))
        assert set(state_arrays(optimizer.state)) == entry["state"]
    job = TrainingJob(toy, 0, random_passages(toy, 1)[0], Recipe(), None)
    job.start()
    assert set(state_arrays(job.state)) == {
        "mem", "best.mem", "best.right", "best.loss", "best.done", "length", "steps", "passes", "trace", "trace_every",
        "next_check", "improved_at", "resumed", "seconds",
    }  # fmt: skip


def test_everything_that_changes_in_a_step_is_declared():
    """An attribute outside ``state`` would be lost in a checkpoint."""
    for entry in DEFAULT_OPTIMIZERS.values():
        optimizer = fresh(entry["recipes"][0])
        before = {name: value for name, value in vars(optimizer).items() if name != "state"}
        walk(optimizer, torch.ones(2, D), gradients(3, d=D))
        assert {name: value for name, value in vars(optimizer).items() if name != "state"} == before


def test_arrays_of_another_form_are_refused():
    optimizer = fresh(CASES["rotation 0"])
    walk(optimizer, torch.ones(2, D), gradients(2, d=D))
    arrays = state_arrays(optimizer.state)
    with pytest.raises(ValueError, match=r"unknown \['velocity'\]"):
        load_state_arrays(fresh(CASES["rotation 0"]).state, arrays | {"velocity": np.zeros(2)})
    with pytest.raises(ValueError, match=r"missing \['inner.steps'\]"):
        load_state_arrays(fresh(CASES["rotation 0"]).state, {n: a for n, a in arrays.items() if n != "inner.steps"})

    @dataclasses.dataclass
    class Renamed:
        count: int = 0

    with pytest.raises(ValueError, match="unknown"):
        load_state_arrays(Renamed(), {"steps": np.array(3)})


# What each optimizer computes ----------------------------------------------------------------------------------------


def test_full_matrix_equals_its_formula():
    """G and m formed in float64, with bias correction, compared with the small problem that the optimizer solves."""
    recipe = Recipe(betas=(0.8, 0.95), damping=1e-3, lr=1.5, budget=60, k=2)
    optimizer = FullMatrix(recipe)
    moment = torch.zeros(2, 7, 7, dtype=torch.float64)
    mean = torch.zeros(2, 7, dtype=torch.float64)
    mem = torch.zeros(2, 7)
    for t, g in enumerate(gradients(50), 1):
        change = optimizer.step(mem, g)
        g64 = g.double()
        moment = 0.95 * moment + 0.05 * g64[:, :, None] * g64[:, None]
        mean = 0.8 * mean + 0.2 * g64
        for i in range(2):
            values, basis = torch.linalg.eigh(moment[i] / (1 - 0.95**t))
            scale = (values.clamp_min(0) + 1e-3 * values[-1]).rsqrt()
            direction = basis @ (scale * (basis.T @ (mean[i] / (1 - 0.8**t))))
            expected = -1.5 * 0.5 * (1 + math.cos(math.pi * (t - 1) / 60)) * direction / direction.norm() * 7**0.5
            torch.testing.assert_close(change[i].double(), expected, rtol=1e-4, atol=1e-4)


def test_full_matrix_forgets_gradients_older_than_its_history():
    recipe = Recipe(history=5, k=2)
    optimizer, later = FullMatrix(recipe), FullMatrix(recipe)
    stream = gradients(12)
    for g in stream:
        change = optimizer.step(torch.zeros(2, 7), g)
    for g in stream[-5:]:
        expected = later.step(torch.zeros(2, 7), g)
    size = step_size(recipe, 11) / step_size(recipe, 4)
    torch.testing.assert_close(change, expected * size, rtol=1e-4, atol=1e-5)


def test_full_matrix_beats_adamw_in_an_ill_conditioned_bowl():
    """f = sum of c x^2 with c over four decades. The axes are turned, so the diagonal does not show c."""
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q
    bowl = turn @ torch.diag(torch.logspace(-2, 2, 20)) @ turn.T
    start = torch.randn(1, 20, generator=generator)

    def reached(recipe):
        mem, optimizer = start.clone(), make_optimizer(recipe)
        for _ in range(100):
            mem = mem + optimizer.step(mem, mem @ bowl)
        return float((mem @ bowl @ mem.T).squeeze())

    best_adam = min(reached(Recipe(rule="adamw", lr=lr, budget=100)) for lr in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0))
    assert reached(Recipe(lr=0.3, budget=100)) < best_adam / 3


def test_adamw_equals_torchs_adamw():
    recipe = Recipe.paper2025(lr=0.03, weight_decay=0.1, betas=(0.9, 0.8))
    optimizer = make_optimizer(recipe)
    mem = torch.randn(2, 7)
    theirs = torch.nn.Parameter(mem.clone())
    torch_optimizer = torch.optim.AdamW([theirs], lr=0.03, betas=(0.9, 0.8), weight_decay=0.1)
    for g in gradients(40):
        mem = mem + optimizer.step(mem, g)
        theirs.grad = g.clone()
        torch_optimizer.step()
    torch.testing.assert_close(mem, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_schedules():
    assert step_size(Recipe(lr=2, budget=100), 0) == 2
    assert step_size(Recipe(lr=2, budget=100), 50) == pytest.approx(1)
    assert step_size(Recipe(lr=2, budget=100), 100) == pytest.approx(0)
    assert step_size(Recipe(lr=2, budget=100, schedule="constant"), 99) == 2


def turning(**changes):
    return Recipe.default(**{"whiten": 0.0, "norm": 7.0} | changes)


def test_rotation_turns_by_the_schedules_angle_and_keeps_the_norm():
    recipe = turning(lr=0.3)
    optimizer, mem = make_optimizer(recipe), torch.randn(2, 9)
    for t, g in enumerate(gradients(20, d=9)):
        new = mem + optimizer.step(mem, g)
        torch.testing.assert_close(new.norm(dim=-1), torch.full((2,), 7.0 * 3))
        cosine = torch.nn.functional.cosine_similarity(mem, new)
        angle = 0.3 / math.sqrt(t + 1) if t else math.pi / 2
        torch.testing.assert_close(cosine, torch.full((2,), math.cos(angle)), atol=1e-4, rtol=0)
        mem = new


def test_rotation_depends_on_directions_only():
    """The gradient of a function of the direction shrinks as one over the norm. The turns are equal at both norms."""
    generator = torch.Generator().manual_seed(
        0
    )  # float64: past gradients are nearly parallel, and float32 rounding breaks that
    target = torch.nn.functional.normalize(torch.randn(1, 9, generator=generator, dtype=torch.float64), dim=-1)

    def path(norm):
        recipe = turning(norm=norm)
        optimizer, mem, units = make_optimizer(recipe), torch.linspace(-1, 1, 9, dtype=torch.float64)[None], []
        for _ in range(8):
            leaf = mem.clone().requires_grad_()
            (torch.nn.functional.normalize(leaf, dim=-1) - target).square().sum().backward()
            mem = mem + optimizer.step(mem, leaf.grad)
            units.append(torch.nn.functional.normalize(mem, dim=-1))
        return torch.cat(units)

    torch.testing.assert_close(path(1.0), path(1000.0), atol=1e-4, rtol=0)


def test_rotation_continues_the_schedule_of_its_parent():
    recipe, mem = turning(lr=0.4), torch.randn(1, 9)
    new = mem + make_optimizer(recipe, previous_steps=15).step(mem, gradients(1, k=1, d=9)[0])
    cosine = torch.nn.functional.cosine_similarity(mem, new)
    assert math.acos(float(cosine)) == pytest.approx(0.4 / 4, rel=1e-3)
    # A parent of another optimizer: the first step of the schedule, because its vectors are no noise to turn away from.
    new = mem + make_optimizer(recipe, previous_steps=0).step(mem, gradients(1, k=1, d=9)[0])
    cosine = torch.nn.functional.cosine_similarity(mem, new)
    assert math.acos(float(cosine)) == pytest.approx(0.4, rel=1e-3)
