"""What the command line, the cost plan and the report know of each stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from groupmates.settings.selectors import STEPS


@dataclass(frozen=True)
class Stage:
    """A command of `python -m groupmates`: a function of a module, imported only when it runs.

    `part` is the row of the report's cost table that counts it. `gpu`: it uses one where it is given
    one. `torch`: it imports torch. `trains`: several processes may share its work.
    """

    module: str
    function: str
    part: str
    gpu: bool = False
    torch: bool = False
    trains: bool = False


TENSORS = {"gpu": True, "torch": True}
TRAINING = TENSORS | {"trains": True}
STAGES = {
    "corpus": Stage("stages.corpus", "run", "corpus"),
    "check": Stage("stages.check", "run", "check"),
    "check-pool": Stage("stages.check", "run_pool", "check"),
    "decontaminate-examples": Stage("stages.decontaminate", "run_examples", "decontaminate"),
    "decontaminate": Stage("stages.decontaminate", "run", "decontaminate"),
    "sample": Stage("stages.sample", "run", "sample"),
    "reference": Stage("stages.reference", "run", "sample"),
    "base": Stage("stages.base", "run", "base", **TRAINING),
    "plan-random": Stage("stages.draw_rollouts", "run_random", "probe"),
    "plan-one-step": Stage("stages.draw_rollouts", "run_one_step", "probe"),
    "probe": Stage("stages.probe", "run", "probe", **TENSORS),
    "first-order": Stage("stages.first_order", "run", "probe", **TENSORS),
    "fit": Stage("stages.fit", "run", "fit", **TRAINING),
    "accept": Stage("stages.accept", "run", "fit"),
    "plan-bootstrap": Stage("stages.draw_rollouts", "run_bootstrap", "probe", **TENSORS),
    "plan-groups": Stage("stages.probe_sets", "run_plan", "groups", **TENSORS),
    "probe-groups": Stage("stages.probe_sets", "run", "groups", **TENSORS),
    "groups": Stage("stages.set_agreement", "run", "groups"),
    "distil": Stage("stages.distil", "run", "score", **TENSORS),
    "score": Stage("stages.score", "run", "score", **TENSORS),
    "score-student": Stage("stages.score_student", "run", "score"),
    "fit-semantic": Stage("stages.semantic", "run_fit", "score", **TENSORS),
    "embed": Stage("stages.semantic", "run_embed", "score", **TENSORS),
    "centroids": Stage("stages.cluster", "run_centroids", "cluster", gpu=True),
    "cluster": Stage("stages.cluster", "run_assign", "cluster", gpu=True),
    **{
        name: Stage(
            *step.function,
            "prepare" if step.__name__ == "Prepare" else "select",
            gpu=step.gpu,
            torch=step.gpu,
        )
        for name, step in STEPS.items()
    },
    "take": Stage("selectors.take", "run", "select"),
    "materialise": Stage("stages.materialise", "run", "materialise"),
    "tokenise": Stage("stages.tokenise", "run", "materialise"),
    "assemble": Stage("stages.materialise", "run_assemble", "materialise"),
    "evaluate": Stage("stages.evaluate", "run", "evaluate", **TRAINING),
    "summarise": Stage("stages.summarise", "run", "evaluate"),
    "pretrain-tokens": Stage("stages.pretrain_tokens", "run", "pretrain"),
    "pretrain": Stage("stages.pretrain", "run", "pretrain", **TRAINING),
    "core-task": Stage("stages.core", "run", "core", **TENSORS),
    "core": Stage("stages.core_table", "run", "core"),
    "report": Stage("stages.report", "run", "report"),
    "frontier": Stage("stages.frontier", "run", "report"),
    "plan": Stage("cost.plan", "run", "plan"),
}
PARTS = {  # rows of the report's cost table, in the order of the data flow: what each is for
    "corpus": "the built-in pool",
    "check": "reads every pool file",
    "decontaminate": "finds evaluation examples in the pool",
    "sample": "documents to probe with",
    "base": "the model to be probed",
    "probe": "oracle influences",
    "fit": "the influence model",
    "groups": "true influence of whole sets",
    "score": "influence and embedding of every document",
    "cluster": "groups of like documents",
    "prepare": "what some selectors need first",
    "select": "puts the pool in order, meets the budget",
    "materialise": "writes the datasets",
    "evaluate": "trains on each selection",
    "pretrain": "trains whole models on selections",
    "core": "asks finished models questions",
}
RULES = {"pretrain_model": "pretrain"}  # rules whose stage has another name


def threads_of(rules: Iterable[Any]) -> dict[str, int]:
    """Threads of each stage's jobs, by what snakemake's rules ask for so far."""
    asked = {rule.name: rule.resources["_cores"] for rule in rules}
    found = {name: cores.value for name, cores in asked.items() if not cores.is_evaluable()}
    of_steps = {
        stage: found.get(step.function[1] + "_gpu" * step.gpu, step.threads)
        for stage, step in STEPS.items()
    }
    of_stages = {name.replace("_", "-"): threads for name, threads in found.items()}
    renamed = {stage: found[rule] for rule, stage in RULES.items() if rule in found}
    return of_stages | renamed | of_steps


def part_of(stage: str) -> str:
    """The part that counts a stage; one that an earlier version had is a part by itself."""
    return STAGES[stage].part if stage in STAGES else stage
