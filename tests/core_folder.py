"""A folder of CORE tasks in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from groupmates.maths.in_context import Kind
from groupmates.pool.core_tasks import Task

ENTRY = {
    "continuation_delimiter": " ",
    "num_fewshot": 2,
    "random_baseline": 20.0,
    "random_baseline_dclm_v2": 50.0,
}


def task(kind: Kind) -> Task:
    return Task(name="t", file="t.jsonl", type=kind, **ENTRY)


def write(folder: Path, questions: dict[str, list[dict[str, Any]] | None]) -> Path:
    """Tasks by name, of the type that their questions show; None: the file is missing."""
    listed = []
    for name, found in questions.items():
        first = found[0] if found else {}
        kinds = {"choices": "multiple_choice", "context_options": "schema"}
        kind = next((kinds[key] for key in kinds if key in first), "language_modeling")
        file = f"{name}.jsonl" if found else None
        listed.append({"name": name, "file": file, "type": kind, "missing": not found, **ENTRY})
        if file:
            (folder / file).write_text("".join(f"{json.dumps(q)}\n" for q in found or []))
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": listed}))
    return folder
