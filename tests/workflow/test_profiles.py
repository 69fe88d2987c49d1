"""What the profiles ask for, where there is no SLURM, and their short names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import checkout
import in_process
import waiting


def test_a_machine_without_slurm_plans_the_run_but_says_why_it_cannot_start_it(
    tmp_path: Path,
) -> None:
    folder = checkout.make(tmp_path / "checkout")
    environment = {"PATH": os.pathsep.join(waiting.programs(tmp_path)), "HOME": str(tmp_path)}
    plan = checkout.snakemake(folder, "-n", profile="slurm", env=environment)
    assert plan.returncode == 0, plan.stdout[-3000:]
    assert re.search(r"^total +\d\d", plan.stdout, re.MULTILINE)
    run = checkout.snakemake(folder, profile="slurm", env=environment)
    assert run.returncode != 0
    for part in ("expected:", "no sinfo on the PATH", "login node", "--profile profiles/local"):
        assert part in run.stdout, run.stdout[-3000:]
    assert "Traceback" not in run.stdout


def asked_for(plan: str) -> dict[str, str]:
    """The line of resources of one job of every rule, from a dry run."""
    blocks = re.split(r"^\[.*\]\n", plan, flags=re.MULTILINE)
    shown = (
        re.search(r"^(?:local)?rule (\w+):.*?^    resources: (.*?)$", b, re.M | re.S)
        for b in blocks
    )
    return {match[1]: match[2] for match in shown if match}


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_every_rule_asks_for_memory_and_time_and_six_of_them_for_a_gpu(
    profile: str, tmp_path: Path
) -> None:
    plan = in_process.snakemake(checkout.make(tmp_path / "checkout"), "-n", profile=profile)
    asked = asked_for(plan.stdout)
    assert len(asked) > 18, plan.stdout[-3000:]
    del asked["all"]
    assert all(re.search(r"mem_mb=\d+", line) for line in asked.values())
    assert all(re.search(r"runtime=\d+", line) for line in asked.values())
    with_gpu = {rule for rule, line in asked.items() if "gpu=1" in line}
    assert with_gpu == {stage.replace("-", "_") for stage in checkout.GPU_STAGES}


# The short name


def link_profiles(home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XDG_CONFIG_HOME": str(home)}
    return waiting.run(["make", "link-profiles"], checkout.REPOSITORY, environment)


def test_profiles_have_short_names_once_they_are_linked(tmp_path: Path) -> None:
    assert link_profiles(tmp_path).returncode == 0
    folder = checkout.make(tmp_path / "checkout")
    for name, settings in (("slurm", "executor: slurm"), ("local", "cores: all")):
        assert settings in (tmp_path / "snakemake" / name / "config.yaml").read_text()
        run = waiting.run(
            [sys.executable, "-m", "snakemake", "--profile", name, "-n", "--quiet", "all"],
            folder,
            os.environ | {"XDG_CONFIG_HOME": str(tmp_path)},
        )
        assert run.returncode == 0, run.stdout


def test_a_profile_of_the_users_own_is_not_linked_over(tmp_path: Path) -> None:
    own = tmp_path / "snakemake/slurm/config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("jobs: 7\n")
    linked = link_profiles(tmp_path)
    assert linked.returncode != 0
    assert "--profile profiles/slurm" in linked.stdout
    assert own.read_text() == "jobs: 7\n"
