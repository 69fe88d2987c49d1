"""Pretrain a model on one method's selection: all of a training's steps, or those of one stage."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from groupmates.artefacts import store
from groupmates.artefacts.catalogue import DOCUMENT
from groupmates.artefacts.store import Provenance
from groupmates.artefacts.unfinished import folder_of
from groupmates.errors import UserError
from groupmates.maths.packing import predicted_tokens
from groupmates.maths.passes import Passes
from groupmates.maths.randomness import hash64
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import open_base, save_checkpoint
from groupmates.models.distributed import processes
from groupmates.models.reference import Reference, check_reference, reference_part
from groupmates.models.resumable import Training
from groupmates.models.schedule import warm_up_stable_decay
from groupmates.models.tokenizer import largest_id, load_tokenizer
from groupmates.pool.token_windows import DOCUMENTS, TokenWindows
from groupmates.progress import note
from groupmates.settings.config import Optimizer
from groupmates.settings.per_stage import PretrainSettings

SHOWN = 10  # windows, and documents, that a message names


@dataclass(frozen=True)
class Steps:
    """The steps of a stage, `first` to before `last`, among the `total` of the whole training.

    `points` and `milestones` are numbers of steps that are done, of the whole training. Every
    `between` steps the model is kept, too; the last `limit` of these models stay.
    """

    first: int
    last: int
    total: int
    points: frozenset[int]
    milestones: frozenset[int]
    between: int | None
    limit: int

    @classmethod
    def of(cls, settings: PretrainSettings) -> Steps:
        training = settings.training
        total = training.steps(settings.sequence_length)
        points = np.linspace(0, total, training.points).round().astype(int)
        return cls(
            first=round(settings.begin * total),
            last=round(settings.end * total),
            total=total,
            points=frozenset(points.tolist()),
            milestones=frozenset(round(share * total) for share in training.milestones),
            between=training.save_steps,
            limit=training.save_total_limit,
        )

    def of_stage(self, done: int) -> bool:
        """Whether this stage, and none before it, looks at the model after so many steps."""
        return self.first < done <= self.last or done == 0

    def kept(self, done: int) -> set[int]:
        """Steps of this stage whose models are kept after so many; its last one is the artefact."""
        until = min(done + 1, self.last)
        saved = range(self.between, until, self.between)[-self.limit :] if self.between else ()
        return {step for step in {*self.milestones, *saved} if self.first < step <= done}


def run(
    settings: PretrainSettings,
    *,
    tokens: list[Path],
    start: Path,
    reference: Path,
    number: int,
    output: Path,
    curve: Path,
    examples: Path,
    ledger: Path,
    milestones: Path,
    max_passes: float = math.inf,
    sharding: str = "none",
    compile: int = 0,
    tracker: str = "none",
) -> None:
    """Train model `number` of a method on the windows of its `tokens`, a folder for each part.

    `sharding`, `compile` and `tracker` are those of `Training`. They and `max_passes` are no settings:
    a training may go on with others.

    `start`: the probed model, or the one that the stage before has trained; from scratch, its
    tokenizer alone. `milestones`: their folder. Methods share weights from
    scratch and, over equally many windows, their order.
    """
    method, steps = output.parent.name, Steps.of(settings)
    label = f"pretrain {method} seed {number}"
    language = load_tokenizer(start)
    model, optimizer, hyper = starting_model(settings, start, language, number)
    text = TokenWindows(tokens, settings.sequence_length)
    check_tokens(text, model, language)
    count_passes(settings, steps, text, max_passes, label)
    heldout, example_ids = reference_part(reference, "evaluation", settings.evaluation_examples)
    check_reference(model, heldout, start, "evaluation")
    # Of the tokens, what the tables tell: the files may be as large as the disk.
    tables = [part / DOCUMENTS for part in tokens]
    provenance = Provenance.of(
        "pretrain", settings, documents=tables, start=start, reference=reference
    ).also(number=number)
    seed = hash64(settings.seed, "pretrain", f"steps of {number}, stage {settings.stage}")
    with Training(
        output,
        "pretrained",
        provenance,
        model,
        optimizer,
        seed,
        hyper,
        todo="lower pretrain.learning_rate or raise pretrain.warmup_steps; or look at these documents. "
        "What was kept before this step stays",
        sharding="fsdp" if sharding == "fsdp" and processes().count > 1 else "none",
        compile=bool(compile),
        tracker=None if tracker == "none" else tracker,
    ) as under_way:
        writer = Writer(settings, under_way, language, hyper, provenance, milestones)
        order = Passes(len(text), settings.seed, f"seed {number}, stage {settings.stage}")
        train(settings, steps, under_way, writer, text, order, heldout, label)
        losses = under_way.look(heldout.example_losses)
        whole = under_way.whole()
        if losses is None or whole is None:
            return
        check_heldout(under_way.state["curve"], label)
        rows = under_way.state["curve"]
        names = ("step", "tokens", "loss_nats", "heldout_nats", "learning_rate")
        points = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        store.write_table(curve, "pretrain_curve", provenance, points)
        columns = {
            "example_id": example_ids,
            "loss_sum_nats": losses,
            "label_tokens": heldout.labels_N,
        }
        store.write_table(examples, "pretrain_examples", provenance, columns)
        trained = (steps.last - steps.first) * settings.training.batch_sequences
        write_ledger(ledger, provenance, text, order.counts(trained))
        writer.write(output, *whole, done=steps.last)
        under_way.clear()
        writer.publish_milestones()


def starting_model(
    settings: PretrainSettings, start: Path, language: PreTrainedTokenizerBase, number: int
) -> tuple[PreTrainedModel, torch.optim.AdamW, Optimizer]:
    """Model, AdamW and its settings before the first step."""
    if settings.architecture is None:
        return open_base(start)
    assert settings.optimizer is not None
    model = lm.make_lm(
        settings.architecture,
        vocabulary_size=-(-(largest_id(language) + 1) // 64) * 64,
        positions=settings.sequence_length + 1,
        end_of_text=language.eos_token_id,
        seed=hash64(settings.seed, "pretrain", f"weights of {number}") % 2**63,
    )
    model.train()
    return model, lm.make_optimizer(model, settings.optimizer), settings.optimizer


def check_tokens(
    text: TokenWindows, model: PreTrainedModel, language: PreTrainedTokenizerBase
) -> None:
    """There must be a window, and an embedding of every token."""
    if not len(text):
        raise UserError(
            expected=f"a selection of more than {text.length:,} tokens in a part of the pool",
            found=f"{text.tokens:,} tokens in {len(text.parts):,} parts",
            where=str(text.parts[0].parent),
            todo="raise select.budget, lower sample.sequence_length, or raise "
            "materialise.shards_per_job",
        )
    rows = lm.embedding_rows(model)
    for part, largest in text.largest_ids().items():
        if largest >= rows:
            raise lm.past_embedding(largest, rows, f"a document of {part}", language)


def count_passes(
    settings: PretrainSettings, steps: Steps, text: TokenWindows, most: float, label: str
) -> None:
    """Tell how often the text is gone through; more than `most` passes raise `UserError`."""
    rows = (steps.last - steps.first) * settings.training.batch_sequences
    passes = rows / len(text)
    of_text = f"{len(text):,} windows of {text.length:,} tokens"
    note(label, f"{rows:,} sequences are {passes:.2f} passes over {of_text}")
    if passes > most:
        raise UserError(
            expected=f"at most {most:g} passes over the selection, pretrain.max_passes",
            found=f"{passes:.2f}: {rows * text.length:,} tokens of training, {of_text}",
            where=label,
            todo="raise select.budget or pretrain.max_passes, or lower pretrain.tokens",
        )


def train(
    settings: PretrainSettings,
    steps: Steps,
    under_way: Training,
    writer: Writer,
    text: TokenWindows,
    order: Passes,
    heldout: Reference,
    label: str,
) -> None:
    """Take the steps that are left. `curve` of the state has the rows of the curve, in the end."""
    training, state, tensors = settings.training, under_way.state, under_way.tensors
    if training.warmup_steps >= steps.total:
        note(
            label,
            f"warning: the {steps.total:,} steps of this training end within its warm-up of "
            f"{training.warmup_steps:,} (pretrain.warmup_steps): the rate never reaches learning_rate",
        )
    state.setdefault("curve", [])
    state.setdefault("steps", 0)  # since the last row
    tensors.setdefault("loss", torch.zeros((), dtype=torch.float64, device=lm.device()))

    def windows(step: int) -> np.ndarray:
        return order.batch(step, training.batch_sequences)

    def rate(step: int) -> float:
        return warm_up_stable_decay(training, step, steps.total)

    def look(done: int) -> None:
        """After so many steps of the whole training."""
        if not steps.of_stage(done):
            return
        if done in steps.points:
            found = under_way.look(heldout.loss)
            if found is not None:
                under_way.log(heldout_nats=found)
            seen = done * training.batch_sequences * settings.sequence_length
            mean = float(tensors["loss"]) / state["steps"] if state["steps"] else math.nan
            state["curve"].append([done, seen, mean, found, rate(max(0, done - 1))])
            state["steps"] = 0
            tensors["loss"].zero_()
        kept = steps.kept(done)
        if done in kept:
            writer.keep_milestone(done, kept)

    under_way.told = lambda step: told(text, windows(step), label)
    for step in under_way.steps(steps.last - steps.first, label):
        look(steps.first + step)
        ids = torch.from_numpy(text.rows(windows(step))).to(lm.device())
        tensors["loss"] += under_way.step(ids, rate(steps.first + step))
        state["steps"] += 1
    look(steps.last)


def told(text: TokenWindows, window_B: np.ndarray, label: str) -> str:
    """Windows and documents of a step, for an error; the log names all of them."""
    names, ids = text.names(window_B), text.documents_of(window_B)
    note(label, f"the step had the windows {', '.join(names)} of {', '.join(ids)}")
    windows, documents = (
        ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN:,} more" if found[SHOWN:] else "")
        for found in (names, ids)
    )
    return f", of the windows {windows} with the documents {documents}"


def check_heldout(rows: list[list[float]], label: str) -> None:
    """A held-out loss that is no number raises `UserError`."""
    losses = [row[3] for row in rows]
    if not np.isfinite(losses).all():
        raise UserError(
            expected="a finite held-out loss throughout the training",
            found=f"{losses}",
            where=label,
            todo="lower pretrain.learning_rate",
        )


def write_ledger(
    path: Path, provenance: Provenance, text: TokenWindows, count_W: np.ndarray
) -> None:
    """The documents of windows that were trained on as often as `count_W` says."""
    with store.table_writer(path, "ledger", provenance) as writer:
        for part in range(len(text.parts)):
            table = text.documents(part)
            length_N, counts = table["tokens"].to_numpy(), text.of_part(part, count_W)
            windows_N, tokens_N = predicted_tokens(length_N, counts, text.length)
            seen = np.flatnonzero(windows_N)
            columns = {name: table[name].take(seen) for name in DOCUMENT}
            writer.write(columns | {"windows": windows_N[seen], "tokens": tokens_N[seen]})


class Writer:
    """Writes the model: in the end, and at the steps in between where it is kept.

    These models lie beside what is kept of the training until it ends: snakemake deletes the outputs of
    a job that fails.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        under_way: Training,
        language: PreTrainedTokenizerBase,
        hyper: Optimizer,
        provenance: Provenance,
        milestones: Path,
    ) -> None:
        self._settings, self._under_way, self._language = settings, under_way, language
        self._provenance, self._milestones = provenance, milestones
        # A probing step on the model is one of the training at its full rate.
        rate = settings.training.learning_rate
        self._hyper = hyper.model_copy(update={"learning_rate": rate})
        if under_way.processes.first and not under_way.done:
            shutil.rmtree(folder_of(milestones), ignore_errors=True)  # of another training

    def write(
        self, output: Path, model: PreTrainedModel, optimizer: torch.optim.AdamW, done: int
    ) -> None:
        """The model after so many steps of the whole training."""
        batch = self._settings.training.batch_sequences * self._settings.sequence_length
        record = {
            "optimizer": self._hyper.model_dump(),
            "pretrain": {"steps": done, "tokens": done * batch},
        }
        with store.replacing(output) as folder:
            save_checkpoint(folder, model, optimizer, self._language, record)
            store.write_folder_provenance(folder, "pretrained", self._provenance.also(steps=done))

    def keep_milestone(self, done: int, kept: set[int]) -> None:
        """The model after so many steps, beside those that stay; all processes call it."""
        whole = self._under_way.whole()
        if whole is not None:
            folder = folder_of(self._milestones)
            self.write(folder / f"step-{done}", *whole, done=done)
            for older in set(folder.glob("step-*")) - {folder / f"step-{step}" for step in kept}:
                shutil.rmtree(older)

    def publish_milestones(self) -> None:
        """They become the artefact, which has none where they are of other stages."""
        kept = folder_of(self._milestones)
        kept.mkdir(exist_ok=True)
        shutil.rmtree(self._milestones, ignore_errors=True)
        kept.rename(self._milestones)
