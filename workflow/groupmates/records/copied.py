"""A copy of a run under another name, which goes on from where the run stands.

Snakemake keeps what it recorded of a file by the file's path. The files of a folder that was copied or
renamed by other means have no record, and Snakemake would not notice that a setting has changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

from groupmates.artefacts import atomic
from groupmates.errors import UserError
from groupmates.records import campaign

RECORDS = Path(".snakemake/metadata")
NAME = ".name"  # in a run's folder: the name that it was made under
OF_A_PROCESS = (".main.json", campaign.NAME, NAME)


def copy(run: Path, to: Path) -> int:
    """Copy the folder of a run and Snakemake's records of its files; how many records there are.

    Raises `UserError` where there is nothing to copy, or something in the way.
    """
    if not run.is_dir():
        raise UserError(
            expected="the folder of a run, results/RUN",
            found="none",
            where=f"{run}, read from {os.getcwd()}",
            todo="correct the name, or go to the folder that snakemake is started in",
        )
    if to.exists():
        raise UserError(
            expected="no folder yet",
            found="one",
            where=str(to),
            todo="remove it, or choose another name",
        )
    records = dict(_records(run))
    if not records:
        raise UserError(
            expected=f"Snakemake's records of the files in {run}",
            found="none",
            where=f"{RECORDS}, read from {os.getcwd()}",
            todo="copy a run that snakemake has made here, under this name",
        )
    temporary = to.with_name(f".{to.name}.copying")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(run, temporary, symlinks=True, ignore=shutil.ignore_patterns(*OF_A_PROCESS))
    # In front of a path stands nothing, a quotation mark, a space or the like: no other folder.
    before = re.compile(rf"(?<![^\s\"'=,:]){re.escape(_spelt(run))}/")
    for path, text in records.items():
        place = _place(f"{to}/{Path(path).relative_to(run)}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(before.sub(lambda _: f"{_spelt(to)}/", text))
    temporary.rename(to)
    return len(records)


def claim(run: Path) -> None:
    """Write down under which name the files of a run are made."""
    if not (run / NAME).exists():
        run.mkdir(parents=True, exist_ok=True)
        atomic.write_text(run / NAME, run.name)


def check(run: Path) -> None:
    """A folder that was copied or renamed raises `UserError`."""
    try:
        name = (run / NAME).read_text()
    except FileNotFoundError:
        return
    if name != run.name:
        raise UserError(
            expected=f"a run that was made as {run}",
            found=f"a copy of the run {name}: Snakemake has no record of how its files were made, and "
            "would not notice that a setting has changed",
            where=str(run),
            todo=f"remove it and copy the run by: python -m groupmates copy {run.with_name(name)} "
            f"{run}; where it was renamed, give it its name back first",
        )


def _records(run: Path) -> Iterator[tuple[str, str]]:
    """Paths of the files below `run` that Snakemake has a record of, and the records."""
    for folder, _, names in os.walk(RECORDS):
        for name in names:
            place = Path(folder, name)
            key = "".join(part.removeprefix("@") for part in place.relative_to(RECORDS).parts)
            path = urlsafe_b64decode(key).decode()
            if path.startswith(f"{run}/"):
                yield path, place.read_text()


def _place(path: str) -> Path:
    """Where Snakemake keeps its record of a file: its path in base64, in pieces of a name's length."""
    key = urlsafe_b64encode(path.encode()).decode()
    most = os.pathconf(RECORDS, "PC_NAME_MAX") - 1
    pieces = [key[i : i + most] for i in range(0, len(key), most)]
    return RECORDS.joinpath(*(f"@{piece}" for piece in pieces[:-1]), pieces[-1])


def _spelt(path: Path) -> str:
    """A path as JSON has it."""
    return json.dumps(str(path))[1:-1]
