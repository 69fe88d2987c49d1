"""Drawing by influence with Gumbel noise."""

import numpy as np
import pytest

from groupmates.maths.gumbel import gumbel_keys


def test_without_temperature_the_key_is_the_influence():
    influence = np.array([0.5, -1.0, 2.0])
    assert gumbel_keys(influence, np.array([0.1, 0.5, 0.9]), 0.0).tolist() == influence.tolist()


def test_the_noise_is_minus_the_temperature_times_a_gumbel_variable():
    # The Gumbel variable of the uniform number exp(-exp(-1)) is 1.
    key = gumbel_keys(np.array([0.25]), np.array([np.exp(-np.exp(-1.0))]), 0.5)
    assert key == pytest.approx([0.25 - 0.5])


def test_the_first_is_drawn_with_probability_proportional_to_exp_of_minus_influence():
    influence, temperature, draws = np.array([-1.0, 0.0, 1.0]), 0.5, 20_000
    uniform = np.random.default_rng(0).random((draws, 3))
    first = gumbel_keys(influence, uniform, temperature).argmin(axis=1)
    weight = np.exp(-influence / temperature)
    expected = weight / weight.sum()
    found = np.bincount(first, minlength=3) / draws
    assert found == pytest.approx(expected, abs=0.01)


def test_the_ends_of_the_unit_interval_have_finite_keys():
    assert np.isfinite(gumbel_keys(np.zeros(2), np.array([0.0, 1.0]), 1.0)).all()
