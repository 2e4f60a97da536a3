"""Measures of geometry where the answer is known: rotated copies, ends of paths, clouds of a given dimension."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group

from memlab.measures import geometry as g
from memlab.measures import similarity


def cloud(groups=8, each=6, d=30, tight=0.0, seed=0):
    """(n, d) and its groups: a random direction per vector, mixed with its group's direction by the share ``tight``."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((groups, d))
    x = tight * np.repeat(centres, each, axis=0) + (1 - tight) * rng.standard_normal((groups * each, d))
    return x, np.repeat(np.arange(groups), each)


# Distances -----------------------------------------------------------------------------------------------------------


def test_cosines_by_hand():
    got = g.cosines([[2.0, 0], [0, 3], [1, 1], [0, 0]])
    expected = [[1, 0, 0.5**0.5, 0], [0, 1, 0.5**0.5, 0], [0.5**0.5, 0.5**0.5, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_within_and_between_finds_groups_that_hold_together():
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


def test_within_and_between_p_is_calibrated():
    wrong = [g.within_and_between(*cloud(5, 3, 10, seed=i), draws=99).p <= 0.1 for i in range(150)]
    assert 0.04 < np.mean(wrong) < 0.17  # nominal 0.1


def test_within_and_between_by_hand():
    # Two groups, opposite: inside all the same (distance 0), across 2.
    found = g.within_and_between([[1.0, 0], [2, 0], [-1, 0], [-3, 0]], ["a", "a", "b", "b"], draws=50)
    assert found.within.value == pytest.approx(0)
    assert found.between.value == pytest.approx(2)
    with pytest.raises(ValueError, match="two groups or more"):
        g.within_and_between([[1.0, 0], [2, 0]], ["a", "a"])
    with pytest.raises(ValueError, match="one of them with two vectors"):
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
def test_bins_count_every_value_once(log):
    values = np.array([1.0, 2, 4, 8, 16, 16, 3])
    table = g.binned(values, ["a"] * 4 + ["b"] * 3, bins=4, log=log)
    assert table.groupby("kind").share.sum().tolist() == pytest.approx([1, 1])
    first = table[table.kind == "a"]
    assert first["from"].iloc[0] == pytest.approx(1)
    assert first["to"].iloc[-1] == pytest.approx(16)
    assert first.share.tolist() == ([0.25] * 4 if log else [0.75, 0.25, 0, 0])


def test_own_word_against_all_deals():
    """Three passages, two vectors each: all six deals of their words are known."""
    near = np.array([[1, 7], [1, 9], [2, 8], [5, 9], [2, 6], [3, 4]])
    own, groups = [1, 1, 2, 2, 3, 3], ["b", "b", "a", "a", "c", "c"]
    found = g.own_among_nearest(near, own, groups, draws=4000)
    assert found.share == pytest.approx(4 / 6)  # both of b, one of a, one of c
    shares = []
    for deal in itertools.permutations((1, 2, 3)):
        word = dict(zip("bac", deal, strict=True))
        shares.append(np.mean([word[group] in row for group, row in zip(groups, near, strict=True)]))
    assert found.null == pytest.approx(np.mean(shares), abs=0.02)
    assert found.p == pytest.approx(np.mean(np.array(shares) >= 4 / 6 - 1e-12), abs=0.03)
    with pytest.raises(ValueError, match="one word per group"):
        g.own_among_nearest(near, [1, 5, 2, 2, 3, 3], groups)


def test_own_word_p_is_calibrated():
    p = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(8), 4)
        near = np.repeat(rng.integers(0, 12, (8, 3)), 4, axis=0)  # seeds of one passage agree
        p.append(g.own_among_nearest(near, rng.integers(0, 12, 8)[groups], groups, draws=99, seed=seed).p)
    assert np.mean(np.array(p) <= 0.1) < 0.17  # nominal 0.1


def test_dropout_moves_by_the_root_of_its_share():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(576)
    for share in (0.01, 0.1, 0.5):
        moved = [np.linalg.norm(x[rng.permutation(576)[: round(576 * share)]]) for _ in range(300)]
        assert np.mean(moved) / np.linalg.norm(x) == pytest.approx(g.dropout_distance(share), rel=0.05)


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
def test_umap_and_tsne_keep_neighbours_and_repeat_with_a_seed(how):
    x, groups = cloud(4, 10, tight=0.8)
    flat = g.flat_map(x, how, neighbours=8)
    assert flat.shape == (40, 2)
    by_chance = 10 / 39
    assert g.neighbours_kept(x, flat) > 2 * by_chance
    assert g.neighbours_kept(x, np.random.default_rng(0).standard_normal((40, 2))) < 1.5 * by_chance
    np.testing.assert_array_equal(flat, g.flat_map(x, how, neighbours=8))
    del groups


def test_flat_map_errors():
    with pytest.raises(ValueError, match="pca, umap or tsne"):
        g.flat_map(np.eye(6), "mds")
    with pytest.raises(ValueError, match="at least 5"):
        g.flat_map(np.eye(3), "umap")


def test_neighbours_kept_of_an_identical_map():
    x = g.spherical_null(30, 2)  # on a circle, cosine and straight distance agree
    assert g.neighbours_kept(x, x) == 1
    few = g.spherical_null(8, 2)  # all seven others are neighbours, on any map
    assert g.neighbours_kept(few, few[::-1]) == 1
    assert g.neighbours_kept(few, few[::-1], neighbours=3) < 1


# Probes and dimensions -----------------------------------------------------------------------------------------------


def test_a_probe_reads_a_label_only_if_it_is_there():
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


def test_a_probe_with_groups_cannot_recognise_the_passage():
    """Every passage has its own place and a random kind. A probe without groups recognises the passage."""
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


def test_dimensions_of_clouds_with_a_known_dimension():
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


@pytest.mark.parametrize(("n", "d"), [(60, 6), (40, 200)])
def test_the_spectrum_null_has_exactly_the_same_covariance(n, d):
    x = np.random.default_rng(0).standard_normal((n, d)) * np.linspace(0.1, 2, d)
    drawn = g.spectrum_null(x)
    assert drawn.shape == x.shape
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), atol=1e-10)
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=1e-10)
    assert g.participation(drawn) == pytest.approx(g.participation(x))


