"""What snakemake is about to do, and how that ended: `logs/campaign.json` beside the jobs' records.

Written by the Snakefile's handlers, which the main process alone runs; with the records it tells
how far a run is, whether that process lives or not (`groupmates/status/`). Light: every job parses
the Snakefile.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from groupmates.artefacts import atomic
from groupmates.errors import UserError
from groupmates.progress import note
from groupmates.records.jobs import stage_name

NAME = "campaign.json"
VERSION = 2  # jobs know their stage
CLOCKS_DIFFER = 5.0  # seconds, at most, within one file system


def makes_something(workflow: Any) -> bool:
    """Whether snakemake's graph has a job with a log and an output; `plan` only looks at a run."""
    return any(_counts(job) for job in workflow.dag.jobs)


def plan_only_when_a_job_ends(workflow: Any) -> None:
    """Take snakemake's default limit of 100 jobs a second from it; another one stays.

    With a limit, and while jobs are ready, it plans again every second for each job that has ended.
    After some hundred jobs that is half a core (snakemake 9.27).
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit is not None and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def check_times(workflow: Any, run: str) -> None:
    """Inputs from the future raise `UserError`: snakemake would remove what is made of them.

    It takes an output that is older than an input for one that its job did not write.
    """
    folder = logs(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, prefix=".clock") as file:
            now = os.stat(file.name).st_mtime  # by the clock that stamps the others
    except OSError:
        return  # the first job tells what is wrong with the folder
    needed = {str(path) for job in workflow.dag.needrun_jobs() for path in job.input}
    ahead = {path: os.lstat(path).st_mtime - now for path in needed if os.path.lexists(path)}
    late = sorted(path for path, seconds in ahead.items() if seconds > CLOCKS_DIFFER)
    if late:
        hours = max(ahead.values()) / 3600
        raise UserError(
            expected="inputs from before now: what is made of later ones, snakemake removes",
            found=f"{len(late):,} from the future, by up to {hours:.1f} hours",
            where=late[0],
            todo=f"give all files of the run one time: touch {folder}; "
            f"find results/{run} -exec touch -h -r {folder} {{}} +",
        )


def begin(workflow: Any, run: str, config: dict[str, Any], slots: int | None) -> None:
    """Write down every job of snakemake's graph that makes something, in the order of the data flow.

    `config` and `slots`, how many cores (with a cluster: jobs) are busy at once, are for an estimate
    of the time left.
    """
    folder = logs(run)
    jobs: dict[str, dict[str, Any]] = {}
    needs: dict[str, set[str]] = {}
    for level in workflow.dag.toposorted():
        for job in sorted(filter(_counts, level), key=lambda job: job.log[0]):
            stage = _stage(job)
            jobs[_name(job, folder)] = {
                "stage": stage,
                "needed": workflow.dag.needrun(job),
                "comment": _comment(job),
                "command": job.params.get("stage", job.rule.name.replace("_", "-")),
                "threads": job.threads,
            }
            before = {_stage(other) for other in workflow.dag.dependencies[job] if _counts(other)}
            needs.setdefault(stage, set()).update(before - {stage})
    _write(
        folder / NAME,
        {
            "version": VERSION,
            "state": "running",
            "started": time.time(),
            "ended": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "executor": workflow.executor_plugin.name,
            # SLURM knows all jobs of this main process by one name.
            "slurm_name": getattr(workflow.scheduler._executor, "run_uuid", None),
            "stages": {stage: sorted(before) for stage, before in needs.items()},
            "jobs": jobs,
            "config": config,
            "slots": slots,
        },
    )


def end(workflow: Any, run: str, state: str) -> None:
    """Write down that the main process is through, `done` or `failed`, and what it has finished.

    With --until, snakemake may finish less than it said that it needs.
    """
    folder = logs(run)
    found = read(folder)
    if found is None or (found["host"], found["pid"]) != (socket.gethostname(), os.getpid()):
        return
    for job in workflow.dag.finished_jobs:
        if _counts(job):
            found["jobs"][_name(job, folder)]["finished"] = True
    _write(folder / NAME, found | {"state": state, "ended": time.time()})


def read(folder: Path) -> dict[str, Any] | None:
    """What was written beside the records in `folder`; None where there is nothing to read."""
    try:
        found: dict[str, Any] = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("version") == VERSION else None


def logs(run: str) -> Path:
    return Path("results", run, "logs")


def _counts(job: Any) -> bool:
    return bool(job.log and job.output)


def _name(job: Any, folder: Path) -> str:
    return Path(job.log[0]).relative_to(folder).with_suffix("").as_posix()


def _stage(job: Any) -> str:
    return stage_name(job.rule.name, job.wildcards_dict)


def _comment(job: Any) -> str:
    """What snakemake's slurm plugin gives as comment: the only link from squeue to a job."""
    values = "_".join(map(str, job.wildcards)).replace("/", "_")
    return f"rule_{job.rule.name}" + (f"_wildcards_{values}" if values else "")


def _write(path: Path, body: dict[str, Any]) -> None:
    try:
        with atomic.replacing(path) as temporary:
            temporary.touch()
            # By the clock that stamps the records too, a file server's where there is one. What is
            # older is of an earlier campaign, however much the clocks of the nodes differ.
            body.setdefault("begun", temporary.stat().st_mtime)
            temporary.write_text(json.dumps(body))
    except OSError as error:
        note("status", f"WARNING: {path} cannot be written ({error}): no totals in `make status`")
