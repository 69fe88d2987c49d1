"""SLURM's own word on the jobs of a campaign: who is in the queue, and why it waits there."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from typing import Any

SECONDS_TO_ANSWER = 5.0
FORMAT = "%j|%T|%r|%k"  # name, state, reason, and the comment, which may hold anything
UNDER_WAY = {"RUNNING", "CONFIGURING", "COMPLETING"}
STARTING = "starting"


@dataclass(frozen=True)
class Queue:
    """`reasons`: comment of a job -> why it is not running yet; `problem`: why nothing is known."""

    reasons: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def ask(cls, plan: dict[str, Any] | None) -> Queue:
        """The jobs of this campaign; empty where it does not run on SLURM, or is through."""
        if plan is None or plan["slurm_name"] is None or plan["state"] == "done":
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
        return cls(parse(answer.stdout, plan["slurm_name"]))


def parse(text: str, name: str) -> dict[str, str]:
    """Comment -> why it does not run yet, of the jobs of that name.

    A job that SLURM runs already has a record of its own soon; until then it is starting.
    """
    reasons = {}
    for line in text.splitlines():
        its_name, state, reason, comment = line.split("|", 3)
        if its_name == name:
            reasons[comment] = STARTING if state in UNDER_WAY else f"{state.lower()}: {reason}"
    return reasons
