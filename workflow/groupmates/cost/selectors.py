"""What the steps of the selectors have to do: a function each, where it is not the usual."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from groupmates.cost.jobs import Amounts, Jobs, Phase
from groupmates.cost.sizes import shape_of
from groupmates.maths.bandit import most_probed
from groupmates.maths.brute_force import evaluations
from groupmates.maths.flops import clipped_mean, forward_flops
from groupmates.maths.packing import MICRO_TOKENS
from groupmates.maths.quota import documents_of_ratio
from groupmates.settings.selectors import (
    STEPS,
    Betr,
    Color,
    GroupMates,
    OracleGreedy,
    Quad,
    Quality,
    Selector,
    SemDedup,
    Step,
)

S = TypeVar("S", bound=Selector)
Count = Callable[[Amounts, S], Jobs]
COUNTS: dict[type[Step], Count] = {}


def stages(of: Amounts) -> dict[str, list[Jobs]]:
    """The jobs of all methods, by the command of their step."""
    return {
        stage: [
            COUNTS.get(step, usual)(of, method) for method in of.methods if step in method.steps()
        ]
        for stage, step in STEPS.items()
    }


def usual(of: Amounts, method: Selector) -> Jobs:
    """A key for every document of the pool."""
    documents = of.sizes.documents
    phases = [Phase("documents", documents, {"rows": documents})]
    return Jobs(1, phases, 200.0 * of.in_shard + 4.0 * documents, 0, documents * 20.0)


def counts(step: type[Step]) -> Callable[[Count], Count]:
    """Let a function count the jobs of a step."""

    def register(count: Count) -> Count:
        COUNTS[step] = count
        return count

    return register


@counts(GroupMates.Order)
def _(of: Amounts, method: GroupMates) -> Jobs:
    return of.by_cluster("greedy", of.embedding)


@counts(SemDedup.Order)
def _(of: Amounts, method: SemDedup) -> Jobs:
    size = of.meaning if method.clusters == "semantic" else of.embedding
    return of.by_cluster("greedy", size)


@counts(Color.Prepare)
def _(of: Amounts, method: Color) -> Jobs:
    """A step: forward and backward pass over the examples, and a look at their loss after it."""
    steps, look = method.training_steps, of.look(of.sizes.selection_examples)
    parts = {"train": steps * 3 * look, "forward": (steps + 1) * look}
    memory = of.state_bytes(1)
    return Jobs(1, [Phase("steps", steps, parts)], **memory, disk_bytes=memory["host_bytes"] / 3)


@counts(Color.Order)
def _(of: Amounts, method: Color) -> Jobs:
    """The trained model and the probed one read every window."""
    sizes, documents = of.sizes, of.in_shard
    text = documents * sizes.text_bytes
    parts = {"read": text, "tokenise": text, "forward": of.two_losses(documents)}
    logits = 12.0 * MICRO_TOKENS * sizes.lm.vocabulary
    weights = 8.0 * sizes.lm.parameters(2)
    phases = [Phase("documents", documents, parts)]
    return Jobs(of.shards, phases, 200.0 * documents, weights + logits, documents * 20.0)


@counts(Quality.Prepare)
def _(of: Amounts, method: Quality) -> Jobs:
    """Positives are not counted: they are not known before they are read."""
    sample = of.config.sample
    texts = min(of.sizes.documents, sample.probe_documents + sample.training_documents)
    text = texts * of.sizes.text_bytes
    return Jobs(1, [Phase("texts", texts, {"hash": text})], 6.0 * text, 0, 4.0e6)


@counts(Quality.Order)
def _(of: Amounts, method: Quality) -> Jobs:
    return by_ngrams(of)


def by_ngrams(of: Amounts) -> Jobs:
    """A pass over the pool that hashes every text."""
    text = of.in_shard * of.sizes.text_bytes
    phases = [Phase("documents", of.in_shard, {"read": text, "hash": text})]
    return Jobs(of.shards, phases, 200.0 * of.in_shard, 0, of.in_shard * 20.0)


@counts(Betr.Prepare)
def _(of: Amounts, method: Betr) -> Jobs:
    """Targets are as long as documents. A sentence encoder looks at a whole text from each token."""
    sizes, sample = of.sizes, of.config.sample
    texts = min(sizes.documents, sample.probe_documents + sample.training_documents)
    texts += sizes.selection_examples
    text = texts * sizes.text_bytes
    if method.encoder == "lm":
        shape, parts = sizes.lm, of.hidden_states(texts)
    else:
        shape = shape_of(method.encoder, of.config.plan.encoder, "encoder")
        length = clipped_mean(sizes.tokens, method.max_tokens)
        parts = {"encoder_forward": forward_flops(shape, texts * length, length)}
    phases = [Phase("texts", texts, parts | {"tokenise": text, "hash": text})]
    host = 6.0 * text + 8.0 * texts * shape.hidden
    return Jobs(1, phases, host, of.forward_bytes(shape), 4.0 * 2**method.hash_bits)


@counts(Betr.Order)
def _(of: Amounts, method: Betr) -> Jobs:
    return by_ngrams(of)


@counts(OracleGreedy.Prepare)
def _(of: Amounts, method: OracleGreedy) -> Jobs:
    return Jobs(1, [])


@counts(OracleGreedy.Order)
def _(of: Amounts, method: OracleGreedy) -> Jobs:
    """Of a budget in tokens as many picks as there are documents of mean length in it."""
    sizes = of.sizes
    steps = evaluations(
        documents_of_ratio(of.share, sizes.documents), sizes.documents, method.candidates
    )
    parts = {kernel: steps * amount for kernel, amount in of.probed_step.items()}
    memory = of.state_bytes(1, snapshot=True)
    memory["host_bytes"] += sizes.documents * (sizes.text_bytes + 4 * sizes.window_tokens)
    return Jobs(1, [Phase("evaluations", steps, parts)], **memory)


@counts(Quad.Prepare)
def _(of: Amounts, method: Quad) -> Jobs:
    """A document: forward, backward, no gradients of weights: 2/3 of a training step.

    Every iteration reads the pool, the worst case. A product with the curvature: two forward passes'
    worth of tangents, and a training step without its update.
    """
    sizes = of.sizes
    arms = min(method.arms_per_iteration, of.clusters)
    probed = most_probed(method.iterations, arms, method.documents_per_arm, sizes.documents)
    parts = {
        "train": probed * 2 / 3 * of.train_step(1, sizes.window_tokens - 1),
        "read": method.iterations * sizes.documents * sizes.text_bytes,
        "tokenise": probed * sizes.text_bytes,
    }
    phases = [Phase("documents", probed, parts)]
    if method.hessian == "gauss_newton":
        products, look = method.cg_iterations, of.look(sizes.selection_examples)
        phases.append(Phase("products", products, {"train": products * 5 * look}))
    memory = of.state_bytes(1) | {"host_bytes": 100.0 * sizes.documents}
    return Jobs(1, phases, **memory)
