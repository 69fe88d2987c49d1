"""The selectors: a class each, with its settings and what the workflow has to know of its steps.

A selector puts the documents of the pool in an order. Its class is all that rules, command line, cost
and report know of it. Its functions `prepare` and `order` stand in `groupmates/selectors/NAME.py`.
Light: every job parses this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from groupmates.settings.sections import (
    Budget,
    Columns,
    Delimiter,
    From,
    OfBadRecords,
    Pooling,
    Positive,
    ProbeRate,
    Rate,
    Section,
    SelectionExamples,
    SequenceLength,
    StageSettings,
    TextColumns,
)

Clusters = Literal["influence", "semantic"]


# What the jobs of a selector read.


@dataclass(frozen=True)
class Need:
    """An input: the argument that names it, its artefact, and what a method is charged for it.

    An artefact with shards stands for all of them. Without one, it is files of the user.
    """

    argument: str
    artefact: str | None
    charged: str | None = None
    model: str | None = None
    files: tuple[str, ...] = ()  # patterns of the user's files, which stand at `key`
    key: str = ""


# Every order lists the documents by score file and row, whatever the influences there.
DOCUMENTS = Need("score", "score", "documents")
SCORES = Need("score", "score", "scores")
SCORES_OF_INITIAL = Need("scored_by", "score_by", "scores_of_initial", model="initial")
SCORES_OF_ONE_STEP = Need("scored_by", "score_by", "scores_of_one_step", model="one_step")
MODEL = Need("model", "fit", model="final")
INITIAL_MODEL = Need("model", "fit", model="initial")
CLUSTERS = Need("cluster", "cluster", "clusters")
CENTROIDS = Need("centroids", "centroids", "clusters")
SEMANTIC = Need("semantic", "semantic", "semantic")
SEMANTIC_CLUSTERS = Need("cluster", "semantic_cluster", "semantic_clusters")
SEMANTIC_CENTROIDS = Need("centroids", "semantic_centroids", "semantic_clusters")
POOL = Need("pool", "pool", "documents")  # the files of a shard, where jobs have one
FILES = Need("files", "files", "documents")
BASE = Need("base", "base")  # not charged: whoever selects for a model has it
TOKENIZER = Need("tokenizer", "tokenizer", "sample")
REFERENCE = Need("reference", "reference", "sample")
PROBE_POOL = Need("probe_pool", "probe_pool", "sample")
TRAINING_POOL = Need("training_pool", "training_pool", "sample")
PREPARED = Need("prepared", "prepared")  # what the selector's own `prepare` has made


# The steps of a selector.


class Step(StageSettings):
    """The jobs of a selector that do the same: `Order`, or `Prepare`. Fields: what it depends on.

    `gpu`: it asks for one. `shares`: its jobs share the clusters, or have a scoring shard each. Memory
    is in MB, time in minutes, both of a first attempt. `writes`: artefacts whose versions it has.
    """

    gpu: ClassVar[bool] = False
    shares: ClassVar[Literal["clusters", "shards"] | None] = None
    threads: ClassVar[int] = 1
    memory: ClassVar[int] = 8000
    minutes: ClassVar[int] = 60
    writes: ClassVar[tuple[str, ...]] = ("order",)
    # Set where its selector is registered.
    stage: ClassVar[str]
    function: ClassVar[tuple[str, str]]

    def needs(self) -> tuple[Need, ...]:
        """What its jobs read."""
        raise NotImplementedError


class Selector(Section):
    """The section of a selector. A class below registers itself under its `name`.

    Nested are the settings of its steps: `Order`, and `Prepare` where it makes something before, once
    for all its jobs. `limits`: settings that refuse and change nothing, so that nothing depends on
    them. `calibration`: what a calibration has at most of a setting.
    """

    name: ClassVar[str]
    Order: ClassVar[type[Step]]
    Prepare: ClassVar[type[Step] | None] = None
    limits: ClassVar[tuple[str, ...]] = ()
    calibration: ClassVar[dict[str, int]] = {}

    def __init_subclass__(cls, name: str) -> None:
        cls.name = name
        SELECTORS[name] = cls
        for kind in cls.steps():
            step = kind.__name__.lower()
            kind.stage = f"{step}-{name}".replace("_", "-")
            kind.function = (f"selectors.{name}", step)
            STEPS[kind.stage] = kind

    @classmethod
    def steps(cls) -> list[type[Step]]:
        return [cls.Prepare, cls.Order] if cls.Prepare else [cls.Order]

    def refused(self, config: Any) -> str | None:
        """Why a method with these settings cannot run with this configuration."""
        return None


SELECTORS: dict[str, type[Selector]] = {}
STEPS: dict[str, type[Step]] = {}  # by the name of the command


class GroupMates(Selector, name="group_mates"):
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

    class Order(Step):
        group_mates: GroupMates

        shares = "clusters"
        threads, memory, minutes = 2, 32000, 240

        def needs(self) -> tuple[Need, ...]:
            of_initial = self.group_mates.rounds == "random"
            scores = (
                (DOCUMENTS, SCORES_OF_INITIAL, INITIAL_MODEL) if of_initial else (SCORES, MODEL)
            )
            semantic = self.group_mates.clusters == "semantic"
            return (*scores, SEMANTIC_CLUSTERS if semantic else CLUSTERS)

    def refused(self, config: Any) -> str | None:
        if config.probe.labels == "first_order":
            if self.relation == "fitted":
                return (
                    "has relation: fitted, but probe.labels: first_order tells nothing of relations"
                )
            if self.rounds == "random":
                return "has rounds: random, but with probe.labels: first_order there is one model"
        elif self.rounds == "random" and not config.probe.bootstrap.rollouts:
            return "has rounds: random, but probe.bootstrap.rollouts is 0: there is no other round"
        return None


class Mates(Selector, name="mates"):
    """MATES (arXiv 2406.06046): the influence of single steps, with probing of its own and without
    a relation. Each step starts from the checkpoint. There are as many steps as in the other
    rounds, at most one per probe document."""

    temperature: Rate
    """Weight of the Gumbel noise, in standard deviations of the influence over the pool. `0`: the
    best documents are taken.

    Documents are drawn without replacement, with probability proportional to exp(−influence /
    temperature).
    """

    class Order(Step):
        seed: int
        mates: Mates

        def needs(self) -> tuple[Need, ...]:
            return (DOCUMENTS, SCORES_OF_ONE_STEP)


class Color(Selector, name="color"):
    """CoLoR-Filter (arXiv 2406.10670): documents that become likelier as the probed model learns the
    reference. Their score is the mean loss per token after some training on the selection half, minus
    that before. The lowest scores are taken."""

    training_steps: Positive
    """AdamW steps from the checkpoint, each on all selection examples at once.

    Too much training learns the examples by heart: 20 steps at a rate of 1e-3 selected worse than 5
    at 1e-4.
    """
    learning_rate: Annotated[float, Field(gt=0)]
    """Learning rate of these steps. The other settings of AdamW are those of the checkpoint. A rate
    at which the reference loss does not fall is refused."""

    class Prepare(Step):
        seed: int
        selection_examples: SelectionExamples
        color: Color

        gpu = True
        memory, minutes = 16000, 120
        writes = ("prepared", "color")

        def needs(self) -> tuple[Need, ...]:
            return (BASE, REFERENCE)

    class Order(Step):
        """The model that was trained says the rest."""

        text_columns: TextColumns
        bad_records: OfBadRecords
        sequence_length: SequenceLength

        gpu = True
        shares = "shards"
        memory, minutes = 16000, 240

        def needs(self) -> tuple[Need, ...]:
            return (PREPARED, BASE, TOKENIZER, POOL, DOCUMENTS)


class Quality(Selector, name="quality"):
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

    class Prepare(Step):
        selection_examples: SelectionExamples
        delimiter: Delimiter
        quality: Quality

        memory, minutes = 16000, 120
        writes = ("prepared", "classifier")

        def needs(self) -> tuple[Need, ...]:
            needs = (REFERENCE, TOKENIZER, PROBE_POOL, TRAINING_POOL)
            files = self.quality.positives
            if files is None or files == "reference":
                return needs
            key = "select.quality.positives"
            return (Need("positives", None, files=tuple(files), key=key), *needs)

    class Order(Step):
        columns: Columns
        bad_records: OfBadRecords
        quality: Quality

        shares = "shards"
        minutes = 240

        def needs(self) -> tuple[Need, ...]:
            return (POOL, DOCUMENTS, PREPARED)

    def refused(self, config: Any) -> str | None:
        if self.positives is None:
            return "needs quality.positives: files of good texts, or reference"
        return None


class Betr(Selector, name="betr"):
    """Benchmark-Targeted Ranking (BETR, arXiv 2507.12466): documents that resemble the reference.
    Every example of the selection half ranks the sampled documents by similarity of embeddings (its
    section 3.4). A regression on hashed word n-grams predicts their scores for the whole pool (its
    section 3.5). The best predictions are taken."""

    encoder: str
    """`lm`: mean hidden states of the probed model, whitened on the sampled documents, with
    `semantic.embedding_size` directions. Any other value is the folder or name of a sentence encoder,
    such as `sentence-transformers/all-MiniLM-L6-v2` (paper, section 3.3: Arctic-Embed L 2.0).

    `lm` needs no download.
    """
    pooling: Pooling
    """How a sentence encoder makes one vector of a text. `mean`: over its tokens, as all-MiniLM-L6-v2
    does. `first`: the vector of the first token, as Arctic-Embed and GTE do. `lm` has the mean."""
    max_tokens: Annotated[int, Field(ge=8)]
    """Tokens of a text that a sentence encoder reads. Longer texts are cut. `lm` reads
    `sample.sequence_length` + 1 tokens."""
    combine: Literal["max", "mean"]
    """A document's score, of the ranks that the examples give it. `max`: log2(1 / rank) of its best
    rank (paper, section 3.4). `mean`: the mean of log2(1 / rank) over all examples.

    In the paper's section 5.5, `max` gave models of 62.2 % accuracy, and a mean 58.2 %.
    """
    ngrams: Annotated[int, Field(ge=1, le=5)]
    """Longest word n-gram of the regression."""
    hash_bits: Annotated[int, Field(ge=8, le=24)]
    """The n-grams' weights are a table of 2^hash_bits entries."""
    penalty: Annotated[float, Field(gt=0)]
    """Weight of the squared weights beside the squared errors. Errors are in units of the score,
    doublings of a rank. The held-out rank correlation in the log tells what it does."""

    class Prepare(Step):
        selection_examples: SelectionExamples
        sequence_length: SequenceLength
        embedding_size: Annotated[int, From("semantic.embedding_size")]
        betr: Betr

        gpu = True
        memory, minutes = 16000, 120
        writes = ("prepared", "regression")

        def needs(self) -> tuple[Need, ...]:
            texts = (REFERENCE, TOKENIZER, PROBE_POOL, TRAINING_POOL)
            return (BASE, *texts) if self.betr.encoder == "lm" else texts

    class Order(Step):
        text_columns: TextColumns
        bad_records: OfBadRecords
        betr: Betr

        shares = "shards"
        minutes = 240

        def needs(self) -> tuple[Need, ...]:
            return (POOL, DOCUMENTS, PREPARED)


