"""In-context questions: which tokens count, which option wins, and what is made of the answers."""

import math
import random

import numpy as np
import pytest

from groupmates.maths.in_context import (
    NONE_OF_THEM,
    Mean,
    accuracy,
    alike,
    batches,
    bits_per_byte,
    centred,
    fitted,
    mean_of,
    question_of,
    shots_of,
    verdict,
)

A = [np.array(row) for row in ([9, 1, 2, 3], [9, 1, 4])]


def test_the_examples_of_a_question_are_those_that_the_public_harness_draws():
    others = [i for i in range(30) if i != 4]
    assert shots_of(4, 30, 10) == random.Random(1234 + 4).sample(others, 10)
    assert sorted(shots_of(1, 3, 10)) == [0, 2]  # a task with fewer questions


@pytest.mark.parametrize(
    ("kind", "rows", "scored", "shared"),
    [
        ("multiple_choice", A, [2, 2], 1),  # behind the common beginning
        ("schema", [np.array([9, 1, 5, 6]), np.array([9, 2, 3, 5, 6])], [2, 3], 0),
        ("language_modeling", A[:1], [2], 0),  # the answer, which begins where `before` ends
    ],
)
def test_what_is_scored_is_what_tells_the_options_apart(kind, rows, scored, shared):
    question = question_of(kind, rows, np.array([9, 1]), 0, 7)
    assert (question.scored, question.answer, question.shared()) == (scored, 2, shared)


def test_what_options_share_ends_before_the_right_answer_begins():
    """Its loss is looked at from its first token, which other options may have, too."""
    rows = [np.array([9, 1, 2, 3]), np.array([9, 1, 2, 4])]
    question = question_of("multiple_choice", rows, np.array([9, 1]), 0, 7)
    assert (question.scored, question.first_read(), question.shared()) == ([3, 3], [2, 3], 1)


def test_a_question_longer_than_the_context_loses_the_start_of_its_longer_rows():
    found = fitted(question_of("multiple_choice", A, np.array([9, 1]), 0, 7), 3)
    assert [row.tolist() for row in found.rows] == [[1, 2, 3], [9, 1, 4]]
    assert (found.scored, found.answer, found.shared(), found.cut) == ([1, 2], 1, 0, True)
    question = question_of("multiple_choice", A, np.array([9, 1]), 0, 7)
    assert fitted(question, 4) is question
    assert fitted(question, None) is question


def test_the_option_of_least_loss_per_token_wins_whatever_its_length():
    question = question_of("multiple_choice", A, np.array([9, 1]), 0, 7)
    found = verdict(question, [np.array([1.0, 2.0]), np.array([1.7])], np.array([True, False]))
    assert (found.predicted, found.option_nats, found.answer_nats) == (0, [1.5, 1.7], 3.0)


def test_an_option_that_is_the_beginning_of_the_others_is_not_chosen():
    rows = [np.array([9, 1]), np.array([9, 1, 4])]
    question = question_of("multiple_choice", rows, np.array([9]), 0, 7)
    found = verdict(question, [np.array([1.0]), np.array([8.0])], np.array([True]))
    assert (found.predicted, found.option_nats) == (1, [math.inf, 8.0])


@pytest.mark.parametrize(("likeliest", "predicted"), [([1, 1], 0), ([1, 0], NONE_OF_THEM)])
def test_an_answer_is_right_where_each_of_its_tokens_is_the_likeliest(likeliest, predicted):
    question = question_of("language_modeling", A[:1], np.array([9, 1]), 0, 7)
    found = verdict(question, [np.array([1.0, 2.0])], np.array(likeliest, bool))
    assert found.predicted == predicted


def test_accuracy_is_centred_on_chance_with_its_error():
    right = accuracy(np.array([True, True, True, False]))
    assert right.value == 0.75
    assert right.error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    found = centred(right, 50.0)
    assert found.value == pytest.approx(0.5)
    assert found.error == pytest.approx(2 * right.error)
    both = mean_of([found, Mean(0.1, 0.0)])
    assert (both.value, both.error) == (pytest.approx(0.3), pytest.approx(right.error))


def test_bits_per_byte_are_of_all_answers_together():
    assert bits_per_byte(np.log(2) * np.array([3.0, 9.0]), np.array([1, 5])) == pytest.approx(2.0)


def test_batches_have_every_question_once_and_share_what_is_nearly_as_long():
    rng = np.random.default_rng(0)
    shared_N, rows_N = rng.integers(100, 300, 400), rng.integers(1, 5, 400)
    found = batches(shared_N, rows_N, rows_N * rng.integers(1, 40, 400), 1000)
    assert sorted(np.concatenate(found)) == list(range(400))
    for batch in found:
        assert shared_N[batch].max() - shared_N[batch].min() <= 300 / 32
        assert shared_N[batch].sum() <= 1300  # one question may be past the limit
    assert len(found) < 200


def test_rows_that_are_read_together_are_nearly_as_long():
    length_R = np.random.default_rng(0).integers(1, 100, 500)
    found = alike(length_R)
    assert sorted(np.concatenate(found)) == list(range(500))
    tokens = sum(len(rows) * length_R[rows].max() for rows in found)
    assert tokens < 1.2 * length_R.sum()
    assert len(alike(np.array([9, 1, 3]))) == 1  # few tokens
