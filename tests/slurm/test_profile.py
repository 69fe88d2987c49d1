"""profiles/slurm against a real SLURM: the whole run, what jobs are given, one process per run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from cluster import Cluster

import checkout
import waiting

# One worker for those that look at one run. Those with a checkout of their own may have another, and
# another cluster.
pytestmark = pytest.mark.xdist_group("slurm profile")
OWN_CHECKOUT = pytest.mark.xdist_group("own checkout")

LOCAL_STAGES = {"accept", "plan-random"}
CORPUS = ("--until", "corpus")  # the first job of a run

# In the place of workflow/run: a note of what the job was given, and in SLURM a wait where asked for.
NOTING = """\
#!/usr/bin/env bash
cd "$(dirname "$0")/.."
echo "$1|${SLURM_JOB_ID:-}|${CUDA_VISIBLE_DEVICES:-}|$TMPDIR|${SITE_MODULE:-}" >> given.log
held() { [ -n "$SLURM_JOB_ID" ] && { [ -e "hold-$1" ] || [ -e "hold-$SLURM_JOB_ID" ]; }; }
while held "$1"; do sleep 0.2; done
exec workflow/run.true "$@"
"""


def noting(folder: Path, settings: dict | None = None) -> Path:
    checkout.make(folder, settings)
    (folder / "workflow/run").rename(folder / "workflow/run.true")
    (folder / "workflow/run").write_text(NOTING)
    (folder / "workflow/run").chmod(0o755)
    return folder


def set_profile(folder: Path, resources: dict | None = None, **top: object) -> None:
    """Edit the one file that is made to be edited, as a site would."""
    path = folder / "profiles/slurm/profile.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["default-resources"] |= resources or {}
    path.write_text(yaml.safe_dump(profile | top))


def set_gpu_stages(folder: Path, **resources: object) -> None:
    path = folder / "profiles/slurm/profile.yaml"
    profile = yaml.safe_load(path.read_text())
    for stage in profile["set-resources"]:
        profile["set-resources"][stage] = dict(resources)
    path.write_text(yaml.safe_dump(profile))


def snakemake(
    slurm: Cluster, folder: Path, *arguments: str, path: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    env = slurm.environment(**environment)
    env["PATH"] = f"{path}:{env['PATH']}" if path else env["PATH"]
    return checkout.snakemake(folder, *arguments, profile="slurm", env=env)


def start(slurm: Cluster, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A main process in the background."""
    with (folder / "main.log").open("w") as log:
        return subprocess.Popen(
            checkout.command(*arguments, profile="slurm"),
            cwd=folder,
            env=slurm.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for_job(slurm: Cluster, folder: Path, stage: str) -> str:
    """The id of the stage's job, once it runs and is held."""
    noted = folder / "given.log"

    def running() -> bool:
        return noted.exists() and any(
            line.startswith(f"{stage}|") for line in noted.read_text().splitlines()
        )

    slurm.wait_for(running, f"a job of {stage}")
    lines = [line.split("|") for line in noted.read_text().splitlines()]
    return next(line[1] for line in reversed(lines) if line[0] == stage)


def state(slurm: Cluster, job: str) -> str:
    return {j.id: j.state for j in slurm.squeue()}[job]


# The whole run


@pytest.fixture(scope="module")
def site_run(cluster: Cluster, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny configuration on a site that has modules, node-local scratch and a GPU partition."""
    folder = noting(tmp_path_factory.mktemp("site") / "checkout")
    # The built-in corpus is an input here: installed packages may change between two runs.
    shutil.copytree(finished / "results/tiny/corpus", folder / "results/tiny/corpus")
    set_profile(
        folder,
        {"tmpdir": f"'{folder}/scratch'", "max_runtime": 200},
        precommand="export SITE_MODULE=loaded",
    )
    set_gpu_stages(folder, gpu=1, slurm_partition="gpu")
    run = snakemake(cluster, folder)
    (folder / "log").write_text(run.stdout)
    assert run.returncode == 0, run.stdout[-6000:]
    return folder


def given(folder: Path) -> list[list[str]]:
    return [line.split("|") for line in (folder / "given.log").read_text().splitlines()]


def test_a_run_on_slurm_selects_what_a_local_run_selects_byte_by_byte(
    site_run: Path, finished: Path
) -> None:
    assert len(checkout.selections(finished)) > 10
    assert checkout.selections(site_run) == checkout.selections(finished)


def test_stages_that_use_a_gpu_are_given_one_and_no_other_stage_is(site_run: Path) -> None:
    gpus = {(stage, gpu) for stage, _, gpu, _, _ in given(site_run)}
    assert {stage for stage, gpu in gpus if gpu in ("0", "1")} == checkout.GPU_STAGES
    assert all(gpu in ("0", "1") for stage, gpu in gpus if stage in checkout.GPU_STAGES)
    assert all(gpu == "" for stage, gpu in gpus if stage not in checkout.GPU_STAGES)


def test_modules_and_scratch_of_the_profile_reach_every_job(site_run: Path) -> None:
    jobs = [line for line in given(site_run) if line[0] not in LOCAL_STAGES]
    assert len(jobs) > 30
    assert {line[4] for line in jobs} == {"loaded"}
    assert all(line[3].endswith("/scratch") for line in jobs)


def test_only_stages_of_a_second_run_outside_of_slurm(site_run: Path) -> None:
    assert {line[0] for line in given(site_run) if line[1] == ""} == LOCAL_STAGES


def test_partitions_time_limits_and_names_are_those_of_the_profile(
    site_run: Path, cluster: Cluster
) -> None:
    ids = {line[1]: line[0] for line in given(site_run) if line[1]}
    shown = cluster.command("squeue", "-h", "-t", "all", "-o", "%i|%P|%l|%j").splitlines()
    jobs = [line.split("|") for line in shown if line.split("|")[0] in ids]
    assert len(jobs) == len(ids)
    for job, partition, limit, name in jobs:
        assert partition == ("gpu" if ids[job] in checkout.GPU_STAGES else "cpu")
        assert name.startswith("groupmates-tiny-")
        assert limit <= "3:20:00", "max_runtime: 200"
    assert "3:20:00" in {limit for _, _, limit, _ in jobs}, "of rules that ask for 240 minutes"


def test_a_finished_run_has_nothing_left_to_do_under_either_profile(site_run: Path) -> None:
    for profile in ("slurm", "local"):
        run = checkout.snakemake(site_run, "-n", profile=profile)
        assert "Nothing to be done" in run.stdout, run.stdout[-2000:]


@OWN_CHECKOUT
def test_memory_and_time_grow_with_the_attempt(slurm: Cluster, tmp_path: Path) -> None:
    folder = noting(tmp_path / "checkout")
    script = NOTING.replace("exec", '[ "$(wc -l < given.log)" -lt 3 ] && exit 1\nexec')
    (folder / "workflow/run").write_text(script)
    set_profile(folder, {"max_mem_mb": 5000})
    run = snakemake(slurm, folder, *CORPUS)
    assert run.returncode == 0, run.stdout[-4000:]
    jobs = [line[1] for line in given(folder)]
    asked = [
        slurm.command("squeue", "-h", "-t", "all", "-j", j, "-o", "%m %l").split() for j in jobs
    ]
    assert asked == [["2000M", "30:00"], ["4000M", "1:00:00"], ["5000M", "1:30:00"]]


@OWN_CHECKOUT
def test_a_site_may_ask_for_gpus_with_gres(slurm: Cluster, tmp_path: Path) -> None:
    folder = noting(tmp_path / "checkout")
    set_profile(folder, **{"set-resources": {"corpus": {"gpu": 0, "gres": "gpu:2"}}})
    run = snakemake(slurm, folder, *CORPUS)
    assert run.returncode == 0, run.stdout[-4000:]
    assert [line[2] for line in given(folder)] == ["0,1"]


@OWN_CHECKOUT
def test_a_cluster_without_gpus_is_asked_for_none(slurm: Cluster, tmp_path: Path) -> None:
    """The requests of all stages pass SLURM's check where a GPU could not be had."""
    folder = noting(tmp_path / "checkout")
    set_gpu_stages(folder, gpu=0)
    set_profile(folder, {"constraint": "no_such_feature"})
    refused = snakemake(slurm, folder)
    assert "--gpus" not in refused.stdout
    assert "constraint" in refused.stdout


@OWN_CHECKOUT
def test_a_stage_runs_in_the_container_that_the_profile_names(
    slurm: Cluster, tmp_path: Path
) -> None:
    folder = checkout.make(tmp_path / "checkout")
    container = folder / "container"
    container.write_text(
        f'#!/bin/sh\necho "$@" > {folder}/contained\n'
        f"mkdir -p {folder}/bin\n"
        f"printf '#!/bin/sh\\nexec {sys.executable} \"$@\"' > {folder}/bin/python3\n"
        f"chmod +x {folder}/bin/python3\n"
        f'PATH={folder}/bin:$PATH exec "$@"\n'
    )
    container.chmod(0o755)
    set_profile(folder, precommand=f"export GROUPMATES_CONTAINER={container}")
    run = snakemake(slurm, folder, *CORPUS)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "python3 -m groupmates corpus" in (folder / "contained").read_text()
    assert list(folder.glob("results/tiny/corpus/shard-*"))


# One main process per run


@OWN_CHECKOUT
def test_jobs_of_a_killed_main_process_are_gone_before_new_ones_are_submitted(
    slurm: Cluster, tmp_path: Path
) -> None:
    folder = noting(tmp_path / "checkout")
    (folder / "hold-corpus").touch()
    main = start(slurm, folder, *CORPUS)
    left = wait_for_job(slurm, folder, "corpus")
    os.killpg(main.pid, signal.SIGKILL)
    main.wait()
    assert state(slurm, left) == "RUNNING"
    locked = snakemake(slurm, folder, *CORPUS)
    assert "--unlock" in locked.stdout
    assert state(slurm, left) == "RUNNING", "snakemake's lock comes first"
    assert snakemake(slurm, folder, "--unlock").returncode == 0
    (folder / "hold-corpus").rename(folder / f"hold-{left}")  # the next one is not held
    again = snakemake(slurm, folder, *CORPUS)
    assert again.returncode == 0, again.stdout[-4000:]
    assert f"cancelled 1 jobs that a killed snakemake had left in SLURM ({left})" in again.stdout
    assert state(slurm, left) == "CANCELLED"
    (new,) = {line[1] for line in given(folder)} - {left}
    assert state(slurm, new) == "COMPLETED"
    end = slurm.command("squeue", "-h", "-t", "all", "-j", left, "-o", "%e").strip()
    begin = slurm.command("squeue", "-h", "-t", "all", "-j", new, "-o", "%S").strip()
    assert end <= begin


@OWN_CHECKOUT
def test_runs_of_other_configurations_in_one_checkout_do_not_touch_each_other(
    slurm: Cluster, tmp_path: Path
) -> None:
    folder = noting(tmp_path / "checkout")
    (folder / "hold-corpus").touch()
    main = start(slurm, folder, *CORPUS)
    held = wait_for_job(slurm, folder, "corpus")
    other = start(slurm, folder, *CORPUS, "--config", "run=tiny-2")
    slurm.wait_for(lambda: len(given(folder)) == 2, "both jobs at once")
    assert state(slurm, held) == "RUNNING"
    (folder / "hold-corpus").unlink()
    assert [waiting.ended(main), waiting.ended(other)] == [0, 0]
    assert {state(slurm, line[1]) for line in given(folder)} == {"COMPLETED"}
    for run in ("tiny", "tiny-2"):
        assert len(list(folder.glob(f"results/{run}/corpus/shard-*"))) == 7


@OWN_CHECKOUT
def test_a_second_main_process_leaves_the_jobs_of_a_living_one_alone(
    slurm: Cluster, tmp_path: Path
) -> None:
    folder = noting(tmp_path / "checkout")
    (folder / "hold-corpus").touch()
    main = start(slurm, folder, *CORPUS)
    held = wait_for_job(slurm, folder, "corpus")
    second = snakemake(slurm, folder, *CORPUS, "--nolock")
    assert second.returncode != 0
    assert f"process {main.pid} of" in second.stdout
    assert "is at this run" in second.stdout
    assert state(slurm, held) == "RUNNING"
    (folder / "hold-corpus").unlink()
    assert waiting.ended(main) == 0
    assert state(slurm, held) == "COMPLETED"


# Bad input


def refused(run: subprocess.CompletedProcess[str], slurm: Cluster, *parts: str) -> None:
    """It ended before anything was submitted, with a message that says what to change where."""
    assert run.returncode != 0
    told = run.stdout[run.stdout.index("expected:") :]
    for part in ("found:", "where:", "to do:", *parts):
        assert part in told, run.stdout[-3000:]
    assert "Traceback" not in run.stdout
    assert not [j for j in slurm.squeue() if j.comment.startswith("rule_")] or (
        "has been submitted" not in run.stdout
    )


@pytest.mark.parametrize(
    ("resources", "gpu", "parts"),
    [
        (
            {"slurm_partition": "fast"},
            {},
            ["slurm_partition in profiles/slurm", "cpu, gpu", "fast"],
        ),
        ({}, {"gpu": 3}, ["gpu (or gres)", "gpu:fake:2", "resources of base"]),
        ({}, {"gpu": 0, "gres": "tpu:1"}, ["gpu (or gres)", "tpu:1"]),
        ({"constraint": "zen9"}, {}, ["constraint in profiles/slurm", "zen9"]),
        ({"slurm_partition": "short"}, {}, ["max_runtime: 10", "at most 10 minutes"]),
    ],
    ids=["partition", "gpus", "gres", "constraint", "time"],
)
@OWN_CHECKOUT
def test_a_request_that_slurm_cannot_meet_ends_the_run_before_it_begins(
    resources: dict, gpu: dict, parts: list[str], slurm: Cluster, tmp_path: Path
) -> None:
    folder = noting(tmp_path / "checkout")
    if gpu:
        set_gpu_stages(folder, **gpu)
    set_profile(folder, resources)
    refused(snakemake(slurm, folder), slurm, *parts)
    assert not (folder / "given.log").exists()


@OWN_CHECKOUT
def test_a_site_that_wants_an_account_is_told_from_one_that_does_not(
    slurm: Cluster, tmp_path: Path
) -> None:
    folder = noting(tmp_path / "checkout")
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "sbatch").write_text(
        "#!/bin/sh\ncase \" $* \" in *' -A theirs '*) ;; *)\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid account or account/partition "
        "combination specified' >&2; exit 1;; esac\n"
        f'exec {slurm.folder}/bin/sbatch "$@"\n'
    )
    (shims / "sacctmgr").write_text("#!/bin/sh\necho theirs\n")
    for shim in shims.iterdir():
        shim.chmod(0o755)
    run = snakemake(slurm, folder, *CORPUS, path=str(shims))
    refused(run, slurm, "slurm_account in profiles/slurm", "Invalid account")
    set_profile(folder, {"slurm_account": "theirs"})
    again = snakemake(slurm, folder, *CORPUS, path=str(shims))
    assert again.returncode == 0, again.stdout[-3000:]


@OWN_CHECKOUT
def test_a_slurmctld_that_is_away_for_a_while_is_waited_for(slurm: Cluster, tmp_path: Path) -> None:
    folder = noting(tmp_path / "checkout")
    slurm.kill_slurmctld()
    back = threading.Timer(50, slurm.restart_slurmctld)
    back.start()
    began = time.monotonic()
    run = snakemake(slurm, folder, *CORPUS)
    back.join()
    assert run.returncode == 0, run.stdout[-4000:]
    assert time.monotonic() - began > 45
    assert "slurmctld does not answer" in run.stdout
