"""A record of every job beside its log, `logs/NAME.json` beside `logs/NAME.log`, and one job at a time.

The record says what the job is, who runs or ran it, how far it is, what it took and how it ended.
Attempts stand one after the other: what a killed one had done is told apart from the next one's. It
holds times and hosts, so it is no artefact. `make status`, the costs in the report and the rates of a
plan are read from it.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

from groupmates import progress
from groupmates.artefacts import atomic

SECONDS_BETWEEN_BEATS = 5.0
SILENT_SECONDS = 60.0  # a running job that was not heard of for so long is dead, or its node is
MOST_ATTEMPTS = 20  # that a record keeps
# Of an attempt whose record is of a version that did not look at GPUs yet.
NO_GPU = {"gpu_peak_bytes": None, "gpu_utilisation": None}
# These wildcards number the jobs of a stage; the others tell its rounds, models and methods apart.
NUMBERS = ("shard", "part", "partition", "seed", "file")

Attempt = dict[str, Any]


class Record:
    """The attempts at one job; the last one is under way. `beat` runs in a thread of its own.

    `job` is the rule and its wildcards as the command line has them: RULE NAME=VALUE…
    """

    def __init__(self, path: Path, stage: str, job: list[str] | None = None) -> None:
        self.path = path
        self.attempts = read_record(path)
        for earlier in self.attempts:
            if earlier["state"] == "running":  # nobody was left to say how it ended
                earlier |= {"state": "killed", "ended": earlier["heard"]}
        now = time.time()
        rule, *pairs = job or [stage.replace("-", "_")]
        self.attempts.append(
            {
                "stage": stage,
                "rule": rule,
                "wildcards": dict(pair.partition("=")[::2] for pair in pairs),
                "job": path.stem,
                "state": "running",
                "started": now,
                "heard": now,
                "ended": None,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
                "cores": len(os.sched_getaffinity(0)),
                "processes": int(os.environ.get("WORLD_SIZE", 1)),  # this one is the first
                "error": None,
            }
        )
        self._gpu = GpuMeter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.beat()
        self._thread = threading.Thread(target=self._beats, daemon=True)
        self._thread.start()

    def _beats(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_BEATS):
            self._gpu.sample()
            self.beat()

    def beat(self, **ending: Any) -> None:
        """Write how far the job is."""
        torch: Any = sys.modules.get("torch")  # half imported, perhaps
        usage = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        with self._lock:
            self.attempts[-1] |= {
                "heard": time.time(),
                "threads": torch.get_num_threads() if hasattr(torch, "get_num_threads") else None,
                "device": self._gpu.name or processor(),
                "cpu_seconds": sum(u.ru_utime + u.ru_stime for u in usage),
                "peak_rss_bytes": 1024 * max(u.ru_maxrss for u in usage),
                "gpu_peak_bytes": self._gpu.peak_bytes(),
                "gpu_utilisation": self._gpu.utilisation(),
                "phases": [p.record() for p in progress.STARTED],
                **ending,
            }
            try:
                record = {"attempts": self.attempts[-MOST_ATTEMPTS:]}
                atomic.write_text(self.path, json.dumps(record))
            except OSError as error:
                # The work itself goes on: it has its own message where the disk is full for it too.
                progress.note("job", f"WARNING: no record of this job in {self.path} ({error})")

    def end(self, state: str, error: str | None = None) -> None:
        self._over.set()
        self._thread.join()
        self.beat(state=state, error=error, ended=time.time())


class GpuMeter:
    """Memory and utilisation of the GPU that this process uses; nothing where it uses none."""

    def __init__(self) -> None:
        self._samples: list[int] = []
        self._silent = False

    @property
    def name(self) -> str | None:
        torch = _cuda()
        return torch.cuda.get_device_name() if torch else None

    def sample(self) -> None:
        torch = _cuda()
        if torch is None or self._silent:
            return
        try:
            self._samples.append(torch.cuda.utilization())
        except Exception:
            # No NVML library, or one that may not be asked: its errors are plain Exceptions, and
            # none of them may end the beats.
            self._silent = True

    def utilisation(self) -> float | None:
        """Mean share of the time in which a kernel ran, 0 to 1."""
        return sum(self._samples) / len(self._samples) / 100 if self._samples else None

    def peak_bytes(self) -> int | None:
        torch = _cuda()
        return torch.cuda.max_memory_reserved() if torch else None


def _cuda() -> Any:
    """torch where this process has begun to use a GPU: to look must not begin it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return torch if cuda is not None and cuda.is_available() and cuda.is_initialized() else None


