"""The relational influence of rollouts: the paper's equation, and rollouts that do not mix."""

import numpy as np
import pytest
import torch

from groupmates.maths.theta import rollout_theta
from scored import unit

KERNELS = ["mean", "nearest"]
# Three unit vectors with similarities 0.6 (1, 2), 0.0 (1, 3) and 0.8 (2, 3).
HAND_EMB = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
HAND_INDIVIDUAL = [-3.0, 2.0, 5.0]


def theta(individual, emb, alpha=1.0, beta=1.0, kernel="mean", sharpness=2.0) -> np.ndarray:
    arrays = (torch.tensor(np.array(a), dtype=torch.float64) for a in (individual, emb))
    scalars = (torch.tensor(s, dtype=torch.float64) for s in (alpha, beta))
    return rollout_theta(*arrays, *scalars, kernel, sharpness).numpy()


def brute_force(individual, emb, alpha, beta, kernel, sharpness) -> list[float]:
    """One rollout, one step and one earlier document after the other."""
    found = []
    for t in range(len(individual)):
        similarities = [float(np.dot(emb[i], emb[t])) for i in range(t)]
        if not similarities:
            found.append(individual[t])
            continue
        if kernel == "mean":
            discount = alpha / (beta * t) * sum(similarities)
        else:
            discount = alpha / beta * max(max(0.0, s) ** sharpness for s in similarities)
        found.append((alpha - discount) * individual[t])
    return found


def rollouts(number: int, steps: int, size: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, steps)), unit(rng.normal(size=(number, steps, size)))


def test_three_steps_by_hand_with_the_mean_kernel():
    # [2 - 2/(4*1) * 0.6] * 2 = 3.4; [2 - 2/(4*2) * (0.0 + 0.8)] * 5 = 9
    found = theta([HAND_INDIVIDUAL], [HAND_EMB], alpha=2.0, beta=4.0)
    assert found[0] == pytest.approx([-3.0, 3.4, 9.0])


def test_three_steps_by_hand_with_the_nearest_kernel():
    # [2 - 2/4 * 0.6**2] * 2 = 3.64; [2 - 2/4 * max(0, 0.8)**2] * 5 = 8.4
    found = theta([HAND_INDIVIDUAL], [HAND_EMB], alpha=2.0, beta=4.0, kernel="nearest")
    assert found[0] == pytest.approx([-3.0, 3.64, 8.4])


@pytest.mark.parametrize("kernel", KERNELS)
def test_theta_is_the_equation_summed_one_document_at_a_time(kernel):
    individual, emb = rollouts(6, 10)
    found = theta(individual, emb, 0.7, 1.6, kernel, 3.0)
    for r in range(6):
        slow = brute_force(individual[r], emb[r].astype(float), 0.7, 1.6, kernel, 3.0)
        assert found[r] == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_rollout_in_a_batch_has_the_theta_it_has_alone(kernel):
    # The trap: a mask over a flattened batch lets a rollout see the documents of those before it.
    individual, emb = rollouts(5, 4)
    together = theta(individual, emb, 0.7, 1.6, kernel)
    for r in range(5):
        alone = theta(individual[r : r + 1], emb[r : r + 1], 0.7, 1.6, kernel)
        assert together[r] == pytest.approx(alone[0], abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_alpha_beta_individual_and_embeddings_are_learned_with_finite_gradients(kernel):
    individual, emb = rollouts(2, 4)
    emb[0, 1] = -emb[0, 0]  # where the nearest kernel is clamped at zero
    leaves = [
        torch.tensor(a, requires_grad=True) for a in (individual, emb.astype(float), 0.9, 1.2)
    ]
    rollout_theta(*leaves, kernel, 64.0).square().sum().backward()
    for leaf in leaves:
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.abs().sum() > 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_alpha_and_beta_have_the_gradients_of_finite_differences(kernel):
    individual, emb = rollouts(2, 3)
    alpha, beta, step = 0.9, 1.2, 1e-6
    leaves = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (alpha, beta)]
    fixed = (torch.tensor(individual), torch.tensor(emb.astype(float)))
    rollout_theta(*fixed, *leaves, kernel, 2.0).sum().backward()

    def total(a: float, b: float) -> float:
        return theta(individual, emb, a, b, kernel).sum()

    by_alpha = (total(alpha + step, beta) - total(alpha - step, beta)) / (2 * step)
    by_beta = (total(alpha, beta + step) - total(alpha, beta - step)) / (2 * step)
    assert [float(leaf.grad) for leaf in leaves] == pytest.approx([by_alpha, by_beta], abs=1e-5)
