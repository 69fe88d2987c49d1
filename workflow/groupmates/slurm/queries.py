"""What SLURM says of the job that a stage runs in, and what a job that must leave does."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from datetime import datetime

from groupmates.progress import note

SNAKEMAKES_PREFIX = "groupmates-"  # of the jobs that snakemake submits
# Between the warning and the end of a training at its time limit: room for a step and a save.
SECONDS_TO_SAVE = 120
SECONDS_BETWEEN_QUESTIONS = 300.0  # about the end of a training's job


def warn_in_time() -> None:
    """Let this process have a SIGTERM while its job has time enough left for a save.

    SLURM's own comes at the time limit, half a minute before the end; a large model takes longer.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None:
        threading.Thread(target=_watch, args=(job,), daemon=True).start()


def _watch(job: str) -> None:
    """Ask for the end of a job, which may change, and warn this process before it.

    Where SLURM does not answer, the end that it told last counts.
    """
    end, enough = math.inf, 0.0
    while True:
        # Waiting for an answer takes from the time for the save.
        if fields := described(job, timeout=20):
            left = seconds_left(fields)
            end = math.inf if left is None else time.monotonic() + left
            enough = enough or min(SECONDS_TO_SAVE, (left or 0.0) / 2)
        spare = end - enough - time.monotonic()
        if spare <= 0:
            break
        time.sleep(min(spare, SECONDS_BETWEEN_QUESTIONS))
    os.kill(os.getpid(), signal.SIGTERM)


def queue_again(seconds: float = 0.0) -> None:
    """Send the job of this process back to the queue, where it has to leave its node.

    It is preempted, or has less than `seconds` left. If it ended by itself it would have failed, and
    cost one of snakemake's retries.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    fields = described(job)
    # No other job: snakemake itself may run in one, with all its stages.
    ours = fields.get("JobName", "").startswith(SNAKEMAKES_PREFIX)
    if ours and is_leaving(fields, seconds):
        why = "preempted" if is_leaving(fields) else "at its time limit"
        # Told before it is asked: SLURM may end this process before the answer comes.
        note("job", f"{why}: queued again")
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if asked.returncode == 0:
            time.sleep(60)  # SLURM ends it meanwhile
        else:
            note("job", f"SLURM refused to queue it again: {asked.stderr.strip()}")


def described(job: str, timeout: float = 120) -> dict[str, str]:
    """What SLURM says of a job, by the names of `scontrol show job`; nothing where it says nothing."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", job],
            capture_output=True,
            text=True,
            timeout=timeout,
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
    left = seconds_left(fields)
    return left is not None and left < seconds


def seconds_left(fields: dict[str, str]) -> float | None:
    """Until a job's time limit; None where it has none."""
    try:
        return (datetime.fromisoformat(fields["EndTime"]) - datetime.now()).total_seconds()
    except (KeyError, ValueError):
        return None
