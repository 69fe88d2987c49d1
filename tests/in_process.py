"""Snakemake's own command line within the process of the tests: a parse, and torch, cost once.

`snakemake` here takes what `checkout.snakemake` takes. Jobs run one after the other in this process,
by the very command lines that snakemake has made. workflow/test_run.py proves that both agree.
`python in_process.py` takes what snakemake takes.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import checkout
from groupmates import __version__, progress, run_stage
from groupmates.pool import identity, opening
from groupmates.settings.selectors import STEPS, Step
from groupmates.slurm import preflight

ONE_AT_A_TIME = threading.Lock()


def snakemake(
    folder: Path, *arguments: str, profile: str = "local"
) -> subprocess.CompletedProcess[str]:
    """Run snakemake in `folder`; output and errors together in `stdout`."""
    command, told = checkout.arguments(*arguments, profile=profile), io.StringIO()
    with chdir(folder), redirect_stdout(told), redirect_stderr(told):
        status = main(command)
    return subprocess.CompletedProcess(command, status, told.getvalue())


def main(arguments: list[str]) -> int:
    """Run snakemake in the working directory; its exit status."""
    from snakemake import cli

    opening._stamp.cache_clear()
    with ExitStack() as entered:
        for context in (
            as_it_was(),
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "path", [*sys.path]),
            # As of a package that lies in no git checkout.
            mock.patch("groupmates.artefacts.store.code_revision", lambda: __version__),
            mock.patch("signal.signal", handled_in_the_main_thread),
            mock.patch("snakemake.shell.sp", SimpleNamespace(**vars(subprocess) | {"Popen": Job})),
        ):
            entered.enter_context(context)
        try:
            # The other scheduler asks a solver in a process of its own.
            cli.main(["--scheduler", "greedy", *arguments])
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
    return 0


def planned(folder: Path, *arguments: str, profile: str = "local") -> dict[str, int]:
    """Jobs of a dry run by rule; further configurations come first among the arguments."""
    further = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    options = ["--nolock", "-n", "--quiet", "rules", *arguments[len(further) :]]
    done = snakemake(folder, *further, *options, profile=profile)
    assert done.returncode == 0, done.stdout[-3000:]
    return checkout.table(done.stdout)


def goes_on(folder: Path, *arguments: str) -> Path:
    """A run to its end; the folder of its results."""
    done = snakemake(folder, *arguments)
    assert done.returncode == 0, done.stdout[-4000:]
    return folder / "results/tiny"


@contextmanager
def as_it_was() -> Iterator[None]:
    """Without the traces that a main process leaves until it ends: its handlers and its claim."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held, ends = len(preflight._held), []
    try:
        with mock.patch.object(preflight, "atexit", SimpleNamespace(register=ends.append)):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for end in ends:
            end()
        for file in preflight._held[held:]:
            file.close()
        del preflight._held[held:]


set_handler = signal.signal


def handled_in_the_main_thread(number: Any, handler: Any) -> Any:
    """Jobs run in threads of snakemake, and are told nothing by signals."""
    if threading.current_thread() is threading.main_thread():
        return set_handler(number, handler)
    return signal.getsignal(number)


class Job:
    """In the place of the process that snakemake starts for the command of a job."""

    def __init__(self, command: str, env: dict[str, str], **_: object) -> None:
        words = shlex.split(command)
        run = next(i for i, word in enumerate(words) if word.endswith("workflow/run"))
        stage = words[run + 1 :]
        self.pid = os.getpid()
        with ONE_AT_A_TIME, threads(int(env["OMP_NUM_THREADS"])):
            del progress.STARTED[:]
            identity._verify.cache_clear()
            try:
                self._status = run_stage.main(stage)
            except SystemExit as end:
                self._status = int(end.code or 0)
            except Exception:
                traceback.print_exc()
                self._status = 1

    def wait(self) -> int:
        return self._status


@contextmanager
def threads(number: int) -> Iterator[None]:
    """As many threads of torch and faiss as the job is given: they are part of a float's rounding."""
    import faiss
    import torch

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(number)
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def rule_of(step: type[Step]) -> str:
    """The rule of a selector's step."""
    return step.function[1] + "_gpu" * step.gpu


def counted_by_rule(plan: Path) -> Counter[str]:
    """Jobs of a plan by rule, with dashes; those of the selectors' steps together."""
    found: Counter[str] = Counter()
    for name, stage in json.loads(plan.read_text())["stages"].items():
        rule = rule_of(STEPS[name]) if name in STEPS else name
        found[rule.replace("_", "-")] += stage["jobs"]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
