"""What a job survives on a real SLURM: the same bytes, and little of the work done twice.

The job is a round of probing, saved every second; the table in workflow/docs/faults.md has
what each fault cost here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from cluster import Cluster

import checkout
import in_process
import waiting
from groupmates.artefacts.unfinished import folder_of
from groupmates.records.jobs import read_record

pytestmark = pytest.mark.xdist_group("slurm faults")

JOB_SECONDS, SAVE_SECONDS = 10, 1
TARGET = "results/tiny/probe/random/shard-00000.parquet"
RECORD = "results/tiny/logs/probe_random_00000.json"
LOG = "results/tiny/logs/probe_random_00000.log"


@pytest.fixture(scope="module")
def probed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with all that probing needs, and beside it what an undisturbed probing makes.

    As many rollouts as take about JOB_SECONDS alone on this machine, and no fewer where others slow
    it down meanwhile.
    """
    folder = tmp_path_factory.mktemp("faults")
    undisturbed = shutil.copytree(finished, folder / "undisturbed", symlinks=True)
    (attempt,) = read_record(undisturbed / RECORD)
    (phase,) = attempt["phases"]
    rollouts = max(400, int(JOB_SECONDS * phase["done"] / phase["seconds"] / 3))
    settings = checkout.merged(
        checkout.TINY, {"probe": {"shards": 1, "random": {"rollouts": rollouts}}}
    )
    (undisturbed / "settings.yaml").write_text(yaml.safe_dump(settings))
    done = in_process.snakemake(undisturbed, "--", TARGET)
    assert done.returncode == 0, done.stdout[-3000:]
    shutil.copytree(undisturbed, folder / "checkout", symlinks=True)
    for made in (TARGET, RECORD):
        (folder / "checkout" / made).unlink()
    return folder / "checkout"


