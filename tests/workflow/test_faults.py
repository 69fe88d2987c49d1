"""What the file system may do to a run: full, damaged, with clocks that disagree, late."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import checkout
from groupmates import run_stage
from groupmates.settings import config, per_stage
from in_process import goes_on, planned, snakemake

SCORE = "results/tiny/score/shard-00001.parquet"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A run that has come as far as its scores."""
    copy = shutil.copytree(finished, tmp_path / "checkout")
    for later in ("cluster", "order", "select", "dataset", "evaluate"):
        shutil.rmtree(copy / "results/tiny" / later)
    (copy / "results/tiny/report.html").unlink()
    return copy


def made(folder: Path) -> set[str]:
    """Jobs whose records were written after the mark."""
    mark = (folder / "mark").stat().st_mtime_ns
    logs = folder / "results/tiny/logs"
    return {p.stem for p in logs.rglob("*.json") if p.stat().st_mtime_ns > mark}


def mark(folder: Path) -> None:
    (folder / "mark").touch()


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """The folder of the scores on a file system of its own, of 32 kB."""
    place = folder / "results/tiny/score"
    shutil.rmtree(place)
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system needs root and the right to mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_costs_what_did_not_fit(
    folder: Path, finished: Path, small_disk: Path
) -> None:
    full = snakemake(folder, "--until", "score")
    assert full.returncode != 0
    for part in ("a file system that is full", "to do: free some space and run snakemake again"):
        assert part in full.stdout, full.stdout[-3000:]
    assert not list(small_disk.glob(".*.partial")), "what did not fit gives its room back"
    whole = {p.name for p in small_disk.glob("shard-*.parquet")}
    assert len(whole) < 3
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    mark(folder)
    again = snakemake(folder)
    assert again.returncode == 0, again.stdout[-3000:]
    scored = {
        f"shard-{name.removeprefix('score_')}.parquet" for name in made(folder) if "score_" in name
    }
    assert scored == {f"shard-{i:05d}.parquet" for i in range(3)} - whole
    assert checkout.selections(folder) == checkout.selections(finished)


@pytest.mark.parametrize("place", ["score", "logs"])
def test_a_folder_that_cannot_be_written_to_is_told(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may write whatever the permissions say: a file system that is read-only stops it, too."""
    locked = tmp_path / "results" / place
    locked.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(locked)])
    if mounted.returncode and os.geteuid() == 0:
        pytest.skip("NOT TESTED: root without the right to mount; its permissions bar nothing")
    if mounted.returncode:
        locked.chmod(0o555)
    settings = per_stage.CorpusSettings(seed=3, corpus=config.Corpus(documents=5, files=1))
    command = ["corpus", "--log", str(tmp_path / "results/logs/corpus.log")]
    command += ["--settings", settings.model_dump_json()]
    command += ["--shards", str(tmp_path / "results/score/a.jsonl.zst")]
    command += ["--reference", str(tmp_path / "results/score/r.jsonl.zst")]
    try:
        status = run_stage.main(command)
    except SystemExit as end:
        status = end.code
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", str(locked)], check=True)
    told = capsys.readouterr().err
    assert status == 2, told
    assert "Traceback" not in told
    for part in ("read-only" if not mounted.returncode else "does not let you write", str(locked)):
        assert part in told
    assert "get the right to write there and run snakemake again" in told


def test_a_truncated_artefact_is_told_and_its_producer_alone_runs_again(
    folder: Path, finished: Path
) -> None:
    damaged = folder / SCORE
    whole = damaged.read_bytes()
    times = damaged.stat()
    damaged.write_bytes(whole[: len(whole) // 2])
    # A dying file system does not set the time.
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    failed = snakemake(folder)
    assert failed.returncode != 0
    for part in ("a file that cannot be read", SCORE, f"--force {SCORE}"):
        assert part in failed.stdout, failed.stdout[-3000:]
    mark(folder)
    remade = snakemake(folder, "--force", SCORE)
    assert remade.returncode == 0, remade.stdout[-3000:]
    again = snakemake(folder)
    assert again.returncode == 0, again.stdout[-3000:]
    before_clusters = {
        name for name in made(folder) if name.startswith(("score", "probe", "fit", "base"))
    }
    assert before_clusters == {"score_00001"}
    assert damaged.read_bytes() == whole
    assert checkout.selections(folder) == checkout.selections(finished)


def after_each(monkeypatch: pytest.MonkeyPatch, happens: Callable[[str], None]) -> None:
    """What happens when a job has ended, by the name of its stage."""
    true = run_stage.main

    def main(words: list[str]) -> int:
        status = true(words)
        happens(words[0])
        return status

    monkeypatch.setattr(run_stage, "main", main)


def test_nodes_whose_clocks_disagree_make_nothing_stale(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a job are ten minutes old or ten minutes ahead."""
    folder = checkout.make(tmp_path / "checkout")
    shutil.copytree(finished / "results/tiny/corpus", folder / "results/tiny/corpus")
    skews = itertools.cycle([-600, 600])
    seen = set(folder.rglob("*"))

    def skewed(stage: str) -> None:
        new = {p for p in folder.glob("results/**/*") if p.is_file()} - seen
        at = time.time() + next(skews)
        for path in new:
            if "logs" not in path.parts and not path.name.startswith("."):
                os.utime(path, (at, at))
        seen.update(new)

    after_each(monkeypatch, skewed)
    # One job at a time: else this one's files would be taken for another's.
    run = snakemake(folder, "--cores", "1")
    assert run.returncode == 0, run.stdout[-3000:]
    assert checkout.selections(folder) == checkout.selections(finished)
    again = snakemake(folder, "-n")
    assert "Nothing to be done" in again.stdout, again.stdout[-6000:]


def test_a_file_that_shows_up_late_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose directories are cached: 2 s after the job's end."""
    path = folder / SCORE
    path.unlink()

    def late(stage: str) -> None:
        if stage == "score":
            path.rename(path.with_suffix(".late"))
            threading.Timer(2, path.with_suffix(".late").rename, [path]).start()

    after_each(monkeypatch, late)
    run = snakemake(folder, "--until", "score", "--latency-wait", "120")
    assert run.returncode == 0, run.stdout[-3000:]
    assert path.exists()


def test_inputs_from_the_future_are_told_before_the_first_job_and_lose_nothing(
    finished: Path, tmp_path: Path
) -> None:
    """As a run has that was unpacked from an archive of another time zone."""
    change = {"select": {"budget": {"ratio": 0.3}}}
    folder = checkout.copy(finished, tmp_path, change)
    ordinary = planned(folder)
    root = folder / "results/tiny"
    for path in [root, *root.rglob("*")]:
        tomorrow = path.lstat().st_mtime + 86400
        os.utime(path, (tomorrow, tomorrow), follow_symlinks=False)
    before = sorted(root.rglob("*.parquet"))
    told = " ".join(snakemake(folder).stdout.split())
    assert re.search(r"from the future, by up to 2[34]\.. hours", told)
    assert sorted(root.rglob("*.parquet")) == before
    command = re.search(r"one time: (touch .* \+)", told)
    assert command
    subprocess.run(command[1], shell=True, cwd=folder, check=True)
    assert planned(folder) == ordinary
    goes_on(folder, "--until", "take")
