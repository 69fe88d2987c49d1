"""The workflow as a user runs it: from text to report, resumed, and re-run where settings change."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

import checkout
from groupmates.config import keys

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the tiny configuration has run to its end."""
    folder = checkout.make(tmp_path_factory.mktemp("finished"))
    done = checkout.snakemake(folder)
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


def selections(folder: Path) -> dict[str, bytes]:
    root = folder / "results/tiny"
    files = [*root.glob("select/*/shard-*.parquet"), *root.glob("dataset/**/*.jsonl.zst")]
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(files)}


def lines(path: Path) -> list[bytes]:
    return zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()


def test_the_dataset_holds_selected_lines_unchanged_and_in_their_order(finished: Path) -> None:
    root = finished / "results/tiny"
    for shard in range(3):
        pool = lines(root / f"corpus/shard-{shard:05d}.jsonl.zst")
        for method in ("group_mates", "random"):
            table = pq.read_table(root / f"select/{method}/shard-{shard:05d}.parquet")
            rows = table["source_row"].to_pylist()
            assert rows == sorted(rows)
            written = lines(root / f"dataset/{method}/shard-{shard:05d}.jsonl.zst")
            assert written == [pool[row] for row in rows]
            assert all(json.loads(line)["text"] for line in written)


def test_both_methods_meet_the_same_budget_of_documents(finished: Path) -> None:
    root = finished / "results/tiny"
    documents = sum(pq.read_metadata(p).num_rows for p in root.glob("score/*.parquet"))
    for method in ("group_mates", "random"):
        rows = [pq.read_metadata(p).num_rows for p in root.glob(f"select/{method}/shard-*")]
        assert sum(rows) == round(documents / 4)


def test_summary_and_report_tell_the_same_difference(finished: Path) -> None:
    root = finished / "results/tiny"
    summary = json.loads((root / "evaluate/summary.json").read_text())
    final = {
        method: [
            pq.read_table(root / f"evaluate/{method}/seed-{seed}.parquet")["loss_nats"][-1].as_py()
            for seed in range(2)
        ]
        for method in ("group_mates", "random")
    }
    mean = sum(final["group_mates"]) / 2 - sum(final["random"]) / 2
    assert summary["comparisons"]["group_mates"]["difference_nats"] == pytest.approx(mean)
    assert f"{abs(mean):.3f}"[:5] in (root / "report.html").read_text()


def test_a_finished_run_has_nothing_left_to_do(finished: Path) -> None:
    assert "Nothing to be done" in checkout.snakemake(finished, "-n").stdout


def test_touching_source_files_and_rules_re_runs_nothing(finished: Path) -> None:
    for path in [*finished.rglob("*.py"), *finished.rglob("*.smk"), finished / "Snakefile"]:
        path.touch()
    assert "Nothing to be done" in checkout.snakemake(finished, "-n").stdout


def test_a_printed_command_runs_on_a_bare_node(finished: Path, tmp_path: Path) -> None:
    """What `snakemake -n -p` prints needs no activated environment and no other variable."""
    folder = shutil.copytree(finished, tmp_path / "copy")
    printed = checkout.snakemake(folder, "-n", "-p", "-R", "take").stdout
    found = (
        re.search(r"PYTHONPATH=.* -m groupmates take .*", line) for line in printed.splitlines()
    )
    take = next(match.group() for match in found if match)
    target = folder / "results/tiny/select/group_mates/shard-00000.parquet"
    before = target.read_bytes()
    target.unlink()
    environment = {"PATH": "/usr/bin:/bin"}
    subprocess.run(
        ["bash", "-c", take.replace("random", "group_mates")],
        cwd=folder,
        env=environment,
        check=True,
    )
    assert target.read_bytes() == before


