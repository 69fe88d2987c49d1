"""One process of a launched job: it joins the others, then runs the stage like any command line."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from groupmates.artefacts.unfinished import STOPPED
from groupmates.slurm.queries import SECONDS_TO_SAVE, described, is_leaving

# The others may wait for long while the first process reads, evaluates or saves.
SILENCE = timedelta(days=1)


@dataclass(frozen=True)
class Worker:
    """What submitit runs in every process of a job: `python -m groupmates COMMAND`."""

    command: list[str]
    visible_gpus: str | None = None  # CUDA_VISIBLE_DEVICES of the driver, where that is here

    def __call__(self) -> int:
        if self.visible_gpus is not None:  # submitit's local executor hides all GPUs
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible_gpus
        import torch
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment
        from torch import distributed as dist

        # submitit's: saves the submission and requeues the job. Training ends between two steps.
        requeue = signal.getsignal(signal.SIGUSR2)
        place = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        gpus = torch.cuda.device_count()
        if gpus:
            torch.cuda.set_device(place.local_rank % gpus)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=SILENCE)
        status = stage(self.command if place.rank == 0 else without_log(self.command))
        if status == STOPPED:
            leave(JobEnvironment(), place.rank, requeue)
        if status and place.rank:
            time.sleep(10)  # the first process may have the better words for it
            raise RuntimeError(f"process {place.rank} ended with status {status}")
        return status

    def checkpoint(self) -> Any:
        """What a requeued job runs: the same, which goes on from what is kept."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def stage(command: list[str]) -> int:
    """Exit status of a command line that runs in this process."""
    sys.argv = ["groupmates", *command]
    try:
        runpy.run_module("groupmates", run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1
    return 0


def without_log(command: list[str]) -> list[str]:
    """The log is the first process's; what others print is in submitit's files."""
    at = command.index("--log")
    return command[:at] + command[at + 2 :]


def leave(environment: Any, rank: int, requeue: Any) -> NoReturn:
    """End after progress was saved: requeued, where a preemption or the time limit was the reason."""
    if environment.cluster == "slurm":
        if rank:
            time.sleep(60)  # the first one requeues the job, which ends this process
        elif is_leaving(described(environment.job_id), 2 * SECONDS_TO_SAVE):
            requeue(signal.SIGUSR2, None)
    sys.exit(STOPPED)
