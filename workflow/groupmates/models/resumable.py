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

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from groupmates.artefacts.store import Provenance
from groupmates.artefacts.unfinished import STOPPED, Kept, signals
from groupmates.maths.randomness import hash64
from groupmates.models.distributed import processes
from groupmates.models.language_model import train_step
from groupmates.progress import Progress, note
from groupmates.settings.config import Optimizer

T = TypeVar("T")
# A cancelled or preempted job, or a reached time limit, is told by one of these.
STOPPING = (signal.SIGTERM, signal.SIGUSR2)


class Training:
    """A model and its AdamW, as they were after the `done` steps that an earlier attempt kept.

    `state` (JSON) and `tensors` are what else the loop needs to go on; it changes them in place.
    The first process keeps them, and all processes begin with what it has. `joined` is the model
    whose gradients are averaged over all processes, for a loop with a loss of its own; `step` needs
    `hyper`.
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
    ) -> None:
        self.processes = processes()
        self._kept = Kept(output, artefact, provenance) if self.processes.first else None
        self._model, self._optimizer, self._hyper = model, optimizer, hyper
        self._seed, self.label = seed, output.name
        self._told: list[int] = []
        self.done = 0
        self.state: dict[str, Any] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self._restore()
        self.joined = self.processes.joined(model)

    def __enter__(self) -> Self:
        self._listening = signals(*STOPPING)
        self._told = self._listening.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.__exit__(None, None, None)

    def steps(self, total: int, label: str) -> Iterator[int]:
        """Numbers of the steps that are left; between two of them progress is kept.

        After a signal to stop, all processes end after the same step, with status 143.
        """
        progress = Progress(label, total, "steps", resumed=self.done)
        for step in range(self.done, total):
            item = f"step {step}, process {self.processes.rank}"
            torch.manual_seed(hash64(self._seed, "training", item) % 2**63)
            yield step
            self.done = step + 1
            progress.advance()
            self._between()
        progress.finish()

    def step(self, ids: torch.Tensor, learning_rate: float) -> torch.Tensor:
        """One AdamW step on the next-token loss of a batch: ids int64 [B, L + 1] of all processes.

        Each works at its rows. Returns the batch's mean loss before the step, without z-loss, nats
        per token, float32 on the device: nothing waits for it.
        """
        assert self._hyper is not None, "a step needs the settings of AdamW"
        set_learning_rate(self._optimizer, learning_rate)
        hyper, optimizer = self._hyper, self._optimizer
        loss = train_step(self.joined, optimizer, ids, hyper.clip_norm, hyper.z_loss)
        return self.processes.mean(loss)

    def look(self, at: Callable[[Any], T]) -> T | None:
        """What `at` finds in the model, in the first process; None in the others.

        All processes call it, as the first may lack weights that the others have.
        """
        return at(self._model) if self.processes.first else None

    def whole(self) -> tuple[Any, torch.optim.AdamW] | None:
        """The model and its AdamW, to be saved by the first process; None in the others.

        All processes call it.
        """
        return (self._model, self._optimizer) if self.processes.first else None

    def clear(self) -> None:
        """Drop what was kept, when the artefact is complete."""
        assert self._kept is not None, "the first process alone writes"
        self._kept.clear()

    def _between(self) -> None:
        stopped = self.processes.any(bool(self._told))
        if self._kept is not None and (stopped or self._kept.due()):
            self._save(self._kept)
        if stopped:
            note("resume", f"{self.label}: told to stop, progress is kept")
            sys.exit(STOPPED)

    def _save(self, kept: Kept) -> None:
        tensors = {n: t.detach().cpu().contiguous() for n, t in self._live().items()}
        kept.save(
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
