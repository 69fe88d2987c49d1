"""What each stage depends on of the configuration, and nothing else.

A `StageSettings` is printed into the stage's command line, and a change of one of its fields is what
makes snakemake run the stage again. Those of the selectors stand in `selectors.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.settings.config import (
    Accept,
    Architecture,
    Base,
    BootstrapRound,
    Cluster,
    Config,
    Corpus,
    Distil,
    EvaluateTraining,
    Fit,
    Format,
    Groups,
    OpenLm,
    Optimizer,
    Passes,
    PretrainTraining,
    RandomRound,
    ReferenceSplit,
    Report,
    Sample,
    Semantic,
)
from groupmates.settings.sections import (
    Budget,
    Columns,
    Delimiter,
    From,
    OfBadRecords,
    ProbeRate,
    SelectionExamples,
    SequenceLength,
    StageSettings,
    TextColumns,
)
from groupmates.settings.selectors import Clusters, GroupMates, Need, Step

S = TypeVar("S", bound=StageSettings)


# What several jobs or stages derive from the configuration.


def one_steps(config: Config) -> int:
    """Steps of the one-step round: those of the other rounds, or all documents of the probe pool."""
    probe = config.probe
    steps = (probe.random.rollouts + probe.bootstrap.rollouts) * probe.rollout_length
    return min(steps, config.sample.probe_documents)


def one_step_fit(config: Config) -> Fit:
    """The fit's settings for rollouts of one step: the same share of them chosen by and held out."""
    fit, probe = config.fit, config.probe
    share = one_steps(config) / (probe.random.rollouts + probe.bootstrap.rollouts)
    return _of_single_documents(
        config,
        validation_rollouts=max(1, round(fit.validation_rollouts * share)),
        heldout_rollouts=max(1, round(fit.heldout_rollouts * share)),
    )


def final_fit(config: Config) -> Fit:
    """The final fit's settings. A first-order label is as a rollout of one step; the held-out rollouts
    are what they are."""
    fit, probe = config.fit, config.probe
    if probe.labels == "rollouts":
        return fit
    return _of_single_documents(
        config, validation_rollouts=fit.validation_rollouts * probe.rollout_length
    )


def _of_single_documents(config: Config, **changed: int) -> Fit:
    """The fit's settings with as many documents in a batch, where a rollout has one."""
    training = config.fit.training
    batch = training.batch_rollouts * config.probe.rollout_length
    training = training.model_copy(update={"batch_rollouts": batch})
    return config.fit.model_copy(update={"training": training, **changed})


def rounds(config: Config) -> list[str]:
    """The rounds of rollouts that the final model is fitted to, or held out from."""
    two = config.probe.labels == "rollouts" and config.probe.bootstrap.rollouts
    return ["random", "bootstrap"] if two else ["random"]


def random_round(config: Config) -> RandomRound:
    """The first round; where the model is fitted to first-order labels, its figures alone need it."""
    if config.probe.labels == "rollouts":
        return config.probe.random
    return RandomRound(rollouts=config.fit.heldout_rollouts)


