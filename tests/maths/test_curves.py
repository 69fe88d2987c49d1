"""How soon a training reaches a loss."""

import numpy as np
import pytest

from groupmates.maths.curves import tokens_to_reach

TOKENS = np.array([0, 100, 200, 400])


def test_between_two_points_the_curve_is_straight():
    assert tokens_to_reach(TOKENS, np.array([5.0, 4.0, 3.0, 2.0]), 2.5) == pytest.approx(300)


def test_the_first_time_counts_where_a_curve_rises_again():
    assert tokens_to_reach(TOKENS, np.array([5.0, 3.0, 4.0, 2.0]), 3.0) == 100


def test_a_loss_that_is_there_at_the_start_needs_no_training():
    assert tokens_to_reach(TOKENS, np.array([1.0, 0.9, 0.8, 0.7]), 1.0) == 0


def test_a_loss_that_is_never_reached_has_no_tokens():
    assert tokens_to_reach(TOKENS, np.array([5.0, 4.0, 3.0, 2.0]), 1.9) is None
