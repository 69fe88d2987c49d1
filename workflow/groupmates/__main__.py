"""`python -m groupmates STAGE …`: run one stage, with the settings and paths that a rule prints.

The arguments of a stage are the keyword-only parameters of its `run` function; a list of paths takes
several, each may hold one numeric range (`shard-{00000..00278}.parquet`). Exit status 2 and a message
without traceback for what the user can mend.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import os
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TextIO

from groupmates import jobs, resume
from groupmates import launch as driver
from groupmates.clusters import Launch, queue_again
from groupmates.errors import UserError
from groupmates.headline import headline
from groupmates.pool import expand_range
from groupmates.progress import note
from groupmates.stage_settings import from_param

# stage -> module and function; modules are imported only when their stage runs
STAGES = {
    "corpus": ("corpus", "run"),
    "check": ("check", "run"),
    "check-pool": ("check", "run_pool"),
    "sample": ("sample", "run"),
    "reference": ("reference", "run"),
    "base": ("base", "run"),
    "plan-random": ("plan_rollouts", "run_random"),
    "plan-one-step": ("plan_rollouts", "run_one_step"),
    "plan-bootstrap": ("plan_rollouts", "run_bootstrap"),
    "probe": ("probe", "run"),
    "fit": ("fit", "run"),
    "accept": ("accept", "run"),
    "plan-groups": ("probe_groups", "run_plan"),
    "probe-groups": ("probe_groups", "run"),
    "groups": ("groups", "run"),
    "score": ("score", "run"),
    "fit-semantic": ("semantic", "run_fit"),
    "embed": ("semantic", "run_embed"),
    "centroids": ("cluster", "run_centroids"),
    "cluster": ("cluster", "run_assign"),
    "order-group-mates": ("order_group_mates", "run"),
    "order-mates": ("order_mates", "run"),
    "fit-quality": ("quality", "run_fit"),
    "order-quality": ("quality", "run_order"),
    "order-semdedup": ("order_semdedup", "run"),
    "check-oracle-greedy": ("order_oracle_greedy", "run_check"),
    "order-oracle-greedy": ("order_oracle_greedy", "run"),
    "probe-quad": ("quad", "run_probe"),
    "order-quad": ("quad", "run_order"),
    "order-random": ("order_random", "run"),
    "take": ("select", "run"),
    "materialise": ("materialise", "run"),
    "tokenise": ("tokenise", "run"),
    "assemble": ("materialise", "run_assemble"),
    "evaluate": ("evaluate", "run"),
    "summarise": ("summarise", "run"),
    "report": ("report", "run"),
    "plan": ("plan", "run"),
}
FULL = (errno.ENOSPC, errno.EDQUOT)
TRAINING = ("base", "fit", "evaluate")  # may do so in several processes


def stage_function(stage: str) -> Callable[..., None]:
    module, function = STAGES[stage]
    loaded: Callable[..., None] = getattr(
        importlib.import_module(f"groupmates.stages.{module}"), function
    )
    return loaded


def stage_arguments(function: Callable[..., None], arguments: list[str]) -> dict[str, Any]:
    """Parse the command line of one stage into the keyword arguments of its function."""
    hints = typing.get_type_hints(function)
    parser = argparse.ArgumentParser(
        prog="python -m groupmates STAGE", description=inspect.getdoc(function)
    )
    parser.add_argument("--log", type=Path, help="file that messages go to as well; its record")
    parser.add_argument(
        "--save-seconds",
        type=float,
        default=float(os.environ.get("GROUPMATES_SAVE_SECONDS", 60)),
        help="seconds of work between two saves of unfinished progress (default: %(default)s)",
    )
    parser.add_argument(
        "--launch",
        type=Launch.parse,
        help="JSON of cluster, nodes, processes_per_node, resources: train in several processes",
    )
    kinds = {name: _required(hints[name]) for name in inspect.signature(function).parameters}
    for name, parameter in inspect.signature(function).parameters.items():
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
    if argv and argv[0] == "calibrate":
        return calibrate(argv[1:])
    if argv and argv[0] in QUESTIONS:
        return answer(argv[0], lambda: QUESTIONS[argv[0]](argv[1:]))
    if not argv or argv[0] not in STAGES:
        print(
            "usage: python -m groupmates STAGE --help\n"
            "       python -m groupmates headline results/RUN\n"
            "       python -m groupmates status results/RUN [--watch]\n"
            "       python -m groupmates explain results/RUN DOC_ID\n"
            "       python -m groupmates explain results/RUN --text FILE\n"
            "       python -m groupmates show results/RUN/ARTEFACT\n"
            "       python -m groupmates compare results/RUN results/RUN … --output FOLDER\n"
            "       python -m groupmates calibrate --help\n"
            f"stages: {', '.join(STAGES)}",
            file=sys.stderr,
        )
        return 2
    early = early_arguments(argv[1:])
    if early.log is None or early.launch is not None:  # a launched job has a record of its own
        return prepare_and_run(argv)
    # The record begins before the stage's imports, which can take longer than its work.
    record = early.log.with_suffix(".json")
    try:
        with jobs.alone(early.log) as (file, waited), redirect_stderr(Tee(sys.stderr, file)):
            if waited and jobs.was_finished(record):
                note("job", "the other process has finished it: nothing is left to do")
                return 0
            try:
                return prepare_and_run(argv, jobs.Record(record, argv[0]))
            except SystemExit as ending:
                if ending.code == resume.STOPPED:
                    queue_again()
                raise
    except OSError as error:  # of the log or the record
        if full := no_room(error):
            return told(argv[0], full)
        raise


def early_arguments(arguments: list[str]) -> argparse.Namespace:
    """The values of --log and --launch, before anything is known about the stage."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--launch")
    return parser.parse_known_args(arguments)[0]


