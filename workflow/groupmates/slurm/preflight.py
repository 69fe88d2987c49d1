"""Before a main process submits to SLURM: no job of this run is under way, its requests can be met.

Snakemake does not find jobs again that a killed main process (SIGKILL, a lost login node) has left
behind, and would submit them a second time. Jobs therefore carry the name of their run and folder,
and a new main process cancels what carries it before it submits anything. Another run in the same
checkout has another name, and another user's jobs are not looked at.
"""

from __future__ import annotations

import atexit
import fcntl
import getpass
import hashlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from groupmates.errors import UserError
from groupmates.slurm.queries import SNAKEMAKES_PREFIX

PROFILE = "profiles/slurm/profile.yaml"
SECONDS_BETWEEN_BEATS = 10.0
PATIENCE_SECONDS = 300.0  # with a slurmctld that does not answer
GONE_SECONDS = 600.0  # until cancelled jobs are gone: a node may first have to be given up
NODES_SECONDS = 15.0  # in which nodes tell a new slurmctld what they have
SECONDS_BETWEEN_LOOKS = 180  # of the plugin, at most
# What SLURM's commands say where slurmctld is away for the moment.
NO_SLURMCTLD = "unable to contact slurm controller|connection refused|socket timed out"
COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")

Say = Callable[[str], None]


# One main process per run.


def claim(folder: Path, executor: str, say: Say) -> bool:
    """Be the only main process of the run in `folder`; whether the last one left jobs in SLURM.

    The lock ends with the process. Where file locks do not reach from one login node to another, a
    beat of the living process does. A `UserError` says who is alive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".main.json"
    file = path.open("a+")
    try:
        # Not filelock: without locks it makes a file, which outlives a process that is killed.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _occupied(path, _owner(path)) from None
    except OSError as error:
        say(f"{path} cannot be locked ({error}): make sure that only one snakemake does this run")
    before = _owner(path)
    if before and before["host"] != socket.gethostname() and _beats(path, before, say):
        raise _occupied(path, before)
    _hold(file, path, executor)
    return before.get("executor") == "slurm"


_held: list[TextIO] = []  # locks end when their file is closed


def _hold(file: TextIO, path: Path, executor: str) -> None:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": getpass.getuser(),
        "executor": executor,
    }
    _write(file, json.dumps(owner))
    _held.append(file)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(SECONDS_BETWEEN_BEATS):
            os.utime(path)

    threading.Thread(target=beat, daemon=True).start()

    def leave() -> None:
        over.set()
        _write(file, "")

    atexit.register(leave)


def _write(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)  # opened for appending: at the start of the empty file
    file.flush()


def _owner(path: Path) -> dict[str, Any]:
    """Who holds a run, or was killed while holding it; empty after an orderly end."""
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        return {}
    return owner


def _beats(path: Path, owner: dict[str, Any], say: Say) -> bool:
    """Whether a process of another host is alive; clocks of two hosts are not compared."""
    say(f"a snakemake on {owner['host']} had this run: watching {path} whether it is alive")
    seen = path.stat().st_mtime_ns
    end = time.monotonic() + 3 * SECONDS_BETWEEN_BEATS
    while time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_BEATS / 10)
        if path.stat().st_mtime_ns != seen:
            return True
    return False


def _occupied(path: Path, owner: dict[str, Any]) -> UserError:
    who = f"process {owner.get('pid', '?')} of {owner.get('user', '?')} on {owner.get('host', '?')}"
    return UserError(
        expected="one snakemake at a time for a run",
        found=f"{who} is at this run",
        where=str(path),
        todo="wait for its end, or stop it and start again; a second configuration beside it needs "
        "another name (run: in its configuration)",
    )


# Asking SLURM.


def ask(*command: str, say: Say) -> str:
    """Output of a SLURM command."""
    done = _patiently(command, command[0], say)
    if done.returncode:
        raise UserError(
            expected=f"an answer of SLURM to {command[0]}",
            found=done.stderr.strip() or f"exit status {done.returncode}",
            where=" ".join(command[:6]),
            todo="mend what SLURM says and start again: nothing was submitted",
        )
    return done.stdout


def _patiently(
    command: str | tuple[str, ...], name: str, say: Say
) -> subprocess.CompletedProcess[str]:
    """Run a SLURM command; again and again while slurmctld does not answer."""
    end, wait = time.monotonic() + PATIENCE_SECONDS, 2.0
    while True:
        try:
            done = subprocess.run(
                command,
                shell=isinstance(command, str),
                text=True,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise UserError(
                expected=f"SLURM's commands ({', '.join(COMMANDS)}) on this machine",
                found=f"no {name} on the PATH",
                where="--profile profiles/slurm (executor: slurm)",
                todo="start snakemake on a login node of the cluster, load its SLURM module first if "
                "it has one, or run on this machine alone with --profile profiles/local",
            ) from None
        if done.returncode == 0 or not re.search(NO_SLURMCTLD, done.stderr, re.IGNORECASE):
            return done
        if time.monotonic() > end:
            raise UserError(
                expected="an answer of slurmctld, the daemon that plans SLURM's jobs",
                found=f"none for {PATIENCE_SECONDS:.0f} s ({done.stderr.strip().splitlines()[-1]})",
                where=name,
                todo="see 'scontrol ping', ask the site if it lasts, and start again then: nothing "
                "is lost, and nothing was submitted",
            )
        say(f"slurmctld does not answer {name}; once more in {wait:.0f} s")
        time.sleep(wait)
        wait = min(2 * wait, 30.0)


# Jobs that a killed main process has left behind.


def prefix(run: str, folder: Path) -> str:
    """What the names of a run's jobs begin with: its name, and what tells checkouts apart."""
    key = hashlib.sha256(f"{folder.resolve()}\n{run}".encode()).hexdigest()[:10]
    return f"{SNAKEMAKES_PREFIX}{re.sub('[^A-Za-z0-9-]', '-', run)[:24]}-{key}"


