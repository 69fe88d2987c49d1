"""The SLURM that the other tests run on: faults are real, and nothing stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cluster as script
import psutil
import pytest
from cluster import Cluster


def processes_of(folder: Path) -> list[psutil.Process]:
    """Whatever names the folder in its command line or environment, this test apart."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


@pytest.fixture
def second(cluster: Cluster, short_folder: Path):
    """A cluster of the test's own beside the shared one."""
    made = Cluster(short_folder / "second", nodes=1)
    yield made
    made.down()


def test_two_clusters_on_one_machine_have_jobs_of_their_own(slurm: Cluster, second: Cluster):
    second.up()
    job = second.submit("sleep 60")
    second.wait_for(lambda: [j.state for j in second.squeue("r")] == ["RUNNING"], "a job")
    assert [j.id for j in second.squeue("r")] == [job]
    assert slurm.squeue("r,pd") == []


def test_down_leaves_no_process_behind_whatever_runs_or_was_killed(second: Cluster):
    second.up()
    second.submit("sleep 61 & sleep 62")
    second.wait_for(lambda: bool(second.squeue("r")), "a job")
    second.kill_slurmd("gmnode1")
    assert len(processes_of(second.folder)) > 3
    second.down()
    assert processes_of(second.folder) == []


def test_a_folder_too_deep_for_sockets_is_refused():
    with pytest.raises(ValueError, match="more than 60 characters"):
        Cluster(Path("/tmp") / ("x" * 60))


def test_the_script_starts_shows_and_stops_a_cluster(cluster: Cluster, short_folder: Path):
    def call(action: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, script.__file__, action, "--folder", str(short_folder / "hand")]
        return subprocess.run(command, text=True, capture_output=True, check=True, timeout=120)

    try:
        up = call("up").stdout
        assert f'export PATH="{short_folder}/hand/bin:$PATH"' in up
        assert "snakemake --profile profiles/slurm" in up
        assert call("status").stdout.count(" up\n") == 4
        assert "up" in call("up").stdout, "a second time changes nothing"
    finally:
        call("down")
    assert not (short_folder / "hand").exists()
    assert processes_of(short_folder / "hand") == []