class Campaign:
    """A main process that makes one artefact on the cluster, in a checkout of its own."""

    rule, job, target = "probe", "probe_random_00000", TARGET
    resources: ClassVar[dict[str, object]] = {"gpu": 0, "mem_mb": 2000}

    def __init__(self, slurm: Cluster, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, precommand: str = "", profile: str = "slurm", **resources: object) -> None:
        path = self.folder / "profiles/slurm/profile.yaml"
        settings = yaml.safe_load(path.read_text())
        settings["set-resources"][self.rule] = {"runtime": 30} | self.resources | resources
        if precommand:
            settings["precommand"] = precommand
        path.write_text(yaml.safe_dump(settings))
        environment = self.slurm.environment(GROUPMATES_SAVE_SECONDS=str(SAVE_SECONDS))
        with (self.folder / "main.log").open("a") as log:
            self.process = subprocess.Popen(
                checkout.command("--", self.target, profile=profile),
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def index(self) -> Path:
        """Of what is kept of the artefact; written by every save."""
        return folder_of(self.folder / self.target) / "index.json"

    def unsaved_seconds(self) -> float:
        """Of work, which a kill without warning would lose now."""
        return time.time() - self.index.stat().st_mtime

    def job_log(self, job: str) -> Path:
        """What snakemake keeps of the job's words, and SLURM's about it, while it has failed."""
        return self.folder / ".snakemake/slurm_logs/rule_probe/random_00000" / f"{job}.log"

    def told(self) -> str:
        return (self.folder / "main.log").read_text()[-4000:]

    def attempts(self) -> list[dict]:
        return read_record(self.folder / f"results/tiny/logs/{self.job}.json")

    def under_way(self, attempt: int = 1) -> str:
        """Wait until an attempt has saved something; its job's id."""

        def saved() -> bool:
            assert self.process is None or self.process.poll() is None, self.told()
            made = self.attempts()
            if len(made) < attempt or made[-1]["state"] != "running" or not self.index.exists():
                return False
            if self.index.stat().st_mtime < made[-1]["started"]:
                return False
            state = json.loads(self.index.read_text())["state"]
            return max(state.get(name, 0) for name in ("values", "done")) > 0

        self.slurm.wait_for(saved, "an attempt to be under way")
        return self.attempts()[-1]["slurm_job_id"]

    def hold(self) -> int:
        """Stop the stage's process, so that it cannot end before what a test does next; its number.

        SLURM wakes up what it cancels.
        """
        pid = self.attempts()[-1]["pid"]
        os.kill(pid, signal.SIGSTOP)
        return pid

    def ended(self, job: str) -> str:
        """The state the job ends in: SLURM goes on to tidy up (COMPLETING) after it has ended."""

        def state() -> str:
            return {j.id: j.state for j in self.slurm.squeue()}[job]

        self.slurm.wait_for(lambda: state() not in ("COMPLETING", "RUNNING"), f"{job} to end")
        return state()

    def status(self) -> int:
        """Exit status of the main process, once it has ended."""
        assert self.process is not None
        return waiting.ended(
            self.process, lambda: f"{self.slurm.diagnosis()}\n{self.attempts()}\n{self.told()}"
        )

    def ends(self) -> None:
        assert self.status() == 0, self.told()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def redone_seconds(self) -> float:
        """Work that the records say was done more than once, at the rate of the last attempt.

        A beat tells of work up to 5 s late: of one that had no time to end, count unsaved_seconds.
        """
        phases = [a["phases"][0] for a in self.attempts() if a["phases"]]
        steps = sum(p["done"] - p["resumed"] for p in phases) - phases[-1]["total"]
        return steps * phases[-1]["seconds"] / max(1, phases[-1]["done"] - phases[-1]["resumed"])


@pytest.fixture
def campaign(slurm: Cluster, probed: Path, tmp_path: Path):
    made = Campaign(slurm, shutil.copytree(probed, tmp_path / "checkout", symlinks=True))
    yield made
    made.kill()


def survived(
    campaign: Campaign, probed: Path, record_property: Callable, attempts: int, unsaved: float = 0.0
) -> None:
    """The same bytes as without the fault, in so many attempts, with little done twice."""
    undisturbed = probed.parent / "undisturbed" / TARGET
    assert (campaign.folder / TARGET).read_bytes() == undisturbed.read_bytes()
    made = campaign.attempts()
    assert len(made) == attempts, [a["state"] for a in made]
    assert made[-1]["state"] == "done"
    redone = max(unsaved, campaign.redone_seconds())
    record_property("redone_seconds", round(redone, 1))
    print(f"redone: {redone:.1f} s of work in {attempts} attempts")
    # A save is due between two rollouts, on a machine that others use too.
    assert redone <= (attempts - 1) * (SAVE_SECONDS + 3)
    assert list(campaign.folder.glob("results/tiny/probe/random/.*")) == []


def test_a_cancelled_job_is_submitted_again(campaign, probed, record_property):
    campaign.start()
    job = campaign.under_way()
    campaign.slurm.command("scancel", job)
    campaign.ends()
    survived(campaign, probed, record_property, 2)
    assert {a["slurm_job_id"] for a in campaign.attempts()} > {job}


def test_a_requeued_job_goes_on_under_its_id(campaign, probed, record_property):
    campaign.start()
    job = campaign.under_way()
    campaign.slurm.command("scontrol", "requeue", job)
    campaign.ends()
    survived(campaign, probed, record_property, 2)
    assert [a["slurm_job_id"] for a in campaign.attempts()] == [job, job]


def test_a_preempted_job_goes_on_after_the_others(campaign, probed, record_property):
    campaign.start(slurm_partition="scavenge")
    job = campaign.under_way()
    campaign.hold()
    campaign.slurm.submit("sleep 2", "-p", "cpu", "-N2", "--exclusive")
    campaign.ends()
    survived(campaign, probed, record_property, 2)
    assert [a["slurm_job_id"] for a in campaign.attempts()] == [job, job]


def test_a_node_that_is_set_down_loses_its_job_to_another(campaign, probed, record_property):
    campaign.start()
    campaign.under_way()
    (job,) = campaign.slurm.squeue("r")
    campaign.slurm.set_node(job.node, "down")
    campaign.ends()
    survived(campaign, probed, record_property, 2)


def test_a_node_that_loses_its_power(campaign, probed, record_property):
    campaign.start()
    campaign.under_way()
    (job,) = campaign.slurm.squeue("r")
    unsaved = campaign.unsaved_seconds()
    campaign.slurm.kill_node(job.node)
    campaign.ends()
    survived(campaign, probed, record_property, 2, unsaved)


def test_a_killed_slurmd_that_comes_back_takes_its_job_up_again(campaign, probed, record_property):
    campaign.start()
    campaign.under_way()
    pid = campaign.hold()
    (job,) = campaign.slurm.squeue("r")
    campaign.slurm.kill_slurmd(job.node)
    campaign.slurm.start_slurmd(job.node)
    os.kill(pid, signal.SIGCONT)
    campaign.ends()
    survived(campaign, probed, record_property, 1)


def test_a_restarted_slurmctld_finds_its_jobs_again(campaign, probed, record_property):
    # Looks that fail, five within one, make the plugin forget its jobs where there is no accounting.
    campaign.start(profile="patient slurm")
    campaign.under_way()
    pid = campaign.hold()
    campaign.slurm.restart_slurmctld()
    os.kill(pid, signal.SIGCONT)
    campaign.ends()
    survived(campaign, probed, record_property, 1)


def test_a_node_that_slurm_lost_sight_of_ends_its_job_while_the_next_one_waits(campaign, probed):
    campaign.start()
    campaign.under_way()
    (job,) = campaign.slurm.squeue("r")
    pid = campaign.hold()  # for longer than SLURM takes to give the node up
    campaign.slurm.kill_slurmd(job.node)
    said = campaign.job_log(job.id)
    campaign.slurm.wait_for(
        lambda: "another process is at this very job" in said.read_text(), "a second attempt"
    )
    os.kill(pid, signal.SIGCONT)
    campaign.ends()
    # SLURM may take the end of the first one's step for that of the second one, and call the job
    # failed. Snakemake then makes the artefact once more, after both have left it whole.
    undisturbed = probed.parent / "undisturbed" / TARGET
    assert (campaign.folder / TARGET).read_bytes() == undisturbed.read_bytes()
    assert "the other process has finished it" in (campaign.folder / LOG).read_text()
    assert {a["state"] for a in campaign.attempts()} == {"done"}


def test_a_sigkill_costs_what_was_not_saved_yet(campaign, probed, record_property):
    """The kernel's own end of a process that takes more memory than there is looks like this."""
    campaign.start()
    campaign.under_way()
    time.sleep(SAVE_SECONDS / 2)
    unsaved = campaign.unsaved_seconds()
    os.kill(campaign.attempts()[-1]["pid"], signal.SIGKILL)
    campaign.ends()
    survived(campaign, probed, record_property, 2, unsaved)


def test_a_job_that_needs_more_memory_than_it_asked_for(campaign, probed, record_property):
    """SLURM kills it and what runs beside it; the next attempt asks for twice as much."""
    grows = f"{sys.executable} -c \"import time; b = b'1' * (1 << 30); time.sleep(300)\""
    campaign.start(
        precommand="mkdir once 2>/dev/null && "
        f"(while ! [ -e grow ]; do sleep 0.1; done; {grows}) >/dev/null 2>&1 & true",
        mem_mb="1000 * attempt",
    )
    job = campaign.under_way()
    (campaign.folder / "grow").touch()
    campaign.ends()
    survived(campaign, probed, record_property, 2)
    assert "exceeded memory limit" in campaign.job_log(job).read_text()


def test_a_killed_main_process_that_is_started_again(campaign, probed, record_property):
    campaign.start()
    job = campaign.under_way()
    campaign.hold()
    campaign.kill()
    unlocked = checkout.snakemake(
        campaign.folder, "--unlock", profile="slurm", env=campaign.slurm.environment()
    )
    assert unlocked.returncode == 0, unlocked.stdout
    campaign.start()
    campaign.ends()
    survived(campaign, probed, record_property, 2)
    assert campaign.ended(job) == "CANCELLED"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_main_process_cancels_its_jobs_or_waits_for_them(
    number, campaign, probed, record_property
):
    campaign.start()
    job = campaign.under_way()
    assert campaign.process is not None
    campaign.process.send_signal(number)
    campaign.status()
    state = campaign.ended(job)
    assert state in ("CANCELLED", "COMPLETED"), state
    attempts = 1 if state == "COMPLETED" else 2
    campaign.start()
    campaign.ends()
    survived(campaign, probed, record_property, attempts)


def test_a_reached_time_limit_costs_a_try_and_asks_for_more_time(campaign, probed, record_property):
    campaign.start(runtime="1 * attempt")
    campaign.under_way()
    campaign.hold()  # for a minute; limits are looked at twice a minute
    campaign.slurm.wait_for(
        lambda: any(j.state == "TIMEOUT" for j in campaign.slurm.squeue()), "a time limit"
    )
    campaign.ends()
    survived(campaign, probed, record_property, 2)
