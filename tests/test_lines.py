"""Lines: which there are, what each makes anew, what it selects; and what the stages have consumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tables
from groupmates.artefacts.catalogue import ARTEFACTS, OF_STAGE, line_of
from groupmates.artefacts.ledger import Consumed, consumed
from groupmates.settings import lines
from groupmates.settings.config import Config, load
from planned import configuration

METHODS = ["random", "group_mates", "mates", "quality", "color", "semdedup", "early"]


def staged(stages: list[float], methods: list[str] = METHODS, **select: Any) -> Config:
    variants = {"early": {"method": "group_mates", "rounds": "random", "relation": "none"}}
    quality = {"positives": "reference"}
    select = {"methods": METHODS, "variants": variants, "quality": quality} | select
    pretrain = {"methods": methods, "stages": stages}
    return load(configuration(select=select, pretrain=pretrain))


def test_each_later_stage_of_a_method_is_a_line_and_the_run_itself_the_first():
    config = staged([0.5, 0.3, 0.2], ["mates", "random"])
    of_mates, of_random = ([f"stages/{k}/{m}/" for k in (2, 3)] for m in ("mates", "random"))
    assert lines.later(config) == [of_mates[0], of_random[0], of_mates[1], of_random[1]]
    assert lines.before(of_mates[1]) == ["", of_mates[0]]
    assert [lines.stage_of(line) for line in ("", *of_random)] == [1, 2, 3]
    assert lines.method_of(of_mates[0]) == "mates"
    assert lines.later(staged([1.0])) == []


def test_a_line_is_made_of_what_is_in_the_catalogue():
    assert OF_STAGE <= ARTEFACTS.keys()


@pytest.mark.parametrize(
    ("method", "anew"),
    [
        ("random", set()),
        ("quality", set()),
        ("semdedup", set()),  # by meaning
        ("color", {"order"}),
        (
            "mates",
            {"order"},
        ),  # by single steps of the new model, with the first one's scores beside
        ("group_mates", {"score", "cluster", "centroids", "order"}),
        ("early", {"score", "cluster", "centroids", "order"}),
    ],
)
def test_a_later_stage_makes_anew_what_its_method_needs_of_the_new_model(method, anew):
    config, line = staged([0.5, 0.5]), line_of(2, method)
    shared = ("score", "cluster", "centroids", "order")
    assert {n for n in shared if lines.source(config, line, method, n) == line} == anew
    ordered = lines.source(config, line, method, "order")
    assert lines.source(config, line, method, "prepared") == ordered
    assert {lines.source(config, line, method, name) for name in ("fit", "score_by")} == {line}
    assert lines.source(config, "", method, "order") == ""


def test_stages_share_the_budget_and_an_order_reaches_as_far_as_all_stages_so_far():
    config = staged([0.5, 0.3, 0.2])
    ratios = [lines.of_stage(config, stage).select.budget.ratio for stage in (1, 2, 3)]
    assert ratios == pytest.approx([0.125, 0.075, 0.05])
    ratios = [lines.up_to_stage(config, stage).select.budget.ratio for stage in (1, 2, 3)]
    assert ratios == pytest.approx([0.125, 0.2, 0.25])
    config = staged([0.5, 0.5], budget={"ratio": None, "tokens": 999})
    assert [lines.of_stage(config, k).select.budget.tokens for k in (1, 2)] == [500, 500]
    whole = staged([1.0])
    assert lines.of_stage(whole, 1) is whole


def test_what_each_stage_has_consumed_is_read_from_its_ledger(tmp_path: Path):
    run = tmp_path / "results/a"
    for stage, tokens in ((1, [30, 10]), (2, [5]), (4, [1])):
        line = run / line_of(stage, "random")
        places = [("a.jsonl", row) for row in range(4)]
        for shard in ("00000", "00001"):
            path = line / f"select/random/shard-{shard}.parquet"
            tables.selection(path, places, n_tokens=10)
        tables.write(line / "pretrain/random/seed-0.ledger.parquet", "ledger", tokens=tokens)
    assert consumed(run, "random") == [
        Consumed(stage=1, selected=8, documents=2, tokens=40, passes=0.5),
        Consumed(stage=2, selected=8, documents=1, tokens=5, passes=0.0625),
    ]
    assert consumed(run, "other") == []
