"""Evaluation in batches agrees with exact checks; ends of paths; radii that bracket; planes through their points."""

import numpy as np
import pandas as pd
import pytest

from memlab import Recipe, check, cram
from memlab.measures import geometry
from memlab.probes import evaluate as evaluation
from memlab.probes import paths, perturbation
from memlab.probes.evaluate import Stopped, evaluate
from memlab.results.mem_vector import VectorError
from tests.conftest import random_passages


@pytest.fixture(scope="module")
def solutions():
    """Four solutions each of two passages, all exact, on a toy."""
    from memlab import load

    lm = load("toy:llama")
    passages = random_passages(lm, 2, 4)
    recipes = [Recipe.default(budget=80, k=2, seed=seed) for seed in range(6)]
    mems = cram(lm, [p for p in passages for _ in recipes], recipes * 2, progress=False)
    first, second = ([m for m in mems[i : i + 6] if m.exact][:4] for i in (0, 6))
    assert len(first) == len(second) == 4
    return lm, first, second


def recheck_counts(table):
    return int(table.rechecked.sum()), int(table.agreed.sum())


def test_evaluate_agrees_with_single_checks(solutions):
    lm, first, second = solutions
    moved = [
        m.perturb(r * float(np.linalg.norm(m.mem)), seed=i) for i, m in enumerate(first + second) for r in (0.1, 1)
    ]
    table = evaluate(lm, moved, batch=5, recheck=1.0)
    assert table.rechecked.tolist() == table.agreed.tolist() == (~table.decodes).tolist()
    for mem, row in zip(moved, table.itertuples(), strict=True):
        alone = check(lm, mem)
        assert row.decodes == row.exact == alone.exact
        assert row.right == alone.right
    assert 0 < table.decodes.sum() < 16


def test_a_vector_that_decodes_only_in_a_batch_is_not_exact(solutions, monkeypatch):
    """The batch decoder is replaced by one that returns every text, so only the check at batch 1 can fail."""
    lm, first, _ = solutions
    moved = [m.perturb(10 * float(np.linalg.norm(m.mem)), seed=i) for i, m in enumerate(first)]
    monkeypatch.setattr(evaluation.decoding, "decode", lambda lm, mems, **_: [m.token_ids for m in mems])
    table = evaluate(lm, [first[0], *moved], recheck=1.0)
    assert table.decodes.all()
    assert table.exact.tolist() == [True] + [False] * 4
    assert recheck_counts(table) == (0, 0)


def test_a_disagreement_on_recheck_is_shown(solutions, monkeypatch):
    """The batch decoder is replaced by one that returns no text, so that exact vectors do not decode in the batch."""
    lm, first, second = solutions
    monkeypatch.setattr(evaluation.decoding, "decode", lambda lm, mems, **_: [m.token_ids + 1 for m in mems])
    far = first[0].perturb(10 * float(np.linalg.norm(first[0].mem)))
    table = evaluate(lm, [first[0], far, *second], recheck=1.0)
    assert table.rechecked.all()
    assert table.agreed.tolist() == [False, True] + [False] * 4


def test_each_table_rechecks_other_places(solutions, monkeypatch):
    lm, first, second = solutions
    checked = []
    monkeypatch.setattr(evaluation.decoding, "check", lambda lm, mem: checked.append(mem.mem.tobytes()) or Check())
    monkeypatch.setattr(
        evaluation, "_evaluated", lambda lm, mems, batch: pd.DataFrame({"decodes": [False] * len(mems)})
    )

    class Check:
        exact = False

    def places(mems):
        checked.clear()
        assert recheck_counts(evaluate(lm, mems, recheck=0.1)) == (4, 4)
        return sorted([mem.mem.tobytes() for mem in mems].index(data) for data in checked)

    one, other = ([mem.perturb(1.0, seed=i) for i in range(40)] for mem in (first[0], second[0]))
    assert places(one) == places(one)
    assert places(one) != places(other)


def test_evaluate_can_be_stopped(solutions):
    lm, first, _ = solutions
    seen = []
    with pytest.raises(Stopped):
        evaluate(lm, first, batch=1, on_progress=lambda done, of: seen.append((done, of)) or done == 2)
    assert seen == [(1, 4), (2, 4)]
    assert len(evaluate(lm, [])) == 0


# Paths ---------------------------------------------------------------------------------------------------------------


