"""What the Snakemake workflow catalogue looks for in a repository, and what we tell it of use."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import in_process
from test_documents import AWAITED

ROOT = Path(__file__).parent.parent
USAGE = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]


def test_the_repository_is_one_that_the_catalogue_finds():
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (ROOT / "Snakefile").exists()
    assert list((ROOT / "workflow/rules").glob("*.smk"))
    assert (ROOT / "LICENSE").exists()


def test_the_catalogue_offers_the_standardised_usage():
    """It asks for the workflow at this place, and for a page on its configuration."""
    assert (ROOT / "workflow/Snakefile").exists() or "workflow/Snakefile" in AWAITED
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
    assert (ROOT / profile / "config.yaml").exists()


@pytest.mark.parametrize("question", [["--report", "all.zip"], ["--summary"], ["--rulegraph"]])
def test_snakemake_answers_about_a_finished_run(question, finished, tmp_path):
    """These build the graph without settings of remote jobs."""
    where = [str(tmp_path / word) if word.endswith(".zip") else word for word in question]
    done = in_process.snakemake(finished, "--nolock", *where)
    assert done.returncode == 0, done.stdout[-3000:]
    if "--report" in question:
        assert (tmp_path / "all.zip").stat().st_size > 10_000
