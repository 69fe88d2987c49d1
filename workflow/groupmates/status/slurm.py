"""SLURM's own word on the jobs of a campaign: who is in the queue, and why it waits there."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from typing import Any

SECONDS_TO_ANSWER = 5.0
# Job id, state, reason, working directory, comment: the last may hold anything.
FORMAT = "%i|%T|%r|%Z|%k"
UNDER_WAY = {"RUNNING", "CONFIGURING", "COMPLETING"}
STARTING = "starting"


@dataclass(frozen=True)
class Queue:
    """`reasons`: comment of a job -> why it is not running yet; `problem`: why nothing is known."""

    reasons: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def ask(cls, plan: dict[str, Any] | None) -> Queue:
        """The jobs of this campaign's folder; empty where it does not run on SLURM."""
        if plan is None or not plan["executor"].startswith("slurm"):
            return cls()
        command = ["squeue", "--me", "--noheader", "--format", FORMAT]
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=True
            )
        except FileNotFoundError:
            return cls(problem="squeue is not on this machine")
        except subprocess.TimeoutExpired:
            return cls(problem=f"squeue did not answer within {SECONDS_TO_ANSWER:.0f} s")
        except subprocess.CalledProcessError as error:
            return cls(problem=f"squeue failed: {error.stderr.strip()}")
        return cls(parse(answer.stdout, plan["folder"]))


def parse(text: str, folder: str) -> dict[str, str]:
    """Comment -> reason of the jobs that were submitted from `folder`.

    A job that SLURM runs already has a record of its own soon; until then it is starting.
    """
    reasons = {}
    for line in text.splitlines():
        fields = line.split("|", 4)
        if len(fields) < 5 or os.path.realpath(fields[3]) != os.path.realpath(folder):
            continue
        _, state, reason, _, comment = fields
        reasons[comment] = STARTING if state in UNDER_WAY else f"{state.lower()}: {reason}"
    return reasons
