"""The work of a run, counted by hand for a configuration of round numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

import core_folder
from groupmates.cost.core_sizes import CoreTask, Reader, core_tasks
from groupmates.cost.jobs import KERNELS, WEIGHTS, Phase
from groupmates.cost.sizes import Sizes
from groupmates.cost.work import stages
from groupmates.maths.flops import Shape, first_token_flops, forward_flops, training_flops
from groupmates.settings.config import Core, load
from groupmates.settings.selectors import STEPS
from groupmates.settings.stages import STAGES
from planned import configuration

LM = Shape(hidden=8, layers=2, vocabulary=300)
ENCODER = Shape(hidden=16, layers=1, vocabulary=50)
EMBEDDED = 16  # the configuration's embedding size: three layers of the model have 24


def sizes(**changed) -> Sizes:
    fields = {
        "documents": 1000,
        "tokens": 100.0,
        "window_tokens": 33.0,
        "encoder_tokens": 40.0,
        "text_bytes": 400.0,
        "file_bytes": 200.0,
        "reference_tokens": 20.0,
        "label_share": 0.5,
        "selection_examples": 6,
        "evaluation_examples": 12,
        "files": 7,
        "shards": 3,
        "base_steps": 6,
        "lm": LM,
        "encoder": None,
    }
    return Sizes(**fields | changed)


def work(known: Sizes | None = None, **changed):
    return stages(load(configuration(**changed)), known or sizes())


def test_every_stage_of_the_default_run_has_as_many_jobs_as_snakemake_plans():
    counts = {name: sum(j.count for j in jobs) for name, jobs in work().items()}
    one = ("check-pool", "sample", "reference", "base", "plan-random", "plan-bootstrap")
    one += ("plan-groups", "probe-groups", "groups")
    one += ("centroids", "order-group-mates", "order-random", "summarise", "report", "corpus")
    assert counts == dict.fromkeys(one, 1) | {
        "check": 3,  # 7 files, 3 a shard
        "probe": 4,  # two rounds of two
        "fit": 2,
        "accept": 2,
        "score": 3,
        "cluster": 3,
        "take": 2,
        "materialise": 6,
        "assemble": 2,
        "evaluate": 4,
    }


@pytest.mark.parametrize(
    ("format", "jobs", "units"),
    [
        ("parquet", {"materialise": 6, "assemble": 2}, set()),
        ("open_lm", {"tokenise": 4, "assemble": 2}, {"windows"}),
        ("megatron", {"tokenise": 4, "assemble": 2}, {"bytes"}),
    ],
)
def test_a_tokenised_dataset_is_of_parts_instead_of_files(format, jobs, units):
    found = work(materialise={"format": format, "shards_per_job": 2})
    writing = {n: found[n] for n in ("materialise", "tokenise", "assemble") if n in found}
    assert {name: sum(j.count for j in of_stage) for name, of_stage in writing.items()} == jobs
    if "tokenise" in found:
        phases = [p for n in ("tokenise", "assemble") for p in found[n][0].phases]
        assert {p.unit for p in phases} == {"documents"} | units
        # Two parts of 250 selected documents of 100 tokens, of 400 bytes of text.
        assert phases[0].units == 125
        assert phases[0].parts == {"tokenise": 125 * 400, "read": 125 * 400}


def test_without_bootstrapped_rollouts_there_is_one_round_and_one_model():
    counts = {
        n: sum(j.count for j in jobs)
        for n, jobs in work(probe={"bootstrap": {"rollouts": 0}}).items()
    }
    assert (counts["probe"], counts["fit"], counts["accept"]) == (2, 1, 1)
    assert "plan-bootstrap" not in counts


def test_first_order_labels_take_a_step_s_passes_of_a_document_and_one_fit():
    # Of the 60 documents of the probe pool, 4 held-out rollouts of 3 have 12, validation 3 x 3.
    found = work(probe={"labels": "first_order", "shards": 3})
    counts = {name: sum(j.count for j in jobs) for name, jobs in found.items()}
    assert (counts["first-order"], counts["fit"], counts["accept"]) == (3, 1, 1)
    assert "plan-bootstrap" not in counts
    (phase,) = found["first-order"][0].phases
    look = forward_flops(LM, 6 * 20, 10, 6 * 20 * 0.5)
    steps = 20 * training_flops(LM, 32, 32)
    assert phase.units == 20
    together = 16_384 // 33  # documents that a GPU reads together
    assert phase.parts == pytest.approx({"train": steps + 3 * look, "step": 20 * 2 / together})
    (audit,) = found["probe"]
    assert audit.count * audit.phases[0].units == 4 * 3
    fit = {phase.unit: phase.units for phase in found["fit"][0].phases}
    # 60 - 12 - 9 labels, in batches of as many as 8 rollouts have.
    assert fit == {"documents": 60, "steps": 2 * 2, "labels": 12}


def test_a_probe_step_trains_on_one_window_and_looks_at_the_reference_set():
    random, bootstrap = work()["probe"]
    (phase,) = random.phases
    assert phase.units == 16 * 3 / 2
    step = training_flops(LM, 32, 32)
    look = forward_flops(LM, 6 * 20, 10, 6 * 20 * 0.5)
    assert phase.parts == pytest.approx({"train": 24 * step, "step": 24 * 2, "forward": 24 * look})
    assert bootstrap.phases[0].units == 6 * 3 / 2


def test_sets_are_trained_on_whole_and_looked_at_where_they_are_complete():
    groups = {"sets": 5, "sizes": [2, 4, 10]}
    found = work(probe={"groups": groups})
    (jobs,), (phase,) = found["probe-groups"], found["probe-groups"][0].phases
    # 10 sets of 10 steps; a job of the random round has 24.
    assert (jobs.count, phase.units) == (2, 50)
    look = forward_flops(LM, 6 * 20, 10, 6 * 20 * 0.5)
    step = training_flops(LM, 32, 32)
    parts = {"train": 50 * step, "step": 50 * 2, "forward": 5 * 3 * look}
    assert phase.parts == pytest.approx(parts)
    for none in ({"probe": {"groups": {"sets": 0}}}, {"select": {"methods": ["random"]}}):
        assert not {"plan-groups", "probe-groups", "groups"} & set(work(**none))


def test_the_base_model_is_trained_for_its_steps():
    (base,) = work()["base"]
    assert base.phases[0].parts == {"train": 6 * training_flops(LM, 4 * 32, 32)}


def of_windows(documents: float) -> dict[str, float]:
    """The work of reading documents and of embedding their windows."""
    forward = forward_flops(LM, documents * 33, 16.5)
    text = documents * 400
    return {"read": text, "forward": forward, "tokenise": text, "rows": documents}


def test_scoring_embeds_windows_with_the_language_model_and_counts_all_tokens():
    (jobs,) = work()["score"]
    assert jobs.phases[0].parts == pytest.approx(of_windows(1000 / 3))


def test_a_student_learns_from_sampled_documents_and_tokenises_the_pool_once():
    found = work(score={"model": "student"}, distil={"documents": 100})
    assert "score" not in found
    (distil,), (score,) = found["distil"], found["score-student"]
    documents, fit = distil.phases
    assert (distil.count, documents.units, score.count) == (1, 100, 3)
    assert documents.parts == {"forward": forward_flops(LM, 100 * 33, 16.5)}
    assert fit.parts == {"vectors": 2 * 40 * 100 * 33 * (EMBEDDED + 1)}
    text = 1000 / 3 * 400
    vectors = 1000 / 3 * 33 * (EMBEDDED + 1)
    parts = {"read": text, "tokenise": text, "vectors": vectors, "rows": 1000 / 3}
    assert score.phases[0].parts == pytest.approx(parts)
    assert score.gpu_bytes == 0
    # At most what is sampled: 60 documents to probe, 60 to train on.
    (most,) = work(score={"model": "student"})["distil"]
    assert most.phases[0].units == 120
    # Another model of the pool has a student of its own.
    both = work(score={"model": "student"}, select={"methods": ["group_mates", "mates"]})
    assert (both["distil"][0].count, both["score-student"][0].count) == (2, 6)


def test_an_encoder_tokenises_once_more_and_sees_its_chunks():
    (jobs,) = work(sizes(encoder=ENCODER), fit={"encoder": {"name": "some/encoder"}})["score"]
    parts = jobs.phases[0].parts
    assert parts["tokenise"] == pytest.approx(2 * 1000 / 3 * 400)
    assert parts["encoder_forward"] == pytest.approx(first_token_flops(ENCODER, 1000 / 3 * 40, 40))
    assert jobs.disk_bytes == pytest.approx(1000 / 3 * (60 + 4 * 16))


def test_an_encoder_whose_chunks_are_means_runs_its_last_layer_whole():
    fit = {"encoder": {"name": "some/encoder", "pooling": "mean"}}
    (jobs,) = work(sizes(encoder=ENCODER), fit=fit)["score"]
    whole = forward_flops(ENCODER, 1000 / 3 * 40, 40)
    assert jobs.phases[0].parts["encoder_forward"] == pytest.approx(whole)


def test_the_fit_of_an_encoder_trains_on_the_documents_of_its_rollouts():
    initial, final = work(sizes(encoder=ENCODER), fit={"encoder": {"name": "some/encoder"}})["fit"]
    by_unit = {p.unit: p for p in initial.phases}
    assert by_unit["steps"].units == 2 * -(-(16 - 7) // 8)
    step = 3 * first_token_flops(ENCODER, 8 * 3 * 40, 40)
    assert by_unit["steps"].parts == pytest.approx({"encoder_train": 4 * step})
    assert {p.unit: p.units for p in final.phases}["steps"] == 2 * -(-(16 + 6 - 7) // 8)


@pytest.mark.parametrize("quota", ["marginal", "proportional"])
def test_the_greedy_orders_whole_clusters(quota):
    (jobs,) = work(select={"group_mates": {"quota": quota}})["order-group-mates"]
    greedy = {p.unit: p for p in jobs.phases}["documents"].parts["greedy"]
    assert greedy == 1000 * (1000 / 25) * EMBEDDED  # 25 clusters of 40


def test_kmeans_compares_the_sample_with_every_centroid_in_every_iteration():
    (jobs,) = work()["centroids"]
    fit = {p.unit: p for p in jobs.phases}["iterations"]
    assert fit.parts == {"kmeans": 1000 * 25 * EMBEDDED * 5, "sums": 1000 * EMBEDDED * 5}
    assert fit.size == 1000 * 25 * EMBEDDED * 5 + WEIGHTS["sums"] * 1000 * EMBEDDED * 5


def test_a_selection_is_trained_on_by_every_method_and_seed_for_the_same_steps():
    (jobs,) = work()["evaluate"]
    read, train = jobs.phases
    steps = 1024 / (4 * 32)
    assert (jobs.count, train.units) == (4, steps)
    assert train.parts["train"] == steps * training_flops(LM, 4 * 32, 32)
    assert read.parts["read"] == 1000 * 400  # of the pool


def test_models_are_pretrained_by_method_and_seed_at_their_own_size():
    assert not {"pretrain", "pretrain-tokens"} & work().keys()
    asked = {"methods": ["random"], "seeds": 2, "start": "scratch", "tokens": 9 * 4 * 32}
    made = {"family": "qwen3", "hidden_size": 16, "layers": 3, "heads": 2}
    found = work(pretrain=asked | {"batch_sequences": 4, "architecture": made, "points": 3})
    (tokens,), (jobs,) = found["pretrain-tokens"], found["pretrain"]
    shape = Shape(16, 3, LM.vocabulary)
    assert (tokens.count, jobs.count, jobs.phases[0].units) == (3, 2, 9)
    parts = jobs.phases[0].parts
    assert parts["train"] == 9 * training_flops(shape, 4 * 32, 32)
    assert parts["forward"] == 4 * forward_flops(shape, 12 * 20, 10, 12 * 20 * 0.5)


def test_twice_the_documents_are_twice_the_work_of_what_reads_them_all():
    for stage in ("check", "score", "cluster", "order-random", "take", "materialise"):
        one, two = (work(sizes(documents=n))[stage][0] for n in (1000, 2000))
        assert two.count == one.count
        sizes_of = [sum(p.size for p in jobs.phases) for jobs in (one, two)]
        # Twice as many clusters of the same size, too: similarities to centroids grow with both.
        assert sizes_of[1] >= 2 * sizes_of[0] * 0.999, stage


def test_every_part_is_a_known_kernel():
    for known in (sizes(), sizes(encoder=ENCODER)):
        for jobs in work(known).values():
            for phase in (p for group in jobs for p in group.phases):
                assert set(phase.parts) <= set(KERNELS)


def test_the_size_of_a_phase_weighs_what_dominates_it():
    assert Phase("x", 1, {"read": 5.0, "forward": 7.0, "train": 11.0}).size == 18.0
    assert Phase("x", 1, {"read": 5.0, "rows": 7.0}).size == 5.0


@pytest.mark.parametrize("encoder", ["lm", "some/encoder"])
def test_targets_and_sampled_documents_are_embedded_once_and_the_pool_is_hashed(encoder):
    shape = {"hidden_size": 16, "layers": 1, "vocabulary_size": 50}
    select = {"methods": ["betr"], "betr": {"encoder": encoder, "max_tokens": 64}}
    found = work(select=select, plan={"encoder": shape})
    (prepare,), (order,) = found["prepare-betr"], found["order-betr"]
    texts = prepare.phases[0].units
    sample = load(configuration()).sample
    assert texts == sample.probe_documents + sample.training_documents + 6
    length = 100 * (1 - math.exp(-64 / 100))
    forward = {
        "lm": {"forward": forward_flops(LM, texts * 33, 16.5)},
        "some/encoder": {"encoder_forward": forward_flops(ENCODER, texts * length, length)},
    }
    assert prepare.phases[0].parts == pytest.approx(
        forward[encoder] | {"tokenise": texts * 400, "hash": texts * 400}
    )
    assert order.count == 3
    assert order.phases[0].parts == pytest.approx(dict.fromkeys(("read", "hash"), 400 * 1000 / 3))


@pytest.mark.parametrize(("candidates", "evaluations"), [(None, 10 * 1000 - 45), (30, 300)])
def test_brute_force_is_a_probing_step_for_every_document_that_is_tried(candidates, evaluations):
    select = {
        "methods": ["oracle_greedy"],
        "budget": {"ratio": 0.01, "tokens": None},
        "oracle_greedy": {"candidates": candidates},
    }
    found = work(select=select)
    (jobs,) = found["order-oracle-greedy"]
    assert (jobs.count, found["prepare-oracle-greedy"][0].count) == (1, 1)
    (random, _), (phase,) = found["probe"], jobs.phases
    assert phase.units == evaluations
    per_step = {k: amount / random.phases[0].units for k, amount in random.phases[0].parts.items()}
    assert phase.parts == pytest.approx({k: evaluations * v for k, v in per_step.items()})
    assert "order-oracle-greedy" not in work()


def test_semantic_clusters_are_made_beside_the_others_where_a_method_asks_for_them():
    select = {"methods": ["semdedup", "random"]}
    found = work(select=select, semantic={"embedding_size": 5})
    (fit,), (embed,) = found["fit-semantic"], found["embed"]
    assert fit.phases[0].parts == {"forward": forward_flops(LM, 60 * 33, 16.5)}
    documents = 1000 / 3
    assert (embed.count, embed.disk_bytes) == (3, pytest.approx(documents * (30 + 4 * 5)))
    assert embed.phases[0].parts == pytest.approx(of_windows(documents))
    sizes_of = [
        {p.unit: p for p in j.phases}["iterations"].parts["sums"] for j in found["centroids"]
    ]
    assert sizes_of == [1000 * EMBEDDED * 5, 1000 * 5 * 5]  # influence-aware, semantic
    assert [j.count for j in found["cluster"]] == [3, 3]
    (order,) = found["order-semdedup"]
    assert order.phases[1].parts == {"greedy": 1000 * 40 * 5}
    influence = {"methods": ["semdedup"], "semdedup": {"clusters": "influence"}}
    other = work(select=influence, semantic={"embedding_size": 5})
    assert other["order-semdedup"][0].phases[1].parts == {"greedy": 1000 * 40 * EMBEDDED}
    assert not {"fit-semantic", "embed"} & set(other)


@pytest.mark.parametrize(("iterations", "probed"), [(3, 3 * 4 * 5), (900, 1000)])
def test_a_bandit_probes_arms_times_documents_in_each_iteration(iterations, probed):
    section = {"iterations": iterations, "arms_per_iteration": 4, "documents_per_arm": 5}
    select = {"methods": ["quad"], "quad": section | {"hessian": "gauss_newton"}}
    found = work(select=select)
    (jobs,) = found["prepare-quad"]
    assert (jobs.count, found["order-quad"][0].count) == (1, 1)
    documents, products = jobs.phases
    assert (documents.units, products.units) == (probed, 20)
    assert documents.parts["train"] == pytest.approx(
        probed * 2 / 3 * training_flops(LM, 32.0, 32.0)
    )
    assert documents.parts["read"] == iterations * 1000 * 400
    assert work(select=select | {"quad": section})["prepare-quad"][0].phases == [documents]
    assert "prepare-quad" not in work()


def test_a_plan_counts_a_gpu_where_a_rule_asks_for_one_and_the_profile_names_that_rule():
    root = Path(__file__).parents[2]
    rules = "".join(path.read_text() for path in sorted((root / "workflow/rules").glob("*.smk")))
    whole = r"^(?:use rule \w+ as )?(?:rule )?(\w+)(?: with)?:$(.*?)(?=^\w|\Z)"
    found = dict(re.findall(whole, rules, re.MULTILINE | re.DOTALL))
    asking = {name for name, rule in found.items() if "gpu=1" in rule}
    # Those of the selectors' steps have the command of the step.
    commands = {re.search(r"{params.run} ([\w-]+)", found[name]) for name in asking}
    on_gpu = {name for name, stage in STAGES.items() if stage.gpu}
    assert {match[1] for match in commands if match} == on_gpu - STEPS.keys()
    assert on_gpu & STEPS.keys() == {stage for stage, step in STEPS.items() if step.gpu}
    inherited = re.findall(r"^use rule (\w+) as (\w+)", rules, re.MULTILINE)
    profile = yaml.safe_load((root / "profiles/slurm/profile.yaml").read_text())
    assert profile["set-resources"].keys() == asking | {
        new for old, new in inherited if old in asking
    }


def test_core_reads_what_options_share_once(tmp_path):
    """Without a tokenizer, four bytes are a token."""
    question = {"query": "four" * 9, "choices": ["four" * 2, "more" * 3], "gold": 0}
    core_folder.write(tmp_path, {"copa": [question] * 3})
    core = {"pretrained": False, "data": str(tmp_path), "tasks": "all", "examples": None}
    asked = Core(models={"one": "a", "two": "b"}, batch_tokens=64, **core)
    found = core_tasks(asked, dict.fromkeys(asked.models, Reader(LM, None, None)))
    assert [(task.model, task.task, task.questions) for task in found] == [
        ("one", "copa", 3),
        ("two", "copa", 3),
    ]
    # A prompt has two examples of 36 + 1 + 8 + 2 bytes; its own 36 + 1, and an option of 8 or 12.
    rows = [1 + -(-(2 * 47 + 37 + option) // 4) for option in (8, 12)]
    shared = 1 + (2 * 47 + 37) // 4 - 1  # the last of them predicts
    assert found[0].tokens == shared + sum(rows) - 2 * shared
    cut = core_tasks(asked, {"one": Reader(LM, 10, None)})
    assert cut[0].tokens <= 20 < found[0].tokens


def test_core_is_a_job_for_each_model_and_task():
    task = CoreTask("one", "copa", LM, 30, tokens=50.0, pairs=1000.0, logits=8.0, text_bytes=90.0)
    found = work(sizes(core=[task, task]))
    (jobs, _), (table,) = found["core-task"], found["core"]
    prompts, questions = jobs.phases
    assert (jobs.count, table.count) == (1, 1)
    assert (prompts.units, prompts.parts) == (30, {"tokenise": 30 * 90})
    assert questions.parts == {"forward": pytest.approx(30 * forward_flops(LM, 50, 20, 8))}
    assert not {"core", "core-task"} & work().keys()
