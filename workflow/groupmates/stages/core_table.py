"""The table of CORE: every model and task, and their means under both sets of baselines."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from groupmates import formatting
from groupmates.artefacts.atomic import replacing
from groupmates.artefacts.store import read_table, table_record
from groupmates.maths.in_context import Mean, accuracy, bits_per_byte, centred, mean_of
from groupmates.pool.core_tasks import Task, name_of_mean
from groupmates.progress import note
from groupmates.settings.per_stage import CoreTableSettings

Row = dict[str, Any]


def run(
    settings: CoreTableSettings, *, predictions: list[Path], output: Path, markdown: Path
) -> None:
    """`predictions`: `{model}/{task}.parquet`, model by model. `output`: the table as CSV."""
    by_model: dict[str, list[Row]] = {}
    for path in predictions:
        by_model.setdefault(path.parent.name, []).append(_row(path))
    rows = [row for found in by_model.values() for row in [*found, _mean(found, settings.examples)]]
    with replacing(output) as temporary, temporary.open("w", newline="") as stream:
        columns = [name for name in rows[0] if name != "means"]
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = as_markdown(rows)
    with replacing(markdown) as temporary:
        temporary.write_text(text)
    note("core", f"\n{text}")


def _row(path: Path) -> Row:
    """A task's figures; accuracies and what is made of them are shares, not percent."""
    task = Task.model_validate(table_record(path, "core_predictions")["settings"]["task"])
    found = read_table(path, "core_predictions")
    right = accuracy(found["correct"].to_numpy())
    means = {
        "v1": centred(right, task.random_baseline),
        "v2": centred(right, task.random_baseline_dclm_v2),
    }
    nats, of_bytes = (found[name].to_numpy() for name in ("answer_nats", "answer_bytes"))
    return {
        "model": path.parent.name,
        "task": task.name,
        "questions": len(found),
        "cut": int(found["cut"].to_numpy().sum()),
        "accuracy": right.value,
        "accuracy_error": right.error,
        **_columns(means),
        "bits_per_byte": bits_per_byte(nats, of_bytes),
        "means": means,
    }


def _columns(means: dict[str, Mean]) -> dict[str, float]:
    return {
        name: value
        for version, mean in means.items()
        for name, value in (
            (f"centred_{version}", mean.value),
            (f"centred_{version}_error", mean.error),
        )
    }


def _mean(found: list[Row], examples: int | None) -> Row:
    """Of a model's tasks: CORE, where they are all, or else the mean of so many."""
    means = {version: mean_of([row["means"][version] for row in found]) for version in ("v1", "v2")}
    return {
        "model": found[0]["model"],
        "task": name_of_mean([row["task"] for row in found], examples),
        "questions": sum(row["questions"] for row in found),
        "cut": sum(row["cut"] for row in found),
        **_columns(means),
    }


def as_markdown(rows: list[Row]) -> str:
    heads = ["model", "task", "questions", "cut", "accuracy, %", "centred, v1", "centred, v2"]
    lines = [[*heads, "bits per byte"], ["---"] * 8]
    for row in rows:
        values = [
            _plus_minus(row.get("accuracy"), row.get("accuracy_error"), 100, 1),
            *(
                _plus_minus(row[f"centred_{v}"], row[f"centred_{v}_error"], 1, 4)
                for v in ("v1", "v2")
            ),
            formatting.number(row.get("bits_per_byte"), 3),
        ]
        counts = [formatting.count(row[name]) for name in ("questions", "cut")]
        lines.append([row["model"], row["task"], *counts, *values])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plus_minus(value: float | None, error: float | None, times: int, decimals: int) -> str:
    if value is None or error is None:
        return formatting.NOTHING
    shown = (formatting.number(times * x, decimals) for x in (value, error))
    return " ± ".join(shown)