def group_jobs(config: Config) -> int:
    """Jobs that probe sets of documents, of about as many steps as a job of the random round.

    None where no method selects by group influence.
    """
    probe, groups = config.probe, config.probe.groups
    by_groups = any(isinstance(s, GroupMates) for s in config.select.selected().values())
    if not groups.sets or not by_groups:
        return 0
    steps = 2 * groups.sets * groups.sizes[-1]  # of random sets, and of near ones
    jobs = -(-steps * probe.shards // (random_round(config).rollouts * probe.rollout_length))
    return min(jobs, probe.shards, 2 * groups.sets)


def _passes(config: Config) -> Passes:
    """Which model scores the pool is the rule's business."""
    return Passes(batch_tokens=config.score.batch_tokens)


def _open_lm(config: Config) -> OpenLm | None:
    materialise = config.materialise
    return materialise.open_lm if materialise.format == "open_lm" else None


def _of_scratch(section: str, key: str) -> Callable[[Config], Any]:
    """A key that counts where a model is pretrained from scratch."""

    def find(config: Config) -> Any:
        return (
            getattr(getattr(config, section), key) if config.pretrain.start == "scratch" else None
        )

    return find


def _pretrain_training(config: Config) -> PretrainTraining:
    """How many trainings of which methods there are is the rule's business.

    What changes no model, changes no setting.
    """
    values = {name: getattr(config.pretrain, name) for name in PretrainTraining.model_fields}
    values["milestones"] = sorted(set(config.pretrain.milestones))
    if config.pretrain.save_steps is None:
        values["save_total_limit"] = 1
    return PretrainTraining.model_construct(**values)


def steps_of(config: Config, method: str) -> dict[str, Step]:
    """The settings of a method's steps, by `prepare` and `order`, in which it takes them."""
    section = config.select.method(method)
    # A variant's settings stand where those of its selector do.
    select = config.select.model_copy(update={section.name: section})
    ours = config.model_copy(update={"select": select})
    return {kind.function[1]: kind.of(ours) for kind in section.steps()}


def needs_of(config: Config, method: str) -> list[Need]:
    """What all steps of a method read."""
    return [need for step in steps_of(config, method).values() for need in step.needs()]


# The stages, in the order of the data flow.


class CorpusSettings(StageSettings):
    seed: int
    corpus: Corpus


class CheckSettings(StageSettings):
    text_columns: TextColumns
    bad_records: OfBadRecords


class CheckPoolSettings(CheckSettings):
    max_bad_share: Annotated[float, From("pool.max_bad_share")]


class TaskExamplesSettings(StageSettings):
    """What the examples are depends on their files alone."""


class DecontaminateSettings(StageSettings):
    text_columns: TextColumns
    bad_records: OfBadRecords


class SampleSettings(StageSettings):
    seed: int
    text_columns: TextColumns
    bad_records: OfBadRecords
    # Which files the paths stand for is the rule's business: the same files are the same sample.
    sample: Annotated[Sample, From(lambda config: config.sample.model_copy(update={"paths": None}))]
    checkpoint: Annotated[str | None, From("base.checkpoint")]


class ReferenceSettings(StageSettings):
    seed: int
    delimiter: Delimiter
    split: Annotated[ReferenceSplit, From("reference.split")]


class BaseSettings(StageSettings):
    seed: int
    sequence_length: SequenceLength
    base: Base


class RandomPlanSettings(StageSettings):
    seed: int
    rollout_length: Annotated[int, From("probe.rollout_length")]
    random: Annotated[RandomRound, From(random_round)]


class BootstrapPlanSettings(StageSettings):
    seed: int
    rollout_length: Annotated[int, From("probe.rollout_length")]
    bootstrap: Annotated[BootstrapRound, From("probe.bootstrap")]


class OneStepPlanSettings(StageSettings):
    """`steps`: as many training steps as all rollouts of the other rounds together."""

    seed: int
    steps: Annotated[int, From(one_steps)]


class ProbeSettings(StageSettings):
    selection_examples: SelectionExamples
    learning_rate: ProbeRate


class FitSettings(StageSettings):
    seed: int
    fit: Annotated[Fit, From(final_fit)]


class OneStepFitSettings(FitSettings):
    """Rollouts of one step: numbers of rollouts stand for as many steps."""

    fit: Annotated[Fit, From(one_step_fit)]


class GroupPlanSettings(StageSettings):
    seed: int
    groups: Annotated[Groups, From("probe.groups")]


class GroupsSettings(StageSettings):
    """`sharpness`: of the selection's relation."""

    seed: int
    sharpness: Annotated[float | None, From("select.group_mates.sharpness")]


class AcceptSettings(StageSettings):
    accept: Accept


class DistilSettings(StageSettings):
    seed: int
    sequence_length: SequenceLength
    distil: Distil


class ScoreSettings(StageSettings):
    columns: Columns
    bad_records: OfBadRecords
    sequence_length: SequenceLength
    score: Annotated[Passes, From(_passes)]


class StudentScoreSettings(StageSettings):
    """The student knows how much of a document it reads."""

    columns: Columns
    bad_records: OfBadRecords


class SemanticFitSettings(StageSettings):
    semantic: Semantic


class EmbedSettings(StageSettings):
    text_columns: TextColumns
    bad_records: OfBadRecords
    sequence_length: SequenceLength
    score: Annotated[Passes, From(_passes)]


class CentroidSettings(StageSettings):
    seed: int
    cluster: Cluster


class ClusterSettings(StageSettings):
    """Assignment depends on the centroids alone."""


class TakeSettings(StageSettings):
    budget: Budget


class MaterialiseSettings(StageSettings):
    """The selection says which rows."""

    format: Annotated[Format, From("materialise.format")]
    text_columns: TextColumns


class TokeniseSettings(StageSettings):
    """`open_lm` is null for other formats, which do not depend on it."""

    seed: int
    format: Annotated[Format, From("materialise.format")]
    text_columns: TextColumns
    bad_records: OfBadRecords
    special_tokens_in_text: Annotated[bool, From("sample.special_tokens_in_text")]
    open_lm: Annotated[OpenLm | None, From(_open_lm)]


class AssembleSettings(StageSettings):
    """All but `format` stand on the dataset's card alone."""

    run: str
    format: Annotated[Format, From("materialise.format")]
    license: Annotated[str | None, From("materialise.license")]


class EvaluateSettings(StageSettings):
    seed: int
    text_columns: TextColumns
    evaluation_examples: Annotated[int, From("reference.evaluation_examples")]
    sequence_length: SequenceLength
    training: Annotated[EvaluateTraining, From("evaluate.training")]


class PretrainTokensSettings(StageSettings):
    """The probed model's tokenizer knows how it reads texts."""

    seed: int
    text_columns: TextColumns


class PretrainSettings(StageSettings):
    """`stage` counts from 1; it has the steps from the share `begin` of all steps to the share `end`.

    `architecture` and `optimizer` are null where the training goes on from a model, which knows both.
    """

    seed: int
    evaluation_examples: Annotated[int, From("reference.evaluation_examples")]
    sequence_length: SequenceLength
    architecture: Annotated[Architecture | None, From(_of_scratch("pretrain", "architecture"))]
    optimizer: Annotated[Optimizer | None, From(_of_scratch("base", "optimizer"))]
    training: Annotated[PretrainTraining, From(_pretrain_training)]
    stage: Annotated[int, From(lambda config: 1)]
    begin: Annotated[float, From(lambda config: 0.0)]
    end: Annotated[float, From(lambda config: config.pretrain.stages[0])]

    @classmethod
    def of_stage(cls, config: Config, stage: int) -> PretrainSettings:
        """The settings of a stage; one after the first goes on from the model of the one before."""
        if stage == 1:
            return cls.of(config)
        begin, end = config.pretrain.bounds[stage - 1 : stage + 1]
        changed = {"architecture": None, "optimizer": None, "stage": stage}
        return cls.of(config).model_copy(update={**changed, "begin": begin, "end": end})


class CoreSettings(StageSettings):
    """The task's own settings stand in its folder, and are a param of their own."""

    examples: Annotated[int | None, From("core.examples")]
    batch_tokens: Annotated[int, From("core.batch_tokens")]


class CoreTableSettings(StageSettings):
    examples: Annotated[int | None, From("core.examples")]


class SummarySettings(StageSettings):
    seed: int


def _selectors(config: Config) -> dict[str, str]:
    return {method: section.name for method, section in config.select.selected().items()}


def _clusters(config: Config) -> dict[str, Clusters]:
    return {method: config.select.clusters_of(method) for method in config.select.methods}


def _charged(config: Config) -> dict[str, list[str]]:
    return {
        method: sorted({need.charged for need in needs_of(config, method) if need.charged})
        for method in config.select.methods
    }


class ReportSettings(StageSettings):
    """`selectors`: the selector that each method is, perhaps as a variant; `clusters`: its clusters.

    `charged`: the shared products that each method needs, and is charged for.
    """

    run: str
    selectors: Annotated[dict[str, str], From(_selectors)]
    clusters: Annotated[dict[str, Clusters], From(_clusters)]
    charged: Annotated[dict[str, list[str]], From(_charged)]
    text_columns: TextColumns
    report: Report


class FrontierSettings(StageSettings):
    """Costs by arithmetic are of the whole configuration."""

    charged: Annotated[dict[str, list[str]], From(_charged)]
    config: Annotated[Config, From(lambda config: config)]


class PlanSettings(StageSettings):
    """The plan is of the whole configuration."""

    config: Annotated[Config, From(lambda config: config)]


def as_param(settings: StageSettings, *artefacts: str, start: int = 1) -> str:
    """The `params.settings` of a rule: sorted JSON, with one version for all that the rule writes.

    Sorted JSON because snakemake compares params as text: the same settings are the same text. The
    version is `start` while all artefacts are of version 1. It rises with each of theirs.
    """
    version = start + sum(ARTEFACTS[name].version - 1 for name in artefacts)
    return json.dumps({**settings.model_dump(mode="json"), "version": version}, sort_keys=True)


def from_param(text: str, kind: type[S]) -> S:
    """The inverse of `as_param`, on the node that runs the stage."""
    body = json.loads(text)
    body.pop("version", None)
    return kind.model_validate(body)
