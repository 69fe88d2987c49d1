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
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, defer_build=True
    )


Clusters = Literal["influence", "semantic"]


class GroupMates(Section):
    """Greedy selection within clusters by group influence."""

    clusters: Clusters
    """`influence`: clusters of the influence model's embeddings (paper). `semantic`: clusters of
    embeddings that no influence has shaped. The relation within clusters is the influence model's
    either way."""
    quota: Literal["proportional", "marginal"]
    """`proportional`: the same share of every cluster (paper). `marginal`: one threshold on theta
    for the whole pool.

    On pools that are not filtered already, proportional quotas gave most of the gain away.
    """
    sign: Literal["paper", "ceiling"]
    """`paper`: as in the paper. `ceiling`: influences are measured from the pool's worst one, so
    redundancy is never rewarded. `ceiling` cost some of the gain on the built-in corpus."""
    relation: Literal["fitted", "unit", "none"]
    """`unit`: alpha = beta = 1. `fitted`: alpha and beta as the model learned them (paper). `none`:
    individual influence alone.

    Random rollouts hardly hold near neighbours, so they do not determine beta. `unit` was behind
    `fitted` on no pool.
    """
    sharpness: Annotated[float, Field(gt=0)] | None
    """Exponent of the nearest kernel in the selection. A higher one looks at near copies alone.
    `null`: `fit.relation.sharpness`. The mean kernel has none.

    On a pool with edited copies, 32 was better than 16, 64 and 256.
    """
    rounds: Literal["all", "random"]
    """`all`: the final influence model. `random`: the initial one, fitted to random rollouts
    alone."""


class Mates(Section):
    """MATES (arXiv 2406.06046): the influence of single steps, with probing of its own and without
    a relation. Each step starts from the checkpoint. There are as many steps as in the other
    rounds, at most one per probe document."""

    temperature: Rate
    """Weight of the Gumbel noise, in standard deviations of the influence over the pool. `0`: the
    best documents are taken.

    Documents are drawn without replacement, with probability proportional to exp(−influence /
    temperature).
    """


class Quality(Section):
    """A classifier of good texts against the pool, as DCLM-Baseline has one. It is a logistic
    regression on hashed word n-grams. The best scores are taken."""

    positives: Literal["reference"] | Annotated[list[str], Field(min_length=1)] | None
    """Files of good texts, of the kinds of `reference.paths`. `reference`: the examples that steer
    the selection, never those held out. `null`: not set; the method is then refused."""
    ngrams: Annotated[int, Field(ge=1, le=5)]
    """Longest word n-gram."""
    hash_bits: Annotated[int, Field(ge=8, le=24)]
    """The n-grams' weights are a table of 2^hash_bits entries."""
    penalty: Annotated[float, Field(gt=0)]
    """Weight of the squared weights in the loss."""


class SemDedup(Section):
    """SemDeDup (arXiv 2303.09540): near-duplicates within clusters are dropped, the rest is drawn
    at random. Of near-duplicates, the document farthest from the centroid stays."""

    clusters: Clusters
    """Clusters, and embeddings that tell near-duplicates. `semantic`: embeddings of meaning.
    `influence`: those of the influence model."""
    threshold: Annotated[float, Field(gt=0, le=1)]
    """Cosine above which two documents are near-duplicates."""


class OracleGreedy(Section):
    """Brute force over true losses, for pools of some hundred documents. Each pick trains a step on
    every remaining document and keeps the one of lowest loss. Its selection is no upper bound for
    held-out examples."""

    candidates: Positive | None
    """Documents that are tried at each pick, drawn at random. `null`: all that remain."""
    max_evaluations: Positive
    """Largest number of evaluations of the reference loss, each after a training step. A selection
    that needs more is refused.

    n picks among N documents need n·N − n(n − 1)/2 evaluations. Raising the limit makes nothing
    stale.
    """


class Quad(Section):
    """Quad (arXiv 2409.16986): clusters are the arms of a bandit, probed by influence functions.
    The clusters that help most give all their documents until the budget is met."""

    iterations: Positive
    """Iterations of the bandit. Each reads the pool files that hold its documents."""
    arms_per_iteration: Positive
    """Clusters that are probed per iteration: those of highest score, or all where there are fewer
    (paper: 50)."""
    documents_per_arm: Positive
    """Documents that are probed per cluster (paper: 10)."""
    threshold: float | None
    """Influence that a reward is measured from, in the unit of the influences in `probe/quad/`.
    Lower influences are better. `null`: the pool's mean, estimated from the probed clusters.

    A cluster's reward is this value − the mean influence of its probed documents. The demo's
    influences are −0.18 ± 0.19. Those of other models differ, so no fixed threshold suits all.
    """
    exploration: Rate
    """Weight of √(2 ln(visits of all) / (visits + 1)) in a cluster's score, in the unit of the
    influences (paper: 1e-4). Raise it where the log says that few of many clusters were probed."""
    neighbour_distance: Annotated[float, Field(gt=0)]
    """Distance of unit centroids below which clusters share rewards (paper: 0.2). A cluster at
    distance d gets the share 1 − d / neighbour_distance."""
    hessian: Literal["none", "gauss_newton"]
    """`none`: the influence is the product of the gradients. `gauss_newton`: the inverse curvature
    of the reference loss stands between them.

    On the built-in corpus, `none` ranked documents better: Spearman 0.671 with the true change of
    the loss, at most 0.495 with curvature.
    """
    damping: Annotated[float, Field(gt=0)]
    """Number that is added to the diagonal of the curvature (paper: 1e-3). It matters with
    `hessian: gauss_newton` alone, as do the two keys below."""
    cg_iterations: Positive
    """Largest number of products with the curvature, per solution by conjugate gradients."""
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)]
    """Relative residual at which conjugate gradients stop."""


SELECTORS: dict[str, type[Section] | None] = {
    "group_mates": GroupMates,
    "mates": Mates,
    "quality": Quality,
    "semdedup": SemDedup,
    "oracle_greedy": OracleGreedy,
    "quad": Quad,
    "random": None,
}
