"""Windows without padding, batches with little."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupmates.maths.packing import length_batches, pad_right, window_pieces, windows


def test_windows_share_one_token_so_that_each_is_predicted_once():
    # 8 tokens, 3 predicted per window: targets 1 2 3 and 4 5 6; 7 is the remainder.
    assert windows(np.arange(8), 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6]]


def test_a_stream_of_exactly_whole_windows_loses_nothing():
    assert windows(np.arange(7), 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6]]


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_a_stream_too_short_for_a_window_gives_none(tokens):
    assert windows(np.arange(tokens), 3).shape == (0, 4)


@pytest.mark.parametrize("tokens", [2, 7, 8])
def test_windows_are_a_view_of_the_streams_own_kind(tokens):
    flat = np.arange(tokens, dtype=np.int32)
    found = windows(flat, 3)
    assert found.dtype == np.int32
    assert np.shares_memory(found, flat) == (tokens > 3)


@given(st.integers(1, 200), st.integers(1, 20))
def test_targets_are_consecutive_and_only_an_end_shorter_than_a_window_is_dropped(tokens, length):
    targets = windows(np.arange(tokens), length)[:, 1:].ravel()
    assert targets.tolist() == list(range(1, len(targets) + 1))
    assert 0 <= tokens - 1 - len(targets) < length


def test_batches_hold_the_longest_first_within_the_tokens():
    # With padding: 5; then 4 + 4; then 2 + 2 and 1.
    found = [b.tolist() for b in length_batches(np.array([4, 1, 5, 2, 3]), 8)]
    assert found == [[2], [0, 4], [3, 1]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 60))
def test_every_sequence_is_in_one_batch_that_keeps_the_limit(lengths, limit):
    sizes = np.array(lengths)
    batches = list(length_batches(sizes, limit))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * sizes[batch].max() <= limit or len(batch) == 1


def test_a_batch_ends_where_its_padding_would_cost_another_pass():
    # Beside 10: 0 + 1 + 2 of padding, and 9 more. Beside 1, none.
    found = [b.tolist() for b in length_batches(np.array([10, 1, 9, 8]), 100, 3)]
    assert found == [[0, 2, 3], [1]]
    assert [b.tolist() for b in length_batches(np.array([10, 1, 9, 8]), 100, 12)] == [[0, 2, 3, 1]]


def test_equal_lengths_keep_their_order():
    assert np.concatenate(list(length_batches(np.full(5, 3), 6))).tolist() == [0, 1, 2, 3, 4]


def test_padding_stands_behind_the_tokens():
    found = pad_right([np.array([7]), np.array([1, 2, 3], np.int32)], 9)
    assert found.tolist() == [[7, 9, 9], [1, 2, 3]]
    assert found.dtype == np.int64


def test_pieces_of_windows_worked_by_hand():
    # Documents aaa bb ccc in windows of 4: [aaab] [bccc]; the second is written first.
    found = window_pieces(np.array([3, 2, 3]), np.array([1, 0]), 4)
    place, first, tokens, document = (values.tolist() for values in found)
    assert place == [0, 0, 1, 1]
    assert document == [1, 2, 0, 1]
    assert first == [0, 1, 0, 3]
    assert tokens == [1, 3, 3, 1]


@given(st.lists(st.integers(0, 12), max_size=20), st.integers(1, 9), st.randoms())
def test_pieces_are_those_of_a_stream_whose_tokens_are_counted_one_by_one(lengths, window, chance):
    stream = [document for document, length in enumerate(lengths) for _ in range(length)]
    order = list(range(len(stream) // window))
    chance.shuffle(order)
    expected = []
    for place, number in enumerate(order):
        at = 0
        for document, tokens in groupby(stream[number * window : (number + 1) * window]):
            count = len(list(tokens))
            expected.append((place, at, count, document))
            at += count
    found = window_pieces(np.array(lengths, np.int64), np.array(order, np.int64), window)
    assert list(zip(*(values.tolist() for values in found), strict=True)) == expected
