"""What each stage of a run has to do; of the selectors' steps: selectors.py."""

from __future__ import annotations

from groupmates.cost import selectors
from groupmates.cost.flops import forward_flops
from groupmates.cost.jobs import Amounts, Jobs, Phase
from groupmates.cost.sizes import Sizes
from groupmates.settings.config import Config
from groupmates.settings.per_stage import group_jobs, one_step_fit, one_steps

# Resamples of the held-out figures; one has six rank correlations. The correlation of n labels took
# 81, 93, 115 and 629 microseconds for 60, 400, 1000 and 5000: about as that of n + 1500.
FIGURE_DRAWS, FIGURE_OVERHEAD = 1000, 1500


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
        **selectors.stages(work),
        "take": work.take(),
        "materialise": work.materialise(),
        "tokenise": work.tokenise(),
        "assemble": work.assemble(),
        "evaluate": work.evaluate(),
        "summarise": [Jobs(1, [], 24.0 * sizes.documents)],
        "report": work.report(),
    }
    return {name: jobs for name, jobs in found.items() if sum(j.count for j in jobs)}


class Work(Amounts):
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
        steps = self.sizes.base_steps
        work = {"train": steps * self.train_step(base.batch_sequences, length)}
        disk = 16.0 * self.sizes.lm.parameters(2)
        memory = self.state_bytes(base.batch_sequences)
        return [Jobs(1, [Phase("steps", steps, work)], **memory, disk_bytes=disk)]

    def plan_random(self) -> list[Jobs]:
        rollouts = self.config.probe.random.rollouts
        return [Jobs(1, [Phase("rollouts", rollouts, {"draw": rollouts})])]

    def plan_one_step(self) -> list[Jobs]:
        steps = one_steps(self.config)
        return [Jobs(1, [Phase("rollouts", steps, {"draw": steps})])] if self.one_step else []

    def probe(self) -> list[Jobs]:
        probe, found = self.config.probe, []
        step = self.probed_step
        length = probe.rollout_length
        rounds = [probe.random.rollouts * length, probe.bootstrap.rollouts * length]
        for all_steps in [*rounds, one_steps(self.config) if self.one_step else 0]:
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
        if self.one_step:
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
