"""The fit of token vectors against the closed solution of a ridge regression."""

import numpy as np
from scipy.sparse import csr_matrix

from groupmates.maths.token_ridge import token_ridge


def known(documents: int = 30, tokens: int = 9, values: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Shares of tokens, some of them rare and the last in no document; and what is to be learned."""
    random = np.random.default_rng(0)
    share_NV = random.dirichlet(np.geomspace(1, 0.01, tokens), documents)
    share_NV[:, -1] = 0
    share_NV /= share_NV.sum(1, keepdims=True)
    return share_NV, random.normal(size=(documents, values)) + 5


def test_it_is_the_ridge_regression_about_the_mean_target():
    share_NV, target_NK = known()
    found_VK = token_ridge(csr_matrix(share_NV), target_NK, penalty=0.5)
    weight = 0.5 * (share_NV**2).sum(1).mean()
    gram_VV = share_NV.T @ share_NV + weight * np.eye(9)
    centred_NK = target_NK - target_NK.mean(0)
    expected_VK = np.linalg.solve(gram_VV, share_NV.T @ centred_NK) + target_NK.mean(0)
    np.testing.assert_allclose(found_VK, expected_VK, atol=5e-3)
    np.testing.assert_allclose(found_VK[-1], target_NK.mean(0), rtol=1e-6)


def test_with_next_to_no_penalty_what_token_vectors_can_say_is_found():
    share_NV, _ = known()
    vectors_VK = np.random.default_rng(1).normal(size=(9, 2))
    found_VK = token_ridge(csr_matrix(share_NV), share_NV @ vectors_VK, penalty=1e-6)
    np.testing.assert_allclose(share_NV @ found_VK, share_NV @ vectors_VK, atol=1e-2)
