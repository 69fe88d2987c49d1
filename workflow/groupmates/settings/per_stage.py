"""What each stage depends on of the configuration, and nothing else.

A `StageSettings` is printed into the stage's command line, and a change of one of its fields is what
makes snakemake run the stage again.
"""

from __future__ import annotations

import json
from typing import Any

from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.settings.config import (
    Accept,
    BadRecords,
    Base,
    BootstrapRound,
    Budget,
    Cluster,
    Config,
    Corpus,
    EvaluateTraining,
    Fit,
    Format,
    Groups,
    OpenLm,
    PoolColumns,
    RandomRound,
    ReferenceSplit,
    Report,
    Sample,
    Score,
    Semantic,
)
from groupmates.settings.selectors import (
    Clusters,
    GroupMates,
    Mates,
    Quad,
    Quality,
    Section,
    SemDedup,
)


class StageSettings(Section):
    """What one stage depends on beside its input files."""


class CorpusSettings(StageSettings):
    seed: int
    corpus: Corpus


class CheckSettings(StageSettings):
    text_columns: PoolColumns
    bad_records: BadRecords


class CheckPoolSettings(StageSettings):
    text_columns: PoolColumns
    bad_records: BadRecords
    max_bad_share: float


class SampleSettings(StageSettings):
    seed: int
    text_columns: PoolColumns
    bad_records: BadRecords
    sample: Sample
    checkpoint: str | None


class ReferenceSettings(StageSettings):
    seed: int
    split: ReferenceSplit


class BaseSettings(StageSettings):
    seed: int
    sequence_length: int
    base: Base


class RandomPlanSettings(StageSettings):
    seed: int
    rollout_length: int
    random: RandomRound


class BootstrapPlanSettings(StageSettings):
    seed: int
    rollout_length: int
    bootstrap: BootstrapRound


class OneStepPlanSettings(StageSettings):
    """`steps`: as many training steps as all rollouts of the other rounds together."""

    seed: int
    steps: int


class ProbeSettings(StageSettings):
    selection_examples: int


class FitSettings(StageSettings):
    seed: int
    fit: Fit


class OneStepFitSettings(FitSettings):
    """Rollouts of one step: numbers of rollouts stand for as many steps."""


class GroupPlanSettings(StageSettings):
    seed: int
    groups: Groups


class GroupsSettings(StageSettings):
    """`sharpness`: of the selection's relation."""

    seed: int
    sharpness: float | None


class AcceptSettings(StageSettings):
    accept: Accept


class ScoreSettings(StageSettings):
    columns: PoolColumns
    bad_records: BadRecords
    sequence_length: int
    score: Score


class SemanticFitSettings(StageSettings):
    semantic: Semantic


class EmbedSettings(StageSettings):
    text_columns: PoolColumns
    bad_records: BadRecords
    sequence_length: int
    score: Score


class CentroidSettings(StageSettings):
    seed: int
    cluster: Cluster


class ClusterSettings(StageSettings):
    """Assignment depends on the centroids alone."""


class GroupMatesSettings(StageSettings):
    budget: Budget
    group_mates: GroupMates


class RandomSettings(StageSettings):
    seed: int


class MatesSettings(StageSettings):
    seed: int
    mates: Mates


class QualitySettings(StageSettings):
    selection_examples: int
    quality: Quality


class QualityOrderSettings(StageSettings):
    columns: PoolColumns
    bad_records: BadRecords
    quality: Quality


class SemDedupSettings(StageSettings):
    seed: int
    semdedup: SemDedup


class OracleCheckSettings(StageSettings):
    """How many evaluations are allowed changes nothing that is measured."""

    budget: Budget
    candidates: int | None


class OracleGreedySettings(StageSettings):
    seed: int
    text_columns: PoolColumns
    selection_examples: int
    sequence_length: int
    budget: Budget
    candidates: int | None


class QuadSettings(StageSettings):
    seed: int
    text_columns: PoolColumns
    selection_examples: int
    sequence_length: int
    quad: Quad


class QuadOrderSettings(StageSettings):
    """What the bandit found says the rest."""

    seed: int


class TakeSettings(StageSettings):
    budget: Budget


class MaterialiseSettings(StageSettings):
    """The selection says which rows."""

    format: Format
    text_columns: PoolColumns


class TokeniseSettings(StageSettings):
    """`open_lm` is null for other formats, which do not depend on it."""

    seed: int
    format: Format
    text_columns: PoolColumns
    open_lm: OpenLm | None


class AssembleSettings(StageSettings):
    format: Format


class EvaluateSettings(StageSettings):
    seed: int
    text_columns: PoolColumns
    evaluation_examples: int
    sequence_length: int
    training: EvaluateTraining


class SummarySettings(StageSettings):
    seed: int


class ReportSettings(StageSettings):
    """`selectors`: the selector that each method is, perhaps as a variant; `clusters`: its clusters.

    `by_initial`: the methods that go by the initial influence model, of random rollouts alone.
    """

    run: str
    selectors: dict[str, str]
    clusters: dict[str, Clusters]
    by_initial: list[str]
    text_columns: PoolColumns
    report: Report


