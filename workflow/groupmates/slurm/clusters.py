"""Where a launched job runs: on SLURM, or as processes of this machine; both through submitit.

The resources of a rule are those of one process, as snakemake's SLURM plugin reads them; a job of
several has so many times as much on every node.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from groupmates.errors import UserError
from groupmates.progress import note
from groupmates.slurm.queries import SECONDS_TO_SAVE, squeue

if TYPE_CHECKING:
    from groupmates.slurm.worker import Worker

PREFIX = "gm-launch"  # of the name of every such job
COUNTS = ("nodes", "processes_per_node")  # resources of a rule that trains
PROFILE = "the profile, such as profiles/slurm/config.yaml"
REQUEUES = 100_000  # a training may need as many time limits as it likes
YEAR_MINUTES = 365 * 24 * 60
# The interpreter of a worker, as in workflow/run: in the site's container, where there is one.
PACKAGE = shlex.quote(str(Path(__file__).parents[2]))
WORKER = [
    f"export PYTHONPATH={PACKAGE}",
    'GROUPMATES_WORKER="${GROUPMATES_CONTAINER:+$GROUPMATES_CONTAINER env PYTHONPATH=$PYTHONPATH '
    'python3}"',
    f"GROUPMATES_WORKER=${{GROUPMATES_WORKER:-{shlex.quote(sys.executable)}}}",
]
# squeue's words for a job that will not run again by itself.
OVER = "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT"


@dataclass(frozen=True)
class Launch:
    """What to start: `nodes` x `processes_per_node`, with the resources of each process."""

    cluster: Literal["local", "slurm"]
    nodes: int
    processes_per_node: int
    resources: dict[str, Any] = field(default_factory=dict)
    first: str = ""  # a shell command of the site: modules to load, variables to set

    @classmethod
    def parse(cls, text: str) -> Launch:
        return cls(**json.loads(text))

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node


# What a job may ask for, in the words of snakemake's plugin.
RESOURCES = (
    *("runtime", "mem_mb", "cpus_per_task", "gpu", "gpu_model", "gres"),
    *("slurm_partition", "slurm_account", "qos", "constraint", "slurm_extra"),
)


def several(overwritten: Mapping[str, Mapping[str, Any]], rule: str) -> bool:
    """Whether set-resources, as snakemake has parsed it, gives a rule more than one process."""
    asked = overwritten.get(rule, {})
    counts = [getattr(asked[n], "value", asked[n]) for n in COUNTS if n in asked]
    for count in counts:
        if not isinstance(count, int) or count < 1:
            raise UserError(
                expected="whole numbers from 1",
                found=f"{', '.join(COUNTS)}: {', '.join(map(str, counts))}",
                where=f"set-resources of {rule}, in {PROFILE}",
                todo="correct them: training begins in as many processes as they say",
            )
    return any(count > 1 for count in counts)


def option(place: str, resources: Mapping[str, Any], first: str | None) -> str:
    """`--launch …` for a job of these resources; "" for one of a single process.

    `first` runs in the job before anything else.
    """
    nodes, processes = (resources[name] for name in COUNTS)
    if nodes * processes == 1:
        return ""
    asked = {n: resources[n] for n in RESOURCES if isinstance(resources.get(n), (int, str))}
    text = {"cluster": place, "nodes": nodes, "processes_per_node": processes, "resources": asked}
    if first:
        text["first"] = first
    return f"--launch {shlex.quote(json.dumps(text))}"


class Cluster:
    """Jobs of one name, each with the fingerprint of its settings and inputs."""

    kind: ClassVar[str]
    seconds_between_looks: ClassVar[float]

    def __init__(self, launch: Launch, folder: Path, name: str, threads: int) -> None:
        self.launch, self.folder = launch, folder
        self.name, self.threads = f"{PREFIX}-{name}", threads

    @property
    def size(self) -> str:
        return f"{self.launch.nodes} nodes x {self.launch.processes_per_node} processes"

    def find(self) -> list[tuple[str, str]]:
        """Jobs that are waiting or running, and their fingerprints."""
        raise NotImplementedError

    def submit(self, key: str, worker: Worker) -> str:
        raise NotImplementedError

    def state(self, job: str) -> str:
        """In a word, for people."""
        raise NotImplementedError

    def alive(self, job: str) -> bool:
        """Whether the job is waiting or running."""
        raise NotImplementedError

    def cancel(self, job: str) -> None:
        """Ask its processes to save and end."""
        raise NotImplementedError

    def status(self, job: str, rank: int) -> int | None:
        """Exit status of the stage in one process; None where it did not come to its end."""
        from submitit.core.utils import JobPaths, pickle_load

        path = JobPaths(self.folder, job, rank).result_pickle
        if not path.exists():
            return None
        ending, value = pickle_load(path)
        return int(value) if ending == "success" else 1

    def errors(self, job: str, rank: int) -> str:
        """What a process printed to standard error."""
        from submitit.core.utils import JobPaths

        path = JobPaths(self.folder, job, rank).stderr
        return path.read_text(errors="replace") if path.exists() else ""


class Slurm(Cluster):
    kind = "slurm"
    seconds_between_looks = 5.0

    _ended, _told = 0, ""

    def find(self) -> list[tuple[str, str]]:
        here, found = os.getcwd(), []
        for line in squeue("--me", "-o", "%i|%j|%Z").splitlines():
            job, name, folder = line.split("|", 2)
            start, _, key = name.rpartition("-")
            if start == self.name and folder == here:
                found.append((job, key))
        return found

    def submit(self, key: str, worker: Worker) -> str:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import clean_env

        # Where snakemake itself runs in a job, that job's variables must not reach this one.
        kept = {n: os.environ[n] for n in ("SLURM_CONF",) if n in os.environ}
        try:
            executor = SlurmExecutor(
                self.folder, max_num_timeout=REQUEUES, python="$GROUPMATES_WORKER"
            )
            executor.update_parameters(**self.parameters(key))
            with clean_env():
                os.environ.update(kept)
                return str(executor.submit(worker).job_id)
        except (FailedJobError, FailedSubmissionError, RuntimeError, OSError) as error:
            raise UserError(
                expected=f"SLURM to take a job of {self.size}",
                found=str(error).strip().splitlines()[-1],
                where=f"sbatch, with {self.launch.resources}",
                todo=f"correct the resources of this rule in {PROFILE}",
            ) from error

    def parameters(self, key: str) -> dict[str, Any]:
        """Those of submitit's executor, from the resources that snakemake's plugin reads too."""
        asked, per_node = self.launch.resources, self.launch.processes_per_node
        minutes, cores = int(asked.get("runtime", 60)), asked.get("cpus_per_task", self.threads)
        found: dict[str, Any] = {
            "job_name": f"{self.name}-{key}",
            "nodes": self.launch.nodes,
            "ntasks_per_node": per_node,
            "cpus_per_task": int(cores),
            "time": minutes,
            "signal_delay_s": min(SECONDS_TO_SAVE, 30 * minutes),
            # From SLURM 22.05 on srun has to be told the cores again; and a process that fails
            # alone must not leave the others waiting for it.
            "srun_args": [f"--cpus-per-task={int(cores)}", "--kill-on-bad-exit=1"],
            "setup": [*filter(None, [self.launch.first]), *WORKER],
        }
        if "mem_mb" in asked:
            found["mem"] = f"{int(asked['mem_mb']) * per_node}M"
        for name in ("slurm_partition", "slurm_account", "qos", "constraint"):
            if asked.get(name):
                found[name.removeprefix("slurm_")] = asked[name]
        if asked.get("gres"):
            found["gres"] = times(str(asked["gres"]), per_node)
        elif asked.get("gpu"):
            kind = f"{asked['gpu_model']}:" if asked.get("gpu_model") else ""
            found["gpus_per_node"] = f"{kind}{int(asked['gpu']) * per_node}"
        found["additional_parameters"] = {"requeue": True, **options(asked.get("slurm_extra", ""))}
        return found

    def state(self, job: str) -> str:
        state, _, reason = squeue("--states=all", "-j", job, "-o", "%T|%r").strip().partition("|")
        return f"PENDING ({reason})" if state == "PENDING" else state or "GONE"

    def alive(self, job: str) -> bool:
        try:
            state = self.state(job)
            if state != self._told:
                note("launch", f"slurm job {job}: {state}")
            self._told, ended = state, state in {*OVER.split(), "GONE"}
        except UserError as error:
            note("launch", f"WARNING: SLURM does not answer ({error.found}): waiting")
            ended = False
        # Twice, because a job that is requeued may look ended for a moment.
        self._ended = self._ended + 1 if ended else 0
        return self._ended < 2

    def cancel(self, job: str) -> None:
        subprocess.run(["scancel", job], check=False)


class Local(Cluster):
    kind = "local"
    seconds_between_looks = 0.5

    @property
    def _record(self) -> Path:
        return self.folder / "job.json"

    def find(self) -> list[tuple[str, str]]:
        try:
            record = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return []
        return [(record["job"], record["key"])] if self.alive(record["job"]) else []

    def submit(self, key: str, worker: Worker) -> str:
        import torch
        from submitit import LocalExecutor

        if self.launch.nodes > 1:
            raise UserError(
                expected="one node, where snakemake runs everything on this machine",
                found=f"nodes: {self.launch.nodes}",
                where=PROFILE,
                todo="set processes_per_node alone, or use the slurm profile",
            )
        gpus = torch.cuda.device_count()
        if 0 < gpus < self.launch.processes:
            raise UserError(
                expected=f"a GPU for each of {self.launch.processes} processes",
                found=f"{gpus} GPUs",
                where=PROFILE,
                todo=f"set processes_per_node to {gpus} at most",
            )
        executor = LocalExecutor(self.folder)
        executor.update_parameters(
            tasks_per_node=self.launch.processes_per_node, timeout_min=YEAR_MINUTES
        )
        if gpus:
            all_gpus = ",".join(str(i) for i in range(gpus))
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", all_gpus)
            worker = replace(worker, visible_gpus=visible)
        job = str(executor.submit(worker).job_id)
        while not self.alive(job) and Path(f"/proc/{job}").exists():
            time.sleep(0.01)  # a moment passes before it has its own command line
        temporary = self._record.with_suffix(".partial")
        temporary.write_text(json.dumps({"job": job, "key": key}))
        temporary.rename(self._record)
        return job

    def state(self, job: str) -> str:
        return "RUNNING" if self.alive(job) else "GONE"

    def alive(self, job: str) -> bool:
        # The command line tells it apart from a later process of that number; a zombie has none.
        try:
            command = Path(f"/proc/{job}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            return False
        return str(self.folder) in command

    def cancel(self, job: str) -> None:
        os.kill(int(job), signal.SIGTERM)  # submitit's controller passes it on


def times(gres: str, count: int) -> str:
    """Generic resources of `count` processes: gpu:a100:1 of 4 is gpu:a100:4."""
    found = []
    for part in gres.split(","):
        name, _, number = part.rpartition(":")
        if name and number.isdigit():
            found.append(f"{name}:{int(number) * count}")
        else:
            found.append(f"{part}:{count}")
    return ",".join(found)


def options(text: str) -> dict[str, Any]:
    """Further sbatch options, such as --reservation=night --exclusive, as submitit takes them."""
    found: dict[str, Any] = {}
    for word in shlex.split(text):
        name, given, value = word.partition("=")
        if not re.fullmatch(r"--[a-z][a-z-]*", name):
            raise UserError(
                expected="options of the form --name=value or --name",
                found=word,
                where=f"slurm_extra, in {PROFILE}",
                todo="write it in this form",
            )
        found[name[2:]] = value if given else True
    return found
