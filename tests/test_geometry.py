"""Measures of geometry where the answer is known: rotated copies, ends of paths, clouds of a given dimension."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from memlab import geometry as g


def cloud(groups=8, each=6, d=30, tight=0.0, seed=0):
    """(n, d) and its groups: directions drawn anew for every vector, mixed with their group's own by ``tight``."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, d))
    x = tight * np.repeat(centres, each, axis=0) + (1 - tight) * rng.standard_normal((groups * each, d))
    return x, np.repeat(np.arange(groups), each)


# Distances -----------------------------------------------------------------------------------------------------------


def test_cosines_by_hand():
    got = g.cosines([[2.0, 0], [0, 3], [1, 1], [0, 0]])
    expected = [[1, 0, 0.5**0.5, 0], [0, 1, 0.5**0.5, 0], [0.5**0.5, 0.5**0.5, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_groups_that_hold_together_are_found_and_others_are_not():
    x, groups = cloud(tight=0.6)
    found = g.within_and_between(x, groups)
    assert found.p < 0.01
    assert found.within.value < found.between.value
    assert found.ratio.high < 1
    x, groups = cloud(tight=0.0, seed=3)
    none = g.within_and_between(x, groups)
    assert none.p > 0.05
    assert none.ratio.low < 1 < none.ratio.high + 0.02
    assert none.between.value == pytest.approx(1, abs=0.05)


def test_the_permutation_test_is_right_about_how_often_it_is_wrong():
    wrong = [g.within_and_between(*cloud(5, 3, 10, seed=i), draws=99).p <= 0.1 for i in range(150)]
    assert 0.04 < np.mean(wrong) < 0.17  # nominal 0.1


def test_within_and_between_by_hand():
    # Two groups, opposite: inside all the same (distance 0), across 2.
    found = g.within_and_between([[1.0, 0], [2, 0], [-1, 0], [-3, 0]], ["a", "a", "b", "b"], draws=50)
    assert found.within.value == pytest.approx(0)
    assert found.between.value == pytest.approx(2)
    with pytest.raises(ValueError, match="two groups or more"):
        g.within_and_between([[1.0, 0], [2, 0]], ["a", "a"])
    with pytest.raises(ValueError, match="one with two vectors"):
        g.within_and_between([[1.0, 0], [2, 0]], ["a", "b"])


def test_nearest():
    table = np.eye(4) * np.array([[1.0], [5], [1], [1]])
    order, found = g.nearest([[0.1, 0.9, 0.3, 0]], table, 2)
    assert order.tolist() == [[1, 2]]
    np.testing.assert_allclose(found, [[0.9, 0.3] / np.linalg.norm([0.1, 0.9, 0.3])])


def test_the_spherical_null_has_no_direction():
    x = g.spherical_null(400, 50)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1)
    pairs = g.cosines(x)[np.triu_indices(400, 1)]
    assert abs(pairs.mean()) < 0.002
    assert pairs.std() == pytest.approx(1 / np.sqrt(50), rel=0.03)


@pytest.mark.parametrize("log", [False, True])
def test_bins_hold_every_value_once(log):
    values = np.array([1.0, 2, 4, 8, 16, 16, 3])
    table = g.binned(values, ["a"] * 4 + ["b"] * 3, bins=4, log=log)
    assert table.groupby("kind").share.sum().tolist() == pytest.approx([1, 1])
    first = table[table.kind == "a"]
    assert first["from"].iloc[0] == pytest.approx(1)
    assert first["to"].iloc[-1] == pytest.approx(16)
    assert first.share.tolist() == ([0.25] * 4 if log else [0.75, 0.25, 0, 0])


# Maps ----------------------------------------------------------------------------------------------------------------


def test_pca_of_a_plane_is_the_plane():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((40, 2)) * [5, 1]
    x = np.hstack([plane, np.zeros((40, 8))]) @ ortho_group.rvs(10, random_state=0)
    flat = g.flat_map(x)
    inside = np.linalg.norm(plane[:, None] - plane[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(flat[:, None] - flat[None], axis=-1), inside, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["umap", "tsne"])
def test_other_maps_keep_neighbours_and_a_seed_means_one_map(how):
    x, groups = cloud(4, 10, tight=0.8)
    flat = g.flat_map(x, how, neighbours=8)
    assert flat.shape == (40, 2)
    by_chance = 10 / 39
    assert g.neighbours_kept(x, flat) > 2 * by_chance
    assert g.neighbours_kept(x, np.random.default_rng(0).standard_normal((40, 2))) < 1.5 * by_chance
    np.testing.assert_array_equal(flat, g.flat_map(x, how, neighbours=8))
    del groups


def test_maps_that_cannot_be_made():
    with pytest.raises(ValueError, match="pca, umap or tsne"):
        g.flat_map(np.eye(6), "mds")
    with pytest.raises(ValueError, match="at least 5"):
        g.flat_map(np.eye(3), "umap")


def test_neighbours_kept_of_the_thing_itself():
    x = g.spherical_null(30, 2)  # on a circle, cosine and straight distance agree
    assert g.neighbours_kept(x, x) == 1


# Probes and dimensions -----------------------------------------------------------------------------------------------


def test_a_probe_reads_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 4)
    kind = np.repeat(np.arange(24) % 2, 4)
    x = rng.standard_normal((96, 20)) + 2.0 * kind[:, None] * np.eye(20)[0]
    there = g.probe(x, kind, groups, draws=30)
    assert there.accuracy > 0.75
    assert there.p < 0.05
    assert there.null == pytest.approx(0.5, abs=0.1)
    nothing = g.probe(rng.standard_normal((96, 20)), kind, groups, draws=30)
    assert nothing.p > 0.05


def test_a_probe_is_not_fooled_by_knowing_the_passage_again():
    """Every passage has a place of its own, and its kind is a coin's: only with groups is that seen."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 6)
    kind = np.repeat(rng.permutation(np.arange(20) % 2), 6)
    x = np.repeat(rng.standard_normal((20, 40)) * 3, 6, axis=0) + rng.standard_normal((120, 40)) * 0.3
    assert g.probe(x, kind, draws=5).accuracy > 0.9
    assert g.probe(x, kind, groups, draws=30).p > 0.05


def test_a_probe_needs_one_label_a_group():
    with pytest.raises(ValueError, match="several labels"):
        g.probe(np.eye(4), [0, 1, 0, 1], [0, 0, 1, 1])
    with pytest.raises(ValueError, match="at least two"):
        g.probe(np.eye(4), [0, 0, 1, 1], [0, 0, 1, 2])


def test_dimensions_of_clouds_that_have_one():
    rng = np.random.default_rng(0)
    basis = ortho_group.rvs(40, random_state=0)[:5]
    x = rng.standard_normal((600, 5)) @ basis
    assert g.participation(x) == pytest.approx(5, rel=0.03)
    assert g.components_for(x) == 5
    assert g.intrinsic_dimension(x) == pytest.approx(5, rel=0.15)
    # A curve, however it winds, has one dimension; its covariance has several.
    t = rng.uniform(0, 4 * np.pi, 500)
    winding = np.stack([np.cos(t), np.sin(t), np.cos(2 * t), t / 5], axis=1)
    assert g.intrinsic_dimension(winding) == pytest.approx(1, abs=0.15)
    assert g.participation(winding) > 2
    assert g.participation(np.ones((5, 3))) == 0


def test_the_gaussian_null_has_the_same_covariance():
    x, _ = cloud(50, 40, 6, tight=0.3)
    drawn = g.gaussian_null(x)
    assert drawn.shape == x.shape
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), atol=0.1 * np.cov(x.T).max())
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=0.1)


def test_a_trajectory_in_numbers():
    # A quarter turn in a plane, after a start elsewhere.
    angle = np.linspace(0, np.pi / 2, 9)
    turn = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    told = g.trajectory(range(0, 50, 5), np.concatenate([[[0, 0, 0.01]], turn]))
    assert told["steps"] == 45
    assert told["points"] == 10
    assert told["components for 99 %"] == 2
    assert told["cosine, start and end"] == pytest.approx(0)
    assert told["cosine, half way and end"] == pytest.approx(np.sin(np.pi / 4), abs=0.01)


# Paths and radii -----------------------------------------------------------------------------------------------------


def test_paths_begin_and_end_where_they_should():
    rng = np.random.default_rng(0)
    a, b, middle = rng.standard_normal((3, 2, 5))
    for path in (g.line(a, b, [0, 0.25, 1]), g.bezier(a, middle, b, [0, 0.25, 1])):
        assert path.shape == (3, 2, 5)
        np.testing.assert_allclose(path[0], a)
        np.testing.assert_allclose(path[-1], b)
    # With its control point half way, the curve is the line.
    np.testing.assert_allclose(g.bezier(a, (a + b) / 2, b, [0.1, 0.7]), g.line(a, b, [0.1, 0.7]))


def test_barriers():
    t = np.linspace(0, 1, 11)
    assert g.barrier(t, 3 - 2 * t) == pytest.approx(0, abs=1e-12)
    assert g.barrier(t, t * 0 + 5) == 0
    assert g.barrier(t, -t * (1 - t)) == 0  # a valley is no barrier
    assert g.barrier(t, 4 * t * (1 - t) + t) == pytest.approx(1)
    assert g.barrier(t[::-1], (4 * t * (1 - t) + t)[::-1]) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 2"):
        g.barrier([0], [1])


def test_radius_by_bisection():
    asked = []

    def holds(radius):
        asked.append(radius)
        return radius < 3.7

    low, high = g.exact_radius(holds, high=50)
    assert low <= 3.7 <= high < 1.03 * low
    assert len(asked) < 20
    assert g.exact_radius(lambda r: True, high=50) == (50, float("inf"))
    low, high = g.exact_radius(lambda r: False, high=50)
    assert low == 0
    assert high < 0.1
    with pytest.raises(ValueError, match="more than 0"):
        g.exact_radius(holds, high=0)


# Other coordinates ---------------------------------------------------------------------------------------------------


def test_a_rotated_copy_has_the_same_relative_representation():
    x, _ = cloud(10, 2, 12)
    turned = x @ ortho_group.rvs(12, random_state=1)
    np.testing.assert_allclose(g.relative(x, x[:5]), g.relative(turned, turned[:5]), atol=1e-9)
    same = g.agreement(g.relative(x, x[:5]), g.relative(turned, turned[:5]))
    assert same.correlation == pytest.approx(1)
    assert same.p < 0.01
    assert same.retrieval == 1


def test_two_spaces_without_anything_in_common_do_not_agree():
    x, y = g.spherical_null(20, 12), g.spherical_null(20, 12, seed=1)
    found = g.agreement(g.relative(x, x[:6]), g.relative(y, y[:6]))
    assert abs(found.correlation - found.null) < 0.3
    rng = np.random.default_rng(2)
    wrong = [
        g.agreement(rng.standard_normal((12, 8)), rng.standard_normal((12, 8)), draws=99, seed=i).p <= 0.1
        for i in range(150)
    ]
    assert 0.04 < np.mean(wrong) < 0.17
    with pytest.raises(ValueError, match="the same anchors"):
        g.agreement(np.eye(3), np.eye(4))
