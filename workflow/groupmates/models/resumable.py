"""Training that survives its process: the steps that are left, what is kept of them, and the end.

    with Training(output, "base", provenance, model, optimizer, seed, hyper) as training:
        for step in training.steps(total, "base"):
            training.step(batch, learning_rate)
        if whole := training.whole():
            ...write the artefact...
            training.clear()

A step's random numbers (dropout) depend on the seed, the step and the process alone, so that a
training that goes on draws what an undisturbed one draws.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from groupmates.artefacts.store import Provenance
from groupmates.artefacts.unfinished import STOPPED, Kept, signals
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models import language_model as lm
from groupmates.models.distributed import Sharded, of_all, processes
from groupmates.models.speed import matrix_rate, step_flops
from groupmates.models.tracking import Tracker, check_installed
from groupmates.progress import Progress, note
from groupmates.settings.config import Optimizer

T = TypeVar("T")
# A cancelled or preempted job, or a reached time limit, is told by one of these.
STOPPING = (signal.SIGTERM, signal.SIGUSR2)
STEPS_BETWEEN_LOOKS = 20  # at the losses, which waits for the GPU
LARGEST_DRIFT = 1e-6  # of the sum of squared weights between processes: more than rounding explains
AVERAGING = DistributedDataParallelKwargs(
    # Buffers are constants here, and processes may differ in how many passes a step takes.
    broadcast_buffers=False,
    find_unused_parameters=True,  # some encoders have weights that no loss depends on
    gradient_as_bucket_view=True,  # no second copy of the gradients
)


class Training:
    """A model and its AdamW, as they were after the `done` steps that an earlier attempt kept.

    `state` (JSON) and `tensors` are what else the loop needs to go on; it changes them in place.
    The first process keeps them, and all processes begin with what it has.

    `step` needs `hyper`. A loop with a loss of its own has `joined`, whose gradients are averaged
    over all processes. `todo` is the advice where a loss or a weight is not finite. `told` may add
    words about a step.

    `sharding="fsdp"` spreads weights and AdamW's state over the processes: only `look` and `whole`
    then have the model. `compile` compiles it. `tracker` is one of Accelerate's, such as
    tensorboard, whose files lie in a folder of its name beside the output.
    """

    def __init__(
        self,
        output: Path,
        artefact: str,
        provenance: Provenance,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        seed: int,
        hyper: Optimizer | None = None,
        *,
        todo: str = "lower the learning rate",
        sharding: Literal["none", "fsdp"] = "none",
        compile: bool = False,
        tracker: str | None = None,
    ) -> None:
        self.processes = processes()
        self._check_alike(output.name, provenance)
        self._kept = Kept(output, artefact, provenance) if self.processes.first else None
        self._tracker = None
        if tracker is not None:
            check_installed(tracker)
            if self.processes.first:
                run = f"{output.parent.name}-{output.name}"
                self._tracker = Tracker(tracker, run, output.parent / tracker)
        self._model, self._optimizer, self._hyper = model, optimizer, hyper
        self._seed, self.label, self._todo = seed, output.name, todo
        self.told: Callable[[int], str] = lambda step: ""
        self._signals: list[int] = []
        self._losses: list[torch.Tensor] = []  # that were not looked at
        self._last_loss = math.nan
        self._batch = (0, 0)  # sequences, and tokens of each
        self.done = 0
        self.state: dict[str, Any] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self._restore()
        self._sharded = Sharded(model, optimizer) if sharding == "fsdp" else None
        self._accelerator = Accelerator(
            device_placement=False, mixed_precision="no", kwargs_handlers=[AVERAGING]
        )
        self._wrapped: nn.Module = model if self._sharded else self._averaging(model)
        self.joined: Any = torch.compile(self._wrapped) if compile else self._wrapped

    def _averaging(self, model: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers, since torch 2.13
            return self._accelerator.prepare_model(model)

    def __enter__(self) -> Self:
        self._listening = signals(*STOPPING)
        self._signals = self._listening.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.__exit__(None, None, None)
        if self._tracker is not None:
            self._tracker.finish()

    def steps(self, total: int, label: str) -> Iterator[int]:
        """Numbers of the steps that are left; between two of them progress is kept.

        After a signal to stop, all processes end after the same step, with status 143. A loss or a
        weight that is not finite raises `UserError` before it is kept: what was kept last stays.
        """
        self._name = f"{label}, step {{:,}} of {total:,}"
        progress = Progress(label, total, "steps", resumed=self.done, more=self._words)
        for step in range(self.done, total):
            item = f"step {step}, process {self.processes.rank}"
            torch.manual_seed(hash64(self._seed, "training", item) % 2**63)
            yield step
            self.done = step + 1
            progress.advance()
            self._between(last=self.done == total)
        progress.finish()

    def step(self, ids: torch.Tensor, learning_rate: float) -> torch.Tensor:
        """One AdamW step on the next-token loss of a batch: ids int64 [B, L + 1] of all processes.

        Each works at its rows. Returns the batch's mean loss before the step, without z-loss, nats
        per token, float32 on the device: nothing waits for it.
        """
        assert self._hyper is not None, "a step needs the settings of AdamW"
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.zero_grad(set_to_none=True)
        rows, weight = self.processes.share(len(ids))
        sync: dict[str, Any] = {
            "before_the_last": partial(self._accelerator.no_sync, self._wrapped)
        }
        if self._sharded:  # every pass gathers weights, so all processes make as many
            most = -(-len(ids) // self.processes.count)
            sync = {"passes": -(-most // lm.rows_of_pass(self._model, ids))}
        own = lm.pull_back(self.joined, ids[rows], self._hyper.z_loss, weight, **sync)
        self._accelerator.clip_grad_norm_(self._model.parameters(), self._hyper.clip_norm)
        self._optimizer.step()
        loss = self.processes.mean(own)
        self._losses.append(loss)
        self._batch = (len(ids), ids.shape[1] - 1)
        if self._tracker is not None:
            told: dict[str, Any] = {"learning_rate": learning_rate, "loss_nats": loss}
            self._tracker.add(self.done, told, math.prod(self._batch))
        return loss

    def log(self, **values: float | torch.Tensor) -> None:
        """Tell the tracker, where there is one, of the model as it is after `done` steps."""
        if self._tracker is not None:
            self._tracker.add(self.done, values)

    def look(self, at: Callable[[Any], T]) -> T | None:
        """What `at` finds in the model, in the first process; None in the others.

        All processes call it: of a sharded model each has a part alone.
        """
        model = self._sharded.model(self.processes.first) if self._sharded else self._model
        return at(model) if self.processes.first else None

    def whole(self) -> tuple[Any, torch.optim.AdamW] | None:
        """The model and its AdamW, to be saved by the first process; None in the others.

        All processes call it.
        """
        if self._sharded:
            return self._sharded.both(self.processes.first)
        return (self._model, self._optimizer) if self.processes.first else None

    def clear(self) -> None:
        """Drop what was kept, when the artefact is complete."""
        assert self._kept is not None, "the first process alone writes"
        self._kept.clear()

    def _words(self, rate: float) -> str:
        """Of a line of progress: the last loss, tokens per second, and the share of the GPUs' rate."""
        if self._batch == (0, 0):
            return ""
        if self._losses:
            self._last_loss = float(self._losses[-1])
        tokens = rate * math.prod(self._batch)
        words = f" · loss {self._last_loss:.3f} · {tokens:,.0f} tokens/s"
        if peak := matrix_rate():
            share = rate * step_flops(self._model, *self._batch) / (peak * self.processes.count)
            words += f" · {share:.0%} of the GPU"
        return words

    def _between(self, last: bool) -> None:
        told, due = self.processes.any(
            bool(self._signals), self._kept is not None and self._kept.due()
        )
        if told or due or self.done % STEPS_BETWEEN_LOOKS == 0 or last:
            self._check_losses()
        if told or due or last:
            self._check_weights()
            self._check_drift()
        if told or due:
            self._save()
        if told:
            note("resume", f"{self.label}: told to stop, progress is kept")
            sys.exit(STOPPED)

    def _check_losses(self) -> None:
        """Looks at the losses since the last time: this waits for the device."""
        values = torch.stack(self._losses).tolist() if self._losses else []
        self._losses = []
        if self._tracker is not None:
            self._tracker.flush()
        for step, value in enumerate(values, self.done - len(values)):
            self._last_loss = value
            if not math.isfinite(value):
                raise self._diverged("a finite loss in every step", f"{value}", step)

    def _check_alike(self, label: str, provenance: Provenance) -> None:
        """Processes on several nodes may see other files, or have other packages."""
        inputs, settings = provenance.inputs, json.dumps(provenance.settings, sort_keys=True)
        told = self.processes.of_each({"torch": torch.__version__, "settings": settings} | inputs)
        for name in sorted(set().union(*told)):
            found = [of_one.get(name) for of_one in told]
            other = next((rank for rank, value in enumerate(found) if value != found[0]), None)
            if other is not None:
                raise UserError(
                    expected=f"the same {name} in each of {len(told)} processes",
                    found=f"{found[0]} in process 0, {found[other]} in process {other}",
                    where=label,
                    todo="install the same packages on all nodes, and let them see the same files; "
                    "then start again",
                )

    def _check_drift(self) -> None:
        """Whole weights are the same in all processes, unless a GPU has miscalculated."""
        if self._sharded or self.processes.count == 1:
            return
        squares = [p.detach().double().square().sum() for p in self._model.parameters()]
        sums = self.processes.of_each(float(torch.stack(squares).sum()))
        if max(sums) - min(sums) > LARGEST_DRIFT * max(sums):
            raise UserError(
                expected=f"the same weights in each of {len(sums)} processes",
                found=f"sums of their squares: {', '.join(f'{s:.9g}' for s in sums)}",
                where=self._name.format(self.done),
                todo="look for a faulty GPU or node; a new attempt goes on from what was kept before",
            )

    def _check_weights(self) -> None:
        named = self._model.named_parameters()
        local = ((n, p.to_local() if isinstance(p, DTensor) else p) for n, p in named)
        spoiled = [name for name, weight in local if not weight.isfinite().all()]
        if self.processes.any(bool(spoiled))[0]:
            found = f"nan or inf in {spoiled[0]}" if spoiled else "nan or inf"
            raise self._diverged("finite weights after every step", found, self.done - 1)

    def _diverged(self, expected: str, found: str, step: int) -> UserError:
        where = self._name.format(step + 1) + self.told(step)
        return UserError(expected=expected, found=found, where=where, todo=self._todo)

    def _save(self) -> None:
        first, tensors = self.processes.first, {}
        for name, tensor in self._live().items():
            whole = of_all(tensor.detach(), first)
            if whole is not None:
                tensors[name] = whole.cpu().contiguous()
        if self._kept is not None:
            self._kept.save(
                {"done": self.done, "state": self.state},
                {f"after-{self.done}.safetensors": lambda path: save_file(tensors, path)},
                only=True,
            )

    def _live(self) -> dict[str, torch.Tensor]:
        """What changes from step to step, by name."""
        found = {f"weights.{n}": t for n, t in self._weights().items()}
        for name, parameter in self._model.named_parameters():
            for key, tensor in self._optimizer.state.get(parameter, {}).items():
                found[f"adamw.{key}.{name}"] = tensor
        return found | {f"loop.{n}": t for n, t in self.tensors.items()}

    def _weights(self) -> dict[str, torch.Tensor]:
        """Parameters and the buffers that a model is saved with; tied weights once."""
        saved = self._model.state_dict().keys()
        buffers = {n: t for n, t in self._model.named_buffers() if n in saved}
        return dict(self._model.named_parameters()) | buffers

    @torch.no_grad()
    def _restore(self) -> None:
        kept = self.processes.of_first(self._kept.state if self._kept is not None else {})
        if not kept:
            return
        tensors = {}
        if self._kept is not None:
            tensors = load_file(self._kept.file(f"after-{kept['done']}.safetensors"))
        tensors = self.processes.tensors_of_first(tensors)
        self.done, self.state = kept["done"], kept["state"]
        for name, weight in self._weights().items():
            weight.copy_(tensors[f"weights.{name}"])
        for name, parameter in self._model.named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                saved = tensors.get(f"adamw.{key}.{name}")  # none where no loss depends on it
                if saved is not None:
                    # AdamW counts its steps on the CPU, unless its kernel is fused.
                    here = key == "step" and not self._optimizer.defaults["fused"]
                    place = "cpu" if here else parameter.device
                    self._optimizer.state[parameter][key] = saved.to(place)
        device = next(self._model.parameters()).device
        self.tensors = {
            name.removeprefix("loop."): tensor.to(device)
            for name, tensor in tensors.items()
            if name.startswith("loop.")
        }


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def warm_up_then_decay(step: int, warmup_steps: int, steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0): linear from 0 to 1, linear to 0."""
    if step < warmup_steps:
        return step / warmup_steps
    return (steps - step) / max(1, steps - warmup_steps)