def leftovers(name: str, say: Say) -> list[str]:
    """Ids of this user's jobs of that name that wait, run, or are about to end."""
    shown = ask("squeue", "--user", getpass.getuser(), "--noheader", "--format", "%i|%j", say=say)
    jobs = (line.strip().split("|") for line in shown.splitlines())
    return [job for job, its_name in jobs if its_name.startswith(f"{name}_")]


def cancel_leftovers(name: str, say: Say) -> list[str]:
    """Cancel what an earlier main process has submitted, and wait until it is gone."""
    found = leftovers(name, say)
    if not found:
        return []
    for start in range(0, len(found), 500):
        ask("scancel", *found[start : start + 500], say=say)
    say(
        f"cancelled {len(found)} jobs that a killed snakemake had left in SLURM "
        f"({_some(found)}); what they have finished is kept"
    )
    end, wait = time.monotonic() + GONE_SECONDS, 0.5
    while remaining := leftovers(name, say):
        if time.monotonic() > end:
            raise UserError(
                expected="cancelled jobs to end, before their outputs are written anew",
                found=f"still there after {GONE_SECONDS:.0f} s: {_some(remaining)}",
                where="squeue --me",
                todo="look whether their nodes are down (scontrol show job ID); start again when "
                "squeue shows them no more",
            )
        time.sleep(wait)
        wait = min(1.5 * wait, 10.0)
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# Requests that SLURM would refuse, or keep waiting for ever.


@dataclass(frozen=True)
class Request:
    """What the jobs of some rules ask for, as options of sbatch."""

    options: str
    partition: str
    minutes: int  # of the last attempt, which asks for most
    rules: tuple[str, ...]