def test_points_without_structure_have_the_dimension_of_their_null():
    """Fewer points than dimensions, as in our data. A Gaussian with the sample's covariance would be wrong by half."""
    ratios = []
    for seed in range(8):
        x = np.random.default_rng(seed).standard_normal((120, 400))
        null = np.mean([g.intrinsic_dimension(g.spectrum_null(x, seed=i)) for i in range(5)])
        ratios.append(g.intrinsic_dimension(x) / null)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    # A curve that winds through as many dimensions is result from its null.
    t = np.random.default_rng(0).uniform(0, 2 * np.pi, 300)
    winding = np.stack([f(k * t) for k in range(1, 6) for f in (np.sin, np.cos)], axis=1)
    assert g.intrinsic_dimension(winding) < 2
    assert g.intrinsic_dimension(g.spectrum_null(winding)) > 4


def test_a_trajectory_in_numbers():
    # A quarter turn in a plane, after a start elsewhere.
    angle = np.linspace(0, np.pi / 2, 9)
    turn = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    result = g.trajectory(range(0, 50, 5), np.concatenate([[[0, 0, 0.01]], turn]))
    assert result["steps"] == 45
    assert result["points"] == 10
    assert result["components for 99 %"] == 2
    assert result["norm, start"] == pytest.approx(0.01)
    assert result["norm, end"] == pytest.approx(1)
    assert result["cosine, start and end"] == pytest.approx(0)
    assert result["cosine, half way and end"] == pytest.approx(np.sin(np.pi / 4), abs=0.01)


def test_trajectory_of_a_random_walk_equals_its_null():
    steps = np.random.default_rng(5).standard_normal((40, 300)) / 300**0.5
    result = g.trajectory(range(41), np.concatenate([np.zeros((1, 300)) + 1e-3, np.cumsum(steps, 0)]))
    assert result["components for 99 %"] == pytest.approx(result["of random walks"], rel=0.15)


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


def places():
    """Two pairs on a line and one control, at five places each."""
    t = np.linspace(0, 1, 5)
    rows = [
        pd.DataFrame({"way": way, "pair": pair, "t": t, "exact": exact, "barrier": height, "bits": bits, "right": 4})
        for way, pair, exact, height, bits in (
            ("line", 0, [True, True, False, False, True], 2.0, [0.0, 1, 2, 1, 0]),
            ("line", 1, [True] * 5, 1.0, [0.0, 3, 4, 3, 0]),
            ("nowhere", 0, [True, False, False, True, True], 5.0, [0.0, 5, 6, 7, 8]),
        )
    ]
    return pd.concat(rows).assign(kind="prose", tokens=8, text_id="a")


