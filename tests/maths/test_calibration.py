"""Claims about calibration, by hand and against the plain definition."""

import numpy as np
import pytest

from groupmates.maths.calibration import calibration


def generator():
    return np.random.default_rng(0)


def test_means_per_half_by_hand():
    predicted = np.array([3.0, 1.0, 2.0, 4.0])
    outcome = np.array([30.0, 10.0, 20.0, 40.0])
    found = calibration(predicted, outcome, np.array([0, 0, 1, 1]), 2, generator())
    assert found.predicted_B.tolist() == [1.5, 3.5]
    assert found.outcome_B.tolist() == [15.0, 35.0]
    assert found.slope == pytest.approx(10.0)


def test_of_rollouts_that_agree_the_interval_is_a_point():
    predicted = np.tile([1.0, 2.0, 3.0], 4)
    found = calibration(predicted, -predicted, np.repeat(np.arange(4), 3), 3, generator())
    assert found.low_B.tolist() == found.high_B.tolist() == [-1.0, -2.0, -3.0]
    assert found.slope == pytest.approx(-1.0)


def test_the_interval_is_wide_where_rollouts_differ_not_where_their_steps_do():
    predicted = np.zeros(400)
    rollout = np.repeat(np.arange(20), 20)
    between = np.where(rollout % 2, 1.0, -1.0)
    within = np.tile([1.0, -1.0], 200)
    wide = calibration(predicted, between, rollout, 1, generator())
    narrow = calibration(predicted, within, rollout, 1, generator())
    # The mean of 20 rollouts of +-1 has a standard deviation of 1 / sqrt(20).
    assert wide.high_B[0] - wide.low_B[0] == pytest.approx(2 * 1.96 / np.sqrt(20), rel=0.25)
    assert narrow.high_B[0] - narrow.low_B[0] == pytest.approx(0.0, abs=1e-12)