# What SLURM says, what it means in the profile. In the order in which SLURM checks.
REFUSALS = (
    ("invalid partition", "slurm_partition", "name one of these partitions: {partitions}"),
    ("invalid account", "slurm_account", "name an account that you may use here"),
    (
        "(specify|need|require|missing).{0,40}account|account.{0,40}(require|must|missing|need)",
        "slurm_account",
        "name the account that your jobs are billed to",
    ),
    ("invalid qos", "qos", "name a quality of service that you may use here, or none"),
    ("invalid feature", "constraint", "name a feature that nodes have (sinfo -o '%N %f'), or none"),
    (
        "invalid (generic resource|gres)|gres.{0,20}specification",
        "gpu (or gres)",
        "ask for GPUs as this site names them: gpu: 1, or gpu: 0 and gres: 'gpu:…'; no GPUs: gpu: 0",
    ),
    (
        "node configuration is not available|more processors requested|memory specification",
        "gpu (or gres), mem_mb, threads, nodes, tasks_per_node, constraint",
        "ask for no more than one node has; partition, cores, MB of memory and GPUs of nodes:\n{nodes}",
    ),
    (
        "time limit is invalid",
        "max_runtime",
        "set it to the minutes that the partition allows",
    ),
    (
        "violates accounting/qos policy|exceeds? .{0,20}limit|limit exceeded",
        "slurm_account, qos, mem_mb, runtime, jobs",
        "ask for no more than your account and quality of service allow",
    ),
)


def check(requests: Iterable[Request], say: Say) -> None:
    """A `UserError` that names the setting, where SLURM would refuse one of the requests."""
    limits = dict(
        line.strip().split("|")
        for line in ask("sinfo", "--noheader", "--format", "%R|%l", say=say).splitlines()
    )
    for request in requests:
        problem = _refusal(request, say)
        if problem:
            raise _refused(request, problem, say)
        limit = minutes(limits.get(request.partition, "infinite"))
        if limit is not None and request.minutes > limit:
            raise UserError(
                expected=f"at most {limit} minutes in partition {request.partition}",
                found=f"{request.minutes} minutes, at the last attempt, of {_some(request.rules)}: "
                "SLURM would keep such a job waiting for ever",
                where=f"max_runtime in {PROFILE}",
                todo=f"set max_runtime: {limit} there, or name a partition that allows more",
            )


def _refusal(request: Request, say: Say) -> str:
    """What sbatch says against a request; empty where it would take it."""
    command = f"{request.options.replace('sbatch ', 'sbatch --test-only ', 1)} --wrap true"
    end = time.monotonic() + NODES_SECONDS
    while True:
        done = _patiently(command, "sbatch", say)
        if done.returncode == 0:
            return ""
        problem = done.stderr.strip() or f"exit status {done.returncode}"
        # A slurmctld that has just started knows its nodes only when they have answered.
        if "node configuration is not available" not in problem or time.monotonic() > end:
            return problem
        time.sleep(2)


def _refused(request: Request, problem: str, say: Say) -> UserError:
    unknown = ("", "default-resources, set-resources", "mend what SLURM says")
    _, setting, todo = next(
        (known for known in REFUSALS if re.search(known[0], problem, re.IGNORECASE)), unknown
    )
    if "{partitions}" in todo:
        names = ask("sinfo", "--noheader", "--format", "%R", say=say).split()
        todo = todo.replace("{partitions}", ", ".join(sorted(set(names))))
    if "{nodes}" in todo:
        nodes = ask("sinfo", "--noheader", "--format", "%R %c %m %G", say=say).splitlines()
        todo = todo.replace("{nodes}", "\n".join(f"          {n.strip()}" for n in nodes))
    return UserError(
        expected=f"resources of {_some(request.rules)} that SLURM grants",
        found=" / ".join(problem.splitlines()),
        where=f"{setting} in {PROFILE}; asked for:\n          {request.options}",
        todo=f"{todo}\n          then start again: nothing was submitted, nothing is lost",
    )


def minutes(limit: str) -> int | None:
    """A time limit as sinfo shows it, [days-][hours:]minutes:seconds; None: no limit."""
    if limit in ("infinite", "UNLIMITED", "n/a", "NOT_SET"):
        return None
    days, _, clock = limit.rpartition("-")
    hours, minute, _ = ["0", "0", *clock.split(":")][-3:]
    return int(days or 0) * 1440 + int(hours) * 60 + int(minute)


def warn_of_forgetting(say: Say) -> None:
    """Ended jobs that slurmctld forgets between two looks would be waited for, for ever."""
    shown = re.search(r"MinJobAge\s*=\s*(\d+)", ask("scontrol", "show", "config", say=say))
    if shown and int(shown[1]) < SECONDS_BETWEEN_LOOKS:
        say(
            f"WARNING: slurmctld forgets ended jobs after {shown[1]} s (MinJobAge); snakemake looks at "
            f"least every {SECONDS_BETWEEN_LOOKS} s and would wait for a forgotten job for ever. Ask "
            "your site for MinJobAge=300, which is SLURM's default"
        )


