"""Quantisers against known answers: lossless limits, Gaussian theory, and controls that must fail."""

import numpy as np
import pytest
from scipy.stats import norm

from memlab.measures.grids import RUNGS, Grid, GridFit
from memlab.measures.quantisers import (
    Cosines,
    HashFit,
    Levels,
    LowRankFit,
    ProductFit,
    QuantiserError,
    ResidualFit,
    waterfilling,
)
from tests.helpers import make_vector

D = 48


def vectors(n=40, d=D, seed=0, spread=None):
    """(n, d) of norm 100, Gaussian, with these standard deviations."""
    rows = np.random.default_rng(seed).standard_normal((n, d)) * (1 if spread is None else spread)
    return (100 * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def rotation(d=D, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def error(quantiser, rows):
    return float(((quantiser.decode(quantiser.encode(rows)) - rows) ** 2).sum() / (rows**2).sum())


@pytest.mark.parametrize("alike", [True, False])
def test_product_codes_with_as_many_codes_as_vectors_are_lossless_and_no_smaller_in_all(alike):
    rows = vectors(6)
    quantiser = ProductFit(4, 256, alike=alike).fit(rows)
    assert error(quantiser, rows) < 1e-12
    assert quantiser.shared_bits + 8 * len(quantiser.encode(rows)) > 32 * rows.size
    assert error(quantiser, vectors(6, seed=9)) > 0.3  # the code holds these vectors, and no others


def test_codes_of_another_vector_are_another_vector():
    rows = vectors(6)
    quantiser = ProductFit(4).fit(rows)
    np.testing.assert_allclose(quantiser.decode(quantiser.encode(rows[[1, 0]])), rows[[1, 0]], rtol=1e-6)
    assert np.abs(quantiser.decode(quantiser.encode(rows[[1, 0]])) - rows[:2]).max() > 1


def test_product_codes_reach_the_error_of_the_best_scalar_quantiser():
    """Parts of one number and 4 codes: Lloyd and Max's quantiser of a Gaussian has the error 0.1175."""
    rows = np.random.default_rng(0).standard_normal((400, 48))
    quantiser = ProductFit(48, 4, alike=True).fit(rows)
    assert error(quantiser, np.random.default_rng(1).standard_normal((400, 48))) == pytest.approx(0.1175, rel=0.03)
    assert error(ProductFit(48, 2, alike=True).fit(rows), rows) == pytest.approx(1 - 2 / np.pi, rel=0.03)


def test_more_stages_leave_smaller_residuals_and_one_stage_is_the_product_code():
    rows = vectors(200)
    one = ProductFit(12, 16, alike=True)
    errors = [error(ResidualFit(one, stages).fit(rows), rows) for stages in (1, 2, 3)]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    assert ResidualFit(one, 1).fit(rows).encode(rows) == one.fit(rows).encode(rows)
    assert ResidualFit(one, 3).fit(rows).shared_bits == pytest.approx(3 * one.fit(rows).shared_bits)


def test_low_rank_of_all_but_one_is_lossless_and_a_lower_rank_leaves_the_tail_of_the_spectrum():
    rows = vectors(10)
    assert error(LowRankFit(9).fit(rows), rows) < 1e-10
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    assert error(LowRankFit(4).fit(rows), rows) == pytest.approx(values[4:].sum() / (rows**2).sum(), rel=1e-4)
    assert error(LowRankFit(9).fit(rows), vectors(10, seed=5)) > 0.5  # the components of some are not those of others


def test_hashing_keeps_the_share_of_its_buckets_and_is_lossless_with_one_each():
    rows = vectors(400)
    assert error(HashFit(D).fit(rows), rows) < 1e-5  # float16
    assert error(HashFit(D // 2).fit(rows), rows) == pytest.approx(1 / 2, abs=0.02)
    assert error(HashFit(D // 4).fit(rows), rows) == pytest.approx(3 / 4, abs=0.02)
    assert len(HashFit(D // 4).fit(rows).encode(rows)) == 400 * D // 4 * 2


def test_cosines_to_enough_anchors_are_the_vector_and_do_not_see_a_rotation():
    rng, rows = np.random.default_rng(11), vectors(5)
    anchors = rng.standard_normal((3 * D, D))
    sent = Cosines(anchors, 100.0)
    assert error(sent, rows) < 1e-5
    assert error(Cosines(anchors[: D // 2], 100.0), rows) > 0.1
    turn = rotation()
    turned = np.frombuffer(Cosines(anchors @ turn, 100.0).encode(rows @ turn), "<f2").astype(float)
    np.testing.assert_allclose(turned, np.frombuffer(sent.encode(rows), "<f2").astype(float), atol=2e-3)
    received = Cosines(anchors @ turn, 100.0).decode(sent.encode(rows))  # a receiver whose space is rotated
    assert np.abs(received - rows @ turn).max() < 0.5
    shuffled = Cosines(rng.permutation(anchors), 100.0).decode(sent.encode(rows))
    assert np.abs((shuffled * rows).sum(1)).max() / 100**2 < 0.5  # anchors of one side permuted: nothing arrives


@pytest.mark.parametrize("bits", [3, 5])
def test_levels_of_a_power_of_two_are_signed_integers(bits):
    mem = make_vector(k=2, d=D)
    levels = Levels(2**bits - 1, D)
    np.testing.assert_allclose(levels.decode(levels.encode(mem.mem)), mem.quantise(bits).mem, rtol=1e-6, atol=1e-7)
    assert 8 * len(levels.encode(mem.mem[:1])) <= 32 + D * bits + 7
    assert error(Levels(2**bits + 1, D), vectors()) < error(levels, vectors())  # a count between two integers


def test_waterfilling_spends_nothing_below_the_water():
    np.testing.assert_allclose(waterfilling([4.0, 1.0, 0.25], 0.5), [1.5, 0.5, 0.0])


@pytest.mark.parametrize("rung", [20, 30, 40])
@pytest.mark.parametrize("shaped", [True, False])
def test_grid_codes_give_back_their_levels_and_cost_the_entropy(rung, shaped):
    rows, weights = vectors(60, 192), np.logspace(0, -3, 192)
    grid = (GridFit(rotation(192), weights, 9) if shaped else GridFit()).fit(rows)
    new = vectors(20, 192, seed=7)
    sizes = []
    for row in new:
        levels = grid.levels(grid.coordinates(row), rung)
        data = grid.pack(levels, rung)
        np.testing.assert_array_equal(grid.decode(data)[0], grid.vector(levels, rung))
        sizes.append(8 * (len(data) - 2))
    entropy = 0.0
    for size, spread in zip(grid.sizes(rung), grid.spread, strict=True):
        edges = norm.cdf((np.arange(-400, 402) - 0.5) * size / spread)
        share = np.diff(edges)[np.diff(edges) > 1e-12]
        entropy -= (share * np.log2(share)).sum()
    assert np.mean(sizes) == pytest.approx(entropy, rel=0.03)
    assert entropy > grid.least_bits(rung)


def test_an_eighth_of_a_bit_lies_between_two_rungs_of_small_steps():
    grid = GridFit().fit(vectors(60, 192))
    sizes = [len(grid.pack(grid.levels(grid.coordinates(vectors(1, 192, 7)[0]), rung), rung)) for rung in (40, 48)]
    assert 8 * (sizes[1] - sizes[0]) / 192 == pytest.approx(8 / RUNGS, abs=0.05)


def weighted(grid, rung, basis, weights, seed=7):
    """(bits, weighted error) of 40 new vectors."""
    new = vectors(40, len(weights), seed)
    levels = [grid.levels(grid.coordinates(row), rung) for row in new]
    bits = np.mean([8 * len(grid.pack(some, rung)) for some in levels])
    errors = (np.array([grid.vector(some, rung) for some in levels]) - new) @ basis.T
    return bits, float((errors**2 @ weights).mean())


def test_shaped_steps_gain_what_the_spectrum_promises_and_a_permuted_basis_loses_it():
    """At equal bits the weighted error falls by the ratio of the mean of the weights to their geometric mean."""
    d, rung = 192, 44
    basis, weights = rotation(d), np.logspace(0, -2, d)
    rows = vectors(60, d)
    plain, shaped = GridFit().fit(rows), GridFit(basis, weights).fit(rows)
    wrong = GridFit(np.random.default_rng(3).permutation(basis), weights).fit(rows)
    flat = GridFit(basis, np.ones(d)).fit(rows)
    (b0, e0), (b1, e1), (b2, e2), (b3, e3) = (weighted(g, rung, basis, weights) for g in (plain, shaped, wrong, flat))
    assert max(b0, b1, b2, b3) - min(b0, b1, b2, b3) < 0.02 * b0
    gain = weights.mean() / np.exp(np.log(weights).mean())
    assert e0 / e1 == pytest.approx(gain, rel=0.1)
    assert e2 > 1.5 * e0
    assert e3 == pytest.approx(e0, rel=0.1)


def test_feedback_costs_less_under_a_curvature_with_correlations_and_changes_nothing_without():
    d, rung = 96, 30
    grid = GridFit().fit(vectors(60, d))
    rows = np.random.default_rng(2).standard_normal((12, d))
    curvature = rows.T @ rows / 12 + 0.05 * np.eye(d)
    costs = {"feedback": [], "nearest": []}
    for vector in vectors(10, d, 8):
        for name, levels in (
            ("feedback", grid.compensated(vector, curvature, rung)),
            ("nearest", grid.levels(grid.coordinates(vector), rung)),
        ):
            left = grid.points(levels, rung) - vector
            costs[name].append(left @ curvature @ left)
    assert np.mean(costs["feedback"]) < 0.5 * np.mean(costs["nearest"])
    diagonal = np.diag(np.random.default_rng(3).uniform(0.1, 1, d))
    np.testing.assert_array_equal(grid.compensated(vector, diagonal, rung), grid.levels(vector, rung))


def test_a_seed_moves_the_grid_and_zero_does_not():
    grid = GridFit().fit(vectors(60))
    row = vectors(1, seed=4)[0]
    moved = [grid.rounded(row, 30, seed) for seed in (0, 1, 2)]
    assert np.abs(moved[0] - moved[1]).max() > 0
    assert np.abs(moved[1] - moved[2]).max() > 0
    for seed, vector in enumerate(moved):
        levels = grid.levels(grid.coordinates(row), 30, seed)
        np.testing.assert_array_equal(grid.decode(grid.pack(levels, 30, seed))[0], vector)


def test_a_grid_beyond_its_coder_and_wrong_settings_say_what_to_do():
    rows = vectors(20)
    with pytest.raises(QuantiserError, match="divisor of 48"):
        ProductFit(5).fit(rows)
    with pytest.raises(QuantiserError, match="2 to 256"):
        ProductFit(4, 1000).fit(rows)
    with pytest.raises(QuantiserError, match="48 orthonormal rows"):
        GridFit(np.ones((D, D)), np.ones(D)).fit(rows)
    grid: Grid = GridFit().fit(rows)
    far = grid.decode(grid.encode(1e6 * rows[0]))
    assert np.isfinite(far).all()