def processor() -> str:
    """The processor's model name, such as 'AMD EPYC 9R14'."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def read_record(path: Path) -> list[dict[str, Any]]:
    """The attempts at a job, oldest first; none where there is no record or a damaged one."""
    try:
        attempts: list[dict[str, Any]] = json.loads(path.read_text())["attempts"]
    except (OSError, ValueError, KeyError):
        return []
    return [NO_GPU | attempt for attempt in attempts]


def read_records(folder: Path) -> list[list[dict[str, Any]]]:
    """The attempts at every job below a folder of logs, by name of the job."""
    return list(named_records(folder).values())


def named_records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The attempts at every job below a folder of logs; a job's name is its log's path there."""
    found = {path: read_record(path) for path in sorted(folder.rglob("*.json"))}
    return {
        path.relative_to(folder).with_suffix("").as_posix(): attempts
        for path, attempts in found.items()
        if attempts
    }


def stage_name(rule: str, wildcards: Mapping[str, str]) -> str:
    """What status and time line call the jobs of a rule: probe_random, take_best_1.

    Those of a later stage of pretraining end with its method and number: probe_random_best_1_stage_2.
    """
    others = {name: value for name, value in wildcards.items() if name not in NUMBERS}
    if line := others.pop("line", None):
        _, stage, method = line.strip("/").split("/")
        others |= {"method": method, "stage": f"stage_{stage}"}
    told = [value for value in others.values() if not rule.endswith(f"_{value}")]
    return "_".join([rule, *told])


def stage_of(attempt: Attempt) -> str:
    """That name from a record; those of an earlier version know their stage's command alone."""
    rule = attempt.get("rule", attempt["stage"].replace("-", "_"))
    return stage_name(rule, attempt.get("wildcards", {}))


def resumed(attempt: Attempt) -> bool:
    """Whether an attempt went on from what one before had kept."""
    return any(work["resumed"] for work in attempt.get("phases") or [])


def counted(attempts: list[Attempt]) -> list[Attempt]:
    """The attempts that a finished job's outputs come from; none where the last one is not done.

    One that began anew counts alone. One that went on counts with those before it.
    """
    if not attempts or attempts[-1]["state"] != "done" or attempts[-1]["ended"] is None:
        return []
    if not resumed(attempts[-1]):
        return attempts[-1:]
    others = takewhile(lambda a: a["state"] != "done", reversed(attempts[:-1]))
    return [*reversed(list(others)), attempts[-1]]


def seconds(attempts: list[Attempt]) -> float | None:
    """What a finished job took; None where it is not done."""
    found = counted(attempts)
    return sum(duration(a) for a in found) if found else None


def duration(attempt: Attempt) -> float:
    """Seconds of an attempt; one that nobody ended ends when it was last heard of."""
    found: float = (attempt["ended"] or attempt["heard"]) - attempt["started"]
    return found


def is_silent(attempt: dict[str, Any], now: float) -> bool:
    """Whether an attempt that should be running has not been heard of for too long."""
    return attempt["state"] == "running" and now - attempt["heard"] > SILENT_SECONDS


@contextmanager
def alone(log: Path) -> Iterator[tuple[TextIO, bool]]:
    """The job's log, open for appending, for one process at a time; and whether it had to wait.

    A job's outputs are written by whoever holds its log: a second process, such as a requeued job
    while the first one still runs, waits until the first is gone. The lock ends with its process.
    """
    with open_log(log) as file:
        waited = False
        try:
            # Not filelock: without locks it makes a file, which outlives a process that is killed.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            last = read_record(log.with_suffix(".json"))[-1:]
            who = [f"{a['host']}, process {a['pid']}, slurm job {a['slurm_job_id']}" for a in last]
            progress.note(
                "job", f"another process is at this very job ({''.join(who)}): waiting for its end"
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            progress.note("job", f"WARNING: {log} cannot be locked ({error}): running without")
        stamp = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        file.write(f"--- {stamp} on {socket.gethostname()}, process {os.getpid()}\n")
        yield file, waited


def open_log(log: Path) -> TextIO:
    """A log, open for appending to what earlier attempts wrote.

    Snakemake deletes the log that a rule declares before every attempt, under a process that may be
    at it still. So the lines are those of `.NAME.log`, which it knows nothing of, and the log is a
    symbolic link.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = log.with_name(f".{log.name}")
    with suppress(FileExistsError):  # the link of another process
        log.symlink_to(lines.name)
    return log.open("a", buffering=1)


def was_finished(record: Path) -> bool:
    """Whether this very SLURM job ended well before: on a node that SLURM had lost sight of."""
    job = os.environ.get("SLURM_JOB_ID")
    last = [(a["state"], a["slurm_job_id"]) for a in read_record(record)[-1:]]
    return job is not None and last == [("done", job)]
