"""The tasks of CORE as `tasks.yaml` in their folder tells them. Light: runs at every parse."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from groupmates.errors import UserError
from groupmates.settings.sections import FilledText, NotNegative

# Those that CORE is the mean of; hellaswag counts twice (DCLM, arXiv 2406.11794).
CORE = frozenset(
    {
        "hellaswag_zeroshot",
        "jeopardy",
        "bigbench_qa_wikidata",
        "arc_easy",
        "arc_challenge",
        "copa",
        "commonsense_qa",
        "piqa",
        "openbook_qa",
        "lambada_openai",
        "hellaswag",
        "winograd",
        "winogrande",
        "bigbench_dyck_languages",
        "agi_eval_lsat_ar",
        "bigbench_cs_algorithms",
        "bigbench_operators",
        "bigbench_repeat_copy_logic",
        "squad",
        "coqa",
        "boolq",
        "bigbench_language_identification",
    }
)
LISTED = "tasks.yaml"


class Task(BaseModel):
    """An entry of `tasks.yaml`. Baselines are accuracies in percent: v1, and v2 of September 2025."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: FilledText
    file: FilledText | None
    type: Literal["multiple_choice", "schema", "language_modeling"]
    num_fewshot: NotNegative
    continuation_delimiter: str
    random_baseline: float
    random_baseline_dclm_v2: float
    missing: bool = False


def tasks_in(folder: str) -> dict[str, Task]:
    """The tasks by name, in their order; without those whose file is missing.

    Raises `UserError` where `tasks.yaml` is not there, or not as it must be.
    """
    path = Path(folder) / LISTED
    try:
        entries = list(yaml.safe_load(path.read_text())["tasks"])
    except FileNotFoundError:
        raise _unlike("no such file", path) from None
    except yaml.YAMLError as error:
        raise _unlike(" ".join(str(error).split()), path) from None
    except (KeyError, TypeError):
        raise _unlike("a file without a list `tasks`", path) from None
    listed = [_task(entry, path) for entry in entries]
    return {task.name: task for task in listed if task.file is not None and not task.missing}


def _task(entry: Any, path: Path) -> Task:
    try:
        return Task.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise _unlike(f"{key}: {first['msg']}, in {entry!s:.100}", path) from None


def _unlike(found: str, path: Path) -> UserError:
    return UserError(
        expected="a list `tasks`, each with name, file, type, num_fewshot, continuation_delimiter, "
        "random_baseline and random_baseline_dclm_v2",
        found=found,
        where=str(path),
        todo="set core.data to the folder with CORE's tasks, or correct its tasks.yaml "
        "(workflow/docs/core.md)",
    )


def chosen_tasks(folder: str, names: list[str] | Literal["all"]) -> dict[str, Task]:
    """The tasks of these names, in the order of `tasks.yaml`; an unknown one raises `UserError`."""
    known = tasks_in(folder)
    if names == "all":
        return known
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            missing = "; its file is missing" if name in CORE else ""
            raise UserError(
                expected=f"tasks of {Path(folder) / LISTED}: {', '.join(known)}",
                found=f"{name!r}{missing}" + (f"; the nearest is {near[0]}" if near else ""),
                where="core.tasks",
                todo="correct the name, or add the task's file and its entry in tasks.yaml",
            )
    return {name: task for name, task in known.items() if name in names}