def test_a_control_is_compared_on_its_first_half_only():
    kept = g.comparable_places(places())
    assert kept[kept.way == "line"].t.tolist() == [0, 0.25, 0.5, 0.75, 1] * 2
    assert kept[kept.way == "nowhere"].t.tolist() == [0, 0.25, 0.5]


def test_barriers_of_paths_by_hand():
    line, nowhere = g.barriers(places()).to_dict("records")
    assert (line["kind"], line["way"], line["pairs"], line["exact_throughout"]) == ("prose", "line", 2, 1)
    assert line["barrier"].value == 1.5
    assert line["share"].value == pytest.approx((3 / 5 + 1) / 2)
    assert line["barrier"].high == np.inf  # both pairs are of one passage
    assert (nowhere["pairs"], nowhere["exact_throughout"]) == (1, 0)
    assert nowhere["share"].value == pytest.approx(1 / 3)


def test_the_mean_along_paths_by_hand():
    table = g.along_paths(places())
    line = table[table.way == "line"]
    assert line.bits.tolist() == [0, 2, 3, 2, 0]
    assert line.exact.tolist() == [True, True, False, False, True]
    assert table[table.way == "nowhere"].t.tolist() == [0, 0.25, 0.5]


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


def test_exact_radius_is_the_first_failure():
    """The text is lost between 1 and 1.6 and comes back beyond. Bisection alone would end beyond the gap."""
    low, fails = g.exact_radius(lambda r: r < 1 or 1.6 < r < 3, high=5)
    assert low == pytest.approx(1, rel=0.03)
    assert fails == pytest.approx(1, rel=0.03)
    low, fails = g.exact_radius(lambda r: not 2 < r < 2.6, high=5, probes=3)
    assert low == pytest.approx(2, rel=0.03)  # 5 holds, but half way there it is lost


# Other coordinates ---------------------------------------------------------------------------------------------------


def test_a_rotated_copy_has_the_same_relative_representation():
    x, _ = cloud(10, 2, 12)
    turned = x @ ortho_group.rvs(12, random_state=1)
    np.testing.assert_allclose(similarity.relative(x, x[:5]), similarity.relative(turned, turned[:5]), atol=1e-9)
    same = similarity.agreement(g.cosines(x), g.cosines(turned))
    assert same.correlation == pytest.approx((1, 1, 1))
    assert same.p < 0.01
    assert same.retrieval == 1


@pytest.mark.slow
def test_agreement_p_is_calibrated_for_unrelated_spaces():
    """Also if both spaces separate two kinds: that is not agreement inside the kinds."""
    kinds = np.repeat([0, 1], 8)
    centre = 0.7 * np.eye(2, 24)[kinds]
    plain, same_kinds, result = [], [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        x, y = (rng.standard_normal((16, 24)) / 24**0.5 for _ in range(2))
        plain.append(similarity.agreement(g.cosines(x), g.cosines(y), draws=99, seed=seed))
        x, y = g.cosines(x + centre), g.cosines(y + centre)
        same_kinds.append(similarity.agreement(x, y, kinds, draws=99, seed=seed).p)
        result.append(similarity.agreement(x, y, draws=99, seed=seed).p)
    assert np.mean([found.p <= 0.05 for found in plain]) < 0.12
    assert np.mean([found.correlation.value for found in plain]) == pytest.approx(0, abs=0.03)
    assert np.mean([found.retrieval for found in plain]) == pytest.approx(1 / 16, abs=0.03)
    assert np.mean(np.array(same_kinds) <= 0.05) < 0.12
    assert np.mean(np.array(result) <= 0.05) > 0.5  # without kinds, the kinds are all it sees
    with pytest.raises(ValueError, match="two square tables"):
        similarity.agreement(np.eye(5), np.eye(4))


def test_two_noisy_copies_of_one_space_agree():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 30))
    here, there = (g.cosines(x + 0.5 * rng.standard_normal(x.shape)) for _ in range(2))
    found = similarity.agreement(here, there)
    assert found.p < 0.01
    assert found.correlation.low > found.null + 0.2
    assert found.retrieval > 0.5
