"""`python -m groupmates`: what a rule prints is what a stage gets, and mistakes are told plainly."""

import inspect
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

import small
import waiting
from groupmates import __main__ as cli
from groupmates import run_stage
from groupmates.errors import UserError
from groupmates.settings import config, per_stage
from groupmates.settings.stages import STAGES

PLAIN = per_stage.CorpusSettings(seed=3, corpus=config.Corpus(documents=5, files=1))


def called(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return waiting.python("-m", "groupmates", *arguments, cwd=folder)


def example(
    settings: per_stage.CorpusSettings,
    *,
    shards: list[Path],
    names: list[str] | None = None,
    further: list[Path] | None = None,
    part: int = 0,
    output: Path,
) -> None:
    """A stage that does nothing."""


def parsed(*arguments: str) -> dict:
    text = json.dumps(PLAIN.model_dump() | {"version": 1})
    return run_stage.stage_arguments(example, ["--settings", text, "--output", "o", *arguments])


def test_arguments_have_the_types_of_the_annotations():
    found = parsed("--shards", "a", "b c", "--part", "7", "--log", "x.log")
    assert found == {
        "settings": PLAIN,
        "shards": [Path("a"), Path("b c")],
        "names": None,
        "further": None,
        "part": 7,
        "output": Path("o"),
        "log": Path("x.log"),
        "job": None,
        "threads": 1,
        "save_seconds": 60.0,
        "processes": None,
        "join": False,
    }


def test_a_range_in_a_list_of_paths_stands_for_all_of_them():
    found = parsed("--shards", "s-{00009..00011}.parquet", "last.parquet")
    assert [p.name for p in found["shards"]] == [
        "s-00009.parquet",
        "s-00010.parquet",
        "s-00011.parquet",
        "last.parquet",
    ]


def test_patterns_of_the_pool_reach_the_stage_as_they_are():
    found = parsed("--shards", "a", "--names", "p-{0..3}.jsonl", "*.zst")
    assert found["names"] == ["p-{0..3}.jsonl", "*.zst"]


def test_an_optional_list_may_be_given_without_a_value():
    assert parsed("--shards", "a", "--further")["further"] == []
    assert parsed("--shards", "a", "--further", "b")["further"] == [Path("b")]


def test_a_missing_argument_is_told_with_its_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_stage.stage_arguments(example, ["--settings", "{}", "--output", "o"])
    assert stopped.value.code == 2
    assert "--shards" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_arguments_that_the_command_line_understands(stage):
    function = run_stage.stage_function(stage)
    hints = typing.get_type_hints(function)
    first, *others = inspect.signature(function).parameters.values()
    assert first.name == "settings"
    assert issubclass(hints["settings"], per_stage.StageSettings)
    for parameter in others:
        assert parameter.kind is parameter.KEYWORD_ONLY
        kind = run_stage._required(hints[parameter.name])
        assert kind in (Path, int, float, str, list[Path], list[str])
    assert any(name in hints for name in ("output", "curve", "probe_pool", "shards"))
    assert function.__doc__


def test_an_unknown_command_is_refused_and_help_names_all_there_are(capsys):
    assert cli.main(["slect"]) == 2
    assert "No such command 'slect'" in capsys.readouterr().err
    assert cli.main([]) == cli.main(["--help"]) == 0
    told = re.sub(r"-\n\s*", "-", capsys.readouterr().out).split()
    commands = {"status", "explain", "copy", "headline", "compare", "calibrate"}
    assert commands | STAGES.keys() <= {word.rstrip(",.") for word in told}


@pytest.mark.parametrize(
    "command", ["status", "explain", "copy", "headline", "compare", "calibrate"]
)
def test_every_command_tells_its_arguments(command, capsys):
    assert cli.main([command, "--help"]) == 0
    told = capsys.readouterr().out
    assert f"python -m groupmates {command}" in told
    assert "Options:" in told


def threads_seen(monkeypatch, stage: str, *arguments: str) -> dict:
    """How many threads torch has where the stage runs, and what it is told of them."""
    seen = {}

    def told(settings: per_stage.CorpusSettings, *, threads: int = 7) -> None:
        """A stage that takes the number."""
        seen.update(torch=torch.get_num_threads(), told=threads)

    def works(settings: per_stage.CorpusSettings) -> None:
        """A stage that does not."""
        seen.update(torch=torch.get_num_threads())

    function = told if "--told" in arguments else works
    monkeypatch.setattr(run_stage, "stage_function", lambda name: function)
    words = [word for word in arguments if word != "--told"]
    assert run_stage.main([stage, "--settings", json.dumps(PLAIN.model_dump()), *words]) == 0
    return seen


def test_torch_has_the_threads_of_the_command_line_and_one_without(monkeypatch):
    torch.set_num_threads(3)
    assert threads_seen(monkeypatch, "probe", "--threads", "2") == {"torch": 2}
    assert threads_seen(monkeypatch, "probe") == {"torch": 1}
    assert threads_seen(monkeypatch, "probe", "--told", "--threads", "2") == {"torch": 2, "told": 2}
    torch.set_num_threads(3)
    assert threads_seen(monkeypatch, "corpus", "--threads", "2") == {"torch": 3}  # has no torch


def test_tokenizers_have_the_threads_of_the_command_line(monkeypatch):
    monkeypatch.setenv("RAYON_NUM_THREADS", "5")
    threads_seen(monkeypatch, "corpus", "--threads", "2")
    assert os.environ["RAYON_NUM_THREADS"] == "2"


def test_a_stage_imports_no_pandas_and_whoever_needs_it_later_finds_it():
    code = (
        "import sys; from groupmates import run_stage; import pyarrow as pa\n"
        "run_stage.without_pandas(); assert pa.array([1, 2]).to_pylist() == [1, 2]\n"
        "assert 'pandas' not in sys.modules; import pandas; pandas.Series([1])"
    )
    done = waiting.python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def run_from_shell(small_run, tmp_path_factory):
    """The plan of random rollouts, made by the command that a rule prints, in a bare shell."""
    folder = tmp_path_factory.mktemp("shell")
    text = json.dumps(small.plan_settings().model_dump() | {"version": 1}, sort_keys=True)
    arguments = ("--settings", text, "--probe-pool", str(small_run.probe_pool))
    done = called(
        "plan-random", "--log", "logs/a.log", *arguments, "--output", "plan.parquet", folder=folder
    )
    return folder, done


def test_a_printed_command_runs_in_a_bare_shell(small_run, run_from_shell):
    folder, done = run_from_shell
    assert done.returncode == 0
    assert all(line.startswith("[plan random]") for line in done.stderr.splitlines())
    assert (folder / "plan.parquet").read_bytes() == small_run.rollouts.read_bytes()


def test_a_mistake_of_the_user_is_told_without_a_traceback_and_ends_with_status_2(
    small_run, tmp_path
):
    text = json.dumps(small.plan_settings().model_dump())
    pool = tmp_path / "pool.parquet"
    pool.write_bytes(b"PAR1 is no pool")
    done = called(
        "plan-random",
        *("--log", "logs/plan.log", "--settings", text, "--probe-pool", str(pool)),
        *("--output", "plan.parquet"),
        folder=tmp_path,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error in plan-random" in done.stderr
    for line in ("expected:", "found:", f"where: {pool}", "to do: make it anew"):
        assert line in done.stderr
    assert (tmp_path / "logs/plan.log").read_text().endswith(done.stderr)
    assert not (tmp_path / "plan.parquet").exists()


def test_messages_go_to_the_terminal_and_to_the_log(tmp_path, monkeypatch, capsys):
    def stage(settings: per_stage.CorpusSettings, *, output: Path) -> None:
        print("half way", file=sys.stderr)

    monkeypatch.setattr(run_stage, "stage_function", lambda stage_name: stage)
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # put back after the test
    log = tmp_path / "deep/down.log"
    text = json.dumps(PLAIN.model_dump())
    arguments = ["corpus", "--settings", text, "--output", "o", "--log", str(log)]
    assert cli.main(arguments) == 0
    sys.stderr.flush()
    first, said = log.read_text().split("\n", 1)
    assert first.startswith("--- ")
    assert said == capsys.readouterr().err == "half way\n"


def test_a_mistake_of_ours_keeps_its_traceback_in_the_log_too(monkeypatch, tmp_path, capsys):
    def stage(settings: per_stage.CorpusSettings) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(run_stage, "stage_function", lambda stage_name: stage)
    log = tmp_path / "a.log"
    arguments = ["corpus", "--settings", json.dumps(PLAIN.model_dump()), "--log", str(log)]
    assert cli.main(arguments) == 1
    for text in (log.read_text(), capsys.readouterr().err):
        assert "Traceback" in text
        assert "KeyError: 'a bug'" in text
    (attempt,) = json.loads(log.with_suffix(".json").read_text())["attempts"]
    assert (attempt["state"], "a bug" in attempt["error"]) == ("failed", True)


def test_a_record_tells_of_settings_that_a_stage_cannot_read(tmp_path):
    log = tmp_path / "corpus.log"
    done = called("corpus", "--log", str(log), "--settings", "{", folder=tmp_path)
    assert done.returncode == 2
    (attempt,) = json.loads(log.with_suffix(".json").read_text())["attempts"]
    assert attempt["state"] == "failed"
    assert done.stderr.strip().splitlines()[-1] in log.read_text()


def test_a_record_begins_before_what_a_stage_imports(tmp_path, monkeypatch):
    seen = []

    def imports(stage):
        seen.extend(json.loads((tmp_path / "x.json").read_text())["attempts"])
        raise UserError(expected="a", found="b", where="c", todo="d")

    monkeypatch.setattr(run_stage, "stage_function", imports)
    assert cli.main(["corpus", "--log", str(tmp_path / "x.log")]) == 2
    assert [a["state"] for a in seen] == ["running"]


MEMORY = """
import resource, torch
from groupmates import run_stage
run_stage.keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*[faults() for _ in range(20)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_freed_memory_is_kept_for_the_next_tensor(tmp_path):
    done = waiting.python("-c", MEMORY, cwd=tmp_path)
    first, *later = map(int, done.stdout.split())  # pages that the kernel had to clear
    assert first > 1000 and min(later) < 100  # it may take pages away in the meantime


# GPUs that are not used


@pytest.mark.parametrize(
    ("stage", "variable", "given", "told"),
    [
        ("probe", "CUDA_VISIBLE_DEVICES", "3", True),
        ("score", "SLURM_JOB_GPUS", "0,1", True),
        ("probe", "CUDA_VISIBLE_DEVICES", "", False),
        ("probe", "CUDA_VISIBLE_DEVICES", "-1", False),
        ("take", "CUDA_VISIBLE_DEVICES", "3", False),
    ],
)
def test_a_gpu_that_a_job_has_and_torch_cannot_use_is_told(
    stage, variable, given, told, monkeypatch, capsys
):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, given)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run_stage.run(stage, lambda: None, {}) == 0
    said = f"warning: runs on the CPU, though the job has GPU {given}"
    assert (said in capsys.readouterr().err) == told
