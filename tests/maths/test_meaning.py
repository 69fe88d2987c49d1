"""Embeddings of meaning: hidden states off their mean, the same variance in every direction."""

import numpy as np
import pytest

from groupmates.maths import meaning
from groupmates.maths.meaning import embedded, shrunk, whitening

CROSS = np.array([[13, 10], [7, 10], [10, 12], [10, 8]], np.float32)  # variances 4.5 and 2


def test_whitened_states_at_unit_length_by_hand():
    """Raw, all four have cosines above 0.98; off the mean two are opposite, two at right angles."""
    hidden = np.tile(CROSS, (10_000, 1))
    mean, axes, share = whitening(hidden, 2)
    assert mean.tolist() == [10, 10]
    np.testing.assert_allclose(np.abs(axes), np.diag([4.5**-0.5, 2**-0.5]), rtol=1e-3, atol=1e-9)
    assert share == pytest.approx(1)
    emb = embedded(CROSS, mean, axes)
    assert emb.dtype == np.float32
    np.testing.assert_allclose(emb @ emb.T, np.kron(np.eye(2), [[1, -1], [-1, 1]]), atol=1e-6)


def test_whitened_documents_have_the_same_variance_in_every_direction():
    draw = np.random.default_rng(0)
    hidden = draw.normal(5, 1, (20_000, 6)) * [10, 5, 3, 2, 1, 1] @ draw.normal(0, 1, (6, 6))
    mean, axes, _ = whitening(hidden, 4)
    whitened = (hidden - mean) @ axes
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(4), atol=0.01)


def test_a_near_duplicate_stands_out_where_one_direction_holds_the_variance():
    draw = np.random.default_rng(0)
    hidden = draw.normal(0, 1, (4000, 32))
    hidden[:, 0] *= 1000
    copy = hidden[0] + draw.normal(0, 0.1, 32)
    mean, axes, _ = whitening(hidden, 32)

    def nearest(axes: np.ndarray) -> tuple[int, np.ndarray]:
        emb = embedded(np.vstack([copy, hidden]), mean, axes)
        cosines = emb[1:] @ emb[0]
        return int(cosines.argmax()), np.sort(cosines)[::-1]

    raw, white = nearest(np.eye(32))[1], nearest(axes)
    assert raw[10] > 0.99  # ten others are as near as its original
    assert white[0] == 0
    assert white[1][0] > 0.95 > 0.8 > white[1][1]


def test_the_leading_directions_are_kept_with_their_share_of_the_variance():
    mean, axes, share = whitening(CROSS, 1)
    assert axes.shape == (2, 1)
    assert share == pytest.approx(4.5 / 6.5)
    emb = embedded(np.array([[11.0, 15.0], [2.0, 0.0]]), mean, axes)
    np.testing.assert_allclose(emb[0] * emb[1], [-1], atol=1e-6)


def test_no_more_directions_than_there_are():
    hidden = np.random.default_rng(0).normal(5, 1, (50, 6)).astype(np.float32)
    _, axes, share = whitening(hidden, 100)
    assert (axes.shape, round(share, 9)) == ((6, 6), 1)


def test_blocks_are_summed(monkeypatch):
    hidden = np.random.default_rng(0).normal(5, 1, (50, 6))
    whole = whitening(hidden, 3)
    monkeypatch.setattr(meaning, "BLOCK", 7)
    parts = whitening(hidden, 3)
    np.testing.assert_allclose(np.abs(parts[1]), np.abs(whole[1]), atol=1e-9)
    assert parts[2] == pytest.approx(whole[2])


def test_variances_in_doubt_are_shrunk_as_scikit_learn_does():
    from sklearn.covariance import OAS

    hidden = np.random.default_rng(0).normal(0, 1, (30, 5)) * [5, 3, 1, 1, 0.1]
    fitted = OAS().fit(hidden)
    variance = np.linalg.eigvalsh(np.cov(hidden.T, bias=True))
    assert 0.01 < fitted.shrinkage_ < 0.5
    # scikit-learn leaves the terms in 2 / size out
    np.testing.assert_allclose(
        shrunk(variance, 30), np.linalg.eigvalsh(fitted.covariance_), rtol=0.2
    )


def test_fewer_documents_than_directions_amplify_nothing():
    """Directions that the documents do not span get the mean variance's share, not none."""
    hidden = np.random.default_rng(0).normal(0, 1, (8, 32))
    _, axes, _ = whitening(hidden, 32)
    assert np.isfinite(axes).all()
    assert np.linalg.norm(axes, axis=0).max() < 10 * np.linalg.norm(axes, axis=0).min()


def test_documents_that_are_all_the_same_have_no_direction():
    mean, axes, share = whitening(np.full((9, 3), 2.0), 3)
    assert share == 1
    assert embedded(np.full((1, 3), 2.0), mean, axes).tolist() == [[0, 0, 0]]


def test_the_mean_itself_has_no_direction_and_is_no_nan():
    emb = embedded(np.array([[10.0, 10.0]]), np.array([10.0, 10.0]), np.eye(2))
    assert emb.tolist() == [[0, 0]]
