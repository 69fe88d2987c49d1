"""What a job has finished survives the job: progress kept beside an artefact that is in the making.

Lies in `.{name}.kept/` beside the artefact, outside of what snakemake declares and deletes. It is
known by the artefact's version, settings and inputs: progress of another configuration, or a damaged
one, is dropped and the work begins anew. It goes once the artefact is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np

from groupmates.artefacts import atomic
from groupmates.artefacts.store import Provenance, beside, digest
from groupmates.progress import note

# A job that dies loses at most about as much work. `python -m groupmates --save-seconds` sets it.
seconds_between_saves = 60.0
# Saving takes at most this share of the time between two saves: large models save less often.
SAVING_SHARE = 0.1
STOPPED = 128 + signal.SIGTERM  # status of a job that was told to stop and has saved its progress


@contextmanager
def signals(*numbers: int) -> Iterator[list[int]]:
    """The signals of these numbers as they come in; inside the block they end no process.

    Python lets the main thread alone listen: any other hears nothing.
    """
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)

    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.signal(number, tell) for number in numbers if main}
    try:
        yield told
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Kept:
    """Progress of one artefact: a JSON `state` and files, replaced together or not at all.

    ::

        with Kept(output, "probe", provenance) as kept:
            losses = kept.values
            for i in range(len(losses), steps):
                losses.append(...)
                kept.measured(losses)
            write_table(output, ...)
            kept.clear()

    `state` is {} where nothing was kept. Inside the block SIGTERM (a cancelled or preempted job, a
    reached time limit) makes `due` true at once; `save` then ends the process with status 143.
    """

    def __init__(self, output: Path, artefact: str, provenance: Provenance) -> None:
        self.folder = folder_of(output)
        self._key = _key(provenance.record(artefact))
        self._label = output.name
        self._told: list[int] = []
        self._last, self._cost = time.monotonic(), 0.0
        self.state: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        self._load()

    def _load(self) -> None:
        if not self.folder.exists():
            return
        try:
            index = json.loads((self.folder / "index.json").read_text())
            foreign = index["key"] != self._key
            damaged = [n for n, d in index["files"].items() if digest(self.folder / n) != d]
        except (OSError, ValueError, KeyError):
            foreign, damaged = False, ["index.json"]
        if foreign or damaged:
            why = "is of other settings or inputs" if foreign else f"is damaged ({damaged[0]})"
            note("resume", f"{self._label}: what was kept {why}; begins anew")
            self.clear()
            return
        self.state, self._digests = index["state"], index["files"]
        for stray in self.folder.iterdir():  # of a save that was killed
            if stray.name not in {"index.json", *self._digests}:
                stray.unlink()

    def __enter__(self) -> Self:
        self._listening = signals(signal.SIGTERM)
        self._told = self._listening.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.__exit__(None, None, None)

    @property
    def files(self) -> list[str]:
        """Names of the files that were saved, sorted."""
        return sorted(self._digests)

    def file(self, name: str) -> Path:
        """Path of a file that was saved."""
        assert name in self._digests, name
        return self.folder / name

    def due(self) -> bool:
        """Whether it is time to save."""
        wait = max(seconds_between_saves, self._cost / SAVING_SHARE)
        return bool(self._told) or time.monotonic() - self._last >= wait

    @property
    def values(self) -> list[Any]:
        """The numbers that `measured` kept, in their order; [] where there are none."""
        return np.load(self.file(self.files[0])).tolist() if self.files else []

    def measured(self, values: list[Any]) -> None:
        """Keep all numbers that were measured so far, where it is time to save."""
        if self.due():
            write = partial(np.save, arr=np.array(values))
            self.save({"values": len(values)}, {f"values-{len(values)}.npy": write}, only=True)

    def save(
        self,
        state: dict[str, Any],
        files: dict[str, Callable[[Path], object]],
        only: bool = False,
    ) -> None:
        """Keep `state`, and what each function writes to the path it is given, under its name.

        Names are new ones: a file that is kept is never written again. A table's embeddings, which lie
        beside it, are kept with it. With `only`, the other files go. A kill at any moment leaves
        either the progress before or this one.
        """
        start = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {} if only else dict(self._digests)
        for name, write in files.items():
            assert name not in self._digests, name
            path = self.folder / name
            write(path)
            for made in sorted({path, beside(path)}):
                if made == path or made.exists():
                    atomic.sync(made)
                    kept[made.name] = digest(made)
        index = {"key": self._key, "state": state, "files": kept}
        atomic.write_text(self.folder / "index.json", json.dumps(index), durable=True)
        for name in self._digests.keys() - kept.keys():
            (self.folder / name).unlink()
        self.state, self._digests = state, kept
        self._last = time.monotonic()
        self._cost = self._last - start
        if self._told:
            note("resume", f"{self._label}: stopped by SIGTERM, progress is kept")
            sys.exit(STOPPED)

    def clear(self) -> None:
        """Drop everything, when the artefact is complete."""
        self.state, self._digests = {}, {}
        _remove(self.folder)


def folder_of(output: Path) -> Path:
    """Where progress of an artefact is kept."""
    return output.with_name(f".{output.name}.kept")


def _remove(folder: Path) -> None:
    # First out of sight, so that a kill halfway leaves nothing that looks like progress.
    doomed = folder.with_name(folder.name + ".old")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _key(record: dict[str, Any]) -> str:
    """A hash of what decides the artefact's content; its version stands for the code."""
    decisive = {name: value for name, value in record.items() if name != "code"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
