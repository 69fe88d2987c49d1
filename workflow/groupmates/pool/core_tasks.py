"""The tasks of CORE as `tasks.yaml` in their folder tells them. Light: runs at every parse."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from groupmates import formatting
from groupmates.errors import UserError
from groupmates.pool.listing import TASKS
from groupmates.settings.sections import FilledText, NotNegative

T = TypeVar("T", bound="Listed")

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


def name_of_mean(tasks: list[str], examples: int | None) -> str:
    """What the mean over these tasks may be called; `examples`: of each task at most, None for all."""
    if set(tasks) != CORE:
        return f"mean of {formatting.plural(len(tasks), 'task')}"
    return "CORE" if examples is None else f"CORE of at most {examples:,} questions per task"


class Listed(BaseModel):
    """What every entry of `tasks.yaml` has."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: FilledText
    file: FilledText | None
    type: Literal["multiple_choice", "schema", "language_modeling"]
    missing: bool = False

    @property
    def there(self) -> bool:
        """Whether it has a file."""
        return self.file is not None and not self.missing


class Task(Listed):
    """A task of CORE. Baselines are accuracies in percent: v1, and v2 of September 2025."""

    num_fewshot: NotNegative
    continuation_delimiter: str
    random_baseline: float
    random_baseline_dclm_v2: float


def tasks_in(folder: str) -> dict[str, Task]:
    """The tasks by name, in their order; without those whose file is missing."""
    return {task.name: task for task in listed(folder, Task, "core.data") if task.there}


def listed(folder: str, kind: type[T], setting: str) -> list[T]:
    """The entries of a folder's `tasks.yaml`.

    Raises `UserError` where that is not there, or not as it must be.
    """
    path, entry = Path(folder) / TASKS, None
    try:
        found = []
        for entry in yaml.safe_load(path.read_text())["tasks"]:
            found.append(kind.model_validate(entry))
        return found
    except FileNotFoundError:
        told = "no such file"
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
    except ValidationError as error:
        first = error.errors()[0]
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, in {entry!s:.100}"
    except (KeyError, TypeError):
        told = "a file without a list `tasks`"
    raise UserError(
        expected=f"a list `tasks`, each with {', '.join(kind.model_fields)}",
        found=told,
        where=str(path),
        todo=f"correct {setting}, or the file (workflow/docs/core.md)",
    )


def chosen_tasks(folder: str, names: list[str] | Literal["all"]) -> dict[str, Task]:
    """The tasks of these names, in the order of `tasks.yaml`; an unknown one raises `UserError`."""
    known = tasks_in(folder)
    if names == "all":
        return known
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = "its file is missing" if name in CORE else near and f"the nearest is {near[0]}"
            raise UserError(
                expected=f"tasks of {Path(folder) / TASKS}: {', '.join(known)}",
                found=f"{name!r}" + (f"; {hint}" if hint else ""),
                where="core.tasks",
                todo="correct the name, or add the task's file and its entry in tasks.yaml",
            )
    return {name: task for name, task in known.items() if name in names}
