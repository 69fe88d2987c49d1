"""Quotas of clusters, and taking a budget."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest

from groupmates.errors import UserError
from groupmates.maths.quota import (
    documents_of_ratio,
    marginal_key,
    proportional_key,
    take,
)


def taken_per_cluster(sizes: list[int], budget: int) -> list[int]:
    """How many documents each cluster gives under proportional quotas."""
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    key = np.concatenate([proportional_key(size) for size in sizes])
    rank = np.concatenate([np.arange(size) for size in sizes])
    taken = take(key, rank, np.ones(len(key)), documents=budget)
    return np.bincount(cluster[taken], minlength=len(sizes)).tolist()


def test_singleton_clusters_are_selected_where_rounding_down_would_drop_them():
    # Quotas of 4 of 10: ceil 2, 2, 1, 1, trimmed to 4; rounded down they were 2, 1, 0, 0.
    assert taken_per_cluster([5, 3, 1, 1], 4) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("budget", "expected"), [(5, [2, 1, 1, 1]), (6, [2, 2, 1, 1]), (7, [3, 2, 1, 1])]
)
def test_trimming_to_the_budget_drops_the_largest_fractions(budget, expected):
    assert taken_per_cluster([5, 3, 1, 1], budget) == expected  # fractions 1/5, 1/3, 2/5, …


def test_keys_below_the_share_are_exactly_the_papers_quota():
    for documents in range(1, 30):
        for budget in range(1, documents + 1):
            for cluster in range(1, documents + 1):
                quota = ceil(Fraction(budget * cluster, documents))
                assert (proportional_key(cluster) < budget / documents).sum() == quota


def test_equal_fractions_of_different_clusters_tie_and_the_lower_rank_is_first():
    assert proportional_key(3)[1] == proportional_key(6)[2]
    assert taken_per_cluster([6, 3], 4) == [2, 2]  # 0/6 0/3 1/6, then 1/3 before 2/6


def test_a_threshold_on_theta_takes_the_start_of_every_greedy_order():
    # -5 is taken only after the -1 before it, though it is lower than all of the other cluster.
    first, second = marginal_key(np.array([-3.0, -1.0, -5.0])), marginal_key(np.array([-2.0, 0.0]))
    assert first.tolist() == [-3.0, -1.0, -1.0]
    key, rank = np.concatenate([first, second]), np.array([0, 1, 2, 0, 1])
    assert take(key, rank, np.ones(5), documents=5).tolist() == [0, 3, 1, 2, 4]


def test_a_ratio_is_rounded_and_gives_at_least_one_document():
    assert [documents_of_ratio(r, 10) for r in (0.24, 0.26, 0.01, 1.0)] == [2, 3, 1, 10]


def test_a_token_budget_is_met_to_within_the_next_document():
    key, tokens = np.array([3.0, 1.0, 2.0, 0.0]), np.array([5, 10, 20, 30])
    for budget, expected in [
        (30, [3]),
        (39, [3]),
        (40, [3, 1]),
        (60, [3, 1, 2]),
        (65, [3, 1, 2, 0]),
    ]:
        assert take(key, np.zeros(4), tokens, tokens=budget).tolist() == expected


@pytest.mark.parametrize("budget", [29, 66])
def test_a_token_budget_that_cannot_be_met_is_an_error(budget):
    with pytest.raises(UserError, match=r"select\.budget\.tokens"):
        take(np.array([3.0, 1.0, 2.0, 0.0]), np.zeros(4), np.array([5, 10, 20, 30]), tokens=budget)
