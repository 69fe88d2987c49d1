"""Run one stage: its arguments from the command line, its log and record, its exit status.

The arguments of a stage are the keyword-only parameters of its `run` function. A list of paths takes
several, each may hold one numeric range (`shard-{00000..00278}.parquet`). What the user can mend ends
in exit status 2 and a message without traceback.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import importlib
import inspect
import io
import os
import signal
import socket
import sys
import time
import traceback
import types
import typing
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from groupmates.artefacts import unfinished
from groupmates.errors import UserError
from groupmates.pool.listing import expand_range
from groupmates.progress import note
from groupmates.records import jobs
from groupmates.settings.per_stage import from_param
from groupmates.settings.stages import STAGES
from groupmates.slurm import join
from groupmates.slurm.queries import SECONDS_TO_SAVE, queue_again, warn_in_time

FULL = (errno.ENOSPC, errno.EDQUOT)


def stage_function(stage: str) -> Callable[..., None]:
    known = STAGES[stage]
    return getattr(importlib.import_module(f"groupmates.{known.module}"), known.function)


def common_options() -> argparse.ArgumentParser:
    """The options of every stage, which are known before its module is imported."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--log", type=Path, help="file that messages go to as well; its record")
    parser.add_argument("--job", nargs="*", help="for the record: RULE NAME=VALUE…, its wildcards")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of torch and of tokenizers, in stages that use them (default: 1)",
    )
    parser.add_argument(
        "--processes", type=int, help="train in so many processes of this machine (default: 1)"
    )
    parser.add_argument(
        "--join", action="store_true", help="train with the other processes that srun has started"
    )
    return parser


def stage_arguments(function: Callable[..., None], arguments: list[str]) -> dict[str, Any]:
    """Parse the command line of one stage into the keyword arguments of its function."""
    hints = typing.get_type_hints(function)
    parser = argparse.ArgumentParser(
        prog="python -m groupmates STAGE",
        description=inspect.getdoc(function),
        parents=[common_options()],
    )
    parser.add_argument(
        "--save-seconds",
        type=float,
        default=float(os.environ.get("GROUPMATES_SAVE_SECONDS", 60)),
        help="seconds of work between two saves of unfinished progress (default: %(default)s)",
    )
    own = dict(inspect.signature(function).parameters)
    own.pop("threads", None)  # an option of every job
    kinds = {name: _required(hints[name]) for name in own}
    for name, parameter in own.items():
        optional = parameter.default is not parameter.empty
        many = typing.get_origin(kinds[name]) is list
        parser.add_argument(
            "--" + name.replace("_", "-"),
            required=not optional,
            default=parameter.default if optional else None,
            nargs="*" if many else None,
            type=str if many or name == "settings" else kinds[name],
        )
    values = vars(parser.parse_args(arguments))
    for name, kind in kinds.items():
        if kind == list[Path] and values[name] is not None:
            values[name] = [Path(p) for pattern in values[name] for p in expand_range(pattern)]
    values["settings"] = from_param(values["settings"], kinds["settings"])
    return values


def _required(kind: Any) -> Any:
    """`X` of the annotation `X | None`."""
    choices = [k for k in typing.get_args(kind) if k is not type(None)]
    return choices[0] if isinstance(kind, types.UnionType) else kind


class Tee:
    """Standard error that also goes to the job's log file; `terminal` is where it alone goes.

    Under SLURM there is no terminal, only one more file.
    """

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self._streams = (terminal, log)
        self.terminal = None if "SLURM_JOB_ID" in os.environ else terminal

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streams[0], name)


def main(argv: list[str]) -> int:
    """`STAGE --settings … --output …`; the exit status."""
    early = common_options().parse_known_args(argv[1:])[0]
    try:
        if (early.processes or 1) > 1 and not early.join:
            return in_processes(early.processes, argv, early.log)
        if early.join and (rank := join.place()):
            return after_the_first(rank, argv, early.log)
    except UserError as error:
        return told(argv[0], error)
    if early.log is None:
        return prepare_and_run(argv)
    trains = STAGES[argv[0]].trains
    if trains:
        warn_in_time()
    # The record begins before the stage's imports, which can take longer than its work.
    record = early.log.with_suffix(".json")
    try:
        with jobs.alone(early.log) as (file, waited), redirect_stderr(Tee(sys.stderr, file)):
            if waited and jobs.was_finished(record):
                note("job", "the other process has finished it: nothing is left to do")
                return 0
            try:
                return prepare_and_run(argv, jobs.Record(record, argv[0], early.job))
            except SystemExit as ending:
                if ending.code == unfinished.STOPPED:
                    queue_again(2 * SECONDS_TO_SAVE if trains else 0)
                raise
    except OSError as error:  # of the log or the record
        if full := no_room(error):
            return told(argv[0], full)
        raise


def in_processes(count: int, argv: list[str], log: Path | None) -> int:
    """Train in several processes of this machine."""
    if log is None or not STAGES[argv[0]].trains:
        training = [name for name, stage in STAGES.items() if stage.trains]
        raise UserError(
            expected=f"--log, and one of the stages that train: {', '.join(training)}",
            found=f"{argv[0]}, --log {log}",
            where="--processes",
            todo="run it without --processes",
        )
    jobs.open_log(log).close()
    return join.run_here(main, [*argv, "--join"], count, log)


