"""Training in two processes on each of two nodes, on a real SLURM: faults change no byte of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import ClassVar

import pytest
from cluster import Cluster
from test_job_faults import Campaign

import checkout
import trainings

pytestmark = pytest.mark.xdist_group("slurm training")

STEPS = 600  # more than three attempts take that are ended as soon as they have saved


class Training(Campaign):
    rule, job, target = "base", "base", "results/tiny/base"
    resources: ClassVar = {"mpi": "srun", "nodes": 2, "tasks_per_node": 2, "gpu": 0, "mem_mb": 4000}

    def log(self) -> str:
        return (self.folder / f"results/tiny/logs/{self.job}.log").read_text()

    def seconds_left(self) -> int:
        """Until the limit of the job that runs."""
        minutes, seconds = self.slurm.command("squeue", "-h", "-t", "r", "-o", "%L").split(":")
        return 60 * int(minutes) + int(seconds)

    def redone(self) -> list[int]:
        """Steps of every attempt but the last that the next one took again."""
        starts = [
            int(n.replace(",", "")) for n in re.findall(r"goes on after ([\d,]+)", self.log())
        ]
        ends = [a["phases"][0]["done"] for a in self.attempts() if a["phases"]]
        return [end - start for end, start in zip(ends, starts, strict=False)]


@pytest.fixture(scope="module")
def trained(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with what four processes of one machine make in one go."""
    change = {"base": {"training_steps": STEPS}}
    folder = checkout.copy(finished, tmp_path_factory.mktemp("trained"), change)
    run = checkout.snakemake(
        folder, "--set-resources", "base:tasks_per_node=4", "--", Training.target
    )
    assert run.returncode == 0, run.stdout[-3000:]
    return folder


@pytest.fixture
def training(slurm: Cluster, trained: Path, tmp_path: Path):
    folder = shutil.copytree(trained, tmp_path / "checkout", symlinks=True)
    shutil.rmtree(folder / Training.target)
    for file in (folder / "results/tiny/logs").glob("*base.*"):
        file.unlink()
    made = Training(slurm, folder)
    yield made
    made.kill()


def survived(training: Training, trained: Path) -> None:
    found, whole = (trainings.artefacts(f / Training.target) for f in (training.folder, trained))
    assert found == whole
    assert training.attempts()[-1]["state"] == "done"
    assert not training.index.exists()


def test_a_preemption_and_time_limits_cost_no_step_and_no_retry(slurm, training, trained):
    training.start(slurm_partition="patient", runtime=3)
    job = training.under_way()
    slurm.submit("sleep 2", "-p", "cpu", "-N2", "--exclusive")  # of a higher priority
    training.under_way(2)
    pid = training.hold()  # until about half of its time is over, when it is to be warned
    slurm.wait_for(lambda: training.seconds_left() < 75, "the time of the warning")
    os.kill(pid, signal.SIGCONT)
    training.ends()
    survived(training, trained)
    assert {a["slurm_job_id"] for a in training.attempts()} == {job}
    assert "job] preempted: queued again" in training.log()
    assert "at its time limit: queued again" in training.log()
    assert max(training.redone()) == 0


def test_a_killed_main_process_a_cancelled_job_and_a_dead_node(slurm, training, trained):
    training.start()
    first = training.under_way()
    training.hold()
    training.kill()
    checkout.snakemake(training.folder, "--unlock", profile="slurm", env=slurm.environment())
    training.start()
    second = training.under_way(2)
    assert training.ended(first) == "CANCELLED"
    slurm.command("scancel", second)
    assert training.under_way(3) != second
    assert max(training.redone()) == 0
    slurm.kill_node(slurm.nodes[1])
    slurm.wait_for(lambda: len(training.attempts()) > 3 or not slurm.squeue("r"), "an end")
    slurm.start_slurmd(slurm.nodes[1])
    training.ends()
    survived(training, trained)


def test_numbers_of_processes_that_slurm_does_not_take_are_told(training):
    training.start(tasks_per_node=1)
    assert training.status() == 1
    assert "'tasks_per_node' must be greater than 1" in training.told()
    assert "set-resources of base" in training.told()