def test_a_run_killed_at_a_random_moment_ends_with_the_same_selection(
    finished: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("GROUPMATES_KILL_SEED", random.randrange(10**6)))
    wait = random.Random(seed).uniform(3, 40)
    folder = checkout.make(tmp_path)
    # The built-in corpus is an input here: installed packages may change between two runs.
    shutil.copytree(finished / "results/tiny/corpus", folder / "results/tiny/corpus")
    with (folder / "killed.log").open("w") as log:
        run = subprocess.Popen(
            checkout.command(), cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        time.sleep(wait)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    partial = list(folder.glob("results/**/.*.partial"))
    checkout.snakemake(folder, "--unlock")
    again = checkout.snakemake(folder)
    told = f"killed after {wait:.1f} s (GROUPMATES_KILL_SEED={seed}), partial files {partial}"
    assert again.returncode == 0, told + again.stdout[-4000:]
    assert selections(folder) == selections(finished), told


def test_bad_input_ends_with_a_message_that_says_what_to_do(tmp_path: Path) -> None:
    folder = checkout.make(
        tmp_path,
        {**checkout.TINY, "pool": {"paths": ["pool/*.jsonl"]}},
    )
    (folder / "pool").mkdir()
    (folder / "pool/a.jsonl").write_text('{"text": "one"}\n{"texx": "two"}\n')
    run = checkout.snakemake(folder, "sample")
    assert run.returncode != 0
    for part in ("expected:", "found:", "pool/a.jsonl", "line 2", "to do:"):
        assert part in run.stdout
    assert "Traceback" not in run.stdout
    assert not list(folder.glob("results/tiny/sample/*"))


def test_an_unknown_setting_is_refused_before_anything_runs(tmp_path: Path) -> None:
    folder = checkout.make(tmp_path, {**checkout.TINY, "prob": {"shards": 3}})
    run = checkout.snakemake(folder, "-n")
    assert run.returncode != 0
    assert "prob: no such setting; the nearest is probe" in run.stdout


# What a changed setting re-runs: "after X" stands for X and all rules that follow from it.
REPORT = {"report"}
SUMMARY = {"summarise"} | REPORT
EVALUATE = {"evaluate"} | SUMMARY
TAKE = {"take", "materialise"} | EVALUATE
CLUSTER = {"centroids", "cluster", "order_group_mates"} | TAKE
SCORE = {"score", "order_random"} | CLUSTER
FIT = {"fit", "plan_bootstrap", "probe"} | SCORE
PROBE = FIT
BASE = {"base"} | PROBE
REFERENCE = {"reference"} | PROBE
SAMPLE = {"sample", "reference", "plan_random"} | BASE
CORPUS = {"corpus"} | SAMPLE
BOOTSTRAP = {"plan_bootstrap", "probe", "fit"} | SCORE

AFFECTS: dict[str, tuple[object, set[str]]] = {
    "seed": (1, CORPUS),
    "corpus.documents": (300, CORPUS),
    "corpus.files": (2, CORPUS),
    "pool.files_per_shard": (2, SCORE),
    "pool.columns.text": ("url", SAMPLE),
    "pool.columns.id": ("url", SAMPLE),
    "pool.columns.source": (None, SAMPLE),
    "reference.split.loss_on": ("all", REFERENCE),
    "reference.split.evaluation_share": (0.4, REFERENCE),
    "reference.split.selection_examples": (7, REFERENCE),
    "reference.split.evaluation_examples": (9, REFERENCE),
    "reference.split.max_tokens": (20, REFERENCE),
    "sample.probe_documents": (50, SAMPLE),
    "sample.training_documents": (50, SAMPLE),
    "sample.sequence_length": (30, SAMPLE),
    "sample.tokenizer": ("some/folder", SAMPLE),
    "sample.vocabulary_size": (420, SAMPLE),
    "base.checkpoint": ("some/folder", SAMPLE),
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
    "probe.rollout_length": (4, {"plan_random"} | PROBE),
    "probe.random.rollouts": (17, {"plan_random"} | PROBE),
    "probe.bootstrap.rollouts": (8, BOOTSTRAP),
    "probe.bootstrap.beam_width": (9, BOOTSTRAP),
    "probe.bootstrap.expansion": (4, BOOTSTRAP),
    "probe.bootstrap.max_appearances": (5, BOOTSTRAP),
    "fit.encoder.name": ("some/encoder", FIT),
    "fit.encoder.embedding_size": (8, FIT),
    "fit.encoder.chunk_tokens": (256, FIT),
    "fit.encoder.chunks": (2, FIT),
    "fit.relation.kernel": ("nearest", FIT),
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
    "fit.minimum_spearman": (-0.9, FIT),
    "score.batch_tokens": (4096, SCORE),
    "cluster.clusters": (5, CLUSTER),
    "cluster.target_size": (50, CLUSTER),
    "cluster.iterations": (6, CLUSTER),
    "cluster.sample_per_cluster": (100, CLUSTER),
    "select.methods": (["random"], {"summarise", "report"}),
    "select.budget.ratio": (0.3, {"order_group_mates"} | TAKE),
    "select.budget.tokens": (9000, {"order_group_mates"} | TAKE),
    "select.partitions": (2, {"order_group_mates"} | TAKE),
    "select.group_mates.quota": ("proportional", {"order_group_mates"} | TAKE),
    "select.group_mates.sign": ("ceiling", {"order_group_mates"} | TAKE),
    "evaluate.seeds": (3, EVALUATE),
    "evaluate.training.tokens": (2048, EVALUATE),
    "evaluate.training.batch_sequences": (5, EVALUATE),
    "evaluate.training.learning_rate": (0.002, EVALUATE),
    "evaluate.training.learning_rate_warmup_steps": (2, EVALUATE),
    "evaluate.training.points": (4, EVALUATE),
}
# These name files or the run itself: a change is another set of inputs or another folder.
OTHER_INPUTS = {"run", "pool.paths", "reference.paths", "reference.evaluation_paths"}
# A pair of which exactly one is set.
PAIRED = {
    "cluster.clusters": {"target_size": None},
    "select.budget.tokens": {"ratio": None},
}


def test_the_table_lists_every_setting() -> None:
    assert set(AFFECTS) | OTHER_INPUTS == keys()


@pytest.mark.parametrize("key", AFFECTS)
def test_a_changed_setting_re_runs_exactly_what_depends_on_it(
    key: str, finished: Path, tmp_path: Path
) -> None:
    value, rules = AFFECTS[key]
    *sections, leaf = key.split(".")
    change: dict = {leaf: value, **PAIRED.get(key, {})}
    for section in reversed(sections):
        change = {section: change}
    (tmp_path / "change.yaml").write_text(yaml.safe_dump(change))
    shown = checkout.snakemake(
        finished, str(tmp_path / "change.yaml"), "--nolock", "-n", "--quiet", "rules"
    ).stdout
    table = re.findall(r"^(\w+) +\d+$", shown, re.MULTILINE)
    assert set(table) - {"total", "all"} == rules, shown[-3000:]
