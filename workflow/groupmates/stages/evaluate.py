"""Does the selection help? Train the base model on it, and look at the held-out reference loss."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from groupmates.artefacts.store import Provenance, concatenate, pool_of, write_table
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.maths.packing import windows
from groupmates.maths.randomness import generator, hash64
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import open_base
from groupmates.models.distributed import Processes, processes
from groupmates.models.reference import Reference, check_reference, reference_part
from groupmates.models.resumable import Training, warm_up_then_decay
from groupmates.models.tokenizer import load_tokenizer
from groupmates.pool.damage import place
from groupmates.pool.identity import identified
from groupmates.pool.listing import PoolFile, located
from groupmates.settings.per_stage import EvaluateSettings
from groupmates.stages.selected_tokens import kept_of, read_selected


def run(
    settings: EvaluateSettings,
    *,
    base: Path,
    tokenizer: Path,
    reference: Path,
    select: list[Path],
    pool: list[str],
    number: int,
    curve: Path,
    examples: Path,
    compile: int = 0,
) -> None:
    """Continue the base model's training on one selection, with training seed `number`.

    The documents are read from the files of the `pool`, so that the format of the dataset
    does not matter. The seed draws them and their order; methods share it, so that their difference is
    paired. `compile`: see `Training`.
    """
    training, method = settings.training, curve.parent.name
    model, optimizer, hyper = open_base(base)
    heldout, example_ids = reference_part(reference, "evaluation", settings.evaluation_examples)
    check_reference(model, heldout, base, "evaluation")
    tokens = load_tokenizer(tokenizer)
    random = generator(settings.seed, "evaluate", number)
    selected = concatenate(select, "select", ["source_file", "source_row", "n_tokens"])
    chosen = draw_documents(selected, training.tokens, random)
    provenance = Provenance.of("evaluate", settings, base=base, reference=reference, select=select)
    provenance = provenance.also(number=number)
    ours, label = processes(), f"evaluate {method} seed {number}"
    reading = Kept(examples, "example_losses", provenance) if ours.first else None
    if reading is not None:
        files = identified(located(pool), pool_of(select, "select"))
        with reading:
            column, kind = settings.text_columns.text, np.dtype(np.int32)
            read_selected(reading, files, chosen, column, tokens, kind, f"{label} tokens")
    documents = shared_documents(reading, ours)
    lm.check_ids(model, documents, lambda i: place_of(i, chosen, located(pool)), tokens)
    seed = hash64(settings.seed, "evaluate", f"steps of {number}")
    todo = "lower evaluate.training.learning_rate"
    with Training(
        curve, "curve", provenance, model, optimizer, seed, hyper, todo=todo, compile=bool(compile)
    ) as under_way:
        batches = training_batches(documents, settings, random)
        seen, losses = train(settings, under_way, batches, heldout, label)
        if reading is None:
            return
        last_E = heldout.example_losses(model)
        losses.append(heldout.mean(last_E))
        if not np.isfinite(losses).all():
            raise UserError(
                expected="a finite held-out loss throughout the training",
                found=f"{losses}",
                where=f"method {method}, seed {number}",
                todo="lower evaluate.training.learning_rate",
            )
        write_table(curve, "curve", provenance, {"tokens": seen, "loss_nats": losses})
        columns = {
            "example_id": example_ids,
            "loss_sum_nats": last_E,
            "label_tokens": heldout.labels_N,
        }
        write_table(examples, "example_losses", provenance, columns)
        under_way.clear()
        reading.clear()


def place_of(number: int, chosen: pa.Table, files: list[PoolFile]) -> str:
    """Where document `number` of those that were read lies: file after file, rows as `chosen`."""
    file_N, row_N = chosen["source_file"].cast("string").to_numpy(), chosen["source_row"].to_numpy()
    rows = [(file.path, int(row)) for file in files for row in row_N[file_N == file.name]]
    return place(*rows[number])


def shared_documents(kept: Kept | None, ours: Processes) -> list[np.ndarray]:
    """The tokens of each document; the first process has read them, the others get them from it."""
    read: dict[str, torch.Tensor] = {}
    if kept is not None:
        for name in ("tokens", "lengths"):
            pieces = [np.load(path) for path in kept_of(kept, name)]
            read[name] = torch.from_numpy(np.concatenate(pieces))
    read = ours.tensors_of_first(read)
    return np.split(read["tokens"].numpy(), read["lengths"].cumsum(0)[:-1].numpy())


def train(
    settings: EvaluateSettings,
    under_way: Training,
    batches: Iterator[torch.Tensor],
    heldout: Reference,
    label: str,
) -> tuple[list[int], list[float]]:
    """Tokens at the points of the curve, and the held-out losses at all of them but the last.

    The first process alone has the losses. The last is the mean of the examples' own.
    """
    schedule, steps = settings.training, steps_of(settings)
    at = np.linspace(0, steps, schedule.points).round().astype(int).tolist()
    losses: list[float] = under_way.state.setdefault("losses", [])

    def look(step: int) -> None:
        if step in at and (loss := under_way.look(heldout.loss)) is not None:
            losses.append(loss)

    for step, ids in zip(
        under_way.steps(steps, label), islice(batches, under_way.done, None), strict=False
    ):
        look(step)
        share = warm_up_then_decay(step, schedule.learning_rate_warmup_steps, steps)
        under_way.step(ids, share * schedule.learning_rate)
    seen = [s * schedule.batch_sequences * settings.sequence_length for s in sorted(set(at))]
    return seen, losses


def steps_of(settings: EvaluateSettings) -> int:
    """Steps of the training: its tokens, rounded up to whole batches."""
    return -(
        -settings.training.tokens // (settings.training.batch_sequences * settings.sequence_length)
    )


def draw_documents(selected: pa.Table, tokens: int, random: np.random.Generator) -> pa.Table:
    """Documents in pool order, drawn at random until `tokens` are reached; all where they are not."""
    order = random.permutation(len(selected))
    reached = np.cumsum(selected["n_tokens"].to_numpy()[order])
    # A margin for the documents' ends that packing drops.
    return selected.take(np.sort(order[: int(np.searchsorted(reached, tokens * 1.02)) + 1]))


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
