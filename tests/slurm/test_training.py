"""Training in two processes on each of two nodes, on a real SLURM: faults change no byte of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster

import trainings
import waiting
from groupmates.artefacts import unfinished

pytestmark = pytest.mark.xdist_group("slurm training")

PACKAGE = Path(unfinished.__file__).parents[2]
SECONDS = 100  # of an undisturbed training: more than lie between start and warning of a job


class Trained:
    """One training below `folder`; several drivers of it, one after the other."""

    def __init__(
        self, slurm: Cluster | None, inputs: trainings.Inputs, folder: Path, steps: int
    ) -> None:
        self._slurm, self._inputs, self.folder, self._steps = slurm, inputs, folder, steps
        self.log = folder / "logs/base.log"

    def driver(self, cluster: str, nodes: int, per_node: int, **resources: object) -> Driver:
        asked = {"runtime": 30, "mem_mb": 500, "cpus_per_task": 1} | resources
        launch = {
            "cluster": cluster,
            "nodes": nodes,
            "processes_per_node": per_node,
            "resources": asked,
        }
        command = trainings.command("base", self._inputs, self.folder, training_steps=self._steps)
        command += ["--save-seconds", "1", "--log", str(self.log), "--launch", json.dumps(launch)]
        paths = {"PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1"}
        environment = self._slurm.environment(**paths) if self._slurm else {**os.environ, **paths}
        return Driver(command, environment, self)

    def told(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def attempts(self) -> list[dict]:
        return json.loads(self.log.with_suffix(".json").read_text())["attempts"]

    def redone(self) -> list[int]:
        """Steps of every attempt but the last that the next one took again."""
        starts = [
            int(n.replace(",", "")) for n in re.findall(r"goes on after ([\d,]+)", self.told())
        ]
        ends = [a["phases"][0]["done"] for a in self.attempts() if a["phases"]]
        return [end - start for end, start in zip(ends, starts, strict=False)]


class Driver:
    def __init__(self, command: list[str], environment: dict[str, str], trained: Trained) -> None:
        self._trained = trained
        self.process = subprocess.Popen(
            [sys.executable, "-m", "groupmates", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def until(self, happened: Callable[[], bool]) -> None:
        waiting.until(happened, "what is told", self.process, self._trained.told)

    def ended(self, status: int) -> None:
        assert waiting.ended(self.process, self._trained.told) == status, self._trained.told()


@pytest.fixture(scope="module")
def inputs(small_run, tmp_path_factory) -> trainings.Inputs:
    return trainings.make_inputs(small_run, tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def steps(inputs, tmp_path_factory) -> int:
    """As many as take SECONDS on this machine."""
    alone = Trained(None, inputs, tmp_path_factory.mktemp("speed"), 300)
    alone.driver("local", 1, 4).ended(0)
    return int(300 * SECONDS / alone.attempts()[0]["phases"][0]["seconds"])


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory, steps) -> dict[str, bytes]:
    """What four processes of one machine make in one go."""
    alone = Trained(None, inputs, tmp_path_factory.mktemp("undisturbed"), steps)
    alone.driver("local", 1, 4).ended(0)
    return trainings.artefacts(alone.folder / "base")


@pytest.fixture
def trained(slurm, inputs, tmp_path, steps) -> Trained:
    slurm.name_nodes()
    return Trained(slurm, inputs, tmp_path, steps)


def launches(slurm: Cluster, states: str = "pd,r,cg") -> list[str]:
    found = [job for job in slurm.squeue(states) if job.name.startswith("gm-launch-")]
    return [job.id for job in found]


def test_a_reached_time_limit_and_a_preemption_requeue_the_job(slurm, trained, undisturbed):
    driver = trained.driver("slurm", 2, 2, slurm_partition="scavenge", runtime=2)
    driver.until(lambda: "steps ·" in trained.told())
    (job,) = launches(slurm)
    slurm.submit("sleep 2", "-p", "cpu", "-N2", "--exclusive")  # of a higher priority
    driver.until(lambda: "goes on after" in trained.told())
    # From here on time limits alone: a minute before two are over the job is warned.
    driver.ended(0)
    text = trained.told()
    assert job in launches(slurm, "all")
    assert re.search(rf"slurm job {job}: RUNNING\n.*slurm job {job}: PENDING \(", text, re.DOTALL)
    assert text.count("told to stop, progress is kept") >= 2
    assert text.count("submitted slurm job") == 1
    assert max(trained.redone()) == 0  # they were told in time
    assert trainings.artefacts(trained.folder / "base") == undisturbed
    assert not (trained.folder / ".base.kept").exists()


def test_a_killed_driver_a_cancelled_job_and_a_dead_node(slurm, trained, undisturbed):
    first = trained.driver("slurm", 2, 2)
    first.until(lambda: "steps ·" in trained.told())
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    second = trained.driver("slurm", 2, 2)
    second.until(lambda: "which is there already" in trained.told())
    (job,) = launches(slurm)
    slurm.command("scancel", job)
    second.ended(1)
    assert "ended without a result (CANCELLED)" in trained.told()
    third = trained.driver("slurm", 2, 2)
    third.until(lambda: "goes on after" in trained.told())
    node = slurm.nodes[1]
    slurm.kill_node(node)
    # SLURM requeues the job, unless the processes of the other node have seen it first.
    slurm.wait_for(
        lambda: third.process.poll() is not None or not launches(slurm, "r"), "the job's end"
    )
    slurm.start_slurmd(node)
    slurm.wait_for(slurm.ready, "all nodes idle")
    while waiting.ended(third.process):  # as snakemake would
        third = trained.driver("slurm", 2, 2)
    assert trainings.artefacts(trained.folder / "base") == undisturbed


def test_sigterm_of_the_driver_cancels_its_job(slurm, trained):
    driver = trained.driver("slurm", 2, 2)
    driver.until(lambda: "steps ·" in trained.told())
    driver.process.send_signal(signal.SIGTERM)
    driver.ended(128 + signal.SIGTERM)
    assert launches(slurm, "pd,r") == []
    assert (trained.folder / ".base.kept").exists()


def test_a_partition_that_slurm_does_not_have_is_named(trained):
    driver = trained.driver("slurm", 2, 2, slurm_partition="nowhere")
    driver.ended(2)
    assert "nowhere" in trained.told()
    assert "correct the resources of this rule" in trained.told()