def test_a_line_has_exact_ends_and_a_line_to_itself_has_no_barrier(solutions):
    lm, first, _ = solutions
    path = paths.line(lm, first[0], first[1], points=9, recheck=1.0)
    assert path.table.t.tolist() == np.linspace(0, 1, 9).tolist()
    assert path.table.exact.iloc[0]
    assert path.table.exact.iloc[-1]
    assert path.table.rechecked.tolist() == path.table.agreed.tolist() == (~path.table.decodes).tolist()
    still = paths.line(lm, first[0], first[0], points=5)
    assert still.barrier == pytest.approx(0, abs=1e-5)
    assert still.table.exact.all()


@pytest.mark.slow
def test_a_trained_curve_is_not_worse_than_the_line(solutions):
    lm, first, _ = solutions
    straight = [paths.line(lm, a, b, points=9) for a, b in [(first[0], first[1]), (first[2], first[3])]]
    bent = [paths.curve(lm, a, b, points=9, steps=60) for a, b in [(first[0], first[1]), (first[2], first[3])]]
    for line, curve, (a, b) in zip(straight, bent, [(first[0], first[1]), (first[2], first[3])], strict=True):
        assert curve.barrier < line.barrier + 0.05
        np.testing.assert_array_equal(line.table.iloc[[0, -1]].bits, curve.table.iloc[[0, -1]].bits)
        assert curve.middle.shape == a.mem.shape
        np.testing.assert_allclose(geometry.bezier(a.mem, curve.middle, b.mem, [1.0])[0], b.mem)
    assert sum(c.table.bits.mean() for c in bent) < sum(s.table.bits.mean() for s in straight)
    again = paths.curve(lm, first[0], first[1], points=9, steps=60)
    np.testing.assert_array_equal(again.middle, bent[0].middle)


def test_a_curve_can_be_stopped(solutions):
    lm, first, _ = solutions
    with pytest.raises(Stopped):
        paths.curve(lm, first[0], first[1], on_progress=lambda done, of: done == 3)


def test_between_two_passages_the_ends_decode_to_their_own(solutions):
    lm, first, second = solutions
    table = paths.between_passages(lm, first[0], second[0], points=5)
    assert table.of_a.iloc[0] == 4
    assert table.of_b.iloc[-1] == 4
    assert table.ids.iloc[0].tolist() == first[0].token_ids.tolist()
    assert table.ids.iloc[-1].tolist() == second[0].token_ids.tolist()


def test_paths_need_two_solutions_of_one_passage(solutions):
    lm, first, second = solutions
    with pytest.raises(VectorError, match="not solutions of one passage"):
        paths.line(lm, first[0], second[0])
    other = cram(lm, random_passages(lm, 1, 4, seed=9), Recipe.default(budget=1, k=1), progress=False)[0]
    with pytest.raises(VectorError, match="differ in k, prefix or suffix"):
        paths.between_passages(lm, first[0], other)


def test_pairs_are_of_one_passage_and_reproducible(solutions):
    _, first, second = solutions
    drawn = paths.pairs(first + second, 8)
    assert len(drawn) == 4  # four solutions each: no vector is in two pairs
    assert all(a.token_sha256 == b.token_sha256 for a, b in drawn)
    assert len({mem.key for pair in drawn for mem in pair}) == 8
    assert [(a.key, b.key) for a, b in drawn] == [(a.key, b.key) for a, b in paths.pairs(first + second, 8)]
    assert len({a.token_sha256 for a, _ in paths.pairs(first + second, 2)}) == 2  # passages in turn
    assert paths.pairs([], 3) == []


def test_the_control_line_starts_exact_and_ends_lost(solutions):
    lm, first, _ = solutions
    table = paths.nowhere(lm, first[0], first[1], points=5)
    assert table.t.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert table.exact.iloc[0]
    assert not table.exact.iloc[-1]


# Perturbation --------------------------------------------------------------------------------------------------------


