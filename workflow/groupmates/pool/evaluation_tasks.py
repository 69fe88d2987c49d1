"""Reading the examples of evaluation tasks: a folder of llm-foundry's layout, or files of examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupmates.pool.core_tasks import Listed, listed
from groupmates.pool.documents import BadRecord
from groupmates.pool.records import parsed
from groupmates.progress import note

LAYOUTS = {  # kind of task -> its fields, of which the later ones end what the first ones begin
    "multiple_choice": ("query", "choices"),
    "schema": ("context_options", "continuation"),
    "language_modeling": ("context", "continuation"),
}
OF_FILES = [*LAYOUTS.values(), ("prompt", "response"), ("text",)]
Layout = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskExample:
    """`row`: line or row of the file, counted from 0; `texts`: beginning and end of each text."""

    task: str
    row: int
    texts: list[tuple[str, str]]


@dataclass(frozen=True)
class Task:
    """A file of examples, and the layouts that its records may have."""

    name: str
    path: str
    layouts: list[Layout]


def read_tasks(paths: list[str]) -> list[Task]:
    """The tasks of folders with a tasks.yaml, and a task named as its path for each other file."""
    found: list[Task] = []
    for path in paths:
        is_folder = Path(path).is_dir()
        found += _of_folder(Path(path)) if is_folder else [Task(path, path, OF_FILES)]
    return found


def _of_folder(folder: Path) -> list[Task]:
    """The tasks of a folder. Tasks of one file are one, by all their names."""
    by_file: dict[str, list[Listed]] = {}
    for entry in listed(str(folder), Listed, "decontaminate.examples"):
        if entry.there:
            by_file.setdefault(str(entry.file), []).append(entry)
        else:
            note("decontaminate", f"WARNING: {folder} has no file for {entry.name}")
    return [
        Task(", ".join(e.name for e in entries), str(folder / file), [LAYOUTS[entries[0].type]])
        for file, entries in by_file.items()
    ]


def read_task(task: Task) -> Iterator[TaskExample]:
    """The examples of a file. A bad record, or a file without any, raises `UserError`."""
    return parsed(
        task.path, lambda row, values: TaskExample(task.name, row, _texts(values, task.layouts))
    )


def _texts(values: dict[str, Any], layouts: list[Layout]) -> list[tuple[str, str]]:
    """Beginning and end of each text of a record."""
    for layout in layouts:
        if all(field in values for field in layout):
            first, last = (_listed(values, field) for field in (layout[0], layout[-1]))
            if len(layout) == 1:
                return [("", text) for text in first]
            return [(beginning, end) for beginning in first for end in last]
    raise BadRecord(
        "no example",
        " or ".join(f"{{{', '.join(layout)}}}" for layout in layouts),
        f"the fields {list(values)}"[:1000],
        "correct the row, or write each example as {text}",
    )


def _listed(values: dict[str, Any], field: str) -> list[str]:
    """The text in a field, or its texts in one that holds several."""
    found = values[field] if isinstance(values[field], list) else [values[field]]
    if not found or not all(isinstance(text, str) for text in found):
        raise BadRecord(
            "no example",
            f"a text in the field {field!r}, or several of them",
            f"{values[field]!r:.100}",
            "correct the row",
        )
    return found
