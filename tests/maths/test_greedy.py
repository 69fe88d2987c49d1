"""Greedy selection picks what a computation from the formula picks, at every pick."""

import numpy as np
import pytest

from groupmates.maths import greedy
from groupmates.maths.greedy import greedy_order
from groupmates.maths.relation import Relation, on_grid
from scored import unit

KERNELS = ["mean", "nearest"]


def brute_force(influence, emb, relation, stop):
    """theta of every remaining document from the formula, everything recomputed at every pick."""
    gram = on_grid(emb) @ on_grid(emb).T
    alpha, beta = relation.alpha, relation.beta
    picked, thetas = [], []
    for _ in range(stop):
        theta = influence.astype(float)
        if picked and relation.kernel == "mean":
            total = gram[:, picked].sum(axis=1)
            theta = theta * (alpha - alpha / (beta * len(picked)) * total)
        elif picked:
            nearest = np.maximum(0, gram[:, picked]).max(axis=1)
            theta = theta * (alpha - alpha / beta * nearest**relation.sharpness)
        theta[picked] = np.inf
        picked.append(int(theta.argmin()))
        thetas.append(theta[picked[-1]])
    return picked, thetas


def random_cluster(rng):
    """A cluster with duplicates, tied influences, all-positive and all-negative influences."""
    documents = int(rng.integers(1, 70))
    common = rng.choice([0.0, 1.0, 5.0]) * rng.normal(size=6)
    emb = unit(common + rng.normal(size=(documents, 6)))
    copies = rng.integers(0, documents, documents // 3)
    emb[rng.integers(0, documents, len(copies))] = emb[copies]
    influence = rng.normal(size=documents)
    if rng.random() < 0.4:
        influence = np.round(influence)
    shift = rng.choice([0.0, 0.0, 3.0, -3.0])
    return (influence + shift).astype(np.float32), emb


def windows_of(monkeypatch, documents, block, small=0):
    """Windows of so many documents, in every cluster that has more than `small`."""
    for name, value in {
        "WINDOW": documents,
        "ADMITTED": documents,
        "BLOCK": block,
        "SMALL": small,
    }.items():
        monkeypatch.setattr(greedy, name, value)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("window", "block"), [(1, 1), (5, 3), (20, 64), (160, 64)])
def test_greedy_agrees_with_the_formula_on_random_clusters(kernel, window, block, monkeypatch):
    windows_of(monkeypatch, window, block)
    rng = np.random.default_rng(window)
    for _ in range(60):
        influence, emb = random_cluster(rng)
        relation = Relation(
            kernel,
            alpha=float(rng.choice([1.0, 0.7, 1.4, -0.5])),
            beta=float(rng.choice([1.0, 0.5, 2.0, -1.5])),
            sharpness=float(rng.choice([1.0, 4.0, 64.0])),
        )
        stop = int(rng.integers(1, len(influence) + 1))
        order, theta = greedy_order(influence, emb, relation, stop)
        expected, expected_theta = brute_force(influence, emb, relation, stop)
        assert order.tolist() == expected
        np.testing.assert_allclose(theta, expected_theta, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("common", [0.0, 1.0, 10.0])
def test_greedy_agrees_with_the_formula_on_a_large_cluster(kernel, common):
    rng = np.random.default_rng(0)
    emb = unit(common * rng.normal(size=32) + rng.normal(size=(900, 32)))
    emb[600:] = emb[:300]
    influence = rng.normal(size=900).astype(np.float32)
    influence[600:700] = influence[:100]
    relation = Relation(kernel, 0.9, 1.1, 32.0)
    order, _ = greedy_order(influence, emb, relation, 450)
    assert order.tolist() == brute_force(influence, emb, relation, 450)[0]


def test_three_documents_by_hand():
    emb = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    influence = np.array([-1.0, -0.9, -0.5], np.float32)
    # First -1. Then -0.9 (1 - 0.6) = -0.36 against -0.5 (1 - 0). Then -0.9 (1 - (0.6 + 0.8) / 2).
    order, theta = greedy_order(influence, emb, Relation("mean", 1.0, 1.0, 1.0))
    assert order.tolist() == [0, 2, 1]
    np.testing.assert_allclose(theta, [-1.0, -0.5, -0.27], atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("documents", [10, 500])
def test_equal_documents_are_picked_in_pool_order(kernel, documents):
    emb = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 7))), documents, axis=0)
    order, _ = greedy_order(np.full(documents, -1.0), emb, Relation(kernel, 1.0, 2.0, 3.0))
    assert order.tolist() == list(range(documents))


@pytest.mark.parametrize("kernel", KERNELS)
def test_more_equal_influences_than_a_window_holds_are_picked_exactly(kernel, monkeypatch):
    windows_of(monkeypatch, 8, 8)
    rng, relation = np.random.default_rng(0), Relation(kernel, 1.0, 1.0, 2.0)
    for _ in range(20):
        influence, emb = rng.choice([-1.0, 1.0], 100), unit(rng.normal(size=(100, 4)))
        order, _ = greedy_order(influence, emb, relation)
        assert order.tolist() == brute_force(influence, emb, relation, 100)[0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_stopping_early_gives_the_start_of_the_whole_order(kernel):
    rng = np.random.default_rng(3)
    influence, emb = rng.normal(size=400), unit(rng.normal(size=(400, 5)))
    relation = Relation(kernel, 1.0, 1.0, 8.0)
    whole, theta = greedy_order(influence, emb, relation)
    assert sorted(whole.tolist()) == list(range(400))
    for stop in (0, 1, 161, 399):
        order, start = greedy_order(influence, emb, relation, stop)
        assert np.array_equal(order, whole[:stop])
        assert np.array_equal(start, theta[:stop])
