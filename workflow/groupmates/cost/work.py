"""What each stage of a run has to do: jobs, their work piece by piece, their memory, their disk.

A phase is what one `Progress` of the stage counts, told apart by its unit; its parts say what the work
consists of, kernel by kernel. Rates of a small run are rates of whole phases, rates of a machine that
one does not have are rates of kernels: see rates.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from groupmates.cost.flops import Shape, forward_flops, training_flops
from groupmates.cost.sizes import Sizes
from groupmates.maths.bandit import most_probed
from groupmates.maths.brute_force import evaluations
from groupmates.maths.quota import documents_of_ratio
from groupmates.settings.config import Config
from groupmates.settings.per_stage import group_jobs, one_step_fit, one_steps
from groupmates.settings.selectors import GroupMates, OracleGreedy, Quad, Section, SemDedup

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
    "draw": "rollouts of documents drawn at random",
    "figures": "values of the resampled held-out figures",
    "corpus": "documents of the built-in corpus",
    "start": "jobs: start of the process, imports, loading",
}
ON_ALL_CORES = {"tokenise"}  # of a job; the rates of a file are those of one core
ON_GPU = {
    *("base", "probe", "fit", "plan-bootstrap", "plan-groups", "probe-groups", "score"),
    *("fit-semantic", "embed"),
    *("centroids", "cluster", "order-oracle-greedy", "probe-quad", "evaluate"),
}
# Resamples of the held-out figures; one has six rank correlations. The correlation of n labels took
# 81, 93, 115 and 629 microseconds for 60, 400, 1000 and 5000: about as that of n + 1500.
FIGURE_DRAWS, FIGURE_OVERHEAD = 1000, 1500
# What the work of a phase is measured by, where it is of several kernels. Of the sums of a document
# one multiply-add takes as long as so many of its similarities, which are one matrix product.
WEIGHTS = {name: 1.0 for name, what in KERNELS.items() if what.startswith("FLOP")} | {
    "kmeans": 1.0,
    "sums": 340.0,  # measured with tests/benchmarks/rates_cpu.py
}
MICRO_TOKENS = (
    16_384  # of a backward pass: models/lm.py, which a plan does not import with its torch
)
IMPORTS_BYTES = {True: 700_000_000, False: 200_000_000}  # of a job with torch, and without


@dataclass(frozen=True)
class Phase:
    """`units` of one job, and the work of all of them."""

    unit: str
    units: float
    parts: dict[str, float]

    @property
    def size(self) -> float:
        """Work of the job by one number, to compare it with that of another configuration."""
        weighed = [WEIGHTS[k] * amount for k, amount in self.parts.items() if k in WEIGHTS]
        return sum(weighed) or next(iter(self.parts.values()))


@dataclass(frozen=True)
class Jobs:
    """Jobs of a stage that have the same to do.

    Memory is that beside the imported libraries: `host_bytes` wherever it runs, `gpu_bytes` on the GPU,
    or in memory too where there is none.
    """

    count: int
    phases: list[Phase]
    host_bytes: float = 0.0
    gpu_bytes: float = 0.0
    disk_bytes: float = 0.0


def stages(config: Config, sizes: Sizes) -> dict[str, list[Jobs]]:
    """The jobs of every stage, by the name of its command, in the order of the data flow."""
    work = Work(config, sizes)
    found = {
        "corpus": work.corpus(),
        "check": work.check(),
        "check-pool": [Jobs(1, [], 24.0 * sizes.documents, 0, 8.0 * sizes.documents)],
        "sample": work.sample(),
        "reference": [Jobs(1, [])],
        "base": work.base(),
        "plan-random": work.plan_random(),
        "plan-one-step": work.plan_one_step(),
        "probe": work.probe(),
        "fit": work.fit(),
        "accept": [Jobs(1 + bool(config.probe.bootstrap.rollouts), [])],
        "plan-bootstrap": work.plan_bootstrap(),
        "plan-groups": work.plan_groups(),
        "probe-groups": work.probe_groups(),
        "groups": [Jobs(1, [])] if group_jobs(config) else [],
        "score": work.score(),
        "fit-semantic": work.fit_semantic(),
        "embed": work.embed_meaning(),
        "centroids": work.centroids(),
        "cluster": work.cluster(),
        "order-group-mates": work.order_group_mates(),
        "order-mates": work.order_whole("mates"),
        "fit-quality": work.fit_quality(),
        "order-quality": work.order_quality(),
        "order-semdedup": work.order_semdedup(),
        "check-oracle-greedy": [Jobs(1, []) for _ in work.of_kind("oracle_greedy")],
        "order-oracle-greedy": work.order_oracle_greedy(),
        "probe-quad": work.probe_quad(),
        "order-quad": work.order_whole("quad"),
        "order-random": work.order_whole("random"),
        "take": work.take(),
        "materialise": work.materialise(),
        "tokenise": work.tokenise(),
        "assemble": work.assemble(),
        "evaluate": work.evaluate(),
        "summarise": [Jobs(1, [], 24.0 * sizes.documents)],
        "report": work.report(),
    }
    return {name: jobs for name, jobs in found.items() if sum(j.count for j in jobs)}


class Work:
    def __init__(self, config: Config, sizes: Sizes) -> None:
        self.config, self.sizes = config, sizes
        self.shards = sizes.shards
        self.in_shard = sizes.documents / self.shards
        self.states = 16.0 * sizes.lm.parameters(2)  # weights, gradients, two moments; float32
        encoder = sizes.encoder
        self.embedding = (
            encoder.hidden if encoder else min(config.fit.encoder.embedding_size, sizes.lm.hidden)
        )
        select = config.select
        self.methods = [select.method(name) for name in select.methods]
        self.meaning = min(config.semantic.embedding_size, sizes.lm.hidden)
        self.semantic = any(select.clusters_of(name) == "semantic" for name in select.methods)
        # Sizes of the embeddings that are clustered.
        self.clustered = [self.embedding, self.meaning] if self.semantic else [self.embedding]
        self.row_bytes = 60.0 + 4 * self.embedding  # of a scored document

    # Work that several stages do

    def train_step(self, sequences: float, length: float) -> float:
        return training_flops(self.sizes.lm, sequences * length, length)

    def reference(self, examples: int) -> float:
        """FLOP of one look at the loss of so many reference examples."""
        tokens = self.sizes.reference_tokens
        total = examples * tokens
        return forward_flops(self.sizes.lm, total, tokens / 2, total * self.sizes.label_share)

    def embed(self, documents: float) -> dict[str, float]:
        """Parts of embedding documents, tokenised for the language model already."""
        sizes, encoder = self.sizes, self.sizes.encoder
        if encoder is None:
            return self.hidden_states(documents)
        return {
            "encoder_forward": forward_flops(
                encoder, documents * sizes.encoder_tokens, self.chunk_context
            ),
            "tokenise": documents * sizes.text_bytes,
        }

    def hidden_states(self, documents: float) -> dict[str, float]:
        """Parts of the language model's hidden states of documents."""
        tokens = self.sizes.window_tokens
        return {"forward": forward_flops(self.sizes.lm, documents * tokens, tokens / 2)}

    @property
    def chunk_context(self) -> float:
        """Tokens that a token of an encoder's chunk looks at: those of its chunk."""
        return min(self.sizes.encoder_tokens, self.config.fit.encoder.chunk_tokens)

    def state_bytes(self, sequences: int, snapshot: bool = False) -> dict[str, float]:
        """Memory of training the probed model; activations are those of one micro-batch.

        AdamW's state passes through memory when it is loaded.
        """
        lm, length = self.sizes.lm, self.config.sample.sequence_length
        # Logits in bf16 and float32, softmax, gradients; 34 bytes x d a token and layer (bf16).
        # Reserved at most on an H200, 411M parameters: 38.1 GB, and 40.2 by this arithmetic.
        tokens = max(length, min(MICRO_TOKENS, sequences * length))
        logits = 24.0 * tokens * lm.vocabulary
        active = self.states + logits + 34.0 * tokens * lm.hidden * lm.layers
        total = active + (12.0 * lm.parameters(2) if snapshot else 0.0)
        return {"host_bytes": 12.0 * lm.parameters(2), "gpu_bytes": total}

    # Stages

    def corpus(self) -> list[Jobs]:
        if self.config.pool.paths != "builtin":
            return []
        documents = self.config.corpus.documents
        disk = documents * self.sizes.file_bytes
        return [Jobs(1, [Phase("documents", documents, {"corpus": documents})], disk_bytes=disk)]

    def check(self) -> list[Jobs]:
        parts = {"read": self.in_shard * self.sizes.text_bytes}
        unit = self.in_shard * self.sizes.file_bytes
        return [Jobs(self.shards, [Phase("bytes", unit, parts)], 100.0 * self.in_shard)]

    def sample(self) -> list[Jobs]:
        sample, sizes = self.config.sample, self.sizes
        drawn = min(sizes.documents, sample.probe_documents + sample.training_documents)
        share = 1.0  # files named in sample.paths are counted as all: a plan of the worst case
        phases = [
            Phase(
                "bytes",
                share * sizes.documents * sizes.file_bytes,
                {"read": share * sizes.documents * sizes.text_bytes},
            ),
            Phase("documents", drawn, {"tokenise": drawn * sizes.text_bytes}),
        ]
        return [Jobs(1, phases, 4.0 * drawn * sizes.text_bytes, 0, drawn * 2 * sizes.text_bytes)]

    def base(self) -> list[Jobs]:
        base, length = self.config.base, self.config.sample.sequence_length
        made = base.checkpoint is None
        steps = base.training_steps if made else base.optimizer_warmup_steps
        work = {"train": steps * self.train_step(base.batch_sequences, length)}
        disk = 16.0 * self.sizes.lm.parameters(2)
        memory = self.state_bytes(base.batch_sequences)
        return [Jobs(1, [Phase("steps", steps, work)], **memory, disk_bytes=disk)]

    def plan_random(self) -> list[Jobs]:
        rollouts = self.config.probe.random.rollouts
        return [Jobs(1, [Phase("rollouts", rollouts, {"draw": rollouts})])]

    def plan_one_step(self) -> list[Jobs]:
        steps = one_steps(self.config)
        return [Jobs(1, [Phase("rollouts", steps, {"draw": steps})])] if self.mates else []

    @property
    def mates(self) -> bool:
        """Whether single steps are probed and a model is fitted to them."""
        return any(kind == "mates" for kind, _ in self.methods)

    def of_kind(self, selector: str) -> list[Section | None]:
        """The settings of the methods that are this selector."""
        return [section for kind, section in self.methods if kind == selector]

    @property
    def probed_step(self) -> dict[str, float]:
        """Parts of a training step on one document and a look at the reference loss after it."""
        return {
            "train": self.train_step(1, self.sizes.window_tokens - 1),
            "step": self.sizes.lm.layers,
            "forward": self.reference(self.sizes.selection_examples),
        }

    def probe(self) -> list[Jobs]:
        probe, found = self.config.probe, []
        step = self.probed_step
        length = probe.rollout_length
        rounds = [probe.random.rollouts * length, probe.bootstrap.rollouts * length]
        for all_steps in [*rounds, one_steps(self.config) if self.mates else 0]:
            if all_steps:
                steps = all_steps / probe.shards
                parts = {kernel: steps * amount for kernel, amount in step.items()}
                memory = self.state_bytes(1, snapshot=True)
                jobs = Jobs(probe.shards, [Phase("steps", steps, parts)], **memory)
                found.append(jobs)
        return found

    def fit(self) -> list[Jobs]:
        fit, probe = self.config.fit, self.config.probe
        length, documents = probe.rollout_length, self.config.sample.probe_documents
        rounds = [(fit, probe.random.rollouts, length)]
        if probe.bootstrap.rollouts:
            rounds.append((fit, rounds[0][1] + probe.bootstrap.rollouts, length))
        if self.mates:
            rounds.append((one_step_fit(self.config), one_steps(self.config), 1))
        found = []
        for fit, rollouts, length in rounds:
            held = fit.validation_rollouts + fit.heldout_rollouts
            labels = fit.heldout_rollouts * length
            steps = fit.training.epochs * -(-(rollouts - held) // fit.training.batch_rollouts)
            prepared, step = self.embed(documents), {"head": 1.0}
            memory = 8.0 * documents * self.sizes.lm.hidden + 4 * self.sizes.lm.parameters(2)
            if self.sizes.encoder is not None:
                prepared = {"tokenise": prepared["tokenise"]}
                tokens = fit.training.batch_rollouts * length
                tokens *= self.sizes.encoder_tokens  # type: ignore[assignment]
                step = {
                    "encoder_train": 3
                    * forward_flops(self.sizes.encoder, tokens, self.chunk_context)
                }
                shape = self.sizes.encoder
                memory = 16.0 * shape.parameters(1) + 34.0 * tokens * shape.hidden * shape.layers
            values = FIGURE_DRAWS * (labels + FIGURE_OVERHEAD)
            phases = [
                Phase("documents", documents, prepared),
                Phase("steps", steps, {k: steps * amount for k, amount in step.items()}),
                Phase("labels", labels, {"figures": values}),
            ]
            disk = 4.0 * (self.sizes.encoder or self.sizes.lm).parameters(2)
            host = documents * self.sizes.text_bytes
            found.append(Jobs(1, phases, host, memory, disk))
        return found

    def plan_bootstrap(self) -> list[Jobs]:
        bootstrap, documents = self.config.probe.bootstrap, self.config.sample.probe_documents
        if not bootstrap.rollouts:
            return []
        length = self.config.probe.rollout_length
        # Products with the running sum (mean), or with every member (nearest), of each step; and
        # some passes over the thetas.
        members = length - 1 if self.config.fit.relation.kernel == "mean" else length**2 / 2
        pairs = 2.0 * min(bootstrap.beam_width, documents) * documents
        beam = {"beam": pairs * (members * self.embedding + 30 * length)}
        phases = [
            Phase("documents", documents, self.embed(documents)),
            Phase("steps", 2 * (length - 1), beam),
        ]
        memory = 3e8 + documents * (8.0 * self.embedding + 2 * self.sizes.text_bytes)
        return [Jobs(1, phases, memory, 4.0 * self.sizes.lm.parameters(2))]

    def plan_groups(self) -> list[Jobs]:
        """Counted as if sets were drawn from the whole probe pool, at the most."""
        if not group_jobs(self.config):
            return []
        documents = self.config.sample.probe_documents
        memory = documents * (8.0 * self.embedding + 2 * self.sizes.text_bytes)
        phases = [Phase("documents", documents, self.embed(documents))]
        return [Jobs(1, phases, memory, 4.0 * self.sizes.lm.parameters(2))]

    def probe_groups(self) -> list[Jobs]:
        """A look at the reference loss at every size alone, not after every step."""
        groups, jobs = self.config.probe.groups, group_jobs(self.config)
        if not jobs:
            return []
        sets, step = 2 * groups.sets / jobs, self.probed_step
        steps = sets * groups.sizes[-1]
        parts = {kernel: steps * step[kernel] for kernel in ("train", "step")}
        parts["forward"] = sets * len(groups.sizes) * step["forward"]
        phases = [Phase("steps", steps, parts)]
        return [Jobs(jobs, phases, **self.state_bytes(1, snapshot=True))]

    def score(self) -> list[Jobs]:
        documents = self.in_shard
        parts = {"read": documents * self.sizes.text_bytes}
        for kernel, amount in self.embed(documents).items():
            parts[kernel] = parts.get(kernel, 0.0) + amount
        # The language model's tokens are counted of every document, whichever the encoder.
        text = documents * self.sizes.text_bytes
        parts["tokenise"] = parts.get("tokenise", 0.0) + text
        parts["rows"] = documents
        shape = self.sizes.encoder or self.sizes.lm
        passes = self.forward_bytes(shape)
        block = min(documents, 4096) * (3 * self.sizes.text_bytes + 4 * self.row_bytes)
        jobs = self.shards * (1 + len(self.other_models))
        phases = [Phase("documents", documents, parts)]
        return [Jobs(jobs, phases, block, passes, documents * self.row_bytes)]

    def forward_bytes(self, shape: Shape) -> float:
        """Memory of a model that embeds, and of one of its passes.

        Its weights in float32, and in bf16 in a pass. Reserved at most on an H200: 5.7 GB for 131,072
        tokens of bge-base, and 5.8 by this arithmetic.
        """
        return 6.0 * shape.parameters(2) + 50.0 * self.config.score.batch_tokens * shape.hidden

    @property
    def other_models(self) -> set[str]:
        """Models beside the final one that the pool is scored by."""
        ours = self.of_kind("group_mates")
        initial = any(isinstance(s, GroupMates) and s.rounds == "random" for s in ours)
        return {name for name, used in (("one_step", self.mates), ("initial", initial)) if used}

    @property
    def clusters(self) -> int:
        cluster = self.config.cluster
        if cluster.clusters is not None:
            return cluster.clusters
        assert cluster.target_size is not None
        return math.ceil(self.sizes.documents / cluster.target_size)

    def fit_semantic(self) -> list[Jobs]:
        if not self.semantic:
            return []
        documents, hidden = self.config.sample.probe_documents, self.sizes.lm.hidden
        phases = [Phase("documents", documents, self.hidden_states(documents))]
        memory = 4.0 * documents * hidden
        return [
            Jobs(1, phases, memory + 24.0 * hidden**2, memory + self.forward_bytes(self.sizes.lm))
        ]

    def embed_meaning(self) -> list[Jobs]:
        if not self.semantic:
            return []
        documents, text = self.in_shard, self.in_shard * self.sizes.text_bytes
        parts = {"read": text, **self.hidden_states(documents), "tokenise": text, "rows": documents}
        block = min(documents, 4096) * (3 * self.sizes.text_bytes + 20.0 * self.sizes.lm.hidden)
        disk = documents * (30.0 + 4 * self.meaning)
        phases = [Phase("documents", documents, parts)]
        return [Jobs(self.shards, phases, block, self.forward_bytes(self.sizes.lm), disk)]

    def centroids(self) -> list[Jobs]:
        return [self._centroids(size) for size in self.clustered]

    def _centroids(self, size: int) -> Jobs:
        cluster, count = self.config.cluster, self.clusters
        sampled = min(self.sizes.documents, cluster.sample_per_cluster * count)
        passes = float(sampled) * size * cluster.iterations
        phases = [
            # Only the sample is kept, but every row of every shard is looked at.
            Phase("documents", sampled, {"embeddings": self.sizes.documents * 4.0 * size}),
            Phase("iterations", cluster.iterations, {"kmeans": passes * count, "sums": passes}),
        ]
        host = sampled * size * 8.0 + 40.0 * self.sizes.documents
        return Jobs(1, phases, host, count * size * 4.0, count * size * 4.0)

    def cluster(self) -> list[Jobs]:
        return [self._cluster(size) for size in self.clustered]

    def _cluster(self, size: int) -> Jobs:
        documents = self.in_shard
        parts = {
            "kmeans": documents * self.clusters * size,
            "embeddings": documents * 4.0 * size,
            "rows": documents,
        }
        host = self.clusters * size * 8.0 + 4096 * size * 16.0
        phases = [Phase("documents", documents, parts)]
        return Jobs(self.shards, phases, host, 4.0 * self.clusters * size, documents * 30.0)

    def order_group_mates(self) -> list[Jobs]:
        found = []
        for section in self.of_kind("group_mates"):
            assert isinstance(section, GroupMates)
            ratio = self.config.select.budget.ratio
            proportional = section.quota == "proportional" and ratio is not None
            share = ratio if proportional and ratio else 1.0
            found.append(self._by_cluster("greedy", share, self.embedding))
        return found

    def order_semdedup(self) -> list[Jobs]:
        found = []
        for section in self.of_kind("semdedup"):
            assert isinstance(section, SemDedup)
            size = self.meaning if section.clusters == "semantic" else self.embedding
            found.append(self._by_cluster("greedy", 1.0, size))
        return found

    def _by_cluster(self, kernel: str, share: float, size: int) -> Jobs:
        """Jobs that compare the documents of each cluster, or a share of them with all."""
        partitions = self.config.select.partitions
        documents = self.sizes.documents / partitions
        in_cluster = self.sizes.documents / self.clusters
        phases = [
            Phase("rows", documents, {"embeddings": self.sizes.documents * 4.0 * size}),
            Phase("documents", documents, {kernel: documents * share * in_cluster * size}),
        ]
        host = documents * (4.0 * size + 60) + in_cluster * size * 16.0 + 8 * self.sizes.documents
        return Jobs(partitions, phases, host, 0, documents * share * 30.0)

    def order_whole(self, selector: str) -> list[Jobs]:
        """A key for every document, by its id and influence."""
        documents = self.sizes.documents
        phases = [Phase("documents", documents, {"rows": documents})]
        host = 200.0 * self.in_shard + (4.0 * documents if selector == "mates" else 0.0)
        return [Jobs(1, phases, host, 0, documents * 20.0) for _ in self.of_kind(selector)]

    def order_oracle_greedy(self) -> list[Jobs]:
        """Of a budget in tokens as many picks as there are documents of mean length in it."""
        documents, found = self.sizes.documents, []
        picks = documents_of_ratio(self.share, documents)
        memory = self.state_bytes(1, snapshot=True)
        memory["host_bytes"] += documents * (self.sizes.text_bytes + 4 * self.sizes.window_tokens)
        for section in self.of_kind("oracle_greedy"):
            assert isinstance(section, OracleGreedy)
            steps = evaluations(picks, documents, section.candidates)
            parts = {kernel: steps * amount for kernel, amount in self.probed_step.items()}
            found.append(Jobs(1, [Phase("evaluations", steps, parts)], **memory))
        return found

    def probe_quad(self) -> list[Jobs]:
        """A document: forward, backward, no gradients of weights: 2/3 of a training step.

        Every iteration reads the pool, the worst case. A product with the curvature: two forward
        passes' worth of tangents, and a training step without its update.
        """
        documents, found = self.sizes.documents, []
        reference = self.reference(self.sizes.selection_examples)
        for section in self.of_kind("quad"):
            assert isinstance(section, Quad)
            arms = min(section.arms_per_iteration, self.clusters)
            probed = most_probed(section.iterations, arms, section.documents_per_arm, documents)
            parts = {
                "train": probed * 2 / 3 * self.train_step(1, self.sizes.window_tokens - 1),
                "read": section.iterations * documents * self.sizes.text_bytes,
                "tokenise": probed * self.sizes.text_bytes,
            }
            phases = [Phase("documents", probed, parts)]
            if section.hessian == "gauss_newton":
                products = section.cg_iterations
                phases.append(Phase("products", products, {"train": products * 5 * reference}))
            memory = self.state_bytes(1)
            memory["host_bytes"] = 100.0 * documents
            found.append(Jobs(1, phases, **memory))
        return found

    def fit_quality(self) -> list[Jobs]:
        """Positives are not counted: they are not known before they are read."""
        sample = self.config.sample
        texts = min(self.sizes.documents, sample.probe_documents + sample.training_documents)
        text = texts * self.sizes.text_bytes
        phases = [Phase("texts", texts, {"hash": text})]
        return [Jobs(1, phases, 6.0 * text, 0, 4.0e6) for _ in self.of_kind("quality")]

    def order_quality(self) -> list[Jobs]:
        text = self.in_shard * self.sizes.text_bytes
        phases = [Phase("documents", self.in_shard, {"read": text, "hash": text})]
        host = 200.0 * self.in_shard
        disk = self.in_shard * 20.0
        return [Jobs(self.shards, phases, host, 0, disk) for _ in self.of_kind("quality")]

    @property
    def share(self) -> float:
        """Of the pool that a method selects."""
        budget = self.config.select.budget
        if budget.ratio is not None:
            return budget.ratio
        assert budget.tokens is not None
        return min(1.0, budget.tokens / (self.sizes.documents * self.sizes.tokens))

    def take(self) -> list[Jobs]:
        documents = self.sizes.documents
        phases = [Phase("documents", documents, {"rows": documents})]
        disk = documents * self.share * 60.0
        return [Jobs(len(self.config.select.methods), phases, 180.0 * documents, 0, disk)]

    def materialise(self) -> list[Jobs]:
        size = self.sizes.documents * self.sizes.file_bytes / self.sizes.files
        jobs = len(self.config.select.methods) * self.sizes.files
        if self.config.materialise.format not in ("same", "parquet"):
            return []
        return [Jobs(jobs, [Phase("bytes", size, {"copy": size})], 5e7, 0, size * self.share)]

    def tokenise(self) -> list[Jobs]:
        """Disk is that of Megatron's tokens, or about that of gzipped windows."""
        materialise = self.config.materialise
        if materialise.format not in ("open_lm", "megatron"):
            return []
        parts = -(-self.shards // materialise.shards_per_job)
        selected = self.share * self.sizes.documents / parts
        text = selected * self.sizes.text_bytes
        tokens = selected * self.sizes.tokens
        disk = 2.0 * tokens
        phases = [Phase("documents", selected, {"tokenise": text, "read": text})]
        if materialise.format == "open_lm":
            windows = tokens / materialise.open_lm.window_tokens
            phases.append(Phase("windows", windows, {"copy": disk}))
        return [Jobs(parts * len(self.config.select.methods), phases, 5e8, 0, disk)]

    def assemble(self) -> list[Jobs]:
        selected = self.share * self.sizes.documents
        joined = self.config.materialise.format == "megatron"  # its parts become one file
        disk = 2.0 * selected * self.sizes.tokens if joined else 0.0
        phases = [Phase("bytes", disk, {"copy": disk})] if joined else []
        return [Jobs(len(self.config.select.methods), phases, 20.0 * selected, 0, disk)]

    def evaluate(self) -> list[Jobs]:
        evaluate, training = self.config.evaluate, self.config.evaluate.training
        length = self.config.sample.sequence_length
        steps = -(-training.tokens // (training.batch_sequences * length))
        selected = self.share * self.sizes.documents
        drawn = min(selected, training.tokens * 1.02 / self.sizes.tokens)
        parts = {
            "train": steps * self.train_step(training.batch_sequences, length),
            "forward": (training.points + 1) * self.reference(self.sizes.evaluation_examples),
        }
        read = {
            "read": self.sizes.documents * self.sizes.text_bytes,
            "tokenise": drawn * self.sizes.text_bytes,
        }
        phases = [Phase("documents", drawn, read), Phase("steps", steps, parts)]
        memory = self.state_bytes(training.batch_sequences)
        memory["host_bytes"] += drawn * (self.sizes.text_bytes + 8 * self.sizes.tokens)
        return [Jobs(len(self.config.select.methods) * evaluate.seeds, phases, **memory)]

    def report(self) -> list[Jobs]:
        looks = 3  # at all embeddings
        phases = [
            Phase("shards", self.shards, {"rows": self.sizes.documents}),
            Phase("score files", looks * self.shards, {"rows": looks * self.sizes.documents}),
        ]
        return [Jobs(1, phases, 200.0 * self.in_shard)]
