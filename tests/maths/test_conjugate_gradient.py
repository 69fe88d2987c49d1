"""Conjugate gradient against the dense solution."""

import torch

from groupmates.maths.conjugate_gradient import conjugate_gradient


def definite(size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(size, size, dtype=torch.float64, generator=generator)
    return root @ root.T + torch.eye(size), torch.randn(
        size, dtype=torch.float64, generator=generator
    )


def test_as_many_products_as_dimensions_solve_it():
    matrix, b = definite()
    x, residual = conjugate_gradient(lambda v: matrix @ v, b, 40, 1e-12)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b))
    assert residual <= 1e-12


def test_it_ends_after_the_products_it_is_given_and_tells_the_residual():
    matrix, b = definite()
    products = []

    def multiply(v):
        products.append(v)
        return matrix @ v

    x, residual = conjugate_gradient(multiply, b, 3, 1e-12)
    assert len(products) == 3
    assert abs(residual - float((matrix @ x - b).norm() / b.norm())) < 1e-9
    assert residual > 1e-6
    conjugate_gradient(multiply, b, 40, 0.5 * residual)
    assert 6 < len(products) < 16


def test_nothing_to_solve_is_zero():
    x, residual = conjugate_gradient(lambda v: v, torch.zeros(3), 5, 1e-3)
    assert (x.tolist(), residual) == ([0, 0, 0], 0)
