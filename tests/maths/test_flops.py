"""What work costs: worked by hand."""

import math

import pytest

from groupmates.maths.flops import (
    Shape,
    clipped_mean,
    first_token_flops,
    forward_flops,
    makespan,
    training_flops,
)

SMALL = Shape(hidden=2, layers=3, vocabulary=5)


def test_a_block_has_twelve_squares_of_the_hidden_size_and_a_table_a_row_per_token():
    assert SMALL.blocks == 12 * 3 * 4
    assert SMALL.parameters(tables=2) == 144 + 2 * 5 * 2


def test_the_papers_model_and_encoder_have_the_size_that_is_published():
    assert Shape(1024, 24, 50432).parameters(2) == pytest.approx(411e6, rel=0.02)
    assert Shape(768, 12, 30522).parameters(1) == pytest.approx(110e6, rel=0.03)


def test_a_forward_pass_is_two_per_weight_and_four_d_per_pair_and_layer_and_the_logits():
    weights = 2 * 144 * 7
    pairs = 4 * 3 * 2 * (7 * 1.5)
    logits = 2 * 2 * 5 * 4
    assert forward_flops(SMALL, tokens=7, context=1.5, logits=4) == weights + pairs + logits


def test_of_a_last_layer_for_first_tokens_only_keys_and_values_are_of_every_token():
    two_layers = 2 * (12 * 2 * 4) * 7 + 4 * 2 * 2 * (7 * 1.5)
    assert first_token_flops(SMALL, tokens=7, context=1.5) == two_layers + 2 * (2 * 4) * 7


def test_a_training_step_is_three_forward_passes_with_logits_of_every_token():
    assert training_flops(SMALL, 8, 4) == 3 * forward_flops(SMALL, 8, context=2, logits=8)


def test_a_mean_of_clipped_lengths_lies_below_mean_and_limit():
    assert clipped_mean(100, 1e9) == pytest.approx(100)
    assert clipped_mean(100, 100) == pytest.approx(100 * (1 - 1 / math.e))
    assert clipped_mean(1e9, 100) == pytest.approx(100)
    assert clipped_mean(0, 100) == 0


def test_jobs_are_spread_over_the_slots_longest_first():
    assert makespan([(4, 10.0)], slots=2) == 20
    assert makespan([(5, 10.0)], slots=2) == 30
    assert makespan([(2, 1.0), (1, 7.0)], slots=2) == 7
    assert makespan([(3, 10.0)], slots=100) == 10
    assert makespan([(3, 10.0)], slots=0) == 30
