"""What a changed setting makes stale: a table of every key."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

import checkout
import in_process
from groupmates.settings.config import keys
from groupmates.settings.selectors import SELECTORS, Selector
from in_process import planned

# What a changed setting re-runs: "after X" stands for X and all rules that follow from it.
REPORT = {"report"}
SUMMARY = {"summarise"} | REPORT
EVALUATE = {"evaluate"} | SUMMARY
DATASET = {"materialise", "assemble"}
TAKE = {"take"} | DATASET | EVALUATE
CLUSTER = {"centroids", "cluster", "order"} | TAKE
SEMANTIC = {"fit_semantic", "embed", "centroids_semantic", "cluster_semantic"}
SCORE = {"score"} | CLUSTER
GROUPS = {"plan_groups", "probe_groups", "groups"} | REPORT
FIT = {"fit", "accept", "plan_bootstrap", "probe"} | GROUPS | SCORE
PROBE = FIT
BASE = {"base"} | PROBE
REFERENCE = {"reference"} | PROBE
SAMPLE = {"sample", "reference", "plan_random"} | BASE
CHECK = {"check", "check_pool"}
CORPUS = {"corpus"} | CHECK | SAMPLE
BOOTSTRAP = {"plan_bootstrap", "probe", "fit", "accept"} | GROUPS | SCORE


AFFECTS: dict[str, tuple[object, set[str]]] = {
    "seed": (1, CORPUS),
    "corpus.documents": (300, CORPUS),
    "corpus.files": (2, CORPUS),
    "pool.files_per_shard": (2, CHECK | SCORE),
    "pool.bad_records": ("skip", CHECK | SAMPLE),
    "pool.max_bad_share": (0.5, {"check_pool"} | CLUSTER),
    "pool.columns.text": ("url", CHECK | SAMPLE),
    "pool.columns.id": ("url", CHECK | SAMPLE),
    "pool.columns.source": (None, SCORE),
    "decontaminate.drop": (False, set()),  # without examples
    "reference.delimiter": ("", REFERENCE),
    "reference.split.loss_on": ("all", REFERENCE),
    "reference.split.evaluation_share": (0.4, REFERENCE),
    "reference.selection_examples": (7, PROBE),
    "reference.evaluation_examples": (9, EVALUATE),
    "reference.split.max_tokens": (20, REFERENCE),
    "sample.probe_documents": (50, SAMPLE),
    "sample.training_documents": (50, SAMPLE),
    "sample.sequence_length": (30, SAMPLE),
    "sample.tokenizer": ("some/folder", CHECK | SAMPLE),
    "sample.end_of_text": ("<|endoftext|>", SAMPLE),
    "sample.special_tokens_in_text": (True, SAMPLE),
    "sample.vocabulary_size": (420, SAMPLE),
    "base.checkpoint": ("some/folder", CHECK | SAMPLE),
    "base.architecture.family": ("gpt_neox", BASE),
    "base.architecture.hidden_size": (48, BASE),
    "base.architecture.layers": (2, BASE),
    "base.architecture.heads": (4, BASE),
    "base.optimizer.learning_rate": (0.002, BASE),
    "base.optimizer.beta1": (0.8, BASE),
    "base.optimizer.beta2": (0.99, BASE),
    "base.optimizer.epsilon": (1e-7, BASE),
    "base.optimizer.weight_decay": (0.1, BASE),
    "base.optimizer.clip_norm": (2.0, BASE),
    "base.optimizer.z_loss": (0.0, BASE),
    "base.training_steps": (7, BASE),
    "base.optimizer_warmup_steps": (7, BASE),
    "base.batch_sequences": (5, BASE),
    "base.learning_rate_warmup_steps": (3, BASE),
    "probe.shards": (3, PROBE),
    "probe.labels": (
        "first_order",
        {"first_order", "plan_random"} | PROBE - {"plan_bootstrap"},
    ),
    "probe.learning_rate.factor": (0.5, PROBE),
    "probe.learning_rate.absolute": (1e-4, PROBE),
    "probe.rollout_length": (4, {"plan_random"} | PROBE),
    "probe.random.rollouts": (17, {"plan_random"} | PROBE),
    "probe.bootstrap.rollouts": (8, BOOTSTRAP),
    "probe.bootstrap.beam_width": (9, BOOTSTRAP),
    "probe.bootstrap.expansion": (4, BOOTSTRAP),
    "probe.bootstrap.max_appearances": (5, BOOTSTRAP),
    "probe.groups.sets": (5, GROUPS),
    "probe.groups.sizes": ([2], GROUPS),
    "fit.encoder.name": ("some/encoder", FIT),
    "fit.encoder.embedding_size": (8, FIT),
    "fit.encoder.chunk_tokens": (256, FIT),
    "fit.encoder.chunks": (2, FIT),
    "fit.encoder.pooling": ("mean", FIT),
    "fit.encoder.learning_rate": (1e-4, FIT),
    "fit.relation.kernel": ("mean", FIT),
    "fit.relation.sharpness": (8.0, FIT),
    "fit.standardise": ("global", FIT),
    "fit.validation_rollouts": (2, FIT),
    "fit.heldout_rollouts": (5, FIT),
    "fit.training.epochs": (3, FIT),
    "fit.training.batch_rollouts": (4, FIT),
    "fit.training.learning_rate": (0.01, FIT),
    "fit.training.warmup_steps": (3, FIT),
    "fit.training.weight_decay": (0.1, FIT),
    "fit.training.dropout": (0.2, FIT),
    "accept.minimum_spearman": (-0.9, {"accept"} | BOOTSTRAP),
    "score.model": ("student", {"distil", "score_student"} | CLUSTER),
    # Of no student that scores.
    "distil.documents": (70, set()),
    "distil.heldout_share": (0.3, set()),
    "distil.penalty": (0.5, set()),
    "distil.minimum_spearman": (-0.9, set()),
    "score.batch_tokens": (4096, SCORE),
    "semantic.embedding_size": (8, set()),  # of no method that runs by default
    "cluster.clusters": (5, CLUSTER),
    "cluster.target_size": (50, CLUSTER),
    "cluster.iterations": (6, CLUSTER),
    "cluster.sample_per_cluster": (100, CLUSTER),
    "select.methods": (["random"], {"summarise", "report"}),
    "select.budget.ratio": (0.3, TAKE),
    "select.budget.tokens": (9000, TAKE),
    "select.partitions": (2, {"order"} | TAKE),
    "select.group_mates.clusters": ("semantic", SEMANTIC | {"order"} | TAKE),
    "select.group_mates.quota": ("proportional", {"order"} | TAKE),
    "select.group_mates.sign": ("ceiling", {"order"} | TAKE),
    "select.group_mates.relation": ("none", {"order"} | TAKE),
    "select.group_mates.sharpness": (64.0, {"order", "groups"} | TAKE),
    "select.group_mates.rounds": ("random", {"score_by", "order"} | TAKE),
    "select.variants": ({"best": {"method": "mates", "temperature": 0}}, set()),
    "materialise.format": ("parquet", DATASET),
    "materialise.license": ("odc-by", {"assemble"}),
    # Of the tokenised formats alone.
    "materialise.tokenizer": ("some/folder", set()),
    "materialise.shards_per_job": (2, set()),
    "materialise.open_lm.window_tokens": (17, set()),
    "materialise.open_lm.windows_per_shard": (5, set()),
    "evaluate.seeds": (3, EVALUATE),
    "evaluate.training.tokens": (2048, EVALUATE),
    "evaluate.training.batch_sequences": (5, EVALUATE),
    "evaluate.training.learning_rate": (0.002, EVALUATE),
    "evaluate.training.learning_rate_warmup_steps": (2, EVALUATE),
    "evaluate.training.points": (4, EVALUATE),
    # Neither pretraining nor CORE is a part of a run.
    "pretrain.methods": (["random"], set()),
    "pretrain.seeds": (2, set()),
    "pretrain.start": ("scratch", set()),
    "pretrain.architecture.family": ("llama", set()),
    "pretrain.architecture.hidden_size": (48, set()),
    "pretrain.architecture.layers": (2, set()),
    "pretrain.architecture.heads": (2, set()),
    "pretrain.tokens": (2048, set()),
    "pretrain.batch_sequences": (5, set()),
    "pretrain.learning_rate": (0.002, set()),
    "pretrain.warmup_steps": (3, set()),
    "pretrain.decay_share": (0.5, set()),
    "pretrain.decay_to": (0.0, set()),
    "pretrain.points": (3, set()),
    "pretrain.milestones": ([0.5], set()),
    "pretrain.save_steps": (5, set()),
    "pretrain.save_total_limit": (3, set()),
    "pretrain.max_passes": (3.0, set()),
    "pretrain.sharding": ("fsdp", set()),
    "compile": (["base", "probe", "evaluate"], set()),
    "pretrain.tracker": ("tensorboard", set()),
    "pretrain.stages": ([0.5, 0.5], TAKE),  # the run is the first stage
    "pretrain.repeat": (True, set()),
    "core.tasks": (["copa"], set()),
    "core.examples": (7, set()),
    "core.batch_tokens": (512, set()),
    "report.map_points": (100, {"report"}),
    "report.texts_gigabytes": (0.5, {"report"}),
    # The plan is no part of a run.
    "plan.gpus": (2, set()),
    "plan.cores": (3, set()),
    "plan.rates": (["some/file.json"], set()),
    "plan.pool.documents": (7, set()),
    "plan.pool.tokens_per_document": (7.0, set()),
    "plan.pool.text_bytes_per_document": (7.0, set()),
    "plan.pool.file_bytes_per_document": (7.0, set()),
    "plan.reference_tokens": (7.0, set()),
    "plan.checkpoint": ({"hidden_size": 8, "layers": 1, "vocabulary_size": 300}, set()),
    "plan.encoder": ({"hidden_size": 8, "layers": 1, "vocabulary_size": 300}, set()),
    "plan.pretraining.gpu_hours": (3.0, set()),
    "plan.pretraining.tokens": (1000, set()),
}


def another(kind: type[Selector], key: str, value: Any) -> Any:
    """Another valid value of a selector's setting."""
    annotation = kind.model_fields[key].annotation
    literals = [a for a in (annotation, *get_args(annotation)) if get_origin(a) is Literal]
    choices: list[Any] = [choice for literal in literals for choice in get_args(literal)]
    if isinstance(value, str):
        others: list[Any] = ["another"]
    else:
        others = [3] if value is None else [value / 2, value + 1]
    for other in [*choices, *others]:
        with contextlib.suppress(ValueError):
            kind.model_validate(checkout.DEFAULTS["select"][kind.name] | {key: other})
            if other != value:
                return other
    raise AssertionError(f"{kind.name}.{key} has no other value")