def prepare_and_run(argv: list[str], record: jobs.Record | None = None) -> int:
    """Import the stage, understand its arguments and call it; the exit status."""
    try:
        function = stage_function(argv[0])
        arguments = stage_arguments(function, argv[1:])
    except BaseException as error:
        if record is not None:
            record.end("failed", str(error))
        if isinstance(error, UserError):
            return told(argv[0], error)
        raise
    log: Path | None = arguments.pop("log")
    resume.seconds_between_saves = arguments.pop("save_seconds")
    launch: Launch | None = arguments.pop("launch")
    if launch is not None:
        return launched(launch, argv, arguments, log)
    return run(argv[0], function, arguments, record)


def launched(launch: Launch, argv: list[str], arguments: dict[str, Any], log: Path | None) -> int:
    """Train in several processes, with this one as their driver; its words go to the log, too."""
    if log is None or argv[0] not in TRAINING:
        message = UserError(
            expected=f"--log, and one of the stages that train: {', '.join(TRAINING)}",
            found=f"{argv[0]}, --log {log}",
            where="--launch",
            todo="run it without --launch",
        )
        return told(argv[0], message)
    command = without(argv, "--launch", "--log")
    with jobs.open_log(log) as file:
        tail = driver.Tail(log, sys.stderr)
        with redirect_stderr(file):
            try:
                return driver.run(launch, command, arguments, log, arguments["threads"], tail)
            except UserError as error:
                return told(argv[0], error)
            finally:
                tail.show()


def without(argv: list[str], *options: str) -> list[str]:
    """A command line without some options, each with one value."""
    found = list(argv)
    for option in options:
        at = found.index(option)
        del found[at : at + 2]
    return found


def calibrate(arguments: list[str]) -> int:
    """The small run whose rates a plan takes; it runs snakemake itself."""
    from groupmates.plan.calibration import main as run_small

    try:
        return run_small(arguments)
    except UserError as error:
        return told("calibrate", error)


def answer(command: str, tell: Callable[[], None]) -> int:
    """Let a command tell about a run."""
    try:
        tell()
    except UserError as error:
        return told(command, error)
    return 0


def status(arguments: list[str]) -> None:
    """How far a run is; the modules that show it are of no use to a stage."""
    from groupmates.status.view import show

    parser = argparse.ArgumentParser(
        prog="python -m groupmates status",
        description="What is done, runs, has failed and is next.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, results/RUN")
    parser.add_argument(
        "--watch", action="store_true", help="again and again, until nothing happens any more"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="between two looks (default: %(default)s)"
    )
    values = parser.parse_args(arguments)
    show(values.run, values.seconds if values.watch else None)


def explain(arguments: list[str]) -> None:
    """Why a document was selected, or not."""
    from groupmates.asking import explain as asked

    parser = argparse.ArgumentParser(
        prog="python -m groupmates explain",
        description="Why a document was selected, or not; or what a text's chances were.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, results/RUN")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("doc_id", nargs="?", help="a document of the pool, by its id")
    which.add_argument("--text", help="file with a text that is not in the pool; - for stdin")
    parser.add_argument("--method", default="group_mates", help="(default: %(default)s)")
    parser.add_argument(
        "--neighbours", type=_count, default=5, help="at most so many (default: %(default)s)"
    )
    values = parser.parse_args(arguments)
    if values.text is None:
        found = asked.explain(values.run, values.doc_id, values.method, values.neighbours)
    else:
        text = asked.text_of(values.text)
        found = asked.explain_text(values.run, text, values.method, values.neighbours)
    print(asked.told(found))


def show(arguments: list[str]) -> None:
    """What an artefact is, and whether it is stale."""
    from groupmates.asking import show as asked

    parser = argparse.ArgumentParser(
        prog="python -m groupmates show",
        description="Schema, provenance, head and summary of an artefact, and whether it is stale.",
    )
    parser.add_argument("artefact", type=Path, help="a Parquet file, JSON file or folder of a run")
    parser.add_argument(
        "--configfile", nargs="+", default=[], help="as for snakemake, whose folder this is"
    )
    parser.add_argument("--rows", type=_count, default=5, help="of its head (default: %(default)s)")
    values = parser.parse_args(arguments)
    asked.show(values.artefact, values.configfile, values.rows)


def compare(arguments: list[str]) -> None:
    """Runs of different sampling seeds side by side."""
    from groupmates.asking import compare as asked

    parser = argparse.ArgumentParser(
        prog="python -m groupmates compare",
        description="Finished runs that differ in the seed alone, merged: intervals over selections.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="the runs' folders, results/RUN")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for comparison.csv, .md and .svg"
    )
    values = parser.parse_args(arguments)
    print(asked.compare(values.runs, values.output))


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


QUESTIONS: dict[str, Callable[[list[str]], None]] = {
    "headline": lambda arguments: print(headline(Path(*arguments))),
    "status": status,
    "explain": explain,
    "show": show,
    "compare": compare,
}


def run(
    stage: str,
    function: Callable[..., None],
    arguments: dict[str, Any],
    record: jobs.Record | None = None,
) -> int:
    """Call a stage; the exit status. How it ended goes to the job's record."""
    state, found = "failed", None
    try:
        function(**arguments)
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
        full = no_room(error) if isinstance(error, OSError) else None
        found = str(full) if full else repr(error)
        if full:
            return told(stage, full)
        traceback.print_exc()  # here, while it reaches the log too
        return 1
    finally:
        if record is not None:
            record.end(state, found)


def told(stage: str, error: UserError) -> int:
    print(f"\nerror in {stage}\n{error}\n", file=sys.stderr)
    return 2


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


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # our own progress lines tell more
    sys.exit(main(sys.argv[1:]))
