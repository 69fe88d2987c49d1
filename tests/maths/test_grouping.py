"""Documents of one cluster come together, in the order in which they came."""

from __future__ import annotations

import numpy as np
import pytest

from groupmates.maths.grouping import by_cluster


def test_clusters_come_in_ascending_order_and_their_documents_in_the_given_one():
    assert by_cluster(np.array([2, 0, 2, 1, 0], np.int32)).tolist() == [1, 4, 3, 0, 2]


@pytest.mark.parametrize(("low", "high"), [(0, 7), (0, 2**16), (0, 2**16 + 1), (-3, 3), (0, 2**31)])
def test_numbers_of_any_size_are_sorted_as_numpy_sorts_them(low, high):
    cluster_N = np.random.default_rng(0).integers(low, high, 5000).astype(np.int32)
    cluster_N[:2] = high - 1, low
    expected = np.argsort(cluster_N, kind="stable")
    found = by_cluster(cluster_N)
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


def test_no_documents_are_no_indices():
    assert by_cluster(np.empty(0, np.int32)).tolist() == []
