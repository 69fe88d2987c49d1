"""Plans: made without data or a GPU, honest where nothing is known, and compared with the run."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
import zstandard
from tokenizers import Tokenizer

import attempts
import checkout
import core_folder
from groupmates.cost.calibration import merged, pool_sample, reduced
from groupmates.cost.compare import compare, read_plan
from groupmates.cost.jobs import IMPORTS_BYTES, TOKENS_AHEAD, Jobs, Phase
from groupmates.cost.plan import job_seconds, memory, plan, run
from groupmates.cost.rates import Source
from groupmates.cost.sizes import base_steps, count_documents, measure
from groupmates.cost.table import text
from groupmates.errors import UserError
from groupmates.pool.listing import PoolFile
from groupmates.settings.config import load
from groupmates.settings.per_stage import PlanSettings
from planned import configuration
from small import write_lines

PAPER = "workflow/configs/dclm-400m-4x.yaml"


@pytest.fixture
def repository(monkeypatch):
    monkeypatch.chdir(checkout.REPOSITORY)  # the file of rates is named from here


def with_pool(folder: Path, documents: int = 60, **plan_changed) -> dict:
    """A configuration whose pool is two files of equal documents in `folder`."""
    for number in range(2):
        rows = [{"text": "ten bytes!" * 4} for _ in range(documents // 2)]
        write_lines(folder / f"pool/{number}.jsonl", rows)
    return configuration(
        pool={"paths": [str(folder / "pool/{0..1}.jsonl")], "files_per_shard": 1}, plan=plan_changed
    )


def test_the_paper_is_planned_without_data_and_the_figures_say_that_they_are_assumed(
    repository, tmp_path
):
    planned = plan(load(configuration(PAPER)), tmp_path / "none", {})
    assert planned["missing"] == []
    assert planned["sizes"]["documents"] == 29_478_616
    jobs = {name: s["jobs"] for name, s in planned["stages"].items()}
    assert jobs["score"] == jobs["cluster"] == 279
    assert jobs["materialise"] == 558
    assert jobs["probe"] == 128
    # By hand: 400,000 steps of 3 x 2 x 405M x 1,030 tokens at 247 TFLOP/s, 2 x 405M x 128 x 82 at 167,
    # and 24 layers to start at 345 a second.
    step = 2 * 405e6 * (3 * 1030 / 247e12 + 128 * 82 / 167e12) + 24 / 345
    assert planned["stages"]["probe"]["gpu_hours"] == pytest.approx(
        400_000 * step / 3600 + 128 * 11 / 3600, rel=0.1
    )
    # 6 x 405M x 32.92B, and attention.
    assert planned["pretraining"]["hours"] == pytest.approx(90, rel=0.15)
    shown = text(planned)
    assert "ASSUMED" in shown
    assert "arithmetic, not measured: 30 % of 67 TFLOP/s" in shown


def test_memory_of_kmeans_on_a_gpu_counts_torch():
    jobs = [Jobs(1, [], host_bytes=5.0, gpu_bytes=7.0)]
    assert memory("cluster", jobs, None, on_gpu=True) == (5 + IMPORTS_BYTES[True], 7)
    assert memory("cluster", jobs, None, on_gpu=False) == (12 + IMPORTS_BYTES[False], 7)


def test_a_model_made_from_scratch_has_the_tokens_of_the_tokenizer_that_is_given(
    small_run, tmp_path
):
    given = {"sample": {"tokenizer": str(small_run.tokenizer), "vocabulary_size": 2048}}
    found = plan(load(merged(with_pool(tmp_path), given)), tmp_path / "run", {})
    known = Tokenizer.from_file(str(small_run.tokenizer / "tokenizer.json")).get_vocab_size()
    assert found["sizes"]["lm"]["vocabulary"] == known == 300


def test_without_a_rate_the_plan_says_so_and_what_to_do_and_invents_nothing(tmp_path, capsys):
    config = load(with_pool(tmp_path))
    run(PlanSettings.of(config), output=tmp_path / "run/plan.json")
    shown = capsys.readouterr().out
    assert "No rate is known for: check, check-pool, sample" in shown
    assert "make calibrate" in shown
    (total,) = (line for line in shown.splitlines() if "all but unknown" in line)
    assert "no rate" in total and "0.0" not in total
    planned = json.loads((tmp_path / "run/plan.json").read_text())
    assert set(planned["missing"]) == set(planned["stages"])
    for stage in planned["stages"].values():
        assert stage["seconds"] is stage["wall_seconds"] is stage["cpu_hours"] is None
        assert stage["jobs"] > 0  # what needs no rate is there
    assert (tmp_path / "run/plan.txt").read_text() == shown


def test_documents_are_counted_in_the_files_that_are_there(tmp_path):
    planned = plan(load(with_pool(tmp_path, 60)), tmp_path / "run", {})
    assert planned["sizes"]["documents"] == 60
    assert planned["sizes"]["text_bytes"] == 40
    assert "estimated from 2 of 2 files" in planned["sizes"]["basis"]["documents"]
    assert "assumed" in planned["sizes"]["basis"]["tokens"]  # there is no tokenizer


def test_a_pool_that_is_not_there_must_be_described(tmp_path):
    config = load(configuration(pool={"paths": [str(tmp_path / "gone.jsonl")]}))
    with pytest.raises(UserError) as error:
        plan(config, tmp_path / "run", {})
    assert "plan.pool." in error.value.where
    assert "set plan.pool.documents" in error.value.todo


def test_the_corpus_that_stood_in_for_a_pool_in_a_calibration_says_nothing_of_the_pool(tmp_path):
    corpus = tmp_path / "run-calibration/corpus/shard-00000.jsonl.zst"
    corpus.parent.mkdir(parents=True)
    corpus.write_bytes(zstandard.compress(b'{"text": "short"}\n'))
    assert measure(load(configuration()), tmp_path / "run").text_bytes == 5
    planned = dict.fromkeys(("documents", "tokens_per_document", "file_bytes_per_document"), 7)
    config = load(
        configuration(pool={"paths": [str(tmp_path / "gone.jsonl")]}, plan={"pool": planned})
    )
    with pytest.raises(UserError) as error:
        plan(config, tmp_path / "run", {})
    assert error.value.where == "plan.pool.text_bytes_per_document"


@pytest.mark.parametrize("files", [1, 2])
def test_a_calibration_reads_the_first_documents_of_two_files(files, tmp_path, monkeypatch):
    monkeypatch.setattr("groupmates.cost.calibration.DOCUMENTS", 6)
    for number in range(files):
        rows = [{"text": f"{number}-{i}"} for i in range(50)]
        write_lines(tmp_path / f"pool/{number}.jsonl", rows)
    config = load(
        configuration(pool={"paths": [str(tmp_path / "pool/*.jsonl")]}, cluster={"target_size": 3})
    )
    copies = pool_sample(config, tmp_path)
    texts = [[json.loads(x)["text"] for x in Path(c).read_text().splitlines()] for c in copies]
    second = ["0-3", "0-4", "0-5"] if files == 1 else ["1-0", "1-1", "1-2"]
    assert texts == [["0-0", "0-1", "0-2"], second]


def test_steps_of_the_base_model_are_those_that_its_checkpoint_still_needs(tmp_path):
    trained = {"training_steps": 6, "optimizer_warmup_steps": 2}
    given = trained | {"checkpoint": str(tmp_path)}
    assert base_steps(load(configuration(base=trained))) == 6
    assert base_steps(load(configuration(base=given))) == 2
    (tmp_path / "optimizer.safetensors").touch()
    assert base_steps(load(configuration(base=given))) == 0


def test_what_has_nothing_to_do_needs_no_rate():
    measured = Source("run", "today", "machine", False, "measured", starts={"base": 3.0})
    nothing = Jobs(1, [Phase("steps", 0, {"train": 0.0})])
    assert job_seconds("base", nothing, [measured], 1, {}) == 3.0
    assert (
        job_seconds("base", Jobs(1, [Phase("steps", 1, {"train": 1.0})]), [measured], 1, {}) is None
    )


def test_a_checkpoint_that_is_not_there_must_be_described(tmp_path):
    raw = merged(with_pool(tmp_path), {"base": {"checkpoint": str(tmp_path / "gone")}})
    with pytest.raises(UserError, match=r"plan\.checkpoint"):
        plan(load(raw), tmp_path / "run", {})
    shape = {"hidden_size": 64, "layers": 3, "vocabulary_size": 500}
    known = merged(raw, {"plan": {"checkpoint": shape}})
    assert plan(load(known), tmp_path / "run", {})["sizes"]["lm"] == {
        "hidden": 64,
        "layers": 3,
        "vocabulary": 500,
    }


def test_more_gpus_shorten_the_wall_and_cost_the_same(repository, tmp_path):
    one, eight = (
        plan(load(configuration(PAPER, plan={"gpus": gpus})), tmp_path / "none", {})
        for gpus in (1, 8)
    )
    assert one["total"]["gpu_hours"] == pytest.approx(eight["total"]["gpu_hours"])
    a, b = (p["stages"]["score"]["wall_seconds"] for p in (one, eight))
    assert a / b == pytest.approx(279 / 35, rel=0.01)  # 279 jobs on 8 GPUs are 35 rounds


def test_threads_count_as_cores_and_speed_up_the_tokenizer(repository, tmp_path):
    config = load(configuration(PAPER))
    one, four = (plan(config, tmp_path / "none", {"score": n})["stages"]["score"] for n in (1, 4))
    assert four["seconds"] < one["seconds"]
    assert four["cpu_hours"] == pytest.approx(four["seconds"] * 4 / 3600)


def test_a_gpu_that_scores_waits_only_for_the_slower_of_tokenizer_and_model():
    source = Source("", "", "", True, "measured", kernels={"tokenise": 2.0, "forward": 5.0})
    both = Phase("documents", 1.0, {"tokenise": 40.0, "forward": 50.0}, TOKENS_AHEAD)
    assert [source.seconds("score", both, threads) for threads in (1, 2, 4)] == [20.0, 10.0, 10.0]
    one_after_the_other = dataclasses.replace(both, ahead=frozenset())
    assert source.seconds("score", one_after_the_other, 4) == 15.0
    on_cores = dataclasses.replace(source, gpu=False)
    assert on_cores.seconds("score", both, 4) == 15.0


def test_the_pretraining_in_gpu_hours_is_taken_as_it_is(repository, tmp_path):
    pretraining = {"gpu_hours": 104.0, "tokens": None}
    planned = plan(
        load(configuration(PAPER, plan={"pretraining": pretraining})), tmp_path / "none", {}
    )
    share = planned["total"]["gpu_hours"] / 104
    assert planned["pretraining"]["share"] == pytest.approx(share)
    # The models that the run itself trains are no part of its cost.
    both = {"plan": {"pretraining": pretraining}, "pretrain": {"methods": ["random"]}}
    more = plan(load(configuration(PAPER, **both)), tmp_path / "none", {})
    assert more["total"]["gpu_hours"] > planned["total"]["gpu_hours"]
    assert more["pretraining"] == planned["pretraining"]


def record(stage: str, seconds: float, **more) -> dict:
    return (
        attempts.attempt(started=0.0, seconds=seconds, stage=stage) | {"peak_rss_bytes": 3e6} | more
    )


def test_a_plan_is_compared_with_all_attempts_of_the_jobs_that_have_ended(tmp_path):
    stages = {
        "probe": {"seconds": 40.0, "jobs": 4, "host_bytes": 2e6, "gpu_bytes": None},
        "score": {"seconds": None, "jobs": 1, "host_bytes": 2e6, "gpu_bytes": None},
        "cluster": {"seconds": 9.0, "jobs": 1, "host_bytes": 2e6, "gpu_bytes": None},
    }
    (tmp_path / "logs").mkdir()
    for name, tried in {
        "a": [record("probe", 3.0, state="killed"), record("probe", 12.0)],
        "b": [record("probe", 20.0, peak_rss_bytes=5e6)],
        "c": [record("probe", 1.0, state="running", ended=None)],
        "d": [record("score", 7.0)],
    }.items():
        (tmp_path / f"logs/{name}.json").write_text(json.dumps({"attempts": tried}))
    probe, score = compare({"stages": stages}, tmp_path / "logs")
    assert (probe.jobs, probe.planned_seconds) == (2, 20.0)  # half of the jobs, half of the plan
    assert (probe.taken_seconds, probe.factor) == (35.0, 35 / 20)
    assert probe.peak_bytes == 5e6
    assert (score.planned_seconds, score.factor) == (None, None)


def test_a_record_from_before_gpus_were_looked_at_is_compared_too(tmp_path):
    stages = {"probe": {"seconds": 40.0, "jobs": 1, "host_bytes": 2e6, "gpu_bytes": None}}
    earlier = record("probe", 12.0)
    del earlier["gpu_peak_bytes"]
    (tmp_path / "a.json").write_text(json.dumps({"attempts": [earlier]}))
    (probe,) = compare({"stages": stages}, tmp_path)
    assert (probe.taken_seconds, probe.peak_gpu_bytes) == (12.0, None)


def test_half_a_plan_is_no_plan(tmp_path):
    assert read_plan(tmp_path / "plan.json") is None
    (tmp_path / "plan.json").write_text('{"stages": {"pro')
    assert read_plan(tmp_path / "plan.json") is None


@pytest.mark.parametrize("path", ["config.yaml", PAPER])
def test_a_calibration_keeps_sizes_and_lowers_counts(path, repository):
    large = load(configuration(path))
    small = load(reduced(large, pool=None))
    assert small.run == f"{large.run}-calibration"
    kept = ("sequence_length",)
    assert all(getattr(small.sample, k) == getattr(large.sample, k) for k in kept)
    assert small.fit.encoder == large.fit.encoder
    assert small.reference.selection_examples == large.reference.selection_examples
    assert small.evaluate.training.batch_sequences == large.evaluate.training.batch_sequences
    assert small.score == large.score
    steps = small.evaluate.training.tokens / (
        small.evaluate.training.batch_sequences * small.sample.sequence_length
    )
    assert steps <= 12
    batch = small.pretrain.batch_sequences * small.sample.sequence_length
    assert small.pretrain.batch_sequences == large.pretrain.batch_sequences
    assert small.pretrain.tokens <= 12 * batch
    assert small.probe.random.rollouts * small.probe.rollout_length <= 240


def test_a_calibration_of_a_checkpoint_that_is_not_there_makes_one_of_its_shape(repository):
    small = load(reduced(load(configuration(PAPER)), pool=None))
    assert small.base.checkpoint is None
    made = small.base.architecture
    assert (made.hidden_size, made.layers) == (1024, 24)


def test_clusters_of_a_calibration_are_as_large_as_those_of_the_run(repository):
    large = load(configuration(PAPER))
    small = load(reduced(large, pool=None))
    assert small.cluster.target_size == pytest.approx(29_478_616 / 10_000, rel=0.01)
    assert small.corpus.documents >= 2 * small.cluster.target_size - 1


def test_files_without_a_byte_have_no_documents(tmp_path):
    """The plan divided by the size of the files that it looks into."""
    empty = [PoolFile(str(tmp_path / name), name) for name in ("a.jsonl", "b.jsonl")]
    for file in empty:
        (tmp_path / file.name).touch()
    assert count_documents(empty, empty)[0] == 0


LONG_ROWS = b'{"text": "%s"}\n' % (b"ten bytes!" * 200) * 250  # more than is read for the texts


def compressed(content: bytes, **parameters: int) -> bytes:
    known = zstandard.ZstdCompressionParameters(write_checksum=True, **parameters)
    packer = zstandard.ZstdCompressor(compression_params=known).compressobj()
    return packer.compress(content) + packer.flush()


def pool_of(file: Path, content: bytes) -> dict:
    file.write_bytes(content)
    return configuration(pool={"paths": [str(file)]})


@pytest.mark.parametrize(
    ("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", compressed)]
)
def test_a_file_that_is_damaged_behind_the_texts_that_are_read_is_told_as_by_a_stage(
    name, pack, tmp_path
):
    damaged = pack(LONG_ROWS)[:-1] + b"!"  # its checksum
    config = load(pool_of(tmp_path / name, pack(LONG_ROWS) + damaged))
    with pytest.raises(UserError) as error:
        plan(config, tmp_path / "run", {})
    assert error.value.where == str(tmp_path / name)
    assert "damaged" in error.value.found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(LONG_ROWS) + bytes(512)),
        ("a.jsonl.zst", compressed(LONG_ROWS, window_log=31)),
    ],
    ids=["padded", "largest window"],  # gzip's bytes have the time: no name of a test
)
def test_a_padded_file_and_one_of_the_largest_window_are_whole(name, content, tmp_path):
    planned = plan(load(pool_of(tmp_path / name, content)), tmp_path / "run", {})
    assert planned["sizes"]["documents"] == 250


def test_core_is_planned_and_calibrated_where_models_are_named(tmp_path):
    question = {"query": "a question", "choices": ["one", "other"], "gold": 0}
    names = [f"task{i}" for i in range(7)]
    core_folder.write(tmp_path, dict.fromkeys(names, [question] * 20))
    asked = {"models": {"mine": str(tmp_path / "gone")}, "data": str(tmp_path), "pretrained": True}
    shape = {"hidden_size": 8, "layers": 1, "vocabulary_size": 300}
    config = load(
        merged(
            with_pool(tmp_path, checkpoint=shape),
            {"core": asked, "pretrain": {"methods": ["random"], "seeds": 2}},
        )
    )
    planned = plan(config, tmp_path / "run", {})
    assert planned["stages"]["core-task"]["jobs"] == 3 * 7
    assert "no tokenizer of mine" in planned["sizes"]["basis"]["core"]
    small = reduced(config, None)["core"]
    assert small["models"] == {"base": "results/tiny-calibration/base"}
    assert (small["pretrained"], small["examples"]) == (False, 8)
    assert small["tasks"] == ["task0", "task3", "task6"]
