"""Labels of the influence model: what is removed, what comes back, and what a correlation is."""

import numpy as np
import pytest
from scipy import stats

from groupmates.maths.labels import label_scale
from groupmates.maths.statistics import pearson, reliability, rollout_bootstrap, spearman

# Two rollouts of two steps; the second step is ten times as large and shifted.
TRAINING = np.array([[1.0, 100.0], [3.0, 140.0]])


def test_labels_per_position_have_the_statistics_of_each_step():
    scale = label_scale(TRAINING, per_position=True)
    assert (scale.mean.tolist(), scale.std.tolist()) == ([2.0, 120.0], [1.0, 20.0])
    assert scale.standardise(TRAINING).tolist() == [[-1.0, -1.0], [1.0, 1.0]]


def test_global_labels_have_one_mean_and_one_deviation():
    # mean 61; deviations -60, 39, -58, 79: variance (3600 + 1521 + 3364 + 6241) / 4
    scale = label_scale(TRAINING, per_position=False)
    assert scale.mean.tolist() == [61.0, 61.0]
    assert scale.std == pytest.approx([np.sqrt(14726 / 4)] * 2)


def test_per_position_labels_ignore_what_a_step_does_to_every_document():
    rng = np.random.default_rng(0)
    labels, trend = rng.normal(size=(50, 4)), np.array([0.0, 3.0, -2.0, 9.0])
    with_trend = labels * [1.0, 0.5, 2.0, 4.0] + trend
    plain = label_scale(labels, True).standardise(labels)
    assert label_scale(with_trend, True).standardise(with_trend) == pytest.approx(plain)


def test_statistics_are_those_of_the_rollouts_given_and_not_of_those_standardised():
    scale = label_scale(TRAINING, per_position=True)
    assert scale.standardise(np.array([[4.0, 80.0]])).tolist() == [[2.0, -2.0]]


@pytest.mark.parametrize("per_position", [True, False])
def test_nats_come_back(per_position):
    influence = np.random.default_rng(0).normal(size=(20, 5)) * 1e-3
    scale = label_scale(influence[:10], per_position)
    assert scale.to_nats(scale.standardise(influence)) == pytest.approx(influence, abs=1e-15)


def test_steps_past_the_last_are_as_the_last_and_fewer_are_the_first():
    scale = label_scale(TRAINING, per_position=True)
    longer, shorter = scale.extended(4), scale.extended(1)
    assert longer.mean.tolist() == [2.0, 120.0, 120.0, 120.0]
    assert longer.std.tolist() == [1.0, 20.0, 20.0, 20.0]
    assert (shorter.mean.tolist(), shorter.std.tolist()) == ([2.0], [1.0])


def test_a_step_whose_influences_are_all_equal_does_not_divide_by_zero():
    equal = np.full((3, 2), 0.25)
    assert label_scale(equal, True).standardise(equal).tolist() == [[0.0, 0.0]] * 3


def test_spearman_is_that_of_scipy_with_ties():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, (10, 4)).astype(float), rng.integers(0, 6, (10, 4)).astype(float)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a.ravel(), b.ravel()).statistic)


def test_spearman_knows_only_the_order_and_its_direction():
    a = np.array([3.0, 1.0, 2.0, 7.0])
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    assert spearman(a, -(a**3)) == pytest.approx(-1.0)


def test_a_constant_prediction_correlates_with_nothing():
    assert spearman(np.ones(5), np.arange(5.0)) == 0.0
    assert pearson(np.arange(5.0), np.ones(5)) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_a_value_that_is_not_finite_makes_no_correlation(correlation, value):
    # Found here once: it was 0, as of a constant, so that a model that diverged looked like chance.
    fine, broken = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3)
    broken[1, 0] = value
    assert np.isnan(correlation(fine, broken))
    assert np.isnan(correlation(broken, fine))
    assert np.isnan(correlation(np.full(3, value), np.arange(3.0)))


def test_the_bootstrap_interval_covers_the_true_value_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(2), 0
    for _ in range(100):
        values = rng.normal(3.0, 1.0, size=(40, 2))
        low, high = rollout_bootstrap(np.mean, values, seed=rng, draws=200)
        covered += low <= 3.0 <= high
    assert 86 <= covered <= 100


def test_the_bootstrap_draws_whole_rollouts():
    # Steps of a rollout are copies: they are one observation each, not five.
    rng = np.random.default_rng(3)
    one_each = rng.normal(size=(30, 1))
    copies = np.repeat(one_each, 5, axis=1)
    width = {}
    for name, values in (("one", one_each), ("copies", copies)):
        low, high = rollout_bootstrap(np.mean, values, seed=np.random.default_rng(0))
        width[name] = high - low
    assert width["copies"] == pytest.approx(width["one"])


def test_the_bootstrap_keeps_the_rows_of_its_arrays_together():
    a = np.random.default_rng(4).normal(size=(20, 3))
    low, high = rollout_bootstrap(spearman, a, 2 * a + 1, seed=np.random.default_rng(0), draws=50)
    assert (low, high) == (pytest.approx(1.0), pytest.approx(1.0))


def pairs_of(document: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Both orders of every two labels of one document, [2, pairs]."""
    d, y = document.ravel(), label.ravel()
    found = [(y[i], y[j]) for i in range(len(d)) for j in range(len(d)) if i != j and d[i] == d[j]]
    return np.array(found).T


def test_reliability_is_the_correlation_over_pairs_of_labels_of_one_document():
    draw = np.random.default_rng(0)
    document = draw.integers(0, 30, (20, 5))
    label = draw.normal(0, 1, (20, 5)) + document / 15
    pairs = pairs_of(document, label)
    value, number = reliability(document, label)
    assert number == pairs.shape[1] // 2
    assert value == pytest.approx(np.corrcoef(pairs)[0, 1])


def test_reliability_is_the_share_of_the_variance_that_is_the_documents_own():
    draw = np.random.default_rng(0)
    own = draw.normal(0, 0.6, 5000)
    document = draw.integers(0, 5000, (4000, 10))
    label = own[document] + draw.normal(0, 0.8, document.shape)
    value, _ = reliability(document, label)
    assert value == pytest.approx(0.36, abs=0.03)
    assert pearson(own[document], label) == pytest.approx(np.sqrt(0.36), abs=0.03)


def test_reliability_is_unknown_without_a_pair_or_a_variance():
    value, pairs = reliability(np.arange(6).reshape(2, 3), np.ones((2, 3)))
    assert (np.isnan(value), pairs) == (True, 0)
    value, pairs = reliability(np.zeros((2, 1), int), np.ones((2, 1)))
    assert (np.isnan(value), pairs) == (True, 1)
