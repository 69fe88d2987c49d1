"""The checkpoint that is probed: the user's, or a small one trained here on a random sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from groupmates.artefacts.store import (
    Provenance,
    digests,
    read_table,
    replacing,
    write_folder_provenance,
)
from groupmates.errors import UserError
from groupmates.maths.packing import windows
from groupmates.maths.randomness import generator, hash64
from groupmates.models import language_model as lm
from groupmates.models.resumable import Training, set_learning_rate
from groupmates.models.tokenizer import load_tokenizer, token_lists
from groupmates.progress import note
from groupmates.settings.config import Optimizer
from groupmates.settings.per_stage import BaseSettings

STEPS_BETWEEN_CHECKS = 100  # of the weights


def run(
    settings: BaseSettings, *, tokenizer: Path, training_pool: Path, output: Path, threads: int = 1
) -> None:
    """Write `base/`: a Hugging Face folder with optimizer.safetensors and training.json."""
    torch.set_num_threads(threads)
    base = settings.base
    tokens = load_tokenizer(tokenizer)
    inputs = digests(tokenizer=tokenizer, training_pool=training_pool)
    if base.checkpoint is None:
        model = lm.make_lm(
            base.architecture,
            vocabulary_size=-(-len(tokens) // 64) * 64,
            positions=settings.sequence_length + 1,
            end_of_text=tokens.eos_token_id,
            seed=hash64(settings.seed, "base", "weights") % 2**63,
        )
        hyper, steps = base.optimizer, base.training_steps
        optimizer = lm.make_optimizer(model, hyper)
    else:
        folder = Path(base.checkpoint)
        model = lm.load_lm(folder)
        inputs |= digests(checkpoint=folder)
        hyper, steps = checkpoint_optimizer(folder, base.optimizer), 0
        optimizer = lm.make_optimizer(model, hyper)
        lm.check_fits(model, len(tokens), settings.sequence_length, str(folder))
        lm.check_finite(
            model, "of the checkpoint", str(folder), "copy it again, or take another step's"
        )
        check_tokenizer(folder, tokens, tokenizer)
        state = folder / "optimizer.safetensors"
        if state.exists():
            lm.load_optimizer(optimizer, model, state)
        else:
            steps = base.optimizer_warmup_steps
            note(
                "base",
                f"WARNING: no {state}: influences are measured with AdamW state that is built "
                f"here in {steps} steps, not with that of the training run",
            )
    provenance = Provenance("base", settings.model_dump(mode="json"), inputs)
    seed = hash64(settings.seed, "base", "steps")
    with Training(output, "base", provenance, model, optimizer, seed) as training:
        train(settings, training, model, optimizer, hyper, training_pool, steps)
        if not training.processes.first:
            return
        with replacing(output) as folder:
            model.save_pretrained(folder)
            tokens.save_pretrained(folder)
            lm.save_optimizer(optimizer, model, folder / "optimizer.safetensors")
            (folder / "training.json").write_text(
                json.dumps({"optimizer": hyper.model_dump()}, indent=2, sort_keys=True) + "\n"
            )
            write_folder_provenance(folder, "base", provenance)
        training.clear()


def check_tokenizer(checkpoint: Path, tokens: PreTrainedTokenizerBase, tokenizer: Path) -> None:
    """A token that the checkpoint's own tokenizer knows, if there is one, must have the same id."""
    if not any(
        (checkpoint / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")
    ):
        return
    own = load_tokenizer(checkpoint, needs_end=False).get_vocab()
    given = tokens.get_vocab()
    moved = sorted(
        (given[token], token) for token in given.keys() & own if given[token] != own[token]
    )
    if moved:
        number, token = moved[0]
        raise UserError(
            expected=f"the token ids that the model was trained with: {own[token]} for {token!r}",
            found=f"{number}, and {len(moved):,} tokens of other ids than in {checkpoint}",
            where=str(tokenizer),
            todo="set sample.tokenizer to null, for the checkpoint's own tokenizer",
        )


def checkpoint_optimizer(folder: Path, fallback: Optimizer) -> Optimizer:
    """AdamW settings from the checkpoint's training.json, or those of base.optimizer."""
    path = folder / "training.json"
    if not path.exists():
        note("base", f"no {path}: AdamW settings are those of base.optimizer")
        return fallback
    try:
        return Optimizer.model_validate(json.loads(path.read_text())["optimizer"])
    except (ValueError, KeyError) as error:
        raise UserError(
            expected='{"optimizer": {' + ", ".join(Optimizer.model_fields) + "}}",
            found=str(error),
            where=str(path),
            todo="correct the file, or delete it to use base.optimizer",
        ) from error


def batches(settings: BaseSettings, training_pool: Path) -> Iterator[torch.Tensor]:
    """Endless batches [batch_sequences, sequence_length + 1] of packed documents, shuffled anew
    in every pass over the training pool."""
    documents = token_lists(read_table(training_pool, "training_pool", ["input_ids"]))
    size, pass_number = settings.base.batch_sequences, 0
    while True:
        random = generator(settings.seed, "base", pass_number)
        stream = np.concatenate([documents[i] for i in random.permutation(len(documents))])
        packed = windows(stream, settings.sequence_length)
        order = random.permutation(len(packed))
        if len(packed) < size:
            raise UserError(
                expected=f"at least {size} sequences of {settings.sequence_length} tokens",
                found=f"{len(packed)} from {len(documents)} documents",
                where=str(training_pool),
                todo="raise sample.training_documents, or lower base.batch_sequences",
            )
        for start in range(0, len(packed) - size + 1, size):
            batch = packed[order[start : start + size]].astype(np.int64)
            yield torch.from_numpy(batch).to(lm.device())
        pass_number += 1


def train(
    settings: BaseSettings,
    training: Training,
    model: PreTrainedModel,
    optimizer: torch.optim.AdamW,
    hyper: Optimizer,
    pool: Path,
    steps: int,
) -> None:
    """From scratch: constant learning rate after a linear warm-up, as of a run that is under way.

    From a checkpoint: learning rate 0, so that moments and step counters fill while the weights
    stay as they are.
    """
    base = settings.base
    model.train()
    joined = training.processes.joined(model)
    left = islice(batches(settings, pool), training.done, None)
    for step, batch in zip(training.steps(steps, "base"), left, strict=False):
        share = min(1.0, (step + 1) / max(1, base.learning_rate_warmup_steps))
        peak = hyper.learning_rate if base.checkpoint is None else 0.0
        set_learning_rate(optimizer, share * peak)
        lm.train_step(joined, optimizer, batch, hyper.clip_norm, hyper.z_loss)
        # At times: it waits for the GPU. A loss that is not finite spoils the weights for good.
        if (step + 1) % STEPS_BETWEEN_CHECKS == 0 or step + 1 == steps:
            when = f"after step {step + 1:,} of {steps:,}"
            todo = "lower base.optimizer.learning_rate, or look at the texts that were trained on"
            lm.check_finite(model, when, f"training on {pool}", todo)
