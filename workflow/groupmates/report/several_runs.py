"""What a comparison of several runs must know of each, whatever of them is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groupmates.errors import UserError
from groupmates.records import campaign


def begun(folder: Path, todo: str) -> dict[str, Any]:
    """What snakemake wrote when it last started the run; `UserError` with `todo` where it did not."""
    found = campaign.read(folder / "logs")
    if found is None:
        raise UserError(
            expected="the configuration of the run, which snakemake writes when it starts",
            found="none",
            where=str(folder / "logs" / campaign.NAME),
            todo=todo,
        )
    return found


def check_outside(folders: list[Path], output: Path, name: str) -> None:
    """`UserError` where `output` is in a run: its own files, called `name`, are there."""
    for folder in folders:
        if folder.resolve() in (output.resolve(), *output.resolve().parents):
            raise UserError(
                expected=f"a folder outside the runs, which have a {name} of their own",
                found=str(output),
                where="--output",
                todo=f"choose another, such as {folder.parent / name}",
            )


def differing(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the settings that only one has, or that differ, sorted."""
    return [key for key in sorted(first.keys() | other.keys()) if first.get(key) != other.get(key)]
