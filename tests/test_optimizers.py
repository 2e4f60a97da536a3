import math

import pytest
import torch

from memlab.recipes import Recipe
from memlab.training.optimizers import FullMatrix, make_optimizer, step_size


def gradients(steps, k=2, d=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(k, d, generator=generator) for _ in range(steps)]


def test_full_matrix_is_what_its_formula_says():
    """G and m formed outright in float64, with bias correction, against the small problem the rule solves."""
    recipe = Recipe(betas=(0.8, 0.95), damping=1e-3, lr=1.5, budget=60, k=2)
    rule = FullMatrix(recipe)
    moment = torch.zeros(2, 7, 7, dtype=torch.float64)
    mean = torch.zeros(2, 7, dtype=torch.float64)
    mem = torch.zeros(2, 7)
    for t, g in enumerate(gradients(50), 1):
        change = rule.step(mem, g)
        g64 = g.double()
        moment = 0.95 * moment + 0.05 * g64[:, :, None] * g64[:, None]
        mean = 0.8 * mean + 0.2 * g64
        for i in range(2):
            values, basis = torch.linalg.eigh(moment[i] / (1 - 0.95**t))
            scale = (values.clamp_min(0) + 1e-3 * values[-1]).rsqrt()
            direction = basis @ (scale * (basis.T @ (mean[i] / (1 - 0.8**t))))
            expected = -1.5 * 0.5 * (1 + math.cos(math.pi * (t - 1) / 60)) * direction / direction.norm() * 7**0.5
            torch.testing.assert_close(change[i].double(), expected, rtol=1e-4, atol=1e-4)


def test_full_matrix_forgets_what_left_its_history():
    recipe = Recipe(history=5, k=2)
    rule, fresh = FullMatrix(recipe), FullMatrix(recipe)
    stream = gradients(12)
    for g in stream:
        change = rule.step(torch.zeros(2, 7), g)
    for g in stream[-5:]:
        expected = fresh.step(torch.zeros(2, 7), g)
    size = step_size(recipe, 11) / step_size(recipe, 4)
    torch.testing.assert_close(change, expected * size, rtol=1e-4, atol=1e-5)


def test_full_matrix_goes_straight_down_an_ill_conditioned_bowl():
    """f = sum of c x^2 with c over four decades: the diagonal does not show it once the axes are turned."""
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q
    bowl = turn @ torch.diag(torch.logspace(-2, 2, 20)) @ turn.T
    start = torch.randn(1, 20, generator=generator)

    def reached(recipe):
        mem, rule = start.clone(), make_optimizer(recipe)
        for _ in range(100):
            mem = mem + rule.step(mem, mem @ bowl)
        return float((mem @ bowl @ mem.T).squeeze())

    best_adam = min(reached(Recipe(rule="adamw", lr=lr, budget=100)) for lr in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0))
    assert reached(Recipe(lr=0.3, budget=100)) < best_adam / 3


def test_adamw_is_torchs():
    recipe = Recipe.paper2025(lr=0.03, weight_decay=0.1, betas=(0.9, 0.8))
    rule = make_optimizer(recipe)
    mem = torch.randn(2, 7)
    theirs = torch.nn.Parameter(mem.clone())
    optimiser = torch.optim.AdamW([theirs], lr=0.03, betas=(0.9, 0.8), weight_decay=0.1)
    for g in gradients(40):
        mem = mem + rule.step(mem, g)
        theirs.grad = g.clone()
        optimiser.step()
    torch.testing.assert_close(mem, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_schedules():
    assert step_size(Recipe(lr=2, budget=100), 0) == 2
    assert step_size(Recipe(lr=2, budget=100), 50) == pytest.approx(1)
    assert step_size(Recipe(lr=2, budget=100), 100) == pytest.approx(0)
    assert step_size(Recipe(lr=2, budget=100, schedule="constant"), 99) == 2


def test_nothing_to_do_is_no_step():
    rule = FullMatrix(Recipe())
    for g in (torch.zeros(1, 5), torch.full((1, 5), 1e-25), torch.zeros(1, 5)):
        assert torch.isfinite(rule.step(torch.zeros(1, 5), g)).all()


def turning(**changes):
    return Recipe.default(**{"whiten": 0.0, "norm": 7.0} | changes)


def test_rotation_turns_by_the_schedules_angle_and_holds_the_norm():
    recipe = turning(lr=0.3)
    rule, mem = make_optimizer(recipe), torch.randn(2, 9)
    for t, g in enumerate(gradients(20, d=9)):
        new = mem + rule.step(mem, g)
        torch.testing.assert_close(new.norm(dim=-1), torch.full((2,), 7.0 * 3))
        cosine = torch.nn.functional.cosine_similarity(mem, new)
        angle = 0.3 / math.sqrt(t + 1) if t else math.pi / 2
        torch.testing.assert_close(cosine, torch.full((2,), math.cos(angle)), atol=1e-4, rtol=0)
        mem = new


def test_rotation_knows_directions_only():
    """A function of the direction has a gradient that shrinks as one over the norm: the turns are the same."""
    generator = torch.Generator().manual_seed(0)  # float64: past gradients are nearly parallel, which rounding breaks
    target = torch.nn.functional.normalize(torch.randn(1, 9, generator=generator, dtype=torch.float64), dim=-1)

    def path(norm):
        recipe = turning(norm=norm)
        rule, mem, units = make_optimizer(recipe), torch.linspace(-1, 1, 9, dtype=torch.float64)[None], []
        for _ in range(8):
            leaf = mem.clone().requires_grad_()
            (torch.nn.functional.normalize(leaf, dim=-1) - target).square().sum().backward()
            mem = mem + rule.step(mem, leaf.grad)
            units.append(torch.nn.functional.normalize(mem, dim=-1))
        return torch.cat(units)

    torch.testing.assert_close(path(1.0), path(1000.0), atol=1e-4, rtol=0)


def test_rotation_goes_on_where_a_parent_stopped():
    recipe, mem = turning(lr=0.4), torch.randn(1, 9)
    new = mem + make_optimizer(recipe, begun=15).step(mem, gradients(1, k=1, d=9)[0])
    cosine = torch.nn.functional.cosine_similarity(mem, new)
    assert math.acos(float(cosine)) == pytest.approx(0.4 / 4, rel=1e-3)
    # From what another rule has found, with the first step of the schedule: it is no noise to turn away from.
    new = mem + make_optimizer(recipe, begun=0).step(mem, gradients(1, k=1, d=9)[0])
    cosine = torch.nn.functional.cosine_similarity(mem, new)
    assert math.acos(float(cosine)) == pytest.approx(0.4, rel=1e-3)
