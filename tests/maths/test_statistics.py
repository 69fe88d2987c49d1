"""Intervals and loss curves: by hand, against scipy, and as often right as they say."""

import numpy as np
import pytest
from scipy import stats

from groupmates.maths.statistics import (
    example_interval,
    paired_interval,
    seeds_needed,
    smallest_difference,
    tokens_to_reach,
)


def test_an_interval_of_three_seeds_by_hand():
    # mean 2, deviation 1, Student's t of 2 degrees of freedom at 97.5 %: 4.302653
    low, high = paired_interval(np.array([1.0, 2.0, 3.0]), 0.95)
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)


def test_an_interval_is_that_of_scipy():
    differences = np.random.default_rng(0).normal(size=7)
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert paired_interval(differences, 0.9) == pytest.approx((interval.low, interval.high))


def test_one_seed_says_nothing():
    assert paired_interval(np.array([0.5]), 0.95) == (-np.inf, np.inf)


def test_examples_that_all_differ_alike_leave_no_doubt():
    labels = np.array([1, 2, 5])
    interval = example_interval(
        3.0 * labels, 2.5 * labels, labels, 0.95, np.random.default_rng(0), draws=50
    )
    assert interval == pytest.approx((0.5, 0.5))


def test_examples_weigh_by_their_label_tokens():
    # Two examples; draws of two: differences (10 + 10) / 20, (10 + 0) / 11 or (0 + 0) / 2.
    a, b, labels = np.array([10.0, 0.0]), np.zeros(2), np.array([10, 1])
    low, high = example_interval(a, b, labels, 0.2, np.random.default_rng(0), draws=2001)
    assert (low, high) == pytest.approx((10 / 11, 10 / 11))


def test_the_sign_is_that_of_the_first_minus_the_second():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 9, 50)
    worse, better = labels * rng.normal(3.0, 0.1, 50), labels * rng.normal(2.0, 0.1, 50)
    low, high = example_interval(worse, better, labels, 0.95, rng, draws=200)
    assert 0.8 < low < high < 1.2


def test_an_example_interval_covers_the_true_value_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(100):
        labels = rng.integers(5, 15, 60)
        difference = labels * rng.normal(0.3, 0.5, 60)
        low, high = example_interval(difference, np.zeros(60), labels, 0.9, rng, draws=150)
        covered += low <= 0.3 <= high
    assert 80 <= covered <= 98


TOKENS = np.array([0, 100, 200, 400])


def test_between_two_points_the_curve_is_straight():
    assert tokens_to_reach(TOKENS, np.array([5.0, 4.0, 3.0, 2.0]), 2.5) == pytest.approx(300)


def test_the_first_time_counts_where_a_curve_rises_again():
    assert tokens_to_reach(TOKENS, np.array([5.0, 3.0, 4.0, 2.0]), 3.0) == 100


def test_a_loss_that_is_there_at_the_start_needs_no_training():
    assert tokens_to_reach(TOKENS, np.array([1.0, 0.9, 0.8, 0.7]), 1.0) == 0


def test_a_loss_that_is_never_reached_has_no_tokens():
    assert tokens_to_reach(TOKENS, np.array([5.0, 4.0, 3.0, 2.0]), 1.9) is None


@pytest.mark.parametrize(("paired", "freedom"), [(True, 4), (False, 8)])
def test_the_smallest_difference_is_found_four_times_in_five(paired, freedom):
    """By scipy's noncentral t: the power of a two-sided test at 5 %."""
    smallest = smallest_difference(0.5, 5, paired)
    shift = smallest / (0.5 * ((1 if paired else 2) / 5) ** 0.5)
    limit = stats.t.ppf(0.975, freedom)
    assert stats.nct.sf(limit, freedom, shift) == pytest.approx(0.8, abs=1e-6)


def test_seeds_for_the_noise_of_core():
    """0.0062 from seed to seed: seven models a side for 0.011, thirty for 0.0046; six are too few."""
    assert seeds_needed(0.0062, 0.011, paired=False) == 7
    assert smallest_difference(0.0062, 6, paired=False) > 0.011
    assert seeds_needed(0.0062, -0.0046, paired=False) == 30
    assert seeds_needed(0.5, 0.6) == next(
        n for n in range(2, 99) if smallest_difference(0.5, n) <= 0.6
    )


def test_one_seed_finds_nothing_and_some_differences_no_number_of_seeds():
    assert smallest_difference(0.1, 1) == np.inf
    assert seeds_needed(1.0, 1e-9) is None
    assert seeds_needed(1.0, 0.0) is None
