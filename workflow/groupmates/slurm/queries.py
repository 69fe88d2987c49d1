"""What SLURM says of a job, and what a job that must leave does."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import datetime

from groupmates.errors import UserError
from groupmates.progress import note

SNAKEMAKES_PREFIX = "groupmates-"  # of the jobs that snakemake submits, each a stage of one process


# Between the warning and the end of a job at its time limit: room for a step and a save.
SECONDS_TO_SAVE = 120


def squeue(*arguments: str) -> str:
    """Its answer without a header; "" for a job that SLURM has forgotten."""
    try:
        done = subprocess.run(
            ["squeue", "--noheader", *arguments], capture_output=True, text=True, timeout=120
        )
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem and "Invalid job id" not in problem:
        raise UserError(
            expected="an answer of squeue",
            found=problem,
            where="SLURM, on the machine that snakemake runs on",
            todo="start snakemake where SLURM's commands work, and start it again: it goes on",
        )
    return "" if problem else done.stdout


def queue_again() -> None:
    """Of a job that was told to stop: one that is being preempted goes back to the queue.

    If it ended by itself in its grace time it would have failed, and cost one of snakemake's retries.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    fields = described(job)
    # No other job: snakemake itself may run in one, with all its stages.
    if fields.get("JobName", "").startswith(SNAKEMAKES_PREFIX) and is_leaving(fields):
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, check=False)
        if asked.returncode == 0:
            note("job", "preempted: queued again")
            time.sleep(60)  # SLURM ends it meanwhile


def described(job: str) -> dict[str, str]:
    """What SLURM says of a job, by the names of `scontrol show job`; nothing where it says nothing."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", job],
            capture_output=True,
            text=True,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(word.partition("=")[::2] for word in done.stdout.split())


def is_leaving(fields: dict[str, str], seconds: float = 0.0) -> bool:
    """Whether a running job is being preempted, or has less than `seconds` left of its time limit.

    One that was cancelled does not run any more by SLURM's word. One that is killed for its memory
    does, but queued again it would need as much.
    """
    if fields.get("JobState") != "RUNNING":
        return False
    if fields.get("PreemptTime", "None") not in ("None", "Unknown"):
        return True
    try:
        left = datetime.fromisoformat(fields["EndTime"]) - datetime.now()
    except (KeyError, ValueError):  # no time limit
        return False
    return left.total_seconds() < seconds
