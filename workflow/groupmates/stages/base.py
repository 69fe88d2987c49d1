"""The checkpoint that is probed: the user's, or a small one trained here on a random sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from groupmates.artefacts import store
from groupmates.artefacts.catalogue import ADAMW_STATE
from groupmates.artefacts.store import Provenance
from groupmates.errors import UserError
from groupmates.maths.packing import windows
from groupmates.maths.randomness import generator, hash64
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import save_checkpoint
from groupmates.models.resumable import Training
from groupmates.models.tokenizer import largest_id, load_tokenizer, token_lists
from groupmates.models.try_out import alike, logits_of, try_out, unusable
from groupmates.pool.damage import place
from groupmates.progress import note
from groupmates.settings.config import Optimizer, problems
from groupmates.settings.per_stage import BaseSettings


def run(
    settings: BaseSettings,
    *,
    tokenizer: Path,
    training_pool: Path,
    compile: int = 0,
    output: Path,
) -> None:
    """Write `base/`: a Hugging Face folder with optimizer.safetensors and training.json.

    `compile`: see `Training`.
    """
    base, tokens = settings.base, load_tokenizer(tokenizer)
    checkpoint = None if base.checkpoint is None else Path(base.checkpoint)
    if checkpoint is None:
        model, hyper, steps = new_model(settings, tokens), base.optimizer, base.training_steps
        optimizer = lm.make_optimizer(model, hyper)
    else:
        model, hyper = given_model(checkpoint, settings, tokens, tokenizer)
        optimizer = lm.make_optimizer(model, hyper)
        steps = 0 if load_state(checkpoint, model, optimizer) else base.optimizer_warmup_steps
    few_tokens = readable_tokens(model, training_pool, tokens, settings.sequence_length)
    try_out(model, few_tokens, hyper.z_loss, str(checkpoint or "base.architecture"))
    provenance = Provenance.of(
        "base", settings, tokenizer=tokenizer, training_pool=training_pool, checkpoint=checkpoint
    )
    seed = hash64(settings.seed, "base", "steps")
    todo = f"lower base.optimizer.learning_rate, or look at the texts of {training_pool}"
    with Training(
        output, "base", provenance, model, optimizer, seed, hyper, todo=todo, compile=bool(compile)
    ) as training:
        train(settings, training, model, hyper, training_pool, steps)
        if (whole := training.whole()) is None:
            return
        model, optimizer = whole
        with store.replacing(output) as folder:
            save_checkpoint(folder, model, optimizer, tokens, {"optimizer": hyper.model_dump()})
            optimizer.state.clear()  # makes room for the model once more
            check_saved(model, folder, few_tokens, str(output))
            store.write_folder_provenance(folder, "base", provenance)
        training.clear()


def new_model(settings: BaseSettings, tokens: PreTrainedTokenizerBase) -> PreTrainedModel:
    return lm.make_lm(
        settings.base.architecture,
        vocabulary_size=-(-(largest_id(tokens) + 1) // 64) * 64,
        positions=settings.sequence_length + 1,
        end_of_text=tokens.eos_token_id,
        seed=hash64(settings.seed, "base", "weights") % 2**63,
    )


def given_model(
    folder: Path, settings: BaseSettings, tokens: PreTrainedTokenizerBase, tokenizer: Path
) -> tuple[PreTrainedModel, Optimizer]:
    """The user's checkpoint, which must fit the tokenizer, and the settings of its AdamW."""
    model, hyper = lm.load_lm(folder), checkpoint_optimizer(folder, settings.base.optimizer)
    lm.check_fits(model, settings.sequence_length, str(folder))
    check_vocabulary(model, tokens, folder)
    todo = "copy it again, or take another step's"
    lm.check_finite(model, "of the checkpoint", str(folder), todo)
    check_tokenizer(folder, tokens, tokenizer)
    return model, hyper


