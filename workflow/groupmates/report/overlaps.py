"""Documents that share words with evaluation examples: how many for each task, and some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from groupmates.artefacts.found import Found
from groupmates.artefacts.store import concatenate, read_table, table_record
from groupmates.formatting import count, percent
from groupmates.maths.word_windows import WINDOW

SHOWN = 8  # documents


def dropped(found: Found) -> dict[str, Path]:
    """The tables of documents that no method could select, by the names of their score files."""
    recorded = table_record(found.all("select")[0], "select")["inputs"]
    overlaps = found.all("overlaps") if any(n.startswith("overlaps[") for n in recorded) else []
    return {path.name: path for path in overlaps}


def section(found: Found, pool_documents: int) -> dict[str, Any]:
    """What the section on decontamination shows; None where no examples were looked for."""
    if not found.all("task_examples"):
        return {"overlaps": None}
    shared = concatenate(found.all("overlaps"), "overlaps")
    documents = len(shared.group_by(["source_file", "source_row"]).aggregate([]))
    rows = by_task(read_table(found.one("task_examples"), "task_examples"), shared)
    most = shared.sort_by([("windows", "descending"), ("doc_id", "ascending")]).slice(0, SHOWN)
    share = percent(documents / max(pool_documents, 1))
    finding = (
        f"{count(documents)} of {count(pool_documents)} documents ({share}) share {WINDOW} words in "
        "a row with an evaluation example. "
    )
    if documents:
        finding += (
            "They were left out of every selection."
            if dropped(found)
            else "They could be selected: decontaminate.drop is false."
        )
    return {"overlaps": {"finding": finding, "tasks": rows, "documents": most.to_pylist()}}


def by_task(examples: pa.Table, shared: pa.Table) -> list[dict[str, Any]]:
    """Per task: examples, those too short for a window, documents found and places in them."""
    spaces = pc.count_substring(examples["words"], " ")
    long = examples.append_column("long", pc.greater_equal(spaces, WINDOW - 1))
    each = long.group_by(["task", "example"]).aggregate([("long", "any")])
    counted = each.group_by("task").aggregate([("example", "count"), ("long_any", "sum")])
    hits = shared.group_by("task").aggregate([("doc_id", "count"), ("windows", "sum")])
    found = {row["task"]: row for row in hits.to_pylist()}
    return [
        {
            "task": row["task"],
            "examples": row["example_count"],
            "short": row["example_count"] - row["long_any_sum"],
            "documents": found.get(row["task"], {}).get("doc_id_count", 0),
            "places": found.get(row["task"], {}).get("windows_sum", 0),
        }
        for row in counted.to_pylist()
    ]
