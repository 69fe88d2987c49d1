"""Which windows a step of a training has: pass after pass, whoever asks, from whichever step on."""

import numpy as np
import pytest

from groupmates.maths.packing import predicted_tokens, windows
from groupmates.maths.passes import Passes


@pytest.mark.parametrize("rows", [1, 3, 7, 20])
def test_passes_have_every_window_once_and_no_two_the_same_order(rows):
    passes = Passes(7, 0, "a")
    seen = np.concatenate([passes.batch(step, rows) for step in range(21)])[:21].reshape(3, 7)
    assert np.array_equal(np.sort(seen), np.tile(np.arange(7), (3, 1)))
    assert len({tuple(order) for order in seen.tolist()}) == 3


def test_a_batch_is_a_function_of_its_step_alone():
    forwards, backwards = Passes(10, 0, "a"), Passes(10, 0, "a")
    batches = [forwards.batch(step, 4) for step in range(9)]
    for step in reversed(range(9)):
        assert np.array_equal(backwards.batch(step, 4), batches[step])
    for other in (Passes(10, 1, "a"), Passes(10, 0, "b")):
        assert not np.array_equal(other.batch(0, 4), batches[0])


@pytest.mark.parametrize("rows", [0, 4, 10, 23])
def test_windows_are_counted_as_often_as_they_come(rows):
    passes = Passes(10, 0, "a")
    seen = [passes.batch(row, 1)[0] for row in range(rows)]
    assert passes.counts(rows).tolist() == np.bincount(seen, minlength=10).tolist()


@pytest.mark.parametrize("lengths", [[1, 9, 2, 30, 5], [40], [3] * 20, [5, 0, 7], []])
def test_tokens_of_a_document_are_counted_as_one_by_one(lengths):
    owner = np.repeat(np.arange(len(lengths)), lengths)
    cut = windows(owner, 4)[:, 1:]  # of each window, the documents of the tokens it predicts
    count_W = np.random.default_rng(0).integers(0, 3, len(cut))
    windows_N, tokens_N = predicted_tokens(np.array(lengths, int), count_W, 4)
    for document in range(len(lengths)):
        inside = (cut == document).sum(1)
        assert tokens_N[document] == (count_W * inside).sum()
        assert windows_N[document] == count_W[inside > 0].sum()
    assert tokens_N.sum() == 4 * count_W.sum()