# Of selectors that do not run by default.
AFFECTS |= {
    f"select.{name}.{key}": (another(SELECTORS[name], key, value), set())
    for name, section in checkout.DEFAULTS["select"].items()
    if name in SELECTORS and name != "group_mates"
    for key, value in section.items()
}


# These name files or the run itself: a change is another set of inputs or another folder. Those of
# the corpus, which the table's run reads, cannot be dealt out by size.
OTHER_INPUTS = {
    "run",
    "pool.paths",
    "pool.shard_mb",
    "sample.paths",
    "reference.paths",
    "reference.evaluation_paths",
    "decontaminate.examples",
    "core.models",
    "core.pretrained",
    "core.data",
}


# A pair of which exactly one is set.
PAIRED = {
    "cluster.clusters": {"target_size": None},
    "probe.learning_rate.absolute": {"factor": None},
    "select.budget.tokens": {"ratio": None},
}


def test_the_table_lists_every_setting() -> None:
    assert set(AFFECTS) | OTHER_INPUTS == keys()


def written(key: str, folder: Path) -> str:
    """A configuration that changes a key, and its partner where one of two is set."""
    *sections, leaf = key.split(".")
    change: dict = {leaf: AFFECTS[key][0], **PAIRED.get(key, {})}
    for section in reversed(sections):
        change = {section: change}
    path = folder / "change.yaml"
    path.write_text(yaml.safe_dump(change))
    return str(path)


