"""A raised version of an artefact makes the rule stale that writes it, whichever of several it is."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest import mock

import pytest
from snakemake import api
from test_stale import CLUSTER, DATASET, EVALUATE, FIT, REPORT, SAMPLE

import checkout
from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.artefacts.found import PATTERNS
from groupmates.selectors import step_jobs
from groupmates.settings import per_stage
from groupmates.settings.config import Format
from groupmates.settings.selectors import SELECTORS
from in_process import planned, snakemake

Names = dict[str, set[str]]  # artefacts by rule


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> tuple[Names, Names]:
    """What the settings of the rules name, and what the rules write, in any format."""
    named: Names = defaultdict(set)
    written: Names = defaultdict(set)

    def names_alone(settings: object, *artefacts: str, start: int = 1) -> str:
        return json.dumps(artefacts)

    def look(workflow: Any, only_targets: bool) -> None:
        for rule in workflow.rules:
            name = rule.name.removesuffix("_gpu")
            named[name] |= settings_name(rule)
            written[name] |= {artefact for path in rule.output for artefact in made_with(path)}

    for format in get_args(Format):
        change = {
            "materialise": {"format": format},
            "decontaminate": {"examples": ["examples.jsonl"]},
            "pretrain": {"milestones": [0.5]},
            "select": {"methods": [*SELECTORS], "quality": {"positives": "reference"}},
        }
        settings = checkout.merged(checkout.TINY, change)
        folder = checkout.make(tmp_path_factory.mktemp(format), settings)
        with (
            mock.patch.object(per_stage, "as_param", names_alone),
            mock.patch.object(step_jobs, "as_param", names_alone),
            mock.patch.object(api.Workflow, "list_rules", look),
        ):
            done = snakemake(folder, "--list-rules")
        assert done.returncode == 0, done.stdout[-3000:]
    return named, written


def settings_name(rule: Any) -> set[str]:
    """The artefacts that the settings of a rule name, for any of its methods."""
    if not hasattr(rule.params, "settings"):
        return set()
    pattern = rule.wildcard_constraints.get("method", "")
    methods = [method for method in SELECTORS if re.fullmatch(pattern, method)] or [""]
    jobs = [SimpleNamespace(method=method, model="final") for method in methods]
    return {name for job in jobs for name in json.loads(rule.params.settings(job))}


def made_with(output: str) -> set[str]:
    """What an output is by the catalogue, and what lies in it, where it is a folder.

    A record beside an artefact is none. A dataset's own files are no output.
    """
    path = re.sub(r",[^{}]*(\{\d+\})?\}", "}", output).removeprefix("results/tiny/")
    patterns = {name: found for name, found in PATTERNS.items() if name != "dataset"}
    itself = [name for name, pattern in patterns.items() if pattern.fullmatch(path)][:1]
    within = [name for name, known in ARTEFACTS.items() if known.path.startswith(f"{path}/")]
    return {*itself, *within}


def test_the_settings_of_a_rule_name_every_artefact_that_it_writes(
    rules: tuple[Names, Names],
) -> None:
    named, written = rules
    assert len(written["sample"]) == 3
    assert not {rule: names - named[rule] for rule, names in written.items() if names - named[rule]}


def test_every_artefact_is_named_by_a_rule_also_one_that_snakemake_knows_nothing_of(
    rules: tuple[Names, Names],
) -> None:
    named, _ = rules
    assert set().union(*named.values()) == ARTEFACTS.keys()


@pytest.mark.parametrize("artefact", ["score", "centroids", "cluster"])
def test_tables_that_a_second_rule_writes_by_the_same_record_have_its_version_too(
    artefact: str, rules: tuple[Names, Names]
) -> None:
    """A reader checks the version in the record, wherever the table lies."""
    named, _ = rules
    second = {"score": "score_by"}.get(artefact, f"{artefact}_semantic")
    assert artefact in named[second]


@pytest.mark.parametrize(
    ("artefact", "stale"),
    [
        ("tokenizer", SAMPLE),
        ("training_pool", SAMPLE),
        ("rejects", {"check_pool"} | CLUSTER),
        ("heldout", FIT),
        ("dataset", DATASET),
        ("example_losses", EVALUATE),
        ("figure", REPORT),
        ("windows", set()),  # of another format
        ("score_by", set()),  # of methods that do not run
    ],
)
def test_a_raised_version_re_runs_what_writes_the_artefact_and_what_follows(
    artefact: str, stale: set[str], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = replace(ARTEFACTS[artefact], version=ARTEFACTS[artefact].version + 1)
    monkeypatch.setitem(ARTEFACTS, artefact, raised)
    assert set(planned(finished)) == stale
