"""`make bench` compares like with like: both sides of every case have the same results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench import arrays, models
from benchmarks.bench.measure import growth, peak

ROOT = Path(__file__).parent.parent
CASES = arrays.cases(small=True) + models.cases(small=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stage)
def test_a_stage_and_its_plain_counterpart_have_equal_results(case, tmp_path):
    for size in case.sizes:
        folder = tmp_path / f"{size}"
        folder.mkdir()
        pair = case.build(size, folder)
        found = pair.ours()
        if pair.plain is not None:
            agrees, told = pair.agreement(found, pair.plain())
            assert agrees, told


def test_growth_is_the_exponent_of_a_power_law():
    assert growth([10, 20, 40], [3 * n**1.5 for n in (10, 20, 40)]) == pytest.approx(1.5)


def test_the_peak_of_memory_is_what_a_call_adds_for_a_while():
    assert 95 < peak(lambda: b"1" * 100_000_000) < 130


def test_make_bench_prints_its_table_and_writes_it(tmp_path):
    command = [sys.executable, "-m", "benchmarks.bench", "grouping", "--small", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--output", tmp_path / "deep/bench.md"],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'workflow'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "deep/bench.md").read_text() == done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| grouping by cluster")]
    assert len(rows) == 2 and all("100.0% of clusters" in row for row in rows)
