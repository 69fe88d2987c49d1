"""Training in several processes: one job of them all, submitted through submitit and waited for.

Snakemake's SLURM plugin starts one process per job, so a rule that asks for more runs this driver
beside snakemake (a local rule). The driver has no share in the work: it submits, waits, and tells
how it ended. The job's first process writes the job's log and record, like any stage.

The driver may die and be started again: it then waits for the job that is still there, known by its
settings and the state of its inputs; a job of others it cancels first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from groupmates.artefacts.unfinished import forget
from groupmates.progress import note
from groupmates.slurm.clusters import Cluster, Launch, Local, Slurm
from groupmates.slurm.worker import Worker

OUTPUTS = ("output", "curve", "examples")  # of the stages that train
SECONDS_BETWEEN_WORDS = 0.5  # of the job's log, shown here


def run(
    launch: Launch,
    command: list[str],
    arguments: dict[str, Any],
    log: Path,
    threads: int,
    tail: Tail,
) -> int:
    """Launch `python -m groupmates COMMAND`, or find it launched; the status of its first process.

    SIGINT and SIGTERM cancel the job. `arguments` are those of the stage.
    """
    folder = log.with_suffix(".launch").resolve()
    job_name = f"{log.resolve().parent.parent.name}-{log.stem}"
    kind = Slurm if launch.cluster == "slurm" else Local
    cluster = kind(launch, folder, job_name, threads)
    key = fingerprint(command, arguments)
    with listening() as told:
        with alone(folder):
            job = take_up(cluster, key, Worker([*command, "--log", str(log)]))
        wait(cluster, job, tail, told)
        if told:
            note("launch", f"cancels {cluster.kind} job {job}; progress is kept")
            cluster.cancel(job)
            wait(cluster, job, tail, [])
            return 128 + told[0]
    return outcome(cluster, job, arguments)


def take_up(cluster: Cluster, key: str, worker: Worker) -> str:
    """The job of these settings and inputs, found or submitted; those of others are cancelled."""
    found = cluster.find()
    for job, other in found:
        if other != key:
            note("launch", f"cancels {cluster.kind} job {job}: it has other settings or inputs")
            cluster.cancel(job)
    for job, other in found:
        if other == key:
            note("launch", f"waits for {cluster.kind} job {job}, which is there already")
            return job
    job = cluster.submit(key, worker)
    note("launch", f"submitted {cluster.kind} job {job}: {cluster.size}")
    return job


def wait(cluster: Cluster, job: str, tail: Tail, told: list[int]) -> None:
    """Until the job is over, or a signal was told; what the job logs is shown meanwhile."""
    looked = 0.0
    while not told:
        tail.show()
        if time.monotonic() - looked >= cluster.seconds_between_looks:
            looked = time.monotonic()
            if not cluster.alive(job):
                break
        time.sleep(SECONDS_BETWEEN_WORDS)
    tail.show()


def outcome(cluster: Cluster, job: str, arguments: dict[str, Any]) -> int:
    """Exit status of a job that is over."""
    statuses = [cluster.status(job, rank) for rank in range(cluster.launch.processes)]
    outputs = [arguments[name] for name in OUTPUTS if name in arguments]
    if statuses[0] == 0:
        absent = [path for path in outputs if not path.exists()]
        if absent:
            # A snakemake that had not seen the job end deletes what it wrote.
            note("launch", f"{absent[0]} is gone; another start makes it from what is kept")
            return 1
        for path in outputs:
            forget(path)
        return 0
    for rank, status in enumerate(statuses):
        if rank and status:
            lines = cluster.errors(job, rank).splitlines()[-15:]
            note("launch", f"the last words of process {rank} of {len(statuses)}:")
            print("\n".join(lines), file=sys.stderr)
            break
    if statuses[0] is None:
        note(
            "launch",
            f"{cluster.kind} job {job} ended without a result ({cluster.state(job)}): cancelled or "
            f"killed; another start goes on from what is kept. Its files: {cluster.folder}",
        )
        return 1
    return statuses[0]


def fingerprint(command: list[str], arguments: dict[str, Any]) -> str:
    """Of the command line, settings included, and of the inputs by size and time of change."""
    paths: list[Path] = []
    for name, value in sorted(arguments.items()):
        values = value if isinstance(value, list) else [value]
        paths += [v for v in values if isinstance(v, Path) and name not in OUTPUTS]
    files = [f for p in paths for f in (sorted(p.rglob("*")) if p.is_dir() else [p]) if f.is_file()]
    states = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(json.dumps([command, states]).encode()).hexdigest()[:12]


class Tail:
    """Shows in the terminal what is written to the job's log from now on."""

    def __init__(self, log: Path, terminal: TextIO) -> None:
        self._log, self._terminal = log, terminal
        self._shown = log.stat().st_size

    def show(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._shown)
            fresh = file.read()
        self._shown += len(fresh)
        self._terminal.write(fresh.decode(errors="replace"))
        self._terminal.flush()


@contextmanager
def listening() -> Iterator[list[int]]:
    """Signals that ask this process to end, as they come in."""
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)

    handlers = {n: signal.signal(n, tell) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two drivers of one job, such as one that outlived its snakemake, submit it once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
