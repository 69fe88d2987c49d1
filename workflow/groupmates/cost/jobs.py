"""Jobs and their work, and what the work of several stages is made of.

A phase is what one `Progress` of the stage counts, told apart by its unit; its parts say what the work
consists of, kernel by kernel. Rates of a small run are rates of whole phases, rates of a machine that
one does not have are rates of kernels: see rates.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from groupmates.cost.sizes import Sizes
from groupmates.maths.flops import Shape, first_token_flops, forward_flops, training_flops
from groupmates.maths.packing import MICRO_TOKENS
from groupmates.settings import lines
from groupmates.settings.config import Config
from groupmates.settings.per_stage import needs_of

# Kernels: what an amount is counted in, and how a table shows it.
KERNELS = {
    "train": "FLOP, training steps of the probed model",
    "forward": "FLOP, forward passes of the probed model",
    "step": "layers of the probed model, in training steps on one document: to start their kernels",
    "encoder_train": "FLOP, training steps of the encoder",
    "encoder_forward": "FLOP, forward passes of the encoder",
    "head": "training steps of the map and head on frozen features",
    "tokenise": "bytes of text",
    "read": "bytes of text, read and parsed",
    "copy": "bytes of pool files, read and written",
    "rows": "documents, read from or written to tables",
    "embeddings": "bytes of embeddings, read",
    "kmeans": "multiply-adds of similarities to centroids",
    "sums": "multiply-adds of float64 sums of clusters",
    "greedy": "multiply-adds of similarities, greedy selection",
    "beam": "multiply-adds of similarities, bootstrapped rollouts",
    "hash": "bytes of text, hashed into n-grams",
    "windows": "bytes of text, of which each window of 13 words is looked up",
    "vectors": "multiply-adds of token frequencies with token vectors",
    "draw": "rollouts of documents drawn at random",
    "figures": "values of the resampled held-out figures",
    "corpus": "documents of the built-in corpus",
    "start": "jobs: start of the process, imports, loading",
}
TOKENS_AHEAD = frozenset({"read", "tokenise"})
ON_ALL_CORES = {"tokenise"}  # of a job; the rates of a file are those of one core
# What the work of a phase is measured by, where it is of several kernels. Of the sums of a document
# one multiply-add takes as long as so many of its similarities, which are one matrix product.
WEIGHTS = {name: 1.0 for name, what in KERNELS.items() if what.startswith("FLOP")} | {
    "kmeans": 1.0,
    "sums": 340.0,  # measured with tests/benchmarks/rates_cpu.py
}
LM_LAYERS = 3  # whose hidden states the encoder `lm` reads
IMPORTS_BYTES = {True: 700_000_000, False: 200_000_000}  # of a job with torch, and without


@dataclass(frozen=True)
class Phase:
    """`units` of one job, and the work of all of them.

    `ahead`: kernels that a core runs for the next documents while the GPU has these.
    """

    unit: str
    units: float
    parts: dict[str, float]
    ahead: frozenset[str] = frozenset()

    @property
    def size(self) -> float:
        """Work of the job by one number, to compare it with that of another configuration."""
        weighed = [WEIGHTS[k] * amount for k, amount in self.parts.items() if k in WEIGHTS]
        return sum(weighed) or next(iter(self.parts.values()))


@dataclass(frozen=True)
class Jobs:
    """Jobs of a stage that have the same to do.

    Memory is that beside the imported libraries: `host_bytes` wherever it runs, `gpu_bytes` on the GPU,
    or in memory too where there is none. A GPU does more at once: `gpu_alone_bytes` is for that.
    """

    count: int
    phases: list[Phase]
    host_bytes: float = 0.0
    gpu_bytes: float = 0.0
    disk_bytes: float = 0.0
    gpu_alone_bytes: float = 0.0


class Amounts:
    """What several stages have to do, by a configuration and the sizes of its inputs."""

    def __init__(self, config: Config, sizes: Sizes, line: str = lines.FIRST) -> None:
        self.config, self.sizes, self.line = config, sizes, line
        if line:  # a later stage of pretraining: it is of one method, and probes what it trains
            methods = {"methods": [lines.method_of(line)]}
            select, pretrain = (
                part.model_copy(update=methods) for part in (config.select, config.pretrain)
            )
            config = config.model_copy(update={"select": select, "pretrain": pretrain})
            sizes = replace(sizes, lm=self.pretrained)
            self.config, self.sizes = config, sizes
        self.shards = sizes.shards
        self.in_shard = sizes.documents / self.shards
        encoder = sizes.encoder
        self.embedding = (
            encoder.hidden
            if encoder
            else min(config.fit.encoder.embedding_size, LM_LAYERS * sizes.lm.hidden)
        )
        select = config.select
        self.methods = list(select.selected().values())
        needs = [need for name in select.methods for need in needs_of(config, name)]
        # Models beside the final one that the pool is scored by.
        self.other_models = {need.model for need in needs if need.artefact == "score_by"}
        self.one_step = "one_step" in self.other_models  # whether single steps are probed
        self.meaning = min(config.semantic.embedding_size, sizes.lm.hidden)
        # Whether the final influence model is fitted, and scores the pool.
        self.final = not line or lines.rescored(config, lines.method_of(line))
        # A later stage has the semantic clusters of the first.
        meant = any(select.clusters_of(name) == "semantic" for name in select.methods)
        self.semantic = meant and not line
        # Sizes of the embeddings that are clustered.
        self.clustered = [self.embedding] * self.final + [self.meaning] * self.semantic
        self.row_bytes = 60.0 + 4 * self.embedding  # of a scored document

    def train_step(self, sequences: float, length: float) -> float:
        return training_flops(self.sizes.lm, sequences * length, length)

    @property
    def pretrained(self) -> Shape:
        """Of the models that `snakemake pretrain` trains."""
        if self.config.pretrain.start == "base":
            return self.sizes.lm
        made = self.config.pretrain.architecture
        return Shape(made.hidden_size, made.layers, self.sizes.lm.vocabulary)

    def look(self, examples: int, shape: Shape | None = None) -> float:
        """FLOP of one look at the loss of so many examples, of the probed model or another."""
        tokens = self.sizes.reference_tokens
        total = examples * tokens
        of_model = shape or self.sizes.lm
        return forward_flops(of_model, total, tokens / 2, total * self.sizes.label_share)

    def to_embed(self, documents: float) -> dict[str, float]:
        """Parts of embedding documents, tokenised for the language model already."""
        sizes, encoder = self.sizes, self.sizes.encoder
        if encoder is None:
            return self.hidden_states(documents)
        return {
            "encoder_forward": self.encoder_flops(encoder, documents),
            "tokenise": documents * sizes.text_bytes,
        }

    def encoder_flops(self, encoder: Shape, documents: float) -> float:
        """FLOP of a forward pass of the influence model's encoder over documents."""
        first = self.config.fit.encoder.pooling == "first"
        flops = first_token_flops if first else forward_flops
        return flops(encoder, documents * self.sizes.encoder_tokens, self.chunk_context)

    def hidden_states(self, documents: float) -> dict[str, float]:
        """Parts of the language model's hidden states of documents."""
        tokens = self.sizes.window_tokens
        return {"forward": forward_flops(self.sizes.lm, documents * tokens, tokens / 2)}

    def two_losses(self, documents: float) -> float:
        """FLOP of two models that read documents; all tokens but the first are predicted."""
        tokens = documents * self.sizes.window_tokens
        return 2 * forward_flops(self.sizes.lm, tokens, self.sizes.window_tokens / 2, tokens)

    @property
    def chunk_context(self) -> float:
        """Tokens that a token of an encoder's chunk looks at: those of its chunk."""
        return min(self.sizes.encoder_tokens, self.config.fit.encoder.chunk_tokens)

    def state_bytes(
        self, sequences: int, snapshot: bool = False, shape: Shape | None = None
    ) -> dict[str, float]:
        """Memory of training the probed model, or another; activations are those of one micro-batch.

        AdamW's state passes through memory when it is loaded.
        """
        lm, length = shape or self.sizes.lm, self.config.sample.sequence_length
        # Logits in bf16 and float32, softmax, gradients; 34 bytes x d a token and layer (bf16).
        # Reserved at most on an H200, 411M parameters: 38.1 GB, and 40.2 by this arithmetic.
        tokens = max(length, min(MICRO_TOKENS, sequences * length))
        logits = 24.0 * tokens * lm.vocabulary
        # Weights, gradients, two moments; float32.
        active = 16.0 * lm.parameters(2) + logits + 34.0 * tokens * lm.hidden * lm.layers
        total = active + (12.0 * lm.parameters(2) if snapshot else 0.0)
        return {"host_bytes": 12.0 * lm.parameters(2), "gpu_bytes": total}

    @property
    def probed_step(self) -> dict[str, float]:
        """Parts of a training step on one document and a look at the reference loss after it."""
        return {
            "train": self.train_step(1, self.sizes.window_tokens - 1),
            "step": self.sizes.lm.layers,
            "forward": self.look(self.sizes.selection_examples),
        }

    def forward_bytes(self, shape: Shape) -> float:
        """Memory of a model that embeds, and of one of its passes.

        Its weights in float32, and in bf16 in a pass. Reserved at most on an H200: 5.7 GB for 131,072
        tokens of bge-base, and 5.8 by this arithmetic.
        """
        return 6.0 * shape.parameters(2) + 50.0 * self.config.score.batch_tokens * shape.hidden

    def encoder_bytes(self) -> float:
        """Memory of the influence model's encoder and of one of its passes.

        The probed model tells the hidden states of all its layers in float32, of which three are used.
        """
        if self.sizes.encoder:
            return self.forward_bytes(self.sizes.encoder)
        lm = self.sizes.lm
        return self.forward_bytes(lm) + 4.0 * self.config.score.batch_tokens * lm.hidden * lm.layers

    @property
    def clusters(self) -> int:
        return self.config.cluster.clusters_of(self.sizes.documents)

    @property
    def share(self) -> float:
        """Of the pool that a method selects."""
        budget = self.config.select.budget
        if budget.ratio is not None:
            return budget.ratio
        assert budget.tokens is not None
        return min(1.0, budget.tokens / (self.sizes.documents * self.sizes.tokens))

    def by_cluster(self, kernel: str, size: int) -> Jobs:
        """Jobs that compare the documents of each cluster with each other."""
        partitions = self.config.select.partitions
        documents = self.sizes.documents / partitions
        in_cluster = self.sizes.documents / self.clusters
        phases = [
            Phase("rows", documents, {"embeddings": self.sizes.documents * 4.0 * size}),
            Phase("documents", documents, {kernel: documents * in_cluster * size}),
        ]
        host = documents * (4.0 * size + 60) + in_cluster * size * 16.0 + 8 * self.sizes.documents
        return Jobs(partitions, phases, host, 0, documents * 30.0)