def check_vocabulary(model: PreTrainedModel, tokens: PreTrainedTokenizerBase, folder: Path) -> None:
    """The model must have an embedding of end-of-text; of other tokens only where a text has them."""
    rows, end = lm.embedding_rows(model), tokens.eos_token_id
    if end >= rows:
        raise lm.past_embedding(end, rows, f"{folder}, of end-of-text", tokens)
    past = sorted((i, token) for token, i in tokens.get_vocab().items() if i >= rows)
    if past:
        told = (
            f"{len(past):,} tokens, such as {past[0][1]!r}, lie past the model's last embedding row"
        )
        note("base", f"{told} ({rows:,} rows): no text may have them")


def readable_tokens(
    model: PreTrainedModel, training_pool: Path, tokens: PreTrainedTokenizerBase, length: int
) -> np.ndarray:
    """Two sequences int32 [2, at most 9] of the training pool, whose ids all have an embedding."""
    names = ["doc_id", "source_file", "source_row", "input_ids"]
    table = store.read_table(training_pool, "training_pool", names)
    documents = token_lists(table)

    def where(number: int) -> str:
        row = table.slice(number, 1).to_pylist()[0]
        return f"document {row['doc_id']!r}, {place(row['source_file'], row['source_row'])}"

    lm.check_ids(model, documents, where, tokens)
    # Repeated where the first documents are shorter.
    return np.resize(np.concatenate(documents[:100]), (2, min(length, 8) + 1))


def check_saved(model: PreTrainedModel, folder: Path, ids_BM: np.ndarray, where: str) -> None:
    """What was written must open as the model that was trained."""
    ids = torch.from_numpy(ids_BM[:, :-1].astype(np.int64)).to(lm.device())
    model.eval()
    written = lm.load_lm(folder).eval()
    if not alike(logits_of(written, ids), logits_of(model, ids)):
        expected = "the model that was trained, when its files are loaded again"
        raise unusable(
            expected, "other logits: a weight was not saved, or is read otherwise", where
        )


def load_state(folder: Path, model: PreTrainedModel, optimizer: torch.optim.AdamW) -> bool:
    """Whether the checkpoint has AdamW's state, which is loaded then."""
    state = folder / ADAMW_STATE
    if state.exists():
        lm.load_optimizer(optimizer, model, state)
        return True
    note(
        "base",
        f"WARNING: no {state}: influences are measured with AdamW state that is built here in "
        "base.optimizer_warmup_steps steps, not with that of the training run",
    )
    return False


def check_tokenizer(checkpoint: Path, tokens: PreTrainedTokenizerBase, tokenizer: Path) -> None:
    """A token that the checkpoint's own tokenizer knows, if there is one, must have the same id."""
    files = ("tokenizer.json", "tokenizer_config.json")
    if not any((checkpoint / name).exists() for name in files):
        return
    own, given = load_tokenizer(checkpoint, needs_end=False).get_vocab(), tokens.get_vocab()
    moved = sorted((given[t], t) for t in given.keys() & own if given[t] != own[t])
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
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            expected='{"optimizer": {' + ", ".join(Optimizer.model_fields) + "}}",
            found=problems(error) if isinstance(error, ValidationError) else f"{error!r}",
            where=str(path),
            todo="correct the file, or delete it to use base.optimizer",
        ) from error


def batches(settings: BaseSettings, training_pool: Path) -> Iterator[torch.Tensor]:
    """Endless batches [batch_sequences, sequence_length + 1] of packed documents, shuffled anew
    in every pass over the training pool."""
    documents = token_lists(store.read_table(training_pool, "training_pool", ["input_ids"]))
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
    left = islice(batches(settings, pool), training.done, None)
    for step, batch in zip(training.steps(steps, "base"), left, strict=False):
        share = min(1.0, (step + 1) / max(1, base.learning_rate_warmup_steps))
        peak = hyper.learning_rate if base.checkpoint is None else 0.0
        training.step(batch, share * peak)