class SemDedup(Selector, name="semdedup"):
    """SemDeDup (arXiv 2303.09540): near-duplicates within clusters are dropped, the rest is drawn
    at random. Of near-duplicates, the document farthest from the centroid stays."""

    clusters: Clusters
    """Clusters, and embeddings that tell near-duplicates. `semantic`: embeddings of meaning.
    `influence`: those of the influence model."""
    threshold: Annotated[float, Field(gt=0, le=1)]
    """Cosine above which two documents are near-duplicates."""

    class Order(Step):
        seed: int
        semdedup: SemDedup

        shares = "clusters"
        threads, memory, minutes = 2, 32000, 240

        def needs(self) -> tuple[Need, ...]:
            if self.semdedup.clusters == "semantic":  # does without an influence model
                return (DOCUMENTS, SEMANTIC_CLUSTERS, SEMANTIC_CENTROIDS, SEMANTIC)
            return (SCORES, CLUSTERS, CENTROIDS)


class OracleGreedy(Selector, name="oracle_greedy"):
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

    limits = ("max_evaluations",)

    class Prepare(Step):
        """Refuses what is too much, as soon as the documents are counted."""

        budget: Budget
        candidates: Annotated[int | None, From("select.oracle_greedy.candidates")]

        memory, minutes = 1000, 10
        writes = ("prepared", "brute_force")

        def needs(self) -> tuple[Need, ...]:
            # Of a budget in tokens, when their tokens are counted.
            return (FILES,) if self.budget.tokens is None else (FILES, DOCUMENTS)

    class Order(Step):
        seed: int
        text_columns: TextColumns
        selection_examples: SelectionExamples
        learning_rate: ProbeRate
        sequence_length: SequenceLength
        budget: Budget
        candidates: Annotated[int | None, From("select.oracle_greedy.candidates")]

        gpu = True
        memory, minutes = 16000, 240

        def needs(self) -> tuple[Need, ...]:
            return (PREPARED, BASE, TOKENIZER, REFERENCE, POOL, DOCUMENTS)


class Quad(Selector, name="quad"):
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
    """Influence that a reward is measured from, in the unit of the influences in `prepare/{method}/`.
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

    calibration: ClassVar = {"iterations": 5}

    class Prepare(Step):
        seed: int
        text_columns: TextColumns
        selection_examples: SelectionExamples
        sequence_length: SequenceLength
        quad: Quad

        gpu = True
        memory, minutes = 16000, 240
        writes = ("prepared", "quad", "quad_clusters")

        def needs(self) -> tuple[Need, ...]:
            return (BASE, TOKENIZER, REFERENCE, POOL, SCORES, CLUSTERS, CENTROIDS)

    class Order(Step):
        """What the bandit found says the rest."""

        seed: int

        def needs(self) -> tuple[Need, ...]:
            return (PREPARED, SCORES, CLUSTERS)


class Random(Selector, name="random"):
    """Uniform over the pool: the baseline of every comparison."""

    class Order(Step):
        seed: int

        def needs(self) -> tuple[Need, ...]:
            return (DOCUMENTS,)
