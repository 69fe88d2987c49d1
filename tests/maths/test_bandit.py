"""Clusters as arms: scores, sharing and thresholds worked by hand."""

import numpy as np
import pytest

from groupmates.maths.bandit import Bandit, drawn_order, most_probed

# Three clusters in a row, 0.1 apart, and one far away.
CENTRES = np.array([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0], [5.0, 0.0]])
SIZES = np.array([10, 20, 30, 2])


def bandit(exploration=0.0, threshold=0.0, distance=0.2, sizes=SIZES):
    return Bandit(CENTRES, sizes, distance, exploration, threshold)


def test_documents_are_drawn_by_priority_within_their_cluster_ties_in_pool_order():
    cluster = np.array([2, 0, 2, 0, 2])
    order, starts = drawn_order(cluster, np.array([5, 9, 1, 3, 5], np.uint64), 4)
    assert order.tolist() == [3, 1, 2, 0, 4]
    assert starts.tolist() == [0, 2, 2, 5, 5]


def test_a_reward_is_shared_by_one_minus_distance_over_the_largest():
    np.testing.assert_allclose(bandit().weights(1), [0.5, 1, 0.5, 0])
    np.testing.assert_allclose(bandit(distance=0.4).weights(0), [1, 0.75, 0.5, 0])


def test_a_reward_is_the_threshold_minus_the_mean_influence_and_neighbours_have_their_share():
    arms = bandit(threshold=-1.0)
    arms.visit(1, np.array([-3.0, -5.0]))  # reward 3
    np.testing.assert_allclose(arms.reward_K, [1.5, 3, 1.5, 0])
    arms.visit(1, np.array([-1.0]))  # reward 0
    np.testing.assert_allclose(arms.reward_K, [1.5, 1.5, 1.5, 0])
    arms.visit(0, np.array([0.0]))  # reward -1, half of it for cluster 1
    np.testing.assert_allclose(arms.visits_K, [2, 2.5, 1, 0])
    np.testing.assert_allclose(arms.reward_K, [(1.5 - 1) / 2, (3 - 0.5) / 2.5, 1.5, 0])
    np.testing.assert_allclose(arms.influence_K, [0, -3, np.nan, np.nan])
    assert arms.probed_K.tolist() == [1, 3, 0, 0]


def test_without_a_threshold_rewards_are_measured_from_the_pools_mean_by_cluster_sizes():
    arms = bandit(threshold=None)
    assert arms.threshold == 0.0
    for _ in range(3):  # more visits do not count more
        arms.visit(3, np.array([-8.0]))
    arms.visit(0, np.array([4.0, 6.0]))
    assert arms.threshold == pytest.approx((10 * 5 + 2 * -8) / 12)
    assert arms.reward_K[3] == pytest.approx(arms.threshold + 8)


def test_a_score_adds_what_few_visits_leave_unknown():
    arms = bandit(exploration=0.5)
    np.testing.assert_allclose(arms.score_K, 0)  # before the first visit
    arms.visit(3, np.array([-1.0]))
    arms.visit(3, np.array([-2.0]))
    bonus = 0.5 * np.sqrt(2 * np.log(2) / np.array([1, 1, 1, 3]))
    np.testing.assert_allclose(arms.score_K, np.array([0, 0, 0, 1.5]) + bonus)


def test_the_best_clusters_that_have_documents_left_are_visited():
    arms = bandit()
    assert arms.arms(2).tolist() == [0, 1]  # ties: the lowest number
    arms.visit(3, np.array([-9.0]))
    assert arms.arms(2).tolist() == [3, 0]
    arms.visit(3, np.array([-9.0]))  # the last of its two documents
    assert arms.arms(9).tolist() == [0, 1, 2]
    assert bandit(sizes=np.array([0, 1, 0, 0])).arms(9).tolist() == [1]


def test_harmful_clusters_are_left_for_those_that_nothing_is_known_of():
    arms = bandit()
    arms.visit(0, np.array([2.0]))
    assert arms.arms(1).tolist() == [2]  # neighbour 1 shares the harm


def test_exploration_brings_back_a_cluster_that_is_worse_by_little():
    means = np.array([-1.0, -0.9])
    visited = []
    arms = Bandit(np.eye(2), np.array([99, 99]), 0.2, 0.3, -0.95)
    for _ in range(20):
        (arm,) = arms.arms(1)
        arms.visit(int(arm), means[[arm]])
        visited.append(int(arm))
    assert 4 < visited.count(1) < 10
    assert visited.count(1) < visited.count(0)


def test_no_more_documents_are_probed_than_there_are():
    assert most_probed(3, 4, 5, 100) == 60
    assert most_probed(3, 4, 5, 50) == 50
