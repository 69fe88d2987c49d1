"""Semantic embeddings: hidden states off their mean, by hand."""

import numpy as np
import pytest

from groupmates.maths import meaning
from groupmates.maths.meaning import directions, embedded


def test_centred_states_at_unit_length_by_hand():
    """Raw, all four have cosines above 0.98; off the mean two are opposite, two at right angles."""
    hidden = np.array([[13, 10], [7, 10], [10, 12], [10, 8]], np.float32)
    mean, axes, share = directions(hidden, 2)
    assert mean.tolist() == [10, 10]
    assert np.abs(axes).round(12).tolist() == [[1, 0], [0, 1]]  # 18 of the variance before 8
    assert share == pytest.approx(1)
    emb = embedded(hidden, mean, axes)
    assert emb.dtype == np.float32
    np.testing.assert_allclose(emb @ emb.T, np.kron(np.eye(2), [[1, -1], [-1, 1]]), atol=1e-6)


def test_the_leading_directions_are_kept_with_their_share_of_the_variance():
    hidden = np.array([[13, 10], [7, 10], [10, 12], [10, 8]], np.float32)
    mean, axes, share = directions(hidden, 1)
    assert axes.shape == (2, 1)
    assert share == pytest.approx(18 / 26)
    emb = embedded(np.array([[11.0, 15.0], [2.0, 0.0]]), mean, axes)
    np.testing.assert_allclose(emb[0] * emb[1], [-1], atol=1e-6)


def test_no_more_directions_than_there_are_and_all_of_them_change_no_cosine():
    hidden = np.random.default_rng(0).normal(5, 1, (50, 6)).astype(np.float32)
    mean, axes, share = directions(hidden, 100)
    assert (axes.shape, round(share, 9)) == ((6, 6), 1)
    centred = hidden - hidden.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    emb = embedded(hidden, mean, axes)
    np.testing.assert_allclose(emb @ emb.T, centred @ centred.T, atol=1e-5)


def test_blocks_are_summed(monkeypatch):
    hidden = np.random.default_rng(0).normal(5, 1, (50, 6))
    whole = directions(hidden, 3)
    monkeypatch.setattr(meaning, "BLOCK", 7)
    parts = directions(hidden, 3)
    np.testing.assert_allclose(np.abs(parts[1].T @ whole[1]), np.eye(3), atol=1e-9)
    assert parts[2] == pytest.approx(whole[2])


def test_the_mean_itself_has_no_direction_and_is_no_nan():
    emb = embedded(np.array([[10.0, 10.0]]), np.array([10.0, 10.0]), np.eye(2))
    assert emb.tolist() == [[0, 0]]
