"""CORE's tasks and questions: what a model reads, and what is refused with its line."""

import json
from pathlib import Path

import pytest

import checkout
import core_folder
from groupmates.errors import UserError
from groupmates.pool.core_questions import prompts, read_questions
from groupmates.pool.core_tasks import CORE, chosen_tasks, tasks_in

CHOICE = {"query": "Sky?", "choices": ["red", "blue"], "gold": 1}
SCHEMA = {"context_options": ["The cup", "The hat"], "continuation": "fell.", "gold": 0}
CLOZE = {"context": "One two ", "continuation": "three"}


@pytest.mark.parametrize(
    ("kind", "asked", "before", "whole"),
    [
        ("multiple_choice", CHOICE, "Sky?", ["Sky? red", "Sky? blue"]),
        ("schema", SCHEMA, "The cup", ["The cup fell.", "The hat fell."]),
        ("language_modeling", CLOZE, "One two", ["One two three"]),
    ],
)
def test_a_prompt_has_the_examples_with_their_answers_and_then_the_question(
    kind, asked, before, whole
):
    task = core_folder.task(kind)
    head = f"{whole[asked.get('gold', 0)]}\n\n"
    assert prompts(task, [], asked) == (before, whole)
    assert prompts(task, [asked], asked) == (head + before, [head + text for text in whole])


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("multiple_choice", b"{"),
        ("multiple_choice", json.dumps(CHOICE | {"gold": 2}).encode()),
        ("multiple_choice", json.dumps(CHOICE | {"choices": ["one"]}).encode()),
        ("schema", json.dumps(SCHEMA | {"continuation": None}).encode()),
        ("language_modeling", json.dumps(CLOZE | {"continuation": " "}).encode()),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, kind, line):
    good = {"multiple_choice": CHOICE, "schema": SCHEMA, "language_modeling": CLOZE}[kind]
    (tmp_path / "t.jsonl").write_bytes(json.dumps(good).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(UserError) as refused:
        read_questions(tmp_path, core_folder.task(kind))
    assert refused.value.where == f"{tmp_path}/t.jsonl, line 3"


def test_an_unknown_task_is_told_with_the_nearest_one_and_a_missing_one_as_missing(tmp_path: Path):
    core_folder.write(tmp_path, {"copa": [CHOICE], "coqa": None})
    assert list(tasks_in(str(tmp_path))) == ["copa"]
    for name, told in (("cope", "nearest is copa"), ("coqa", "its file is missing")):
        with pytest.raises(UserError, match=told):
            chosen_tasks(str(tmp_path), [name])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tasks: [{name: a}]", "file: Field required, in {'name': 'a'}"),
        ("tasks: [", "expected"),
        ("a: 1", "without a list"),
    ],
)
def test_a_list_of_tasks_that_is_none_is_refused(tmp_path: Path, text, told):
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(UserError, match=told) as refused:
        tasks_in(str(tmp_path))
    assert refused.value.where.endswith("tasks.yaml")


def test_the_list_for_the_public_files_has_all_tasks_and_both_sets_of_baselines():
    listed = tasks_in(str(checkout.REPOSITORY / "workflow/configs/core"))
    assert listed.keys() == CORE
    differ = {t.name for t in listed.values() if t.random_baseline != t.random_baseline_dclm_v2}
    assert differ == {"commonsense_qa", "bigbench_language_identification", "agi_eval_lsat_ar"}