def after_the_first(rank: int, argv: list[str], log: Path | None) -> int:
    """One of several processes. What it says reaches the log only where it fails alone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first one ends the others
    words = io.StringIO()
    try:
        with redirect_stderr(words):
            status = prepare_and_run(argv)
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else 1
    if status == unfinished.STOPPED:
        join.part()
    elif status:
        time.sleep(10)  # the first process may have the better words for it
        last = "\n".join(words.getvalue().splitlines()[-15:])
        file = jobs.open_log(log) if log else sys.stderr
        print(f"the last words of process {rank}:\n{last}", file=file, flush=True)
    return status


def prepare_and_run(argv: list[str], record: jobs.Record | None = None) -> int:
    """Import the stage, understand its arguments and call it; the exit status."""
    without_pandas()
    try:
        function = stage_function(argv[0])
        arguments = stage_arguments(function, argv[1:])
    except BaseException as error:
        if record is not None:
            record.end("failed", str(error))
        if isinstance(error, UserError):
            return told(argv[0], error)
        raise
    for name in ("log", "job", "processes"):
        del arguments[name]
    # Threads that tokenise; without, as many as the machine has cores, whoever else runs on it.
    os.environ["RAYON_NUM_THREADS"] = str(arguments["threads"])
    if STAGES[argv[0]].torch:
        import torch

        torch.set_num_threads(arguments["threads"])
        keep_memory()
    if "threads" not in inspect.signature(function).parameters:
        del arguments["threads"]
    unfinished.seconds_between_saves = arguments.pop("save_seconds")
    return run(argv[0], function, arguments, record, arguments.pop("join"))


# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_memory() -> None:
    """Let glibc keep freed memory for the next tensor, where this is glibc.

    It gives large blocks back at once, and the kernel clears them anew: a quarter of a training step
    on a CPU (workflow/docs/experiments.md).
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TOP_PAD, 2**26)


class NoPandas:
    """Says, among the finders of modules, that there is no pandas."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def without_pandas() -> None:
    """Let pyarrow do without pandas, whose import takes as long as all others of a light stage.

    pyarrow looks for it once, at its first array. Whoever imports pandas later still finds it.
    """
    sys.meta_path.insert(0, NoPandas)
    pa.array([0])
    sys.meta_path.remove(NoPandas)


def run(
    stage: str,
    function: Callable[..., None],
    arguments: dict[str, Any],
    record: jobs.Record | None = None,
    joins: bool = False,
) -> int:
    """Call a stage; the exit status. How it ended goes to the job's record.

    `joins`: this is one of several processes, which meet before the work and part after it.
    """
    state, found = "failed", None
    try:
        if joins:
            join.join()
        else:
            os.environ.pop("LOCAL_RANK", None)  # of a launcher that this process is none of
        told_of_idle_gpu(stage)
        function(**arguments)
        if joins:
            join.part()
        state = "done"
        return 0
    except UserError as error:
        found = str(error)
        return told(stage, error)
    except SystemExit:
        state = "stopped"  # by SIGTERM, after its progress was saved
        raise
    except KeyboardInterrupt:
        state = "stopped"
        print(f"\n{stage} interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        known = no_room(error) if isinstance(error, OSError) else of_device(error)
        found = str(known) if known else repr(error)
        if known:
            return told(stage, known)
        traceback.print_exc()  # here, while it reaches the log too
        return 1
    finally:
        if record is not None:
            record.end(state, found)


def told(stage: str, error: UserError) -> int:
    print(f"\nerror in {stage}\n{error}\n", file=sys.stderr)
    return 2


def told_of_idle_gpu(stage: str) -> None:
    """Note a GPU that this job was given and torch cannot use."""
    torch = sys.modules.get("torch")
    given = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("SLURM_JOB_GPUS")
    if torch is None or not STAGES[stage].gpu or given in (None, "", "-1", "NoDevFiles"):
        return
    if not torch.cuda.is_available():
        why = (
            "this torch is built for CPUs: install the other with make env CUDA=1"
            if torch.version.cuda is None
            else "torch does not see it: look at nvidia-smi on this node"
        )
        note(stage, f"warning: runs on the CPU, though the job has GPU {given}. {why}")


def of_device(error: Exception) -> UserError | None:
    """What to do about a GPU that has too little memory, or that answers no more."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    host, gpus = socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES")
    where = f"{host}, CUDA_VISIBLE_DEVICES {gpus}" if gpus else host
    words = " ".join(str(error).split())[:300]
    if isinstance(error, torch.OutOfMemoryError):
        todo = (
            "let no other process share the GPU, or take one with more memory. Less is needed with a "
            "lower sample.sequence_length, score.batch_tokens, core.batch_tokens or "
            "fit.training.batch_rollouts; in pretraining with more processes and sharding: fsdp"
        )
        return UserError(expected="memory for this job", found=words, where=where, todo=todo)
    if isinstance(error, torch.AcceleratorError):
        todo = (
            "start the job again, where snakemake has not: it goes on from what it saved last. If the "
            "same node fails again, look at nvidia-smi and its kernel's log, and leave it out"
        )
        return UserError(expected="a GPU that works", found=words, where=where, todo=todo)
    return None


def no_room(error: OSError) -> UserError | None:
    """What to do about a file system that takes no more, whoever met it."""
    reasons = {
        errno.ENOSPC: "is full",
        errno.EDQUOT: "is full: your quota",
        errno.EROFS: "is read-only",
        errno.EACCES: "does not let you write here",
        errno.EPERM: "does not let you write here",
    }
    # Arrow tells some errors in words only.
    number = error.errno or (errno.ENOSPC if "No space left" in str(error) else None)
    if number not in reasons:
        return None
    return UserError(
        expected="room for what this job writes",
        found=f"a file system that {reasons[number]} ({error})",
        where=str(error.filename or "the run's folder, results/{run}/"),
        todo=("free some space" if number in FULL else "get the right to write there")
        + " and run snakemake again: nothing that was finished is lost",
    )
