"""Conjugate gradient: A x = b for a symmetric positive definite A that is known by its products."""

from __future__ import annotations

from collections.abc import Callable

import torch


def conjugate_gradient(
    multiply: Callable[[torch.Tensor], torch.Tensor],
    b_P: torch.Tensor,
    iterations: int,
    tolerance: float,
) -> tuple[torch.Tensor, float]:
    """x [P] and its relative residual |A x - b| / |b|, from x = 0.

    Ends after so many products, or where the residual is at most `tolerance`.
    """
    x_P, residual_P = torch.zeros_like(b_P), b_P.clone()
    direction_P, squared = residual_P.clone(), float(residual_P @ residual_P)
    scale = squared**0.5
    for _ in range(iterations):
        if squared**0.5 <= tolerance * scale:
            break
        product_P = multiply(direction_P)
        step = squared / float(direction_P @ product_P)
        x_P += step * direction_P
        residual_P -= step * product_P
        before, squared = squared, float(residual_P @ residual_P)
        direction_P = residual_P + squared / before * direction_P
    return x_P, squared**0.5 / scale if scale else 0.0
