"""What the Snakemake workflow catalogue looks for in a repository, and what we tell it of use."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import checkout
import in_process

ROOT = Path(__file__).parent.parent
USAGE = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]


def test_the_repository_is_one_that_the_catalogue_finds():
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (ROOT / "workflow/Snakefile").exists()  # where there is a folder workflow
    assert list((ROOT / "workflow/rules").glob("*.smk"))
    assert (ROOT / "LICENSE").exists()


def test_the_catalogue_offers_the_standardised_usage():
    """It asks for a page on the configuration."""
    page = (ROOT / "config/README.md").read_text()
    for key in ("pool.paths", "reference.paths", "base.checkpoint", "select.budget"):
        assert f"`{key}`" in page


def test_usage_has_the_fields_that_the_catalogue_reads():
    assert USAGE.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert USAGE["mandatory-flags"].keys() == {"desc", "flags"}
    methods = USAGE["software-stack-deployment"]
    assert methods.keys() == {"conda", "apptainer", "apptainer+conda"}
    assert all(isinstance(value, bool) for value in [*methods.values(), USAGE["report"]])
    _, profile = USAGE["mandatory-flags"]["flags"].split()
    assert (ROOT / profile / "profile.yaml").exists()


def test_both_snakefiles_plan_the_same_jobs(tmp_path):
    folder = checkout.make(tmp_path / "clone")
    plans = [
        sorted(x for x in done.stdout.splitlines() if "workflow/run" in x)
        for where in ("Snakefile", "workflow/Snakefile")
        for done in [in_process.snakemake(folder, "--snakefile", where, "-n", "-p")]
    ]
    assert len(plans[0]) > 20
    assert plans[0] == plans[1]


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_a_profile_has_both_names_that_versions_of_snakemake_look_for(profile):
    """`profile.yaml` is the present one; a version that knows `config.yaml` alone follows a link."""
    old, new = (ROOT / "profiles" / profile / f"{name}.yaml" for name in ("config", "profile"))
    assert old.resolve() == new


@pytest.mark.parametrize("question", [["--report", "all.zip"], ["--summary"], ["--rulegraph"]])
def test_snakemake_answers_about_a_finished_run(question, finished, tmp_path):
    """These build the graph without settings of remote jobs."""
    where = [str(tmp_path / word) if word.endswith(".zip") else word for word in question]
    done = in_process.snakemake(finished, "--nolock", *where)
    assert done.returncode == 0, done.stdout[-3000:]
    if "--report" in question:
        assert (tmp_path / "all.zip").stat().st_size > 10_000
