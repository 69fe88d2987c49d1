"""`python -m groupmates COMMAND …`: a stage, as a rule prints it, or a question to a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from groupmates import run_stage
from groupmates.errors import UserError
from groupmates.report.headline import headline
from groupmates.run_stage import told


def main(argv: list[str]) -> int:
    if argv and argv[0] == "calibrate":
        return calibrate(argv[1:])
    if argv and argv[0] in QUESTIONS:
        return answer(argv[0], lambda: QUESTIONS[argv[0]](argv[1:]))
    if not argv or argv[0] not in run_stage.STAGES:
        print(
            "usage: python -m groupmates STAGE --help\n"
            "       python -m groupmates headline results/RUN\n"
            "       python -m groupmates status results/RUN [--watch]\n"
            "       python -m groupmates explain results/RUN DOC_ID\n"
            "       python -m groupmates compare results/RUN results/RUN … --output FOLDER\n"
            "       python -m groupmates calibrate --help\n"
            f"stages: {', '.join(run_stage.STAGES)}",
            file=sys.stderr,
        )
        return 2
    return run_stage.main(argv)


def calibrate(arguments: list[str]) -> int:
    """The small run whose rates a plan takes; it runs snakemake itself."""
    from groupmates.cost.calibration import main as run_small

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
    from groupmates.explain import document as asked

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


def compare(arguments: list[str]) -> None:
    """Runs of different sampling seeds side by side."""
    from groupmates.report import across_runs as asked

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
    "compare": compare,
}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # our own progress lines tell more
    sys.exit(main(sys.argv[1:]))
