"""The inputs of a stage that reads a whole run, sorted by the catalogue: no argument for each kind."""

from __future__ import annotations

import re
from pathlib import Path

from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.errors import UserError

WILDCARD = re.compile(r"\\\{(\w+)\\\}")
PATTERNS = {  # those with the fewest wildcards first: score/semantic/ is no score/{model}/
    # A wildcard holds no point: seed-0.examples.parquet is no curve.
    name: re.compile(WILDCARD.sub(r"(?P<\1>[^/.]+)", re.escape(artefact.path)))
    for name, artefact in sorted(ARTEFACTS.items(), key=lambda item: item[1].path.count("{"))
}


class Found:
    """Files of a run by the names of their artefacts, in the order in which they were given."""

    def __init__(self, run: Path, paths: list[Path]) -> None:
        self.run = run
        self._files = [(path, *self._recognised(path)) for path in paths]

    def all(self, name: str, **wildcards: str) -> list[Path]:
        """The files of an artefact whose wildcards have these values."""
        return [
            path
            for path, its_name, values in self._files
            if its_name == name and wildcards.items() <= values.items()
        ]

    def one(self, name: str, **wildcards: str) -> Path:
        (path,) = self.all(name, **wildcards)
        return path

    def by(self, wildcard: str, name: str) -> dict[str, list[Path]]:
        """The files of an artefact, by the values of one of its wildcards."""
        found: dict[str, list[Path]] = {}
        for path, its_name, values in self._files:
            if its_name == name:
                found.setdefault(values[wildcard], []).append(path)
        return found

    def _recognised(self, path: Path) -> tuple[str, dict[str, str]]:
        place = path.relative_to(self.run).as_posix() if path.is_relative_to(self.run) else ""
        for name, pattern in PATTERNS.items():
            if match := pattern.fullmatch(place):
                return name, match.groupdict()
        raise UserError(
            expected=f"artefacts of the run in {self.run}",
            found=str(path),
            where="--inputs",
            todo="give files and folders that the run has made",
        )