class PlanSettings(StageSettings):
    """The plan is of the whole configuration."""

    config: Config


def settings(config: Config, kind: type[StageSettings], method: str | None = None) -> StageSettings:
    """Pick `kind`'s fields out of the configuration; each field name stands for one place in it.

    `method`: the selector's section is as this method, perhaps a variant, has it.
    """
    places: dict[str, Any] = {
        "run": config.run,
        "config": config,
        "seed": config.seed,
        "columns": config.pool.columns,
        "text_columns": config.pool.columns.model_copy(update={"source": None}),
        "bad_records": config.pool.bad_records,
        "max_bad_share": config.pool.max_bad_share,
        "selection_examples": config.reference.selection_examples,
        "evaluation_examples": config.reference.evaluation_examples,
        "accept": config.accept,
        "corpus": config.corpus,
        "split": config.reference.split,
        # Which files the paths stand for is the rule's business: the same files are the same sample.
        "sample": config.sample.model_copy(update={"paths": None}),
        "sequence_length": config.sample.sequence_length,
        "checkpoint": config.base.checkpoint,
        "base": config.base,
        "rollout_length": config.probe.rollout_length,
        "random": config.probe.random,
        "bootstrap": config.probe.bootstrap,
        "groups": config.probe.groups,
        "fit": config.fit,
        "score": config.score,
        "semantic": config.semantic,
        "cluster": config.cluster,
        "budget": config.select.budget,
        "group_mates": config.select.group_mates,
        "sharpness": config.select.group_mates.sharpness,
        "mates": config.select.mates,
        "quality": config.select.quality,
        "semdedup": config.select.semdedup,
        "oracle_greedy": config.select.oracle_greedy,
        "quad": config.select.quad,
        "steps": one_steps(config),
        "format": config.materialise.format,
        "open_lm": (config.materialise.open_lm if config.materialise.format == "open_lm" else None),
        "training": config.evaluate.training,
        "report": config.report,
        "selectors": {name: config.select.method(name)[0] for name in config.select.methods},
        "by_initial": [m for m in config.select.methods if goes_by_initial(config, m)],
        "clusters": {name: config.select.clusters_of(name) for name in config.select.methods},
    }
    if method is not None:
        selector, section = config.select.method(method)
        places[selector] = section
    places["candidates"] = places["oracle_greedy"].candidates
    if kind is OneStepFitSettings:
        places["fit"] = one_step_fit(config)
    return kind(**{name: places[name] for name in kind.model_fields})


def goes_by_initial(config: Config, method: str) -> bool:
    section = config.select.method(method)[1]
    return isinstance(section, GroupMates) and section.rounds == "random"


def one_steps(config: Config) -> int:
    """Steps of the one-step round: those of the other rounds, or all documents of the probe pool."""
    probe = config.probe
    steps = (probe.random.rollouts + probe.bootstrap.rollouts) * probe.rollout_length
    return min(steps, config.sample.probe_documents)


def group_jobs(config: Config) -> int:
    """Jobs that probe sets of documents, of about as many steps as a job of the random round.

    None where no method selects by group influence.
    """
    probe, groups = config.probe, config.probe.groups
    kinds = {config.select.method(name)[0] for name in config.select.methods}
    if not groups.sets or "group_mates" not in kinds:
        return 0
    steps = 2 * groups.sets * groups.sizes[-1]  # of random sets, and of near ones
    jobs = -(-steps * probe.shards // (probe.random.rollouts * probe.rollout_length))
    return min(jobs, probe.shards, 2 * groups.sets)


def one_step_fit(config: Config) -> Fit:
    """The fit's settings for rollouts of one step: the same share of them chosen by and held out."""
    fit, probe = config.fit, config.probe
    share = one_steps(config) / (probe.random.rollouts + probe.bootstrap.rollouts)
    training = fit.training.model_copy(
        update={"batch_rollouts": fit.training.batch_rollouts * probe.rollout_length}
    )
    return fit.model_copy(
        update={
            "validation_rollouts": max(1, round(fit.validation_rollouts * share)),
            "heldout_rollouts": max(1, round(fit.heldout_rollouts * share)),
            "training": training,
        }
    )


def as_param(
    config: Config, kind: type[StageSettings], artefact: str, method: str | None = None
) -> str:
    """The `params.settings` of a rule: sorted JSON, with the version of what the rule writes.

    Sorted JSON because snakemake compares params as text: the same settings are the same text.
    """
    body = settings(config, kind, method).model_dump(mode="json")
    return json.dumps({**body, "version": ARTEFACTS[artefact].version}, sort_keys=True)


def from_param(text: str, kind: type[StageSettings]) -> StageSettings:
    """The inverse of `as_param`, on the node that runs the stage."""
    body = json.loads(text)
    body.pop("version", None)
    return kind.model_validate(body)
