"""Clusters as the arms of a bandit: which to probe next, and what was learned of each (Quad).

Legend: N documents in pool order, K clusters, D embedding size. Influences: lower is better. Rewards:
threshold - mean influence of the documents that a visit probed, so that higher is better.
"""

from __future__ import annotations

import numpy as np


def drawn_order(
    cluster_N: np.ndarray, priority_N: np.ndarray, clusters: int
) -> tuple[np.ndarray, np.ndarray]:
    """Documents cluster by cluster, by priority within each, and where each cluster begins [K + 1].

    Where priorities are equal, the first in the pool's order comes first.
    """
    order_N = np.lexsort((priority_N, cluster_N))
    starts = np.searchsorted(cluster_N[order_N], np.arange(clusters + 1))
    return order_N, starts


class Bandit:
    """What the visits so far say of every cluster.

    A visit to a cluster is one to its neighbours, too, with weight 1 - d / distance, d the Euclidean
    distance of the unit centroids. `visits_K` sums these weights (T).
    """

    def __init__(
        self,
        centre_KD: np.ndarray,
        documents_K: np.ndarray,
        distance: float,
        exploration: float,
        threshold: float | None,
    ) -> None:
        self._centre_KD, self._distance = centre_KD.astype(np.float64), distance
        self._exploration, self._fixed = exploration, threshold
        self.documents_K = documents_K
        clusters = len(documents_K)
        self.probed_K = np.zeros(clusters, np.int64)
        self.visits_K = np.zeros(clusters)
        self._own_sum_K = np.zeros(clusters)  # of influences
        self._shared_sum_K = np.zeros(clusters)  # of weights x mean influences of visits

    def weights(self, arm: int) -> np.ndarray:
        """Share of each cluster in a reward of this one, float64 [K]; its own is 1."""
        distance_K = np.linalg.norm(self._centre_KD - self._centre_KD[arm], axis=1)
        return np.maximum(0.0, 1.0 - distance_K / self._distance)

    def visit(self, arm: int, influence_n: np.ndarray) -> None:
        """The influences of documents of this cluster that were probed together."""
        weight_K = self.weights(arm)
        self.visits_K += weight_K
        self._shared_sum_K += weight_K * influence_n.mean()
        self.probed_K[arm] += len(influence_n)
        self._own_sum_K[arm] += influence_n.sum()

    @property
    def influence_K(self) -> np.ndarray:
        """Mean influence of each cluster's own documents; NaN where none was probed."""
        return np.divide(
            self._own_sum_K,
            self.probed_K,
            out=np.full(len(self.probed_K), np.nan),
            where=self.probed_K > 0,
        )

    @property
    def threshold(self) -> float:
        """The influence that a reward is measured from.

        Where none is given, what the pool's mean is by the probed clusters, weighted by their sizes:
        that good clusters are visited more often does not move it.
        """
        if self._fixed is not None:
            return self._fixed
        known = self.probed_K > 0
        if not known.any():
            return 0.0
        return float(np.average(self.influence_K[known], weights=self.documents_K[known]))

    @property
    def reward_K(self) -> np.ndarray:
        """Mean reward, sum of w r / max(1, sum of w): what neighbours alone say counts by its weight.

        0 for a cluster that nothing is known of.
        """
        total_K = self.threshold * self.visits_K - self._shared_sum_K
        return total_K / np.maximum(1.0, self.visits_K)

    @property
    def score_K(self) -> np.ndarray:
        """CS = mean reward + exploration x sqrt(2 ln(sum of T) / (T + 1))."""
        bonus_K = np.sqrt(2.0 * np.log(max(1.0, self.visits_K.sum())) / (self.visits_K + 1.0))
        return self.reward_K + self._exploration * bonus_K

    def arms(self, number: int) -> np.ndarray:
        """At most so many clusters of highest score that have documents left to probe.

        Of equal scores the cluster of lowest number comes first.
        """
        order_K = np.argsort(-self.score_K, kind="stable")
        return order_K[(self.documents_K > self.probed_K)[order_K]][:number]


def most_probed(iterations: int, arms: int, documents_per_arm: int, documents: int) -> int:
    """Documents that are probed at most."""
    return min(documents, iterations * arms * documents_per_arm)
