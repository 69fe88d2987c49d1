"""What each stage of a run has to do; of the selectors' steps: selectors.py."""

from __future__ import annotations

from groupmates.cost import selectors
from groupmates.cost.core_sizes import CoreTask
from groupmates.cost.jobs import LM_LAYERS, TOKENS_AHEAD, Amounts, Jobs, Phase
from groupmates.cost.sizes import Sizes
from groupmates.maths.flops import forward_flops, training_flops
from groupmates.maths.packing import (
    GRADIENT_VALUES,
    KMEANS_DOCUMENTS,
    KMEANS_SIMILARITIES,
    MICRO_TOKENS,
)
from groupmates.settings import lines
from groupmates.settings.config import Config, Fit
from groupmates.settings.per_stage import (
    final_fit,
    group_jobs,
    one_step_fit,
    one_steps,
    random_round,
    rounds,
)
from groupmates.settings.selectors import STEPS
from groupmates.settings.stages import STAGES

# Resamples of the held-out figures; one has six rank correlations. The correlation of n labels took
# 81, 93, 115 and 629 microseconds for 60, 400, 1000 and 5000: about as that of n + 1500.
FIGURE_DRAWS, FIGURE_OVERHEAD = 1000, 1500
FIT_ITERATIONS = 40  # of a student's fit: 30 to 48 were seen


# What a later stage of pretraining does: where its method orders the pool anew, and always.
ORDERING = {
    "plan-random",
    "plan-one-step",
    "probe",
    "first-order",
    "fit",
    "accept",
    "plan-bootstrap",
}
ORDERING |= {"distil", "score-student", "score", "centroids", "cluster", *STEPS}
ALWAYS = {"take", "pretrain-tokens", "pretrain"}


def stages(config: Config, sizes: Sizes) -> dict[str, list[Jobs]]:
    """The jobs of every stage that has any, by the name of its command, in the data flow's order."""
    found = _of_line(config, sizes, lines.FIRST, set(STAGES))
    for line in lines.later(config):
        method = lines.method_of(line)
        names = ALWAYS | ORDERING if lines.anew(config, method) else ALWAYS
        for name, jobs in _of_line(config, sizes, line, names).items():
            found[name] = [*found.get(name, []), *jobs]
    return {name: found[name] for name in STAGES if sum(j.count for j in found.get(name, []))}


def _of_line(config: Config, sizes: Sizes, line: str, names: set[str]) -> dict[str, list[Jobs]]:
    """The jobs of a line that are of these stages."""
    stage = lines.stage_of(line)
    work = Work(lines.of_stage(config, stage), sizes, line)
    of_steps = selectors.stages(Work(lines.up_to_stage(config, stage), sizes, line))
    return {name: of_steps[name] if name in of_steps else work.of(name) for name in names}


