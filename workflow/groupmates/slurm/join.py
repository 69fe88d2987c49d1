"""Training in several processes: how a rule starts them, how they join, and how they end together.

SLURM's `srun` starts them in a job of snakemake's. On a machine without SLURM submitit does. Each
process runs the command of the stage with `--join`; the first one writes the log and the record.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from groupmates.errors import UserError
from groupmates.progress import note

PROFILE = "set-resources of the profile, such as profiles/slurm/profile.yaml"
SECONDS_TO_END = 30  # after the first of several processes has ended
SECONDS_BETWEEN_WORDS = 0.5  # of the job's log, shown here
YEAR_MINUTES = 365 * 24 * 60


def launch(threads: int, resources: Mapping[str, Any]) -> tuple[str, str]:
    """What stands before the command of a training, and its option, by the resources of its job."""
    found = {name: resources.get(name) for name in ("nodes", "tasks", "tasks_per_node")}
    counts = {name: count for name, count in found.items() if count is not None}
    mpi = resources.get("mpi")
    if not all(isinstance(count, int) and count > 0 for count in counts.values()):
        raise _refused("whole numbers from 1", counts, "correct them")
    if mpi not in (None, "srun"):
        raise _refused("mpi: srun", {"mpi": mpi}, "name srun, which starts the processes")
    nodes = counts.get("nodes", 1)
    processes = counts.get("tasks") or nodes * counts.get("tasks_per_node", 1)
    if mpi is None:
        if nodes > 1:
            raise _refused(
                "mpi: srun where a training has several nodes",
                counts,
                "add mpi: srun on SLURM; on one machine give tasks_per_node alone",
            )
        return "", f"--processes {processes}" if processes > 1 else ""
    # Of its job, srun knows the number alone. A process that fails must not leave the others waiting.
    words = ["srun", f"--nodes={nodes}", f"--ntasks={processes}", "--kill-on-bad-exit=1"]
    if "tasks_per_node" in counts:
        words.append(f"--ntasks-per-node={counts['tasks_per_node']}")
    cores = resources.get("cpus_per_task") or threads
    if cores > 0:  # -1 asks the plugin for no such option
        words.append(f"--cpus-per-task={cores}")
    return " ".join(words), "--join"


def _refused(expected: str, found: Mapping[str, Any], todo: str) -> UserError:
    words = ", ".join(f"{name}: {value}" for name, value in found.items())
    return UserError(expected=expected, found=words, where=PROFILE, todo=todo)


# Of each process.


def place() -> int:
    """Number of this process in its training. Torch's variables are made from SLURM's."""
    env = os.environ
    if "RANK" not in env:
        try:
            env |= {
                "RANK": env["SLURM_PROCID"],
                "WORLD_SIZE": env["SLURM_NTASKS"],
                "LOCAL_RANK": env["SLURM_LOCALID"],
                "LOCAL_WORLD_SIZE": env.get("SLURM_NTASKS_PER_NODE", "1"),
                "MASTER_ADDR": env["SLURM_LAUNCH_NODE_IPADDR"],  # srun is on the first one's node
                "MASTER_PORT": str(20_000 + int(env["SLURM_JOB_ID"]) % 10_000),
            }
        except KeyError as missing:
            raise UserError(
                expected="a process that srun or torchrun has started",
                found=f"no {missing.args[0]} in its environment",
                where="--join",
                todo="run it without --join, or behind srun in a job of SLURM",
            ) from None
    return int(env["RANK"])


def join() -> None:
    """Meet the others; their number and the GPU of this one are those of torch's variables."""
    import torch

    from groupmates.models.distributed import meet

    gpus = torch.cuda.device_count()
    count = int(os.environ["LOCAL_WORLD_SIZE"])
    own = gpus == 1 and "SLURM_PROCID" in os.environ  # SLURM may show each process only its own
    if 0 < gpus < count and not own:
        raise UserError(
            expected=f"a GPU for each of {count} processes",
            found=f"{gpus} GPUs",
            where=f"tasks_per_node, gres, in {PROFILE}",
            todo=f"set tasks_per_node to {gpus}, or ask for more GPUs",
        )
    if own:
        os.environ["LOCAL_RANK"] = "0"  # of the GPUs that it sees
    # Where it is not set, Accelerate takes all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    meet()


def part() -> None:
    """Wait for the others: none ends before the first has written what is to be kept."""
    from groupmates.models.distributed import processes

    with suppress(RuntimeError):  # the first has ended
        processes().any(False)


# On one machine.


def run_here(main: Callable[[list[str]], int], command: list[str], count: int, log: Path) -> int:
    """Run `main(command)` in `count` processes; the status of the first. Its log is shown.

    SIGINT and SIGTERM ask them to save and end.
    """
    import psutil
    from submitit import LocalExecutor

    folder = log.with_suffix(".processes").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    executor = LocalExecutor(folder)
    executor.update_parameters(tasks_per_node=count, timeout_min=YEAR_MINUTES)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # theirs, too: Ctrl-C reaches them as SIGTERM
    job = executor.submit(_task, main, command, os.environ.get("CUDA_VISIBLE_DEVICES"))
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)
        os.kill(int(job.job_id), signal.SIGTERM)  # submitit passes it on

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, tell)
    found: list[psutil.Process] = []
    whole = time.monotonic()  # when all of them were there last
    with log.open("rb") as words:
        words.seek(0, os.SEEK_END)
        while not job.done():
            _show(words)
            with suppress(psutil.NoSuchProcess):
                found = psutil.Process(int(job.job_id)).children()
            if len(found) == count:
                whole = time.monotonic()
            elif time.monotonic() - whole > SECONDS_TO_END:
                for process in found:
                    process.kill()  # it waits for one that is no more
            time.sleep(SECONDS_BETWEEN_WORDS)
        _show(words)
    first = job.task(0)
    if first.paths.result_pickle.exists():
        status: int = first.result()
        if status == 0:
            shutil.rmtree(folder)
        return status
    note("processes", f"the first of {count} processes was killed; what they said: {folder}")
    return 128 + told[0] if told else 1


def _task(main: Callable[[list[str]], int], command: list[str], gpus: str | None) -> int:
    from submitit.helpers import TorchDistributedEnvironment

    del os.environ["CUDA_VISIBLE_DEVICES"]  # submitit hides all GPUs
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    try:
        return main(command)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1


def _show(words: BinaryIO) -> None:
    """Print what was added to the job's log since the last time."""
    sys.stderr.write(words.read().decode(errors="replace"))
    sys.stderr.flush()
