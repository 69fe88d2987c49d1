"""Lines: where the stages of pretraining lie in a run's folder, and what each reads of another.

The first line is the run's folder itself. A later stage of one method is a line of its own, the folder
`stages/2/group_mates/`. A line is known by that path, '' for the first: it is the value of the wildcard
{line}.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from groupmates.artefacts.catalogue import line_of
from groupmates.settings.config import Config
from groupmates.settings.per_stage import needs_of
from groupmates.settings.sections import Budget
from groupmates.settings.selectors import CENTROIDS, CLUSTERS, MODEL, SCORES

FIRST = ""
SEED = 0  # of the training whose model selects the next stage

# What the final influence model says of the pool, and what is made of that.
OF_FINAL_MODEL = (SCORES, MODEL, CLUSTERS, CENTROIDS)


def later(config: Config) -> list[str]:
    """The lines beside the first, stage by stage."""
    stages = range(2, len(config.pretrain.stages) + 1)
    return [line_of(stage, method) for stage in stages for method in config.pretrain.methods]


def stage_of(line: str) -> int:
    """The number of a line's stage, from 1."""
    return int(line.split("/")[1]) if line else 1


def method_of(line: str) -> str:
    """The method of a later line."""
    return line.split("/")[2]


def before(line: str) -> list[str]:
    """The lines of the stages before, from the first on."""
    return [line_of(stage, method_of(line)) for stage in range(1, stage_of(line))]


def pattern(config: Config) -> str:
    """A regular expression of the lines that there are."""
    return "|".join(["", *map(re.escape, later(config))])


# What a line makes anew.


def anew(config: Config, method: str) -> bool:
    """Whether a method's order depends on a model, so that each stage orders the pool anew."""
    return rescored(config, method) or any(
        need.artefact in ("base", "score_by") for need in needs_of(config, method)
    )


def rescored(config: Config, method: str) -> bool:
    """Whether a method needs the scores or clusters of the final influence model."""
    return any(need in OF_FINAL_MODEL for need in needs_of(config, method))


def source(config: Config, line: str, method: str, artefact: str) -> str:
    """The line whose artefact a job reads that selects in `line`: its own, or the first."""
    if line == FIRST:
        return FIRST
    if artefact in ("score", "cluster", "centroids"):
        own = rescored(config, method)
    elif artefact in ("prepared", "order"):
        own = anew(config, method)
    else:
        own = True
    return line if own else FIRST


# What a line selects.


def of_stage(config: Config, stage: int) -> Config:
    """The configuration with the budget of one stage."""
    return _with_share(config, config.pretrain.stages[stage - 1 : stage])


def up_to_stage(config: Config, stage: int) -> Config:
    """The configuration with the budget of a stage and of those before it.

    An order for it holds enough, whatever the stages before have consumed of it.
    """
    return _with_share(config, config.pretrain.stages[:stage])


def _with_share(config: Config, shares: Iterable[float]) -> Config:
    share, budget = min(1.0, math.fsum(shares)), config.select.budget
    if share == 1.0:
        return config
    if budget.ratio is not None:
        part = Budget(ratio=budget.ratio * share, tokens=None)
    else:
        assert budget.tokens is not None
        part = Budget(ratio=None, tokens=max(1, round(budget.tokens * share)))
    select = config.select.model_copy(update={"budget": part})
    return config.model_copy(update={"select": select})
