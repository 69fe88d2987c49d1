"""The selectors: a section of settings for each, and what is known of one where its rules are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


NotNegative = Annotated[int, Field(ge=0)]


Share = Annotated[float, Field(gt=0, le=1)]


Rate = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


Clusters = Literal["influence", "semantic"]


class GroupMates(Section):
    clusters: Clusters
    quota: Literal["proportional", "marginal"]
    sign: Literal["paper", "ceiling"]
    relation: Literal["fitted", "unit", "none"]
    sharpness: Annotated[float, Field(gt=0)] | None
    rounds: Literal["all", "random"]


class Mates(Section):
    temperature: Rate


class Quality(Section):
    positives: Literal["reference"] | Annotated[list[str], Field(min_length=1)] | None
    ngrams: Annotated[int, Field(ge=1, le=5)]
    hash_bits: Annotated[int, Field(ge=8, le=24)]
    penalty: Annotated[float, Field(gt=0)]


class SemDedup(Section):
    clusters: Clusters
    threshold: Annotated[float, Field(gt=0, le=1)]


class OracleGreedy(Section):
    candidates: Positive | None
    max_evaluations: Positive


class Quad(Section):
    iterations: Positive
    arms_per_iteration: Positive
    documents_per_arm: Positive
    threshold: float | None
    exploration: Rate
    neighbour_distance: Annotated[float, Field(gt=0)]
    hessian: Literal["none", "gauss_newton"]
    damping: Annotated[float, Field(gt=0)]
    cg_iterations: Positive
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)]


SELECTORS: dict[str, type[Section] | None] = {
    "group_mates": GroupMates,
    "mates": Mates,
    "quality": Quality,
    "semdedup": SemDedup,
    "oracle_greedy": OracleGreedy,
    "quad": Quad,
    "random": None,
}
