"""Which documents of a cluster SemDeDup drops."""

import numpy as np
import pytest

from groupmates.maths import near_duplicates as module
from groupmates.maths.near_duplicates import near_duplicates
from groupmates.maths.relation import on_grid


def on_circle(*degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return on_grid(np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32))


CENTRE = on_circle(0.0)[0]


def test_of_near_duplicates_the_one_farthest_from_the_centre_stays():
    # cos 5 degrees = 0.9962; 40 and 45 are neighbours, 10 has none.
    assert near_duplicates(on_circle(40, 45, 10), CENTRE, 0.99).tolist() == [True, False, False]


def test_of_exact_copies_the_first_in_the_pool_stays():
    assert near_duplicates(on_circle(30, 30, 30), CENTRE, 0.99).tolist() == [False, True, True]


def test_at_a_threshold_of_1_nothing_is_above_it_but_rounding_would_be():
    emb = on_grid(np.full((3, 4), 0.5, np.float32))  # unit length exactly
    assert not near_duplicates(emb, emb[0], 1.0).any()


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_it_agrees_with_all_pairs_whatever_the_block(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(1)
    emb = rng.normal(size=(60, 3))
    grid = on_grid((emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32))
    centre = grid.mean(axis=0)
    order = sorted(range(60), key=lambda i: (float(grid[i] @ centre), i))
    expected = np.zeros(60, bool)
    for place, i in enumerate(order):
        expected[i] = any(float(grid[i] @ grid[j]) > 0.9 for j in order[:place])
    assert near_duplicates(grid, centre, 0.9).tolist() == expected.tolist()
    assert 0 < expected.sum() < 60
