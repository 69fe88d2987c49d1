"""Brute force: what is measured when, which document wins, and how many measurements that takes."""

from __future__ import annotations

import numpy as np
import pytest

from groupmates.maths.brute_force import drawn, evaluations, greedy, keys, most_picks

GAINS = np.array([3.0, 5.0, 5.0, 1.0, 4.0])
ALIKE = {1: 2, 2: 1}  # two documents that say the same


def run(picks: int, candidates: int | None = None, seed: int = 0):
    """Greedy where a document lowers the loss by its gain, and one like those picked by nothing."""
    chosen: list[int] = []
    measured: list[tuple[int, int]] = []

    def measure(pick: int, document: int) -> float:
        measured.append((pick, document))
        gain = 0.0 if ALIKE.get(document) in chosen else GAINS[document]
        return 20.0 - GAINS[chosen].sum() - gain

    found = greedy(
        len(GAINS),
        lambda picked: len(picked) >= picks,
        lambda pick, left: drawn(left, candidates, np.random.default_rng([seed, pick])),
        measure,
        lambda pick, document: chosen.append(document),
    )
    return *found, measured


def test_each_pick_lowers_the_loss_most_given_those_before_and_ties_go_to_the_first():
    picks, last_N, measured = run(3)
    assert picks == [1, 4, 0]  # 1 and 2 tie; then 2 says nothing new
    # After 1 (5 nats) and 4 (4 nats) the others were measured beside both of them.
    assert last_N.tolist() == [8.0, 15.0, 11.0, 10.0, 11.0]
    assert measured[:5] == [(0, i) for i in range(5)]
    assert measured[5:] == [(1, i) for i in (0, 2, 3, 4)] + [(2, i) for i in (0, 2, 3)]


def test_the_order_is_the_picks_and_then_the_rest_by_the_last_loss():
    picks, last_N, _ = run(3)
    assert np.argsort(keys(picks, last_N)).tolist() == [1, 4, 0, 3, 2]
    never = np.array([2.0, np.inf, np.inf, 1.0])
    assert np.argsort(keys([3], never)).tolist() == [3, 0, 1, 2]


def test_everything_can_be_picked():
    picks, _, measured = run(9)
    assert sorted(picks) == list(range(5))
    assert len(measured) == 15


def test_candidates_are_distinct_remaining_documents_and_the_same_for_one_seed():
    for seed in range(20):
        picks, _, measured = run(4, 2, seed)
        for pick in range(4):
            tried = [d for p, d in measured if p == pick]
            assert tried == sorted(set(tried) - set(picks[:pick]))
            assert len(tried) == 2
        assert run(4, 2, seed)[2] == measured
    assert len({tuple(run(4, 2, seed)[0]) for seed in range(20)}) > 3


@pytest.mark.parametrize("candidates", [None, 1, 2, 4, 5, 9])
@pytest.mark.parametrize("picks", [1, 2, 3, 4, 5])
def test_as_many_evaluations_are_counted_as_are_made(picks, candidates):
    assert evaluations(picks, 5, candidates) == len(run(picks, candidates)[2])


def test_most_picks_are_those_of_the_shortest_documents():
    n_tokens_N = np.array([50, 10, 30, 20])
    # 10, 30, 60, 110 are reached by 1, 2, 3, 4 documents.
    found = [most_picks(n_tokens_N, tokens) for tokens in (5, 10, 11, 60, 61, 110, 500)]
    assert found == [1, 1, 2, 3, 4, 4, 4]
