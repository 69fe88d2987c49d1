"""CoLoR-Filter (arXiv 2406.10670): documents that become likelier as the model learns the reference.

The conditional model is the probed model after some training on the reference's selection half. The
score of a document is its loss under the conditional model minus its loss under the probed model, in
nats per predicted token. The lowest are taken.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from groupmates.artefacts.store import (
    Provenance,
    read_artefact_json,
    rows_of,
    write_json,
    write_table,
)
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import open_base
from groupmates.models.reference import check_reference, reference_part
from groupmates.models.resumable import Training, set_learning_rate
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.progress import Progress, note
from groupmates.selectors.order import documents_of_shard, preparing, without_groups
from groupmates.settings.selectors import Color

LOSSES = "losses.json"
# Scores are multiples of this, in nats: copies of a text are ties, whatever they were batched with.
GRID = 2.0**-16


def prepare(settings: Color.Prepare, *, base: Path, reference: Path, output: Path) -> None:
    """Train the probed model on the selection examples, and save it as a Hugging Face folder.

    A step is AdamW's on the reference loss: label tokens of all examples at once, no z-loss. Moments
    and settings are the checkpoint's, as in probing, but for the learning rate, which is constant.
    """
    model, optimizer, hyper = open_base(base)
    set_learning_rate(optimizer, settings.color.learning_rate)
    examples, _ = reference_part(reference, "selection", settings.selection_examples)
    check_reference(model, examples, base, "selection")
    provenance = Provenance.of("prepare", settings, base=base, reference=reference)
    seed = hash64(settings.seed, "color", "steps")  # of dropout, where the checkpoint has it
    todo = "lower select.color.learning_rate, or that of the variant"
    with Training(output, "prepared", provenance, model, optimizer, seed, todo=todo) as training:
        losses = training.state.setdefault("losses", [examples.loss(model)])
        for _ in training.steps(settings.color.training_steps, f"prepare {output.name}"):
            optimizer.zero_grad(set_to_none=True)
            examples.pull_back(model)
            nn.utils.clip_grad_norm_(model.parameters(), hyper.clip_norm)
            optimizer.step()
            losses.append(examples.loss(model))
            check_loss(losses[-1], math.inf, output.name)
        check_loss(losses[-1], losses[0], output.name)
        note(f"prepare {output.name}", f"reference loss {losses[0]:.4f} -> {losses[-1]:.4f} nats")
        with preparing(output, provenance) as folder:
            model.save_pretrained(folder)
            write_json(folder / LOSSES, "color", provenance, {"losses_nats": losses})
        training.clear()


def check_loss(loss: float, before: float, method: str) -> None:
    """A model that has not learned the reference tells nothing of it."""
    if not loss < before:
        raise UserError(
            expected=f"a reference loss that falls in training, from {before:.4f} nats"
            if math.isfinite(before)
            else "a finite reference loss after every step",
            found=f"{loss:.4f}",
            where=f"select.methods: {method}",
            todo="lower select.color.learning_rate, or that of the variant",
        )


def order(
    settings: Color.Order,
    *,
    prepared: Path,
    base: Path,
    tokenizer: Path,
    pool: list[str],
    score: list[Path],
    partition: int,
    partitions: int,
    output: Path,
) -> None:
    """Order the documents of the `partition`-th score shard, whose files are `pool`.

    A document is read as in probing: at most sequence_length + 1 tokens, end-of-text included. One
    without a predicted token comes last. A killed job goes on after its last block of documents.
    """
    read_artefact_json(prepared / LOSSES, "color")
    tokens = load_tokenizer(tokenizer)
    conditional, probed = (lm.load_lm(folder).eval() for folder in (prepared, base))
    lm.check_fits(probed, settings.sequence_length, str(base))
    provenance = Provenance.of(
        "select", settings, prepared=prepared, base=base, tokenizer=tokenizer, score=score
    )
    ours = score[partition]
    with Kept(output, "order", provenance) as kept:
        found = [np.load(kept.file(name)) for name in kept.files]
        done, unsaved = sum(map(len, found)), len(found)
        label = f"order {output.parent.name} {partition + 1}/{partitions}"
        progress = Progress(label, rows_of(ours), "documents", done)
        blocks = documents_of_shard(ours, pool, settings.text_columns, settings.bad_records)
        first = 0
        for block in blocks:
            first += len(block)
            if first <= done:  # blocks are the same in every attempt
                continue
            texts = [document.text for document in block]
            windows = document_tokens(tokens, texts, settings.sequence_length + 1)
            names = [f"document {document.doc_id!r}" for document in block]
            lm.check_ids(probed, windows, names.__getitem__, tokens)
            score_n = lm.mean_losses(conditional, windows) - lm.mean_losses(probed, windows)
            check_scores(score_n, windows, [d.doc_id for d in block], base)
            found.append(score_n)
            progress.advance(len(block))
            if kept.due():
                name = f"scores-{first:012d}.npy"
                write = partial(np.save, arr=np.concatenate(found[unsaved:]))
                kept.save({"documents": first}, {name: write})
                unsaved = len(found)
        progress.finish()
        key_N = np.round(np.concatenate(found) / GRID) * GRID
        key_N[np.isnan(key_N)] = np.inf
        write_table(output, "order", provenance, without_groups(partition, key_N))
        kept.clear()


def check_scores(
    score_n: np.ndarray, windows: list[np.ndarray], doc_ids: list[str], base: Path
) -> None:
    predicting_n = np.array([len(window) > 1 for window in windows])
    wrong = np.flatnonzero(predicting_n & ~np.isfinite(score_n))
    if len(wrong):
        raise UserError(
            expected="a finite loss of every document",
            found=f"nan or inf for {doc_ids[wrong[0]]!r}, one of {len(wrong):,} such",
            where=str(base),
            todo="look at the checkpoint's weights, and at the document",
        )
