"""The checkpoint in single training steps, and the reference loss between them (method section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import torch

from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import broken_base, open_base
from groupmates.models.compiled import compile_layers
from groupmates.models.reference import Reference, check_reference, reference_part
from groupmates.models.resumable import set_learning_rate
from groupmates.models.tokenizer import token_lists
from groupmates.progress import note
from groupmates.settings.per_stage import ProbeSettings
from groupmates.settings.sections import StepRate

# Spread over rounding. Below it, rounded losses rank steps otherwise than float64: Spearman under 0.95.
FAR_ABOVE = 3
SHORTEST = 64  # tokens that a document is padded to for compiled layers


def part_of(plan: pa.Table, item: str, part: int, parts: int) -> pa.Table:
    """The `part`-th of `parts` nearly equal ranges of rollouts or sets, which `item` numbers."""
    numbers = np.array_split(np.unique(plan[item].to_numpy()), parts)[part]
    return plan.filter(np.isin(plan[item].to_numpy(), numbers))


def sequences_of(probe_pool: Path) -> dict[str, np.ndarray]:
    """The tokens of the documents of the probe pool, by id."""
    pool = read_table(probe_pool, "probe_pool", ["doc_id", "input_ids"])
    return dict(zip(pool["doc_id"].to_pylist(), token_lists(pool), strict=True))


def padded_length(predicted: int, longest: int) -> int:
    """Tokens that a document is padded to: a power of two, or `longest`, the most that any has."""
    return min(longest, max(SHORTEST, 1 << (predicted - 1).bit_length()))


class Probing:
    """A base model with its AdamW state, trained on one document at a time.

    A step has the checkpoint's settings but for `learning_rate`. `start_loss` is the reference loss
    before any step, nats. `resolution` is about how far rounding moves it (workflow/DECISIONS.md).
    Raises `UserError` where a loss is not finite.
    """

    def __init__(self, base: Path, reference: Reference, learning_rate: StepRate) -> None:
        self._model, self._optimizer, self._hyper = open_base(base)
        set_learning_rate(self._optimizer, learning_rate.of(self._hyper.learning_rate))
        check_reference(self._model, reference, base, "selection")
        self._base, self._reference = base, reference
        self._longest: int | None = None  # tokens of a padded document, where layers are compiled
        self.start_loss = reference.loss(self._model)
        self.resolution = lm.unit_roundoff() * self.start_loss / math.sqrt(reference.labels_N.sum())
        if not math.isfinite(self.start_loss):
            expected = "a finite reference loss of the checkpoint before any step"
            raise broken_base(expected, f"{self.start_loss}", base)

    @classmethod
    def of_job(
        cls,
        settings: ProbeSettings,
        base: Path,
        reference: Path,
        sequences: dict[str, np.ndarray],
        label: str,
        compile: bool,
    ) -> Self:
        """By the reference's selection examples; layers are compiled for `sequences` where asked."""
        examples, _ = reference_part(reference, "selection", settings.selection_examples)
        probing = cls(base, examples, settings.learning_rate)
        if compile:
            probing.compile_layers(label, sequences.values())
        return probing

    def compile_layers(self, label: str, sequences: Collection[np.ndarray]) -> None:
        """Compile the model's layers for steps on these documents, padded to a few lengths.

        A GPU then replays a graph of kernels for each layer. Where that fails, a note says so.
        """
        longest = max(len(sequence) for sequence in sequences) - 1
        of_length = {padded_length(len(s) - 1, longest): s for s in sequences}

        def gradient(sequence: np.ndarray, tokens: int) -> list[np.ndarray]:
            self.seed_dropout("compiling", str(tokens))
            ids, predicted = self._padded(sequence, tokens)
            self._optimizer.zero_grad(set_to_none=True)
            loss = lm.pull_back(self._model, ids, self._hyper.z_loss, predicted=predicted)
            found = [p.grad for p in self._model.parameters() if p.grad is not None]
            norms = torch.stack(torch._foreach_norm(found))
            self._optimizer.zero_grad(set_to_none=True)
            return [loss.cpu().numpy(), norms.cpu().numpy()]

        trials: dict[str, Callable[[], list[np.ndarray]]] = {
            "reference loss": lambda: [self._reference.example_losses(self._model)]
        }
        for tokens, sequence in of_length.items():
            trials[f"{tokens} tokens"] = partial(gradient, sequence, tokens)
        if compile_layers(self._model, label, trials, mode="reduce-overhead", dynamic=False):
            self._longest = longest
            # Influences are differences of losses, which must be of the same kernels.
            self.start_loss = self._reference.loss(self._model)

    @property
    def compiled(self) -> bool:
        """Whether steps and losses are those of compiled layers."""
        return self._longest is not None

    def told_if_drowned(self, label: str, influences_N: np.ndarray) -> None:
        """Note where influences, nats, are not far above what the loss can resolve."""
        spread = float(np.std(influences_N)) if len(influences_N) else math.inf
        if spread < FAR_ABOVE * self.resolution:
            note(
                label,
                f"warning: influences spread by {spread:.1e} nats, where the loss is rounded by about "
                f"{self.resolution:.1e}: raise probe.learning_rate.factor",
            )

    def check_ids(self, sequences: list[np.ndarray], doc_ids: list[str]) -> None:
        """Every token of what will be trained on must have an embedding; else `UserError`."""
        lm.check_ids(self._model, sequences, lambda i: f"document {doc_ids[i]!r}", self._base)

    def snapshot(self) -> lm.Snapshot:
        """Where training stands, to return to."""
        return lm.Snapshot(self._model, self._optimizer)

    @staticmethod
    def seed_dropout(purpose: str, item: str) -> None:
        """Where a checkpoint trains with dropout, its draws belong to the item, not to the job."""
        torch.manual_seed(hash64(0, f"{purpose} dropout", item) % 2**63)

    def train(self, sequence: np.ndarray) -> None:
        """One step on one document's tokens [L]."""
        predicted = len(sequence) - 1
        tokens = padded_length(predicted, self._longest) if self._longest else predicted
        ids, counted = self._padded(sequence, tokens)
        hyper = self._hyper
        lm.train_step(self._model, self._optimizer, ids, hyper.clip_norm, hyper.z_loss, counted)

    @staticmethod
    def _padded(sequence: np.ndarray, tokens: int) -> tuple[torch.Tensor, int]:
        """Ids int64 [1, tokens + 1] on the device, and how many of their tokens are predicted."""
        ids = np.zeros((1, tokens + 1), np.int64)
        ids[0, : len(sequence)] = sequence
        return torch.from_numpy(ids).to(lm.device()), len(sequence) - 1

    def along(
        self,
        sequences: dict[str, np.ndarray],
        plan: pa.Table,
        purpose: str,
        item: str,
        done: int,
    ) -> Iterator[int]:
        """Rows of a plan of steps, from row `done` on, each after it was trained on.

        Step 1 begins anew at the checkpoint; the column `item` names what begins there. In the middle
        of one the steps before row `done` are trained once more, as no model is kept.
        """
        self.check_ids(list(sequences.values()), list(sequences))
        step, items, doc_ids = (plan[name].to_pylist() for name in ("step", item, "doc_id"))
        start = self.snapshot()
        for row in range(done - (step[done] - 1) if done < len(step) else done, len(step)):
            if step[row] == 1:
                start.restore()
                self.seed_dropout(purpose, str(items[row]))
            self.train(sequences[doc_ids[row]])
            if row >= done:
                yield row

    def loss(self, doc_id: str, where: str) -> float:
        """Reference loss after training on document `doc_id`, nats; `where` is for the error."""
        loss = self._reference.loss(self._model)
        if not math.isfinite(loss):
            raise UserError(
                expected="a finite reference loss after every step",
                found=f"{loss} after training on document {doc_id!r}",
                where=where,
                todo="look at the document's tokens; lower probe.learning_rate.factor if the loss grew "
                "over the steps before",
            )
        return loss