# What the workflow calls.


def growing(amount: int, limit: int | None) -> Callable[..., int]:
    """What a job asks for: `amount` times the number of its attempt, at most `limit`.

    A job that ran out of memory or time is tried again with more. Past the limit of its partition a
    job would wait for ever instead of failing, so a site that has one names it in its profile.
    """

    def at(wildcards: object, attempt: int) -> int:
        return amount * attempt if limit is None else min(amount * attempt, limit)

    return at


def begin(workflow: Any, run: str, say: Say) -> None:
    """At the start of a main process, under the lock of snakemake and before the first job."""
    settings = workflow.executor_settings
    on_slurm = hasattr(settings, "jobname_prefix")
    left = claim(Path("results") / run, "slurm" if on_slurm else "local", say)
    name = prefix(run, Path.cwd())
    if on_slurm:
        ask("sinfo", "--version", say=say)
    if on_slurm or left:
        cancel_leftovers(name, say)
    if on_slurm:
        executor = workflow.scheduler._executor
        # The plugin takes a prefix from the command line only, before the run's name is known.
        executor.run_uuid = f"{name}_{executor.run_uuid}"
        forget_no_job(executor)
        warn_of_forgetting(say)
        check(_requests(workflow, executor), say)


def forget_no_job(executor: Any) -> None:
    """Let the plugin look again at jobs of which a look found nothing.

    Where SLURM leaves all queries of a look unanswered, the plugin drops its jobs and waits forever.
    """
    look, ended = executor.check_active_jobs, set[str]()

    def noted(report: Callable[..., None]) -> Callable[..., None]:
        def told(job: Any, *words: Any, **further: Any) -> None:
            ended.add(job.external_jobid)
            report(job, *words, **further)

        return told

    async def look_at_all(jobs: list[Any]) -> AsyncIterator[Any]:
        ended.clear()
        alive = set()
        async for job in look(jobs):
            alive.add(job.external_jobid)
            yield job
        for job in jobs:
            if job.external_jobid not in alive | ended:
                yield job

    executor.check_active_jobs = look_at_all
    executor.report_job_success = noted(executor.report_job_success)
    executor.report_job_error = noted(executor.report_job_error)


def _requests(workflow: Any, executor: Any) -> list[Request]:
    """One for every different request of the jobs that are to be submitted."""
    # Only here: every job of a cluster parses the workflow, and imports this module.
    from snakemake.exceptions import WorkflowError
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    first: dict[str, Any] = {}
    for job in workflow.dag.needrun_jobs():
        if not job.is_local:
            first.setdefault(job.rule.name, job)
    attempts = 1 + (workflow.execution_settings.retries or 0)
    found: dict[str, Request] = {}
    for rule, job in sorted(first.items()):
        fixed = {
            "run_uuid": "groupmates-test",
            "slurm_logfile": "/dev/null",
            "comment_str": "test",
            "workdir": str(Path.cwd()),
        }
        try:
            fixed["account"] = next(executor.get_account_arg(job))
            fixed["partition"] = executor.get_partition_arg(job)
            options = get_submit_command(job, fixed, settings=workflow.executor_settings)
            options += set_gres_string(job)
        except WorkflowError as error:
            raise UserError(
                expected="an account, a partition and resources that snakemake's SLURM plugin takes",
                found=str(error),
                where=f"slurm_account, slurm_partition, set-resources of {rule} in {PROFILE}",
                todo="correct what it says and start again: nothing was submitted",
            ) from None
        last = job.rule.expand_resources(job.wildcards, job.input, attempts, {"tmpdir", "disk_mb"})
        known = found.get(options)
        found[options] = Request(
            options=options,
            partition=fixed["partition"].removeprefix(" -p ").strip("'"),
            minutes=max(int(last.get("runtime", 0)), known.minutes if known else 0),
            rules=(*(known.rules if known else ()), rule),
        )
    return list(found.values())
