"""What a training tells a tracker, such as TensorBoard, by step. Accelerate knows the trackers.

The training does not depend on it: a tracker that fails is told once, and is let alone from then on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from groupmates.errors import UserError
from groupmates.progress import note

PROJECT = "groupmates"
NAMING = ("trackio", "wandb")  # that take the name of a run beside that of its project


def check_installed(tracker: str) -> None:
    """A tracker that Accelerate does not know, or that is not installed, raises `UserError`."""
    found = sorted(kind.value for kind in get_available_trackers())
    if tracker not in found:
        known = tracker in LOGGER_TYPE_TO_CLASS
        raise UserError(
            expected=f"an installed tracker, one of: {', '.join(found) or 'none is installed'}",
            found=f"{tracker}, which is not installed" if known else tracker,
            where="pretrain.tracker",
            todo=f"install it: pip install {tracker}; or set pretrain.tracker to null"
            if known
            else f"name one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}, or null",
        )


class Tracker:
    """One training of the tracker `name`; what it writes to disk lies in `folder`/`run`.

    `add` waits for no device; `flush` does. Tokens per second are those between two flushes.
    """

    def __init__(self, name: str, run: str, folder: Path) -> None:
        self._name, self._broken = name, False
        self._waiting: dict[int, dict[str, float | torch.Tensor]] = {}
        self._tokens, self._since = 0, time.monotonic()
        self._try(partial(self._start, run, folder))

    def _start(self, run: str, folder: Path) -> None:
        kind: Any = LOGGER_TYPE_TO_CLASS[self._name]
        if kind.requires_logging_directory:
            self._tracker = kind(run, folder)
        else:
            self._tracker = kind(PROJECT, **({"name": run} if self._name in NAMING else {}))
        self._tracker.start()

    def _log(self, values: dict[str, float], step: int) -> None:
        self._tracker.log(values, step=step)

    def add(self, step: int, values: dict[str, float | torch.Tensor], tokens: int = 0) -> None:
        """Values by name, after `step` steps; a step has trained on `tokens` more."""
        self._waiting.setdefault(step, {}).update(values)
        self._tokens += tokens

    def flush(self) -> None:
        """Hand on what was added since the last time."""
        told = {s: {n: float(v) for n, v in values.items()} for s, values in self._waiting.items()}
        now = time.monotonic()
        if self._tokens:
            told[max(told)]["tokens_per_second"] = self._tokens / max(now - self._since, 1e-9)
        self._waiting, self._tokens, self._since = {}, 0, now
        for step, values in told.items():
            self._try(partial(self._log, values, step))

    def finish(self) -> None:
        self.flush()
        self._try(lambda: self._tracker.finish())

    def _try(self, call: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            call()
        except Exception as error:  # of any package, over any network
            self._broken = True
            note("tracker", f"{self._name} failed and gets nothing more: {error!r}")