def test_perturbations_of_size_zero_change_nothing(solutions):
    lm, first, _ = solutions
    table = perturbation.noise(lm, first[:2], radii=(0.0, 3.0), draws=2)
    assert len(table) == 8
    assert table[table.radius == 0].exact.all()
    assert not table[table.radius == 3].exact.any()
    table = perturbation.dropout(lm, first[:2], shares=(0.0, 1.0), draws=1)
    assert table[table.dropped == 0].exact.all()
    assert not table[table.dropped == 1].exact.any()
    assert table.rechecked.sum() >= 1
    table = perturbation.rounding(lm, first[:2], bits=(2, 16))
    assert table.groupby("bits_a_number").exact.all().to_dict() == {2: False, 16: True}
    table = perturbation.along(lm, first[:2], "first principal", among=first, radii=(0.0, 3.0))
    assert len(table) == 8
    assert table[table.radius == 0].exact.all()
    assert not table[table.radius == 3].exact.any()


def test_both_sides_of_a_direction_are_tried(solutions):
    lm, first, _ = solutions
    seen = []
    size = float(np.linalg.norm(first[0].mem))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perturbation, "evaluate", lambda lm, mems, **_: seen.extend(mems) or pd.DataFrame({"x": mems}))
        perturbation.along(lm, first[:1], "gradient", radii=(0.5,))
    ahead, back = (mem.mem - first[0].mem for mem in seen)
    np.testing.assert_allclose(ahead, -back, atol=1e-3)
    assert np.linalg.norm(ahead) == pytest.approx(0.5 * size, rel=1e-5)


def test_an_exact_radius_brackets_the_loss_of_the_text(solutions):
    lm, first, _ = solutions
    mem = first[0]
    size = np.linalg.norm(mem.mem)
    units = perturbation.directions(lm, mem, first)
    assert set(units) == {"random", "gradient", "outwards", "first principal", "last principal"}
    for unit in units.values():
        assert np.linalg.norm(unit) == pytest.approx(1)
    radius, fails = perturbation.exact_radius(lm, mem, units["random"], high=3.0)
    assert 0 < radius < fails < 3

    def moved(r):
        return mem.with_mem((mem.mem + r * size * units["random"]).astype(np.float32), "moved")

    assert check(lm, moved(radius)).passed
    assert not check(lm, moved(fails)).passed


def test_the_gradient_direction_raises_the_loss(solutions):
    lm, first, _ = solutions
    mem = first[0].perturb(0.3 * float(np.linalg.norm(first[0].mem)), seed=3)
    uphill = perturbation.directions(lm, mem, [])["gradient"]
    size = float(np.linalg.norm(mem.mem))
    steps = [mem.with_mem((mem.mem + s * 1e-3 * size * uphill).astype(np.float32), "step") for s in (-1, 0, 1)]
    below, here, above = evaluate(lm, steps, recheck=0).bits
    assert below < here < above


@pytest.mark.slow
def test_radii_has_a_row_per_vector_and_direction(solutions):
    lm, first, second = solutions
    table = perturbation.radii(lm, [*first[:3], second[0]], draws=2, high=3.0)
    counts = table.groupby("key").direction.value_counts().unstack().fillna(0)
    assert (counts["random"] == 2).all()
    assert counts.loc[first[0].key, "first principal"] == 1
    assert counts.loc[second[0].key, "first principal"] == 0
    assert (table.fails > table.radius).all()


def test_a_plane_goes_through_its_points(solutions):
    lm, first, _ = solutions
    a, b, c = first[:3]
    plane = perturbation.plane(lm, a, b, third=c.mem, cells=2, reach=0.5)
    table = plane.table
    assert len(table) == 25
    x, y = plane.third
    along, across = b.mem - a.mem, c.mem - a.mem
    np.testing.assert_allclose(x, (across * along).sum() / (along**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(np.hypot(x, y), np.linalg.norm(across) / np.linalg.norm(along), rtol=1e-5)
    assert {0.0, 1.0} <= set(table.x)
    assert 0.0 in set(table.y)
    odd = perturbation.plane(lm, a, b, cells=3, reach=0.5)
    assert {0.0, 1.0} <= set(odd.table.x.round(9))
    assert odd.third is None
    at = table.set_index([table.x.round(6), table.y.round(6)])
    assert at.loc[(0.0, 0.0), "exact"]
    assert at.loc[(1.0, 0.0), "exact"]
    ends = evaluation.evaluate(lm, [a, b], recheck=0)
    assert at.loc[(0.0, 0.0), "bits"] == pytest.approx(ends.bits[0], rel=1e-3, abs=1e-4)
    assert at.loc[(1.0, 0.0), "bits"] == pytest.approx(ends.bits[1], rel=1e-3, abs=1e-4)