class Work(Amounts):
    """A function for each stage, by its name: its jobs, which may be none."""

    def of(self, stage: str) -> list[Jobs]:
        found: Jobs | list[Jobs] = getattr(self, stage.replace("-", "_"))()
        return found if isinstance(found, list) else [found]

    def corpus(self) -> Jobs:
        documents, count = self.config.corpus.documents, int(self.config.pool.paths == "builtin")
        disk = documents * self.sizes.file_bytes
        phases = [Phase("documents", documents, {"corpus": documents})]
        return Jobs(count, phases, disk_bytes=disk)

    def check(self) -> Jobs:
        parts = {"read": self.in_shard * self.sizes.text_bytes}
        unit = self.in_shard * self.sizes.file_bytes
        return Jobs(self.shards, [Phase("bytes", unit, parts)], 100.0 * self.in_shard)

    def check_pool(self) -> Jobs:
        return Jobs(1, [], 24.0 * self.sizes.documents, 0, 8.0 * self.sizes.documents)

    def decontaminate_examples(self) -> Jobs:
        return Jobs(int(self.decontaminated), [])

    def decontaminate(self) -> Jobs:
        documents, text = self.in_shard, self.in_shard * self.sizes.text_bytes
        phases = [Phase("documents", documents, {"windows": text, "read": text})]
        return Jobs(self.shards * self.decontaminated, phases)

    @property
    def decontaminated(self) -> bool:
        """Whether evaluation examples are looked for."""
        return bool(self.config.decontaminate.examples)

    def sample(self) -> Jobs:
        """Files named in sample.paths are counted as all: a plan of the worst case."""
        sample, sizes = self.config.sample, self.sizes
        drawn = min(sizes.documents, sample.probe_documents + sample.training_documents)
        text = drawn * sizes.text_bytes
        read = {"read": sizes.documents * sizes.text_bytes}
        phases = [
            Phase("bytes", sizes.documents * sizes.file_bytes, read),
            Phase("documents", drawn, {"tokenise": text}),
        ]
        return Jobs(1, phases, 4.0 * text, 0, 2 * text)

    def reference(self) -> Jobs:
        return Jobs(1, [])

    def base(self) -> Jobs:
        base, length = self.config.base, self.config.sample.sequence_length
        steps = self.sizes.base_steps
        work = {"train": steps * self.train_step(base.batch_sequences, length)}
        disk = 16.0 * self.sizes.lm.parameters(2)
        memory = self.state_bytes(base.batch_sequences)
        return Jobs(1, [Phase("steps", steps, work)], **memory, disk_bytes=disk)

    def plan_random(self) -> Jobs:
        rollouts = random_round(self.config).rollouts
        return Jobs(int(self.final), [Phase("rollouts", rollouts, {"draw": rollouts})])

    def plan_one_step(self) -> Jobs:
        steps = one_steps(self.config)
        return Jobs(int(self.one_step), [Phase("rollouts", steps, {"draw": steps})])

    def probe(self) -> list[Jobs]:
        probe, length = self.config.probe, self.config.probe.rollout_length
        steps_of_rounds = [random_round(self.config).rollouts * length] * self.final
        if self.bootstrapped:
            steps_of_rounds.append(probe.bootstrap.rollouts * length)
        if self.one_step:
            steps_of_rounds.append(one_steps(self.config))
        found = []
        for steps in (all_steps / probe.shards for all_steps in steps_of_rounds):
            parts = {kernel: steps * amount for kernel, amount in self.probed_step.items()}
            memory = self.state_bytes(1, snapshot=True)
            found.append(Jobs(probe.shards, [Phase("steps", steps, parts)], **memory))
        return found

    @property
    def bootstrapped(self) -> bool:
        """Whether there is a second round, and so a second fit."""
        return self.final and "bootstrap" in rounds(self.config)

    @property
    def first_ordered(self) -> bool:
        return self.final and self.config.probe.labels == "first_order"

    def first_order(self) -> Jobs:
        """A step on every window but for AdamW; before that, one on the examples."""
        sizes, shards = self.sizes, self.config.probe.shards
        documents = self.config.sample.probe_documents / shards
        step = self.probed_step
        passes = {"train": documents * step["train"] + 3 * self.look(sizes.selection_examples)}
        parameters = sizes.lm.parameters(2)
        together = min(GRADIENT_VALUES // parameters, MICRO_TOKENS // sizes.window_tokens)
        passes["step"] = documents * step["step"] / max(1.0, together)
        memory = self.state_bytes(1)
        memory["gpu_bytes"] += 4.0 * parameters  # the gradient of the reference
        memory["gpu_alone_bytes"] = 4.0 * parameters * max(0.0, together - 1)
        phases = [Phase("documents", documents, passes)]
        return Jobs(shards * self.first_ordered, phases, **memory)

    def fit(self) -> list[Jobs]:
        config, probe, length = self.config, self.config.probe, self.config.probe.rollout_length
        random, bootstrap = probe.random.rollouts, probe.bootstrap.rollouts
        if self.first_ordered:
            heldout = config.fit.heldout_rollouts * length
            labelled = config.sample.probe_documents - heldout
            found = [self._fit(final_fit(config), labelled, 1, heldout)]
        else:
            found = [
                self._fit(config.fit, rollouts - config.fit.heldout_rollouts, length)
                for rollouts in [random, random + bootstrap][: self.final + self.bootstrapped]
            ]
        if self.one_step:
            single = one_step_fit(config)
            found.append(self._fit(single, one_steps(config) - single.heldout_rollouts, 1))
        return found

    def _fit(self, fit: Fit, rollouts: int, length: int, heldout: int | None = None) -> Jobs:
        """The fit of a model to so many rollouts of so many steps, and figures of `heldout` labels."""
        documents, encoder = self.config.sample.probe_documents, self.sizes.encoder
        labels = fit.heldout_rollouts * length if heldout is None else heldout
        trained = rollouts - fit.validation_rollouts
        steps = fit.training.epochs * -(-trained // fit.training.batch_rollouts)
        prepared, step = self.to_embed(documents), {"head": 1.0}
        features = LM_LAYERS * self.sizes.lm.hidden
        memory = 8.0 * documents * features + 4 * self.sizes.lm.parameters(2)
        if encoder is not None:
            prepared = {"tokenise": prepared["tokenise"]}
            trained = fit.training.batch_rollouts * length
            tokens = trained * self.sizes.encoder_tokens
            step = {"encoder_train": 3 * self.encoder_flops(encoder, trained)}
            memory = 16.0 * encoder.parameters(1) + 34.0 * tokens * encoder.hidden * encoder.layers
        phases = [
            Phase("documents", documents, prepared),
            Phase("steps", steps, {k: steps * amount for k, amount in step.items()}),
            Phase("labels", labels, {"figures": FIGURE_DRAWS * (labels + FIGURE_OVERHEAD)}),
        ]
        disk = 4.0 * (encoder or self.sizes.lm).parameters(2)
        return Jobs(1, phases, documents * self.sizes.text_bytes, memory, disk)

    def accept(self) -> Jobs:
        return Jobs(self.final + self.bootstrapped, [])

    def plan_bootstrap(self) -> Jobs:
        bootstrap, documents = self.config.probe.bootstrap, self.config.sample.probe_documents
        length = self.config.probe.rollout_length
        # Products with the running sum (mean), or with every member (nearest), of each step; and
        # some passes over the thetas.
        members = length - 1 if self.config.fit.relation.kernel == "mean" else length**2 / 2
        pairs = 2.0 * min(bootstrap.beam_width, documents) * documents
        beam = {"beam": pairs * (members * self.embedding + 30 * length)}
        search = Phase("steps", 2 * (length - 1), beam)
        return self._on_probe_pool(int(self.bootstrapped), [search], host_bytes=3e8)

    def plan_groups(self) -> Jobs:
        """Counted as if sets were drawn from the whole probe pool, at the most."""
        return self._on_probe_pool(int(bool(group_jobs(self.config))), [])

    def _on_probe_pool(self, count: int, phases: list[Phase], host_bytes: float = 0.0) -> Jobs:
        """What scores the probe pool first."""
        documents = self.config.sample.probe_documents
        phases = [Phase("documents", documents, self.to_embed(documents)), *phases]
        host_bytes += documents * (8.0 * self.embedding + 2 * self.sizes.text_bytes)
        return Jobs(count, phases, host_bytes, 4.0 * self.sizes.lm.parameters(2))

    def probe_groups(self) -> Jobs:
        """A look at the reference loss at every size alone, not after every step."""
        groups, jobs = self.config.probe.groups, group_jobs(self.config)
        sets, step = 2 * groups.sets / max(jobs, 1), self.probed_step
        steps = sets * groups.sizes[-1]
        parts = {kernel: steps * step[kernel] for kernel in ("train", "step")}
        parts["forward"] = sets * len(groups.sizes) * step["forward"]
        return Jobs(jobs, [Phase("steps", steps, parts)], **self.state_bytes(1, snapshot=True))

    def groups(self) -> Jobs:
        return Jobs(int(bool(group_jobs(self.config))), [])

    @property
    def distilled(self) -> bool:
        """Whether students score the pool, each of an influence model."""
        return self.config.score.model == "student"

    def distil(self) -> Jobs:
        """Two products with the token frequencies in each iteration of the fit."""
        sample, student = self.config.sample, self.config.distil
        drawn = min(self.sizes.documents, sample.probe_documents + sample.training_documents)
        documents = min(student.documents, drawn)
        fit = FIT_ITERATIONS * 2 * self.vectors(documents)
        phases = [
            Phase("documents", documents, self.to_embed(documents)),
            Phase("fits", 1, {"vectors": fit}),
        ]
        table = self.sizes.lm.vocabulary * (self.embedding + 1)
        host = documents * 2 * self.sizes.text_bytes + 64.0 * table
        passes = self.forward_bytes(self.sizes.encoder or self.sizes.lm)
        jobs = (self.final + len(self.other_models)) * self.distilled
        return Jobs(jobs, phases, host, passes, 4.0 * table)

    def score_student(self) -> Jobs:
        documents, text = self.in_shard, self.in_shard * self.sizes.text_bytes
        parts = {"read": text, "tokenise": text, "vectors": self.vectors(documents)}
        parts["rows"] = documents
        block = min(documents, 4096) * (3 * self.sizes.text_bytes + 4 * self.row_bytes)
        block += 4.0 * self.sizes.lm.vocabulary * (self.embedding + 1)
        jobs = self.shards * (self.final + len(self.other_models)) * self.distilled
        return Jobs(
            jobs, [Phase("documents", documents, parts)], block, 0, documents * self.row_bytes
        )

    def vectors(self, documents: float) -> float:
        """Multiply-adds of the tokens of so many documents with their vectors, each token by itself."""
        return documents * self.sizes.window_tokens * (self.embedding + 1)

    def score(self) -> Jobs:
        documents, text = self.in_shard, self.in_shard * self.sizes.text_bytes
        parts = {"read": text, **self.to_embed(documents)}
        # The language model's tokens are counted of every document, whichever the encoder.
        parts |= {"tokenise": parts.get("tokenise", 0.0) + text, "rows": documents}
        passes = self.encoder_bytes()
        block = min(documents, 4096) * (3 * self.sizes.text_bytes + 4 * self.row_bytes)
        jobs = self.shards * (self.final + len(self.other_models)) * (not self.distilled)
        phases = [Phase("documents", documents, parts, TOKENS_AHEAD)]
        return Jobs(jobs, phases, block, passes, documents * self.row_bytes)

    def fit_semantic(self) -> Jobs:
        documents, hidden = self.config.sample.probe_documents, self.sizes.lm.hidden
        phases = [Phase("documents", documents, self.hidden_states(documents))]
        states, passes = 4.0 * documents * hidden, self.forward_bytes(self.sizes.lm)
        return Jobs(int(self.semantic), phases, states + 24.0 * hidden**2, states + passes)

    def embed(self) -> Jobs:
        documents, text = self.in_shard, self.in_shard * self.sizes.text_bytes
        parts = {"read": text, **self.hidden_states(documents), "tokenise": text, "rows": documents}
        block = min(documents, 4096) * (3 * self.sizes.text_bytes + 20.0 * self.sizes.lm.hidden)
        disk = documents * (30.0 + 4 * self.meaning)
        phases = [Phase("documents", documents, parts, TOKENS_AHEAD)]
        jobs = self.shards * self.semantic
        return Jobs(jobs, phases, block, self.forward_bytes(self.sizes.lm), disk)

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
        # Of the sample embeddings, places, and what the search finds; centroids and their sums; of a
        # shard the ids and their hashes, while the sample is drawn.
        host = sampled * (4.0 * size + 84) + 28.0 * count * size + 150.0 * self.in_shard
        return Jobs(1, phases, host, self._kmeans_on_gpu(size), count * size * 4.0)

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
        return Jobs(self.shards, phases, host, self._kmeans_on_gpu(size), documents * 30.0)

    def _kmeans_on_gpu(self, size: int) -> float:
        """Bytes: centroids in float32 and float64, and what is compared or summed at once."""
        compared, summed = 13.0 * KMEANS_SIMILARITIES, 20.0 * KMEANS_DOCUMENTS * size
        return 12.0 * self.clusters * size + max(compared, summed)

    def take(self) -> Jobs:
        documents = self.sizes.documents
        phases = [Phase("documents", documents, {"rows": documents})]
        disk = documents * self.share * 60.0
        return Jobs(len(self.methods), phases, 180.0 * documents, 0, disk)

    def materialise(self) -> Jobs:
        size = self.sizes.documents * self.sizes.file_bytes / self.shards
        whole = self.config.materialise.format in ("same", "parquet")
        jobs = len(self.methods) * self.shards * whole
        return Jobs(jobs, [Phase("bytes", size, {"copy": size})], 5e7, 0, size * self.share)

    def tokenise(self) -> Jobs:
        """Disk is that of Megatron's tokens, or about that of gzipped windows."""
        materialise = self.config.materialise
        count = len(self.methods) * (materialise.format in ("open_lm", "megatron"))
        parts = -(-self.shards // materialise.shards_per_job)
        selected = self.share * self.sizes.documents / parts
        text = selected * self.sizes.text_bytes
        tokens = selected * self.sizes.tokens
        disk = 2.0 * tokens
        phases = [Phase("documents", selected, {"tokenise": text, "read": text})]
        if materialise.format == "open_lm":
            windows = tokens / materialise.open_lm.window_tokens
            phases.append(Phase("windows", windows, {"copy": disk}))
        return Jobs(parts * count, phases, 5e8, 0, disk)

    def assemble(self) -> Jobs:
        selected = self.share * self.sizes.documents
        joined = self.config.materialise.format == "megatron"  # its parts become one file
        disk = 2.0 * selected * self.sizes.tokens if joined else 0.0
        phases = [Phase("bytes", disk, {"copy": disk})] if joined else []
        return Jobs(len(self.methods), phases, 20.0 * selected, 0, disk)

    def evaluate(self) -> Jobs:
        evaluate, training = self.config.evaluate, self.config.evaluate.training
        length = self.config.sample.sequence_length
        steps = -(-training.tokens // (training.batch_sequences * length))
        selected = self.share * self.sizes.documents
        drawn = min(selected, training.tokens * 1.02 / self.sizes.tokens)
        parts = {
            "train": steps * self.train_step(training.batch_sequences, length),
            "forward": (training.points + 1) * self.look(self.sizes.evaluation_examples),
        }
        read = {
            "read": self.sizes.documents * self.sizes.text_bytes,
            "tokenise": drawn * self.sizes.text_bytes,
        }
        phases = [Phase("documents", drawn, read), Phase("steps", steps, parts)]
        memory = self.state_bytes(training.batch_sequences)
        memory["host_bytes"] += drawn * (self.sizes.text_bytes + 8 * self.sizes.tokens)
        return Jobs(len(self.methods) * evaluate.seeds, phases, **memory)

    def summarise(self) -> Jobs:
        return Jobs(1, [], 24.0 * self.sizes.documents)

    def report(self) -> Jobs:
        looks = 3  # at all embeddings
        phases = [
            Phase("shards", self.shards, {"rows": self.sizes.documents}),
            Phase("score files", looks * self.shards, {"rows": looks * self.sizes.documents}),
        ]
        return Jobs(1, phases, 200.0 * self.in_shard)

    def pretrain_tokens(self) -> Jobs:
        """The tokens are on the disk twice until a part is complete."""
        parts = -(-self.shards // self.config.materialise.shards_per_job)
        selected = self.share * self.sizes.documents / parts
        text, tokens = selected * self.sizes.text_bytes, selected * self.sizes.tokens
        phases = [Phase("documents", selected, {"tokenise": text, "read": text})]
        jobs = parts * len(self.config.pretrain.methods)
        return Jobs(jobs, phases, 5e8, 0, 2.0 * tokens)

    def pretrain(self) -> Jobs:
        """The steps of a stage; after the last one it looks at the examples once more."""
        pretrain, length = self.config.pretrain, self.config.sample.sequence_length
        shape, batch = self.pretrained, pretrain.batch_sequences
        share = pretrain.stages[lines.stage_of(self.line) - 1]
        steps = share * pretrain.steps(length)
        looks = share * pretrain.points + 1
        parts = {
            "train": steps * training_flops(shape, batch * length, length),
            "forward": looks * self.look(self.sizes.evaluation_examples, shape),
        }
        memory = self.state_bytes(batch, shape=shape)
        windows = self.share * self.sizes.documents * self.sizes.tokens / length
        memory["host_bytes"] += 24.0 * windows  # an order, and how often each was trained on
        kept = len(pretrain.milestones) + (pretrain.save_total_limit if pretrain.save_steps else 0)
        disk = 12.0 * shape.parameters(2) * (1 + kept)
        jobs = len(pretrain.methods) * pretrain.seeds
        return Jobs(jobs, [Phase("steps", steps, parts)], **memory, disk_bytes=disk)

    def core_task(self) -> list[Jobs]:
        return [self._core_task(asked) for asked in self.sizes.core]

    def _core_task(self, asked: CoreTask) -> Jobs:
        """Memory: weights, keys and values up to three times, logits of each token at the most."""
        shape, batch = asked.shape, self.config.core.batch_tokens
        context = asked.pairs / asked.tokens
        flops = forward_flops(shape, asked.tokens, context, asked.logits)
        text = asked.questions * asked.text_bytes
        phases = [
            Phase("prompts", asked.questions, {"tokenise": text}),
            Phase("questions", asked.questions, {"forward": asked.questions * flops}),
        ]
        of_token = 24.0 * shape.layers * shape.hidden + 8 * shape.vocabulary + 60 * shape.hidden
        return Jobs(1, phases, 2 * text, 4.0 * shape.parameters(2) + batch * of_token)

    def core(self) -> Jobs:
        return Jobs(int(bool(self.sizes.core)), [])

    def frontier(self) -> list[Jobs]:
        return []  # it is asked for when all is done

    def plan(self) -> list[Jobs]:
        return []  # it is made before the run
