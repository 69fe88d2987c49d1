"""Waits that end with what they wait for, or with a process that has come to a standstill.

A loaded machine makes everything slow and stops nothing: what counts is work, not the clock.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

WORKFLOW = Path(__file__).resolve().parent.parent / "workflow"
SECONDS_BETWEEN_LOOKS = 10.0
STALLED_SECONDS = 600.0
MOST_SECONDS = 3600.0  # of what is busy, and gets nowhere


def until(
    happened: Callable[[], Any],
    what: str,
    process: subprocess.Popen | None = None,
    told: Callable[[], str] = str,
    step: float = 0.05,
) -> None:
    """Until `happened()`. A process that ends before it, or does nothing for long, is a failure."""
    began = looked = since = time.monotonic()
    work = -1.0
    while not happened():
        now = time.monotonic()
        if process is not None:
            assert process.poll() is None or happened(), f"ended before {what}\n{told()}"
            if now - looked > SECONDS_BETWEEN_LOOKS:
                looked = now
                if (done := worked(process.pid)) > work:
                    work, since = done, now
        stalled = now - since > STALLED_SECONDS or now - began > MOST_SECONDS
        assert not stalled, f"{what}: waited for {now - began:.0f} s in vain\n{told()}"
        time.sleep(step)


def worked(pid: int) -> float:
    """Seconds of processor time of a process and its descendants, so far."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    seconds = 0.0
    for one in family:
        try:
            seconds += sum(one.cpu_times()[:4])  # with those of its children that have ended
        except psutil.Error:
            continue
    return round(seconds, 1)


def ended(process: subprocess.Popen, told: Callable[[], str] = str) -> int:
    """The exit status of a process, whatever time it takes."""
    until(lambda: process.poll() is not None, "the end", process, told)
    assert process.returncode is not None
    return process.returncode


def run(
    command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command to its end; output and errors together in `stdout`."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=said, stderr=said)

        def told() -> str:
            said.seek(0)
            return said.read()

        return subprocess.CompletedProcess(command, ended(process, told), told())


def environment(**more: str) -> dict[str, str]:
    """For processes that import the package of this checkout."""
    return {**os.environ, "PYTHONPATH": str(WORKFLOW), **more}


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True
    )


def programs(folder: Path) -> list[str]:
    """The places of the PATH without SLURM: where it lies, links to the other programs there."""
    slurm = re.compile("s(batch|run|queue|cancel|info|control|acct|stat|alloc|acctmgr|share)$")
    places = [Path(place) for place in os.environ["PATH"].split(os.pathsep)]
    links = folder / "without-slurm"
    links.mkdir(exist_ok=True)
    for place in (p for p in places if (p / "sbatch").exists()):
        for program in place.iterdir():
            if not slurm.match(program.name):
                (links / program.name).unlink(missing_ok=True)
                (links / program.name).symlink_to(program)
    return [*(str(p) for p in places if not (p / "sbatch").exists()), str(links)]