@pytest.mark.parametrize("key", AFFECTS)
def test_a_changed_setting_re_runs_exactly_what_depends_on_it(
    key: str, finished: Path, tmp_path: Path
) -> None:
    """Under profiles/local; test_slurm.py compares its triggers with those of profiles/slurm."""
    assert set(planned(finished, written(key, tmp_path))) == AFFECTS[key][1]


@pytest.mark.parametrize(
    ("profile", "key"),
    [
        ("slurm", "pool.bad_records"),
        ("local", "select.group_mates.clusters"),
        ("slurm", "plan.gpus"),
    ],
)
def test_a_process_of_its_own_plans_the_same(
    profile: str, key: str, finished: Path, tmp_path: Path
) -> None:
    arguments = (written(key, tmp_path), "--nolock", "-n", "--quiet", "rules")
    shown = checkout.snakemake(finished, *arguments, profile=profile).stdout
    assert set(checkout.table(shown)) == AFFECTS[key][1], shown[-3000:]


def test_what_semantic_clusters_depend_on_makes_them_anew(finished: Path, tmp_path: Path) -> None:
    """Of a run that has them: not the influence model, but whatever changes an embedding."""
    ours = {"select": {"methods": ["semdedup", "random"]}}
    folder = checkout.copy(finished, tmp_path, ours)
    in_process.goes_on(folder, "--until", "take")
    order = {"order", "take"}
    for change, rules in (
        ({"semantic": {"embedding_size": 8}}, SEMANTIC | order),
        ({"cluster": {"iterations": 6}}, SEMANTIC - {"fit_semantic", "embed"} | order),
        ({"score": {"batch_tokens": 4096}}, SEMANTIC - {"fit_semantic"} | order),
        ({"select": {"semdedup": {"threshold": 0.9}}}, order),
        ({"select": {"semdedup": {"clusters": "influence"}}}, order),
        ({"fit": {"encoder": {"embedding_size": 8}}}, order),
    ):
        checkout.configure(folder, checkout.merged(ours, change))
        assert planned(folder, "--until", "take").keys() & (SEMANTIC | order) == rules, change


def test_neither_touched_sources_nor_the_number_of_processes_make_anything_stale(
    finished: Path,
) -> None:
    for path in [*finished.rglob("*.py"), *finished.rglob("*.smk"), finished / "Snakefile"]:
        path.touch()
    assert not planned(finished)
    two = ("--set-resources", "fit:tasks_per_node=2", "base:tasks_per_node=2")
    assert not planned(finished, *two)


def test_another_number_of_partitions_makes_all_of_them_anew(
    finished: Path, tmp_path: Path
) -> None:
    assert planned(finished, written("select.partitions", tmp_path))["order"] == 2
