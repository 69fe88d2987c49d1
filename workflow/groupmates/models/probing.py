"""The checkpoint in single training steps, and the reference loss between them (method section 2)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import open_base
from groupmates.models.reference import Reference


class Probing:
    """A base model with its AdamW state, trained on one document at a time.

    `start_loss` is the reference loss before any step, nats. Raises `UserError` where a loss is not
    finite.
    """

    def __init__(self, base: Path, reference: Reference) -> None:
        self._model, self._optimizer, self._hyper = open_base(base)
        lm.check_fits(self._model, 0, reference.longest, "the reference set")
        self._reference = reference
        self.start_loss = reference.loss(self._model)
        if not math.isfinite(self.start_loss):
            raise UserError(
                expected="a finite reference loss of the checkpoint before any step",
                found=f"{self.start_loss}",
                where=str(base),
                todo="correct the weights of base.checkpoint, or lower base.optimizer.learning_rate "
                "where the base model is trained here",
            )

    def snapshot(self) -> lm.Snapshot:
        """Where training stands, to return to."""
        return lm.Snapshot(self._model, self._optimizer)

    @staticmethod
    def seed_dropout(purpose: str, item: str) -> None:
        """Where a checkpoint trains with dropout, its draws belong to the item, not to the job."""
        torch.manual_seed(hash64(0, f"{purpose} dropout", item) % 2**63)

    def train(self, sequence: np.ndarray) -> None:
        """One step on one document's tokens [L]."""
        ids = torch.from_numpy(sequence.astype(np.int64))[None, :].to(lm.device())
        lm.train_step(self._model, self._optimizer, ids, self._hyper.clip_norm, self._hyper.z_loss)

    def loss(self, doc_id: str, where: str) -> float:
        """Reference loss after training on document `doc_id`, nats; `where` is for the error."""
        loss = self._reference.loss(self._model)
        if not math.isfinite(loss):
            raise UserError(
                expected="a finite reference loss after every step",
                found=f"{loss} after training on document {doc_id!r}",
                where=where,
                todo="look at the document's tokens; lower the learning rate in training.json (or "
                "base.optimizer) if the loss grew over the steps before",
            )
        return loss
