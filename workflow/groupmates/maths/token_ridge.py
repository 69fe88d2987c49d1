"""Vectors of tokens whose mean over a document's tokens comes near what is known of the document.

Legend: N documents, V tokens of the vocabulary, K values known of a document.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix

from groupmates.maths.conjugate_gradient import conjugate_gradient

ITERATIONS, TOLERANCE = 200, 1e-3


def token_ridge(frequency_NV: csr_matrix, target_NK: np.ndarray, penalty: float) -> np.ndarray:
    """Vectors float32 [V, K]: the mean target, plus the ridge regression of what differs from it.

    The rows of `frequency_NV` add up to 1. Minimised are the squared errors plus `penalty` · s times
    the squared vectors, where s is the mean squared length of those rows. A token that no document has
    gets the mean target.
    """
    x_NV = frequency_NV.astype(np.float64)
    mean_K = target_NK.mean(0, dtype=np.float64)
    squared_V = np.asarray(x_NV.multiply(x_NV).sum(0)).ravel()
    weight = penalty * squared_V.sum() / x_NV.shape[0]
    # Columns are divided by their own length: tokens differ in frequency by orders of magnitude.
    scale_V1 = 1 / np.sqrt(squared_V + weight)[:, None]
    x_VN = x_NV.T.tocsr()

    def multiply(flat: torch.Tensor) -> torch.Tensor:
        w_VK = scale_V1 * flat.numpy().reshape(len(scale_V1), -1)
        product_VK = scale_V1 * (x_VN @ (x_NV @ w_VK) + weight * w_VK)
        return torch.from_numpy(product_VK.ravel())

    right_VK = scale_V1 * (x_VN @ (target_NK - mean_K))
    right = torch.from_numpy(right_VK.ravel())
    solved, _ = conjugate_gradient(multiply, right, ITERATIONS, TOLERANCE)
    w_VK = scale_V1 * solved.numpy().reshape(right_VK.shape)
    return (w_VK + mean_K).astype(np.float32)
