"""Selection of tokens, words and sentences: theorems by brute force, each with a control that breaks it."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlab.measures import selection


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=9), st.integers(0, 9))
def test_the_top_scores_sum_to_the_most_that_any_choice_does(scores, m):
    m = min(m, len(scores))
    kept = selection.top(scores, m)
    assert len(kept) == m
    assert (np.diff(kept) > 0).all()
    best = max(sum(scores[i] for i in choice) for choice in combinations(range(len(scores)), m))
    assert sum(scores[i] for i in kept) == pytest.approx(best)


def test_thresholds_below_and_above_all_scores_keep_all_and_none():
    scores = np.array([0.2, 0.9, 0.0, 1.0])
    assert selection.above(scores, 0).tolist() == [0, 1, 2, 3]
    assert selection.above(scores, 1 + 1e-9).tolist() == []
    assert selection.above(scores, 0.9).tolist() == [1, 3]


@given(st.lists(st.integers(0, 40), max_size=9), st.integers(1, 40))
def test_units_cover_the_text_once(starts, n):
    units = selection.units(starts, n)
    assert selection.inside(range(len(units)), units).tolist() == list(range(n))
    inner = {s for s in starts if 0 < s < n}
    if len(inner) + 1 >= selection.LEAST:
        assert [begin for begin, _ in units] == sorted({0, *inner})
    else:
        assert all(end - begin == selection.WINDOW for begin, end in units[:-1])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.floats(0.1, 1), st.randoms())
def test_pieces_within_a_budget_end_no_further_from_it_than_the_first_piece(sizes, share, random):
    order = list(range(len(sizes)))
    random.shuffle(order)
    budget = share * sum(sizes)
    kept = selection.within(order, sizes, budget)
    assert order[0] in kept
    assert abs(sum(sizes[i] for i in kept) - budget) <= abs(sizes[order[0]] - budget) + 1e-9


def test_an_empty_budget_keeps_nothing_and_a_full_one_everything():
    assert selection.within([1, 0], [3, 4], 0).tolist() == []
    assert selection.within([1, 0], [3, 4], 7).tolist() == [0, 1]
    with pytest.raises(ValueError, match="from 0 to 1"):
        selection.count(9, 1.5)


def similarity(seed, n=12, d=3):
    return selection.cosines(np.random.default_rng(seed).standard_normal((n, d)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("m", [1, 3, 5])
def test_greedy_coverage_is_within_1_minus_1_over_e_of_the_best(seed, m):
    s = similarity(seed)
    best = max(selection.coverage(s, choice) for choice in combinations(range(12), m))
    order, gains = selection.by_coverage(s, m)
    assert selection.coverage(s, order) == pytest.approx(sum(gains))
    assert selection.coverage(s, order) >= (1 - 1 / np.e) * best
    assert (np.diff(selection.by_coverage(s)[1]) <= 1e-12).all()


def test_a_random_choice_among_near_duplicates_misses_that_bound():
    """Thirty near duplicates that cover little, and six things that only cover themselves."""
    s = np.zeros((36, 36))
    s[:30, :30], s[range(30, 36), range(30, 36)] = 0.01, 1
    best = selection.coverage(s, range(30, 36))
    assert selection.coverage(s, selection.by_coverage(s, 6)[0]) == pytest.approx(best)
    rng = np.random.default_rng(0)
    drawn = [selection.coverage(s, rng.choice(36, 6, replace=False)) for _ in range(200)]
    assert np.mean(np.array(drawn) < (1 - 1 / np.e) * best) > 0.9


def test_gains_of_a_supermodular_value_increase():
    """The control: the square of the coverage is supermodular on things that cover only themselves."""
    s = np.eye(5)
    values = [selection.coverage(s, range(m)) ** 2 for m in range(6)]
    assert (np.diff(np.diff(values)) > 0).all()


def test_a_similarity_below_0_is_refused():
    with pytest.raises(ValueError, match="Clip"):
        selection.by_coverage(np.array([[1, -0.1], [-0.1, 1]]))


def test_the_first_deleted_word_is_the_closest_to_the_mean():
    """Words of one token: the closed form of a mean. Later deletions are compared with all choices of that size."""
    rng = np.random.default_rng(1)
    words = rng.standard_normal((9, 4))
    gone = set(range(9)) - set(selection.least_change(words, np.ones(9), 8))
    assert gone == {int(np.linalg.norm(words - words.mean(0), axis=1).argmin())}
    # With several tokens in a word: size * |mean of the word - mean| / tokens left.
    sizes = rng.integers(1, 4, 9)
    sums = words * sizes[:, None]
    whole, left = sums.sum(0) / sizes.sum(), sizes.sum() - sizes
    change = sizes * np.linalg.norm(words - whole, axis=1) / left
    assert set(range(9)) - set(selection.least_change(sums, sizes, sizes.sum() - 1)) == {int(change.argmin())}


def test_deleting_in_a_random_order_moves_the_vector_more():
    rng = np.random.default_rng(2)
    words = rng.standard_normal((30, 6)) * rng.uniform(0.1, 3, (30, 1))

    def moved(kept):
        return float(np.linalg.norm(words[kept].mean(0) - words.mean(0)))

    mine = moved(selection.least_change(words, np.ones(30), 15))
    drawn = [moved(rng.choice(30, 15, replace=False)) for _ in range(200)]
    assert mine < min(drawn)


def test_deletion_stops_at_the_budget_and_keeps_a_word():
    words = np.random.default_rng(3).standard_normal((6, 2))
    sizes = np.array([2, 1, 3, 1, 2, 1])
    for budget in range(11):
        kept = selection.least_change(words, sizes, budget)
        assert sizes[kept].sum() <= max(budget, sizes[kept].max())
        assert len(kept) >= 1
    assert selection.least_change(words, sizes, 10).tolist() == list(range(6))


def topics(seed, lengths, d=24, spread=1.0):
    """Things of several topics, in order. The topics are directions at right angles."""
    rng = np.random.default_rng(seed)
    return np.concatenate([3 * np.eye(d)[i] + spread * rng.standard_normal((n, d)) for i, n in enumerate(lengths)])


@pytest.mark.parametrize("lengths", [(6, 6), (4, 9), (5, 6, 7)])
def test_cuts_are_found_where_topics_change(lengths):
    for seed in range(5):
        found = selection.falls(topics(seed, lengths, spread=0.4))
        expected = np.cumsum(lengths)[:-1].tolist()
        assert len([at for at in expected if any(abs(at - f) <= 1 for f in found)]) == len(expected)


def test_a_text_of_one_topic_is_rarely_cut():
    """The control: about 5 of 100 texts without chapters get a boundary. 99.9 % of the time it is at most 13."""
    assert sum(bool(selection.falls(topics(seed, (12,)), shuffles=100)) for seed in range(100)) <= 13
    assert selection.falls(np.ones((9, 4))) == []
    assert selection.falls(np.ones((3, 4))) == []
