"""The relation term: the paper's equation, the nearest kernel, and sums that do not round."""

import numpy as np
import pytest
import torch

from groupmates.maths.relation import GRID, Relation, on_grid
from groupmates.maths.theta import rollout_theta
from scored import unit

KERNELS = ["mean", "nearest"]


def factor(kernel: str, *similarities: list[float], documents: int = 2) -> list[float]:
    related = Relation(kernel, alpha=2.0, beta=4.0, sharpness=2.0).related(documents)
    for row in similarities:
        related.add(np.array(row))
    return related.factor().tolist()


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_discounted_while_nothing_is_selected(kernel):
    assert factor(kernel) == [1.0, 1.0]


def test_the_mean_kernel_averages_over_the_selected():
    # 2 - 2 / (4 * 2) * (0.5 + 0.25) and 2 - 2 / (4 * 2) * (1 - 1)
    assert factor("mean", [0.5, 1.0], [0.25, -1.0]) == [1.8125, 2.0]


def test_the_nearest_kernel_sees_only_the_nearest_selected():
    # 2 - 2 / 4 * 0.5 ** 2, whatever else is selected, and 2 - 2 / 4 * 1 ** 2
    assert factor("nearest", [0.5, 1.0], [0.25, -1.0]) == [1.875, 1.5]


def test_an_opposite_document_is_no_relation_of_the_nearest_kernel():
    assert factor("nearest", [-1.0, 0.0]) == [2.0, 2.0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_selection_and_fit_agree_on_theta(kernel):
    rng = np.random.default_rng(0)
    steps, relation = 10, Relation(kernel, alpha=0.8, beta=1.3, sharpness=5.0)
    emb, individual = unit(rng.normal(size=(steps, 6))).astype(float), rng.normal(size=steps)
    fitted = rollout_theta(
        torch.tensor(individual)[None],
        torch.tensor(emb)[None],
        torch.tensor(relation.alpha),
        torch.tensor(relation.beta),
        kernel,
        relation.sharpness,
    )[0]
    related = relation.related(steps)
    for step in range(steps):
        theta = individual[step] * related.factor()[step]
        assert theta == pytest.approx(float(fitted[step]), abs=1e-6)
        related.add(emb @ emb[step])


def test_parameters_are_those_of_the_fitted_model():
    record = {"kernel": "nearest", "alpha": 0.5, "beta": 2.0, "sharpness": 8.0, "head_bias": 1.0}
    assert Relation.from_json(record) == Relation("nearest", 0.5, 2.0, 8.0)


def test_embeddings_move_by_at_most_half_a_grid_step():
    emb = unit(np.random.default_rng(0).normal(size=(50, 768)))
    grid = on_grid(emb)
    assert grid.dtype == np.float64
    assert np.abs(grid - emb).max() <= GRID / 2
    assert np.array_equal(np.rint(grid / GRID), grid / GRID)


def test_sums_of_similarities_are_the_same_in_every_order():
    rng = np.random.default_rng(0)
    grid = on_grid(unit(rng.normal(size=(2000, 64)) + 1))
    at_once = grid @ grid.sum(axis=0)
    one_by_one = np.zeros(2000)
    for i in rng.permutation(2000):
        one_by_one += grid @ grid[i]
    assert np.array_equal(at_once, one_by_one)
    assert np.array_equal(grid @ grid[:7].T, (grid[:7] @ grid.T).T)


def test_selection_takes_the_fitted_relation_as_it_is_told():
    fitted = Relation("nearest", alpha=0.5, beta=2.0, sharpness=8.0)
    assert fitted.used_as("fitted") == fitted
    assert fitted.used_as("unit") == Relation("nearest", 1.0, 1.0, 8.0)
    assert fitted.used_as("unit", 64.0) == Relation("nearest", 1.0, 1.0, 64.0)
    assert fitted.used_as("fitted", 64.0) == Relation("nearest", 0.5, 2.0, 64.0)
    assert fitted.used_as("none", 64.0).related(1).factor() == [1.0]
