"""What quad measures: the influence of documents, by influence functions (arXiv 2409.16986).

The influence of a document is what a step along its gradient does to the reference loss, to first
order. It is -(gradient of its loss) . (H + damping)^-1 (gradient of the reference loss), on the
attention layers. Nats per unit of the step; lower is better. (The paper has the other sign.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.maths.conjugate_gradient import conjugate_gradient
from groupmates.maths.packing import length_batches
from groupmates.models.checkpoint import broken_base, open_model
from groupmates.models.gradients import AttentionGradients
from groupmates.models.language_model import check_ids, pass_tokens
from groupmates.models.reference import Reference, check_reference
from groupmates.progress import Progress, note
from groupmates.settings.selectors import Quad


class Influences:
    """Influences of documents, one batch after the other; those known from before come first."""

    def __init__(
        self,
        base: Path,
        reference: Reference,
        settings: Quad,
        known: list[float],
        progress: Progress,
        kept: Kept,
    ) -> None:
        model, hyper = open_model(base)
        check_reference(model, reference, base, "selection")
        self._model = model
        self._gradients = AttentionGradients(model, hyper.z_loss, str(base))
        self._batch_tokens = pass_tokens(model)
        self._base, self._progress, self._kept = base, progress, kept
        self._known, self._done = known, 0  # of all documents so far, in the order of batches
        self._direction_P = self._solve(reference, settings)

    def _solve(self, reference: Reference, settings: Quad) -> torch.Tensor:
        """(H + damping)^-1 g, g the gradient of the reference loss; g itself without a Hessian."""
        gradient_P = self._gradients.of_reference(reference)
        if not gradient_P.isfinite().all():
            raise broken_base("a finite gradient of the reference loss", "nan or inf", self._base)
        if settings.hessian == "none":
            return gradient_P
        products = Progress("curvature", settings.cg_iterations, "products")

        def multiply(vector_P: torch.Tensor) -> torch.Tensor:
            curved_P = self._gradients.gauss_newton(reference, vector_P)
            products.advance()
            return curved_P + settings.damping * vector_P

        direction_P, residual = conjugate_gradient(
            multiply, gradient_P, settings.cg_iterations, settings.cg_tolerance
        )
        products.total = products.done
        products.finish()
        note("curvature", f"relative residual {residual:.2g}")
        return direction_P

    def check_ids(self, sequences: list[np.ndarray], where: Callable[[int], str]) -> None:
        """Every token must have an embedding; `where` names a document by its number."""
        check_ids(self._model, sequences, where, self._base)

    def of(self, sequences: list[np.ndarray]) -> np.ndarray:
        """Influences of these documents, float64 [n]; lower is better."""
        influence_n = np.empty(len(sequences))
        lengths_n = np.array([len(s) for s in sequences])
        for rows in length_batches(lengths_n, self._batch_tokens):
            if self._done + len(rows) > len(self._known):
                self._measure([sequences[i] for i in rows])
            influence_n[rows] = self._known[self._done : self._done + len(rows)]
            self._done += len(rows)
        return influence_n

    def _measure(self, sequences: list[np.ndarray]) -> None:
        found_n = -self._gradients.dots(sequences, self._direction_P)
        if not np.isfinite(found_n).all():
            raise UserError(
                expected="finite influences",
                found="nan or inf",
                where=str(self._base),
                todo="look at the checkpoint's weights, and at select.quad.damping",
            )
        self._known += found_n.tolist()
        self._progress.advance(len(found_n))
        self._kept.measured(self._known)
