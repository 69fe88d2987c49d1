"""`config.yaml`, typed. Config enters here once; `per_stage.py` picks what a stage depends on.

Defaults stand in `config.yaml` alone: snakemake merges `--configfile` and `--config` over it, so
every field below is required.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from groupmates.errors import UserError
from groupmates.settings.selectors import (
    SELECTORS,
    Clusters,
    GroupMates,
    Mates,
    NotNegative,
    OracleGreedy,
    Positive,
    Quad,
    Quality,
    Rate,
    Section,
    SemDedup,
    Share,
)

Paths = Literal["builtin"] | Annotated[list[str], Field(min_length=1)]
Format = Literal["same", "parquet", "open_lm", "megatron"]
MethodName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class PoolColumns(Section):
    text: str
    id: str | None
    source: str | None


BadRecords = Literal["stop", "skip"]


class Pool(Section):
    paths: Paths
    files_per_shard: Positive | None
    shard_mb: Annotated[float, Field(gt=0)] | None
    bad_records: BadRecords
    max_bad_share: Annotated[float, Field(ge=0, le=1)]
    columns: PoolColumns

    @model_validator(mode="after")
    def one_of_two(self) -> Self:
        _exactly_one(self, "files_per_shard", "shard_mb")
        if self.shard_mb is not None and self.paths == "builtin":
            raise ValueError(
                "shard_mb needs paths that are files: those of the corpus are made later"
            )
        return self


def _exactly_one(section: Section, one: str, other: str) -> None:
    given = [name for name in (one, other) if getattr(section, name) is not None]
    if len(given) != 1:
        found = "both are, where config.yaml's own counts" if given else "neither is"
        raise ValueError(f"exactly one of {one} and {other} must be set, the other null: {found}")


class Corpus(Section):
    documents: Positive
    files: Positive


class ReferenceSplit(Section):
    loss_on: Literal["continuation", "all"]
    evaluation_share: Annotated[float, Field(gt=0, lt=1)]
    max_tokens: Annotated[int, Field(ge=2)]


class Reference(Section):
    paths: Paths
    evaluation_paths: Annotated[list[str], Field(min_length=1)] | None
    selection_examples: Positive
    evaluation_examples: Positive
    split: ReferenceSplit


class Sample(Section):
    paths: Annotated[list[str], Field(min_length=1)] | None
    probe_documents: Positive
    training_documents: Positive
    sequence_length: Annotated[int, Field(ge=2)]
    tokenizer: str | None
    vocabulary_size: Annotated[int, Field(ge=300)]


class Architecture(Section):
    family: Literal["gpt_neox", "llama"]
    hidden_size: Positive
    layers: Positive
    heads: Positive


class Optimizer(Section):
    learning_rate: Annotated[float, Field(gt=0)]
    beta1: Annotated[float, Field(ge=0, lt=1)]
    beta2: Annotated[float, Field(ge=0, lt=1)]
    epsilon: Annotated[float, Field(gt=0)]
    weight_decay: Rate
    clip_norm: Annotated[float, Field(gt=0)]
    z_loss: Rate


class Base(Section):
    checkpoint: str | None
    architecture: Architecture
    optimizer: Optimizer
    training_steps: NotNegative
    optimizer_warmup_steps: NotNegative
    batch_sequences: Positive
    learning_rate_warmup_steps: NotNegative


class RandomRound(Section):
    rollouts: Positive


class BootstrapRound(Section):
    rollouts: NotNegative
    beam_width: Positive
    expansion: Positive
    max_appearances: Positive


class Groups(Section):
    sets: NotNegative
    sizes: Annotated[list[Positive], Field(min_length=1)]

    @model_validator(mode="after")
    def sets_can_be_compared(self) -> Self:
        if self.sizes != sorted(set(self.sizes)):
            raise ValueError(f"sizes must ascend, each once, not {self.sizes}")
        if 0 < self.sets < 3:
            raise ValueError(
                f"sets must be 0 or at least 3, not {self.sets}: fewer have no correlation"
            )
        return self


class Probe(Section):
    shards: Positive
    rollout_length: Annotated[int, Field(ge=2)]
    random: RandomRound
    bootstrap: BootstrapRound
    groups: Groups


class Encoder(Section):
    name: str
    embedding_size: Positive
    chunk_tokens: Annotated[int, Field(ge=8)]
    chunks: Positive


class Relation(Section):
    kernel: Literal["mean", "nearest"]
    sharpness: Annotated[float, Field(gt=0)]


class FitTraining(Section):
    epochs: Positive
    batch_rollouts: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: NotNegative
    weight_decay: Rate
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Fit(Section):
    encoder: Encoder
    relation: Relation
    standardise: Literal["per_position", "global"]
    validation_rollouts: Positive
    heldout_rollouts: Positive
    training: FitTraining


class Accept(Section):
    minimum_spearman: Annotated[float, Field(ge=-1, le=1)]


class Score(Section):
    batch_tokens: Positive


class Semantic(Section):
    embedding_size: Positive


class Cluster(Section):
    clusters: Positive | None
    target_size: Positive | None
    iterations: Positive
    sample_per_cluster: Positive

    @model_validator(mode="after")
    def one_of_two(self) -> Self:
        _exactly_one(self, "clusters", "target_size")
        return self


class Budget(Section):
    ratio: Share | None
    tokens: Positive | None

    @model_validator(mode="after")
    def one_of_two(self) -> Self:
        _exactly_one(self, "ratio", "tokens")
        return self


class Select(Section):
    methods: Annotated[list[MethodName], Field(min_length=1)]
    variants: dict[MethodName, dict[str, Any]]
    budget: Budget
    partitions: Positive
    group_mates: GroupMates
    mates: Mates
    quality: Quality
    semdedup: SemDedup
    oracle_greedy: OracleGreedy
    quad: Quad

    @model_validator(mode="after")
    def methods_are_known(self) -> Self:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("every method at most once")
        for name, variant in self.variants.items():
            if name in SELECTORS:
                raise ValueError(f"variants.{name}: a selector has this name; choose another")
            self._check_variant(name, variant)
        for name in self.methods:
            if name not in SELECTORS and name not in self.variants:
                known = ", ".join([*SELECTORS, *self.variants])
                raise ValueError(
                    f"methods: {name!r} is neither a selector nor one of variants; known are {known}"
                )
            section = self.method(name)[1]
            if isinstance(section, Quality) and section.positives is None:
                raise ValueError(
                    f"methods: {name} needs quality.positives: files of texts that are good, or "
                    f"'reference' for the examples that steer the selection"
                )
        return self

    def _check_variant(self, name: str, variant: dict[str, Any]) -> None:
        kind = variant.get("method")
        section = SELECTORS.get(kind) if isinstance(kind, str) else None
        if section is None:
            able = ", ".join(k for k, v in SELECTORS.items() if v)
            raise ValueError(f"variants.{name}.method: one of {able}, not {kind!r}")
        known = set(section.model_fields)
        unknown = sorted(variant.keys() - known - {"method"})
        if unknown:
            raise ValueError(
                f"variants.{name}: {unknown[0]!r} is no setting of {kind}; known are {sorted(known)}"
            )
        try:
            self.method(name)
        except ValidationError as error:
            found = error.errors()[0]
            key = ".".join(map(str, found["loc"][:1]))
            raise ValueError(
                f"variants.{name}.{key}: {found['msg']}, not {found['input']!r}"
            ) from None

    def method(self, name: str) -> tuple[str, Section | None]:
        """The selector of a method and its settings; a variant's own stand before the section's."""
        if name in SELECTORS:
            return name, getattr(self, name, None)
        changed = {k: v for k, v in self.variants[name].items() if k != "method"}
        kind = self.variants[name]["method"]
        section: Section = getattr(self, kind)
        return kind, type(section).model_validate(section.model_dump() | changed)

    def clusters_of(self, name: str) -> Clusters:
        """The clusters that a method selects within, or is shown in where it looks at none."""
        section = self.method(name)[1]
        return section.clusters if isinstance(section, GroupMates | SemDedup) else "influence"


class OpenLm(Section):
    window_tokens: Annotated[int, Field(ge=2)]
    windows_per_shard: Positive


class Materialise(Section):
    format: Format
    tokenizer: str | None
    shards_per_job: Positive
    open_lm: OpenLm


class EvaluateTraining(Section):
    tokens: Positive
    batch_sequences: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    learning_rate_warmup_steps: NotNegative
    points: Annotated[int, Field(ge=2)]


class Evaluate(Section):
    seeds: Positive
    training: EvaluateTraining


class Report(Section):
    map_points: Annotated[int, Field(ge=2)]
    texts_gigabytes: Rate


class PlannedPool(Section):
    documents: Positive | None
    tokens_per_document: Annotated[float, Field(gt=0)] | None
    text_bytes_per_document: Annotated[float, Field(gt=0)] | None
    file_bytes_per_document: Annotated[float, Field(gt=0)] | None


class PlannedShape(Section):
    hidden_size: Positive
    layers: Positive
    vocabulary_size: Positive


class Pretraining(Section):
    gpu_hours: Annotated[float, Field(gt=0)] | None
    tokens: Positive | None

    @model_validator(mode="after")
    def one_at_most(self) -> Self:
        if self.gpu_hours is not None and self.tokens is not None:
            raise ValueError("at most one of gpu_hours and tokens may be set, the other null")
        return self


class Plan(Section):
    gpus: Positive
    cores: Positive
    rates: Annotated[list[str], Field(min_length=1)] | None
    pool: PlannedPool
    reference_tokens: Annotated[float, Field(gt=0)] | None
    checkpoint: PlannedShape | None
    encoder: PlannedShape | None
    pretraining: Pretraining


class Config(Section):
    run: Name
    seed: NotNegative
    pool: Pool
    corpus: Corpus
    reference: Reference
    sample: Sample
    base: Base
    probe: Probe
    fit: Fit
    accept: Accept
    score: Score
    semantic: Semantic
    cluster: Cluster
    select: Select
    materialise: Materialise
    evaluate: Evaluate
    report: Report
    plan: Plan

    @model_validator(mode="after")
    def sections_agree(self) -> Self:
        bootstrap = self.probe.bootstrap
        length, documents = self.probe.rollout_length, self.sample.probe_documents
        if documents < length:
            raise ValueError(
                f"sample.probe_documents ({documents}) must be at least probe.rollout_length "
                f"({length}): a rollout visits distinct documents"
            )
        if bootstrap.rollouts * length > bootstrap.max_appearances * documents:
            raise ValueError(
                f"probe.bootstrap.rollouts x rollout_length ({bootstrap.rollouts * length}) needs more "
                f"than max_appearances x sample.probe_documents "
                f"({bootstrap.max_appearances * documents}) appearances"
            )
        groups = self.probe.groups
        if groups.sets and groups.sizes[-1] > documents:
            raise ValueError(
                f"probe.groups.sizes ({groups.sizes[-1]}) must be at most sample.probe_documents "
                f"({documents}): a set holds distinct documents"
            )
        rollouts = self.probe.random.rollouts
        kept = self.fit.validation_rollouts + self.fit.heldout_rollouts
        if kept >= rollouts:
            raise ValueError(
                f"fit.validation_rollouts + fit.heldout_rollouts ({kept}) must be fewer than "
                f"probe.random.rollouts ({rollouts}): the rest is what the model is fitted on"
            )
        if bootstrap.beam_width < (bootstrap.rollouts + 1) // 2:
            raise ValueError(
                f"probe.bootstrap.beam_width ({bootstrap.beam_width}) must be at least half of "
                f"probe.bootstrap.rollouts ({bootstrap.rollouts}): a search gives one set per beam"
            )
        for name in self.select.methods:
            section = self.select.method(name)[1]
            of_random = isinstance(section, GroupMates) and section.rounds == "random"
            if of_random and not bootstrap.rollouts:
                raise ValueError(
                    f"select.methods: {name} has rounds: random, which is what all methods do "
                    f"where probe.bootstrap.rollouts is 0"
                )
        if self.reference.evaluation_paths is not None and self.reference.paths == "builtin":
            raise ValueError("reference.evaluation_paths needs reference.paths that are files")
        if self.base.architecture.hidden_size % (2 * self.base.architecture.heads):
            raise ValueError(
                "base.architecture.hidden_size must be an even multiple of base.architecture.heads"
            )
        return self


def load(raw: dict[str, Any]) -> Config:
    """The merged configuration of snakemake, validated; every problem at once in one `UserError`."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors()]
        raise UserError(
            expected="a valid configuration; config.yaml explains every key",
            found="\n          ".join(problems),
            where="config.yaml, --configfile or --config",
            todo="correct the settings named above",
        ) from None


def _problem(error: Any) -> str:
    # Without the parts that name a choice of a union, such as list[str].
    key = ".".join(str(part) for part in error["loc"] if "[" not in str(part)) or "configuration"
    if error["type"] != "extra_forbidden":
        message = error["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(error["input"], dict) else f", not {error['input']!r}"
        if error["type"] == "int_parsing":  # YAML takes 5e7 for text
            shown += "; write out its digits"
        return f"{key}: {message}{shown}"
    sections = {leaf.rsplit(".", i)[0] for leaf in keys() for i in range(1, leaf.count(".") + 1)}
    known = sorted(keys() | sections)
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key}: no such setting" + (f"; the nearest is {near[0]}" if near else "")


def keys(section: type[BaseModel] = Config, prefix: str = "") -> set[str]:
    """Every leaf of the configuration as a dotted key."""
    found: set[str] = set()
    for name, entry in section.model_fields.items():
        kind = entry.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= keys(kind, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of config.yaml, for editors; stands in workflow/schemas/."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
