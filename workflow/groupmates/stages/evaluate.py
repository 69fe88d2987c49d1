"""Does the selection help? Train the base model on it, and look at the held-out reference loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import get_linear_schedule_with_warmup

from groupmates.config import EvaluateSettings, PoolColumns
from groupmates.errors import UserError
from groupmates.maths.packing import windows
from groupmates.maths.randomness import generator, hash64
from groupmates.models import lm
from groupmates.models.checkpoint import open_base
from groupmates.models.reference import reference_part
from groupmates.models.text import document_tokens, load_tokenizer
from groupmates.pool import named
from groupmates.progress import Progress
from groupmates.readers import read_documents
from groupmates.store import (
    Provenance,
    concatenate,
    digests,
    write_table,
)


def run(
    settings: EvaluateSettings,
    *,
    base: Path,
    tokenizer: Path,
    reference: Path,
    select: list[Path],
    dataset: list[Path],
    root: Path,
    number: int,
    curve: Path,
    examples: Path,
    threads: int = 1,
) -> None:
    """Continue the base model's training on one dataset, with training seed `number`.

    `dataset` are the materialised files below `root`, `select` the selection they come from. The
    seed draws documents and their order; methods share it, so that their difference is paired.
    """
    torch.set_num_threads(threads)
    training, method = settings.training, curve.parent.name
    model, optimizer, hyper = open_base(base)
    heldout, example_ids = reference_part(reference, "evaluation", settings.evaluation_examples)
    lm.check_fits(model, 0, heldout.longest, "the held-out reference set")
    tokens = load_tokenizer(tokenizer)
    random = generator(settings.seed, "evaluate", number)
    chosen = draw_documents(
        concatenate(select, "select", ["source_file", "n_tokens"]), training.tokens, random
    )
    progress = Progress(
        f"evaluate {method} seed {number} tokens", sum(map(len, chosen.values())), "documents"
    )
    documents = list(
        progress.over(
            read_drawn(chosen, [named(p, root) for p in dataset], settings.text_columns, tokens)
        )
    )
    batches = training_batches(documents, settings, random)
    steps = steps_of(settings)
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate
    schedule = get_linear_schedule_with_warmup(
        optimizer, training.learning_rate_warmup_steps, steps
    )
    torch.manual_seed(hash64(settings.seed, "evaluate", str(number)) % 2**63)  # dropout, if any
    at = set(np.linspace(0, steps, training.points).round().astype(int).tolist())
    progress = Progress(f"evaluate {method} seed {number}", steps, "steps")
    seen, losses = [], []
    for step in range(steps + 1):
        if step in at:
            seen.append(step * training.batch_sequences * settings.sequence_length)
            losses.append(heldout.loss(model))
        if step < steps:
            lm.train_step(model, optimizer, next(batches), hyper.clip_norm, hyper.z_loss)
            schedule.step()
            progress.advance()
    progress.finish()
    if not np.isfinite(losses).all():
        raise UserError(
            expected="a finite held-out loss throughout the training",
            found=f"{losses}",
            where=f"method {method}, seed {number}",
            todo="lower evaluate.training.learning_rate",
        )
    provenance = Provenance(
        "evaluate",
        settings.model_dump(mode="json") | {"number": number},
        digests(base=base, reference=reference, select=select),
    )
    write_table(curve, "curve", provenance, {"tokens": seen, "loss_nats": losses})
    write_table(
        examples,
        "example_losses",
        provenance,
        {
            "example_id": example_ids,
            "loss_sum_nats": heldout.example_losses(model),
            "label_tokens": heldout.labels_N,
        },
    )


def steps_of(settings: EvaluateSettings) -> int:
    """Steps of the training: its tokens, rounded up to whole batches."""
    return -(
        -settings.training.tokens // (settings.training.batch_sequences * settings.sequence_length)
    )


def draw_documents(
    selected: pa.Table, tokens: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Rows of each dataset file, in random order until `tokens` are reached, all where they are not.

    Row i of a file of the dataset is the i-th of its documents in the selection.
    """
    order = random.permutation(len(selected))
    reached = np.cumsum(selected["n_tokens"].to_numpy()[order])
    # A margin for the documents' ends that packing drops.
    order = np.sort(order[: int(np.searchsorted(reached, tokens * 1.02)) + 1])
    files = selected["source_file"].combine_chunks()
    code = files.indices.to_numpy()
    starts = np.flatnonzero(np.diff(code, prepend=-1))  # a file's documents follow each other
    file = np.searchsorted(starts, order, side="right") - 1
    names = files.dictionary.to_pylist()
    return {names[code[starts[f]]]: order[file == f] - starts[f] for f in np.unique(file).tolist()}


def read_drawn(
    chosen: dict[str, np.ndarray], files: list[Any], columns: PoolColumns, tokenizer: Any
) -> Iterator[np.ndarray]:
    """Tokens of the drawn documents, file by file."""
    for file in files:
        rows = set(chosen.get(file.name, np.empty(0, int)).tolist())
        if not rows:
            continue
        texts = [d.text for d in read_documents(file, columns) if d.row in rows]
        yield from document_tokens(tokenizer, texts)


def training_batches(
    documents: list[np.ndarray], settings: EvaluateSettings, random: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Endless batches int64 [batch_sequences, sequence_length + 1], reshuffled in every pass.

    A pass may be a large part of the memory: its tokens stay int32 and in place, batches are copies.
    """
    size = settings.training.batch_sequences
    leftover = np.empty((0, settings.sequence_length + 1), np.int32)
    while True:
        stream = np.concatenate([documents[i] for i in random.permutation(len(documents))])
        packed = windows(stream, settings.sequence_length)
        if not len(packed):
            raise UserError(
                expected=f"a selection of more than {settings.sequence_length} tokens",
                found=f"{len(stream)} tokens",
                where="the dataset that is trained on",
                todo="raise select.budget, or lower sample.sequence_length",
            )
        order, start = random.permutation(len(packed)), 0
        # What is left of the pass before begins the first batch.
        while len(order) - start >= (wanted := size - len(leftover)):
            batch = np.concatenate([leftover, packed[order[start : start + wanted]]])
            yield torch.from_numpy(batch.astype(np.int64)).to(lm.device())
            leftover, start = leftover[:0], start + wanted
        leftover = np.concatenate([leftover, packed[order[start:]]])
