"""A run that is killed, in every way and at any moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import checkout
import waiting
from groupmates.records import jobs

pytestmark = pytest.mark.long

ENDINGS = {
    "SIGINT": lambda run: os.kill(run.pid, signal.SIGINT),
    "SIGTERM": lambda run: os.kill(run.pid, signal.SIGTERM),
    # Its jobs live on without it.
    "SIGKILL of the main process": lambda run: os.kill(run.pid, signal.SIGKILL),
    "SIGKILL of everything": lambda run: os.killpg(run.pid, signal.SIGKILL),
}


def begun(folder: Path) -> int:
    """Attempts of jobs so far."""
    logs = folder / "results/tiny/logs"
    return sum(len(attempts) for attempts in jobs.named_records(logs).values())


@pytest.mark.parametrize("seed", range(int(os.environ.get("GROUPMATES_KILL_SEEDS", 1))))
def test_a_run_killed_at_random_moments_ends_with_the_same_selection(
    seed: int, finished: Path, tmp_path: Path
) -> None:
    """Four times each, in every way; what lives on meets the run that is started again."""
    chance = random.Random(seed)
    folder = checkout.make(tmp_path)
    # The built-in corpus is an input here: installed packages may change between two runs.
    shutil.copytree(finished / "results/tiny/corpus", folder / "results/tiny/corpus")
    told = []
    for ending in chance.sample(sorted(ENDINGS), len(ENDINGS)):
        more = chance.randint(0, 12)
        told.append(f"{ending} after {more} jobs more and a moment")
        with (folder / "killed.log").open("a") as log:
            run = subprocess.Popen(
                checkout.command(), cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        before = begun(folder)

        def reached(run: subprocess.Popen = run, count: int = before + more) -> bool:
            return run.poll() is not None or begun(folder) >= count

        waiting.until(reached, str(told), run)
        time.sleep(chance.uniform(0, 4))
        if run.poll() is None:
            ENDINGS[ending](run)
        waiting.ended(run)
        checkout.snakemake(folder, "--unlock")
    again = checkout.snakemake(folder)
    assert again.returncode == 0, f"{told} {again.stdout[-4000:]}"
    assert checkout.selections(folder) == checkout.selections(finished), told
    left = [*folder.glob("results/**/.*.partial"), *folder.glob("results/**/.*.kept")]
    assert not left, told
