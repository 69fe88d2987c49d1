"""`python -m groupmates STAGE …`: run one stage, with the settings and paths that a rule prints.

The arguments of a stage are the keyword-only parameters of its `run` function; a list of paths takes
several, each may hold one numeric range (`shard-{00000..00278}.parquet`). Exit status 2 and a message
without traceback for what the user can mend.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from groupmates.config import from_param
from groupmates.errors import UserError
from groupmates.headline import headline
from groupmates.pool import expand_range

# stage -> module and function; modules are imported only when their stage runs
STAGES = {
    "corpus": ("corpus", "run"),
    "sample": ("sample", "run"),
    "reference": ("reference", "run"),
    "base": ("base", "run"),
    "plan-random": ("probe", "run_plan_random"),
    "plan-bootstrap": ("probe", "run_plan_bootstrap"),
    "probe": ("probe", "run"),
    "fit": ("fit", "run"),
    "accept": ("accept", "run"),
    "score": ("score", "run"),
    "centroids": ("cluster", "run_centroids"),
    "cluster": ("cluster", "run_assign"),
    "order-group-mates": ("select", "run_group_mates"),
    "order-random": ("select", "run_random"),
    "take": ("select", "run_take"),
    "materialise": ("materialise", "run"),
    "evaluate": ("evaluate", "run"),
    "summarise": ("summarise", "run"),
    "report": ("report", "run"),
}


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
    parser.add_argument("--log", type=Path, help="file that messages go to as well")
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
    """Standard error that also goes to the job's log file."""

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self._streams = (terminal, log)

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
    if not argv or argv[0] not in (*STAGES, "headline"):
        print(
            "usage: python -m groupmates STAGE --help\n"
            "       python -m groupmates headline results/RUN\n"
            f"stages: {', '.join(STAGES)}",
            file=sys.stderr,
        )
        return 2
    try:
        if argv[0] == "headline":
            print(headline(Path(*argv[1:])))
            return 0
        function = stage_function(argv[0])
        arguments = stage_arguments(function, argv[1:])
        log: Path | None = arguments.pop("log")
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            sys.stderr = Tee(sys.stderr, log.open("w"))
        function(**arguments)
    except UserError as error:
        print(f"\nerror in {argv[0]}\n{error}\n", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # our own progress lines tell more
    sys.exit(main(sys.argv[1:]))
