"""What the file system may do to a run: full, damaged, with clocks that disagree, late."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import checkout
from groupmates.settings import config, per_stage

pytestmark = pytest.mark.slow

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
    full = checkout.snakemake(folder, "--until", "score")
    assert full.returncode != 0
    for part in ("a file system that is full", "to do: free some space and run snakemake again"):
        assert part in full.stdout, full.stdout[-3000:]
    assert not list(small_disk.glob(".*.partial")), "what did not fit gives its room back"
    whole = {p.name for p in small_disk.glob("shard-*.parquet")}
    assert len(whole) < 3
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    mark(folder)
    again = checkout.snakemake(folder)
    assert again.returncode == 0, again.stdout[-3000:]
    scored = {
        f"shard-{name.removeprefix('score_')}.parquet" for name in made(folder) if "score_" in name
    }
    assert scored == {f"shard-{i:05d}.parquet" for i in range(3)} - whole
    assert checkout.selections(folder) == checkout.selections(finished)


@pytest.mark.parametrize("place", ["score", "logs"])
def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, place: str) -> None:
    """Root may write whatever the permissions say: a file system that is read-only stops it, too."""
    locked = tmp_path / "results" / place
    locked.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(locked)])
    if mounted.returncode and os.geteuid() == 0:
        pytest.skip("NOT TESTED: root without the right to mount; its permissions bar nothing")
    if mounted.returncode:
        locked.chmod(0o555)
    settings = per_stage.CorpusSettings(seed=3, corpus=config.Corpus(documents=5, files=1))
    command = [sys.executable, "-m", "groupmates", "corpus"]
    command += ["--log", str(tmp_path / "results/logs/corpus.log")]
    command += ["--settings", settings.model_dump_json()]
    command += ["--shards", str(tmp_path / "results/score/a.jsonl.zst")]
    command += ["--reference", str(tmp_path / "results/score/r.jsonl.zst")]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(checkout.REPOSITORY / "workflow")},
        )
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", str(locked)], check=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for part in ("read-only" if not mounted.returncode else "does not let you write", str(locked)):
        assert part in done.stderr, done.stderr
    assert "get the right to write there and run snakemake again" in done.stderr


def test_a_truncated_artefact_is_told_and_its_producer_alone_runs_again(
    folder: Path, finished: Path
) -> None:
    damaged = folder / SCORE
    whole = damaged.read_bytes()
    times = damaged.stat()
    damaged.write_bytes(whole[: len(whole) // 2])
    # A dying file system does not set the time.
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    failed = checkout.snakemake(folder)
    assert failed.returncode != 0
    for part in ("a file that cannot be read", SCORE, "delete the file and run snakemake again"):
        assert part in failed.stdout, failed.stdout[-3000:]
    damaged.unlink()
    mark(folder)
    again = checkout.snakemake(folder)
    assert again.returncode == 0, again.stdout[-3000:]
    before_clusters = {
        name for name in made(folder) if name.startswith(("score", "probe", "fit", "base"))
    }
    assert before_clusters == {"score_00001"}
    assert damaged.read_bytes() == whole
    assert checkout.selections(folder) == checkout.selections(finished)


def test_a_flipped_bit_in_an_artefact_is_told(folder: Path) -> None:
    damaged = folder / SCORE
    body, times = bytearray(damaged.read_bytes()), damaged.stat()
    body[len(body) // 2] ^= 1
    damaged.write_bytes(body)
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    failed = checkout.snakemake(folder)
    assert failed.returncode != 0
    assert SCORE in failed.stdout
    assert "delete the file and run snakemake again" in failed.stdout
    assert "Traceback" not in failed.stdout


def wrapped(folder: Path, script: str) -> None:
    """Every job's command in the hands of `script`, which finds the true one in workflow/run.true."""
    run = folder / "workflow/run"
    run.rename(folder / "workflow/run.true")
    run.write_text(f'#!/usr/bin/env bash\nset -e\ncd "$(dirname "$0")/.."\n{script}')
    run.chmod(0o755)


def test_nodes_whose_clocks_disagree_make_nothing_stale(finished: Path, tmp_path: Path) -> None:
    """The files of a job are ten minutes old or ten minutes ahead, by the number of its process."""
    folder = checkout.make(tmp_path / "checkout")
    shutil.copytree(finished / "results/tiny/corpus", folder / "results/tiny/corpus")
    wrapped(
        folder,
        "stamp=$(mktemp)\n"
        'workflow/run.true "$@"\n'
        "skew=$(( ($$ % 2) * 20 - 10 ))\n"
        "find results -type f -newer $stamp -not -path '*/logs/*' -not -name '.*'"
        ' -exec touch -d "$skew minutes" {} + || true\n',
    )
    # One job at a time: else this one's files would be taken for another's.
    run = checkout.snakemake(folder, "--cores", "1")
    assert run.returncode == 0, run.stdout[-3000:]
    assert checkout.selections(folder) == checkout.selections(finished)
    assert "Nothing to be done" in checkout.snakemake(folder, "-n").stdout


def test_a_file_that_shows_up_late_is_waited_for(folder: Path) -> None:
    """As on a file system whose directories are cached: 3 s after the job's end."""
    (folder / SCORE).unlink()
    wrapped(
        folder,
        'workflow/run.true "$@"\n'
        'if [ "$1" = score ]; then\n'
        f"    mv {SCORE} {SCORE}.late\n"
        f"    (sleep 3; mv {SCORE}.late {SCORE}) > /dev/null 2>&1 &\n"
        "fi\n",
    )
    run = checkout.snakemake(folder, "--until", "score")
    assert run.returncode == 0, run.stdout[-3000:]
    assert (folder / SCORE).exists()
