"""What a job has finished survives the job: progress kept beside an artefact that is in the making.

Lies in `.{name}.kept/` beside the artefact, outside of what snakemake declares and deletes. It is
known by the artefact's version, settings and inputs: progress of another configuration, or a damaged
one, is dropped and the work begins anew. It goes once the artefact is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from groupmates.artefacts.store import Provenance, digest
from groupmates.progress import note

# A job that dies loses at most about as much work. `python -m groupmates --save-seconds` sets it.
seconds_between_saves = 60.0
# Of the time between two saves, at most this share is spent on saving: large models save less often.
SAVING_SHARE = 0.1
STOPPED = 128 + signal.SIGTERM  # status of a job that was told to stop and has saved its progress


class Kept:
    """Progress of one artefact: a JSON `state` and files, replaced together or not at all.

    ::

        with Kept(output, "probe", provenance) as kept:
            losses = load(kept.file("losses.npy")) if kept.state else []
            for i in range(kept.state.get("steps", 0), steps):
                losses.append(...)
                if kept.due():
                    kept.save({"steps": i + 1}, {"losses.npy": write}, only=True)
            write_table(output, ...)
            kept.clear()

    `state` is {} where nothing was kept. Inside the block SIGTERM (a cancelled or preempted job, a
    reached time limit) makes `due` true at once; `save` then ends the process with status 143.
    """

    def __init__(self, output: Path, artefact: str, provenance: Provenance) -> None:
        self.folder = folder_of(output)
        self._key = _key(provenance.record(artefact))
        self._label = output.name
        self._terminated = False
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
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

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
        return self._terminated or time.monotonic() - self._last >= wait

    def save(
        self,
        state: dict[str, Any],
        files: dict[str, Callable[[Path], object]],
        only: bool = False,
    ) -> None:
        """Keep `state`, and what each function writes to the path it is given, under its name.

        Names are new ones: a file that is kept is never written again. With `only`, the other files
        go. A kill at any moment leaves either the progress before or this one.
        """
        start = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {} if only else dict(self._digests)
        for name, write in files.items():
            assert name not in self._digests, name
            path = self.folder / name
            write(path)
            _sync(path)
            kept[name] = digest(path)
        index = {"key": self._key, "state": state, "files": kept}
        temporary = self.folder / ".index.json"
        temporary.write_text(json.dumps(index))
        _sync(temporary)
        temporary.rename(self.folder / "index.json")
        for name in self._digests.keys() - kept.keys():
            (self.folder / name).unlink()
        self.state, self._digests = state, kept
        self._last = time.monotonic()
        self._cost = self._last - start
        if self._terminated:
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
    """Of what decides the artefact's content; its version stands for the code."""
    decisive = {name: value for name, value in record.items() if name != "code"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
