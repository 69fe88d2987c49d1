"""CORE on a model of a few thousand weights: predictions, the table, and what is refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import core_folder
import killed
import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.maths.in_context import order_of, shots_of
from groupmates.models import in_context
from groupmates.models.language_model import load_lm, make_lm
from groupmates.models.tokenizer import load_tokenizer
from groupmates.pool.core_tasks import CORE
from groupmates.settings.per_stage import CoreSettings, CoreTableSettings
from groupmates.stages import core, core_table

WORDS = small.WORDS
CHOICES = [
    {"query": f"{WORDS[i]} {WORDS[i + 1]}", "choices": WORDS[i + 2 : i + 4], "gold": i % 2}
    for i in range(12)
]
CLOZE = [{"context": " ".join(WORDS[i : i + 4]), "continuation": WORDS[i + 4]} for i in range(12)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return core_folder.write(tmp_path_factory.mktemp("data"), {"copa": CHOICES, "squad": CLOZE})


def checkpoint(run: small.Run, folder: Path, positions: int = 256, vocabulary: int = 300) -> Path:
    """A model of so many positions and rows, with the tokenizer of the small run."""
    shutil.copytree(run.tokenizer, folder, ignore=shutil.ignore_patterns("provenance.json"))
    make_lm(small.LLAMA, vocabulary, positions, 0, seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(small_run, tmp_path_factory) -> Path:
    return checkpoint(small_run, tmp_path_factory.mktemp("model") / "ours")


def ask(model: Path, data: Path, output: Path, task: str = "copa", **changed) -> Path:
    settings = CoreSettings(**{"examples": None, "batch_tokens": 64} | changed)
    core.run(settings, checkpoint=model, data=data, task=task, output=output)
    return output


def plainly(folder: Path, number: int) -> list[float]:
    """Mean loss of the options of question `number`, from prompts written out here."""
    model, tokenizer = load_lm(folder).eval(), load_tokenizer(folder)
    asked = [CHOICES[i] for i in order_of(len(CHOICES))]
    shots = [asked[i] for i in shots_of(number, len(asked), 2)]
    head = "".join(f"{s['query']} {s['choices'][s['gold']]}\n\n" for s in shots)
    texts = [f"{head}{asked[number]['query']} {choice}" for choice in asked[number]["choices"]]
    rows = [[tokenizer.eos_token_id, *tokenizer(t)["input_ids"]] for t in texts]
    start = next(i for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b)
    losses = []
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
        losses.append(-np.mean([float(logits[t - 1, row[t]]) for t in range(start, len(row))]))
    return losses


def test_predictions_are_those_of_prompts_written_out(model, data, tmp_path):
    found = read_table(ask(model, data, tmp_path / "copa.parquet"), "core_predictions")
    rows = found.to_pylist()
    assert [row["line"] for row in rows] == [i + 1 for i in order_of(12)]
    for number in (0, 7):
        expected = plainly(model, number)
        assert rows[number]["option_nats"] == pytest.approx(expected, abs=1e-5)
        assert rows[number]["predicted"] == int(np.argmin(expected))
    assert [row["correct"] for row in rows] == [row["predicted"] == row["gold"] for row in rows]
    answers = [CHOICES[row["line"] - 1]["choices"][row["gold"]] for row in rows]
    assert [row["answer_bytes"] for row in rows] == [len(f" {answer}") for answer in answers]


def test_the_first_questions_are_asked_and_give_the_examples(model, data, tmp_path):
    few = ask(model, data, tmp_path / "few.parquet", "squad", examples=3)
    table = read_table(few, "core_predictions")
    assert table["line"].to_pylist() == [i + 1 for i in order_of(12)[:3]]


def test_the_table_has_every_task_and_a_mean_under_both_sets_of_baselines(model, data, tmp_path):
    found = [
        ask(model, data, tmp_path / "core/ours" / f"{task}.parquet", task)
        for task in ("copa", "squad")
    ]
    table, markdown = tmp_path / "table.csv", tmp_path / "table.md"
    core_table.run(
        CoreTableSettings(examples=None), predictions=found, output=table, markdown=markdown
    )
    copa, squad, mean = csv.DictReader(table.open())
    assert float(copa["centred_v1"]) == pytest.approx((float(copa["accuracy"]) - 0.2) / 0.8)
    assert float(copa["centred_v2"]) == pytest.approx((float(copa["accuracy"]) - 0.5) / 0.5)
    both = (float(copa["centred_v2"]) + float(squad["centred_v2"])) / 2
    assert float(mean["centred_v2"]) == pytest.approx(both)
    assert mean["task"] == "mean of 2 tasks"
    assert "CORE" not in markdown.read_text()


def test_a_mean_is_called_core_where_it_is_of_all_its_tasks():
    assert len(CORE) == 22
    assert core_table.name_of_mean(sorted(CORE), None) == "CORE"
    assert core_table.name_of_mean(sorted(CORE - {"coqa"}), None) == "mean of 21 tasks"
    assert core_table.name_of_mean(sorted(CORE), 7) == "CORE of at most 7 questions per task"


@pytest.mark.parametrize("task", ["copa", "squad"])
def test_a_task_that_is_killed_again_and_again_ends_as_in_one_go(
    task, model, data, tmp_path, monkeypatch
):
    def make(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        return ask(model, data, folder / f"{task}.parquet", task, batch_tokens=1)

    attempts, calls = killed.survives(monkeypatch, tmp_path, in_context, "_read_together", 4, make)
    assert attempts > 2
    # No batch but the one that died is read again.
    assert len(calls) <= 12 + attempts - 1


def test_questions_longer_than_the_context_are_cut_and_counted(small_run, data, tmp_path, capsys):
    short = checkpoint(small_run, tmp_path / "short", positions=6)
    found = read_table(ask(short, data, tmp_path / "copa.parquet"), "core_predictions")
    assert all(found["cut"].to_pylist())
    assert "12 of 12 questions are longer" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["broken", "foreign", "not finite"])
def test_what_cannot_be_evaluated_is_refused(small_run, data, tmp_path, case):
    folder = checkpoint(small_run, tmp_path / "model", vocabulary=270 if case == "foreign" else 300)
    weights = folder / "model.safetensors"
    if case == "broken":
        weights.write_bytes(b"no weights")
    elif case == "not finite":
        damaged = load_file(weights)
        damaged["model.norm.weight"][0] = torch.nan
        save_file(damaged, weights, {"format": "pt"})
    told = {"broken": "core.models", "foreign": "tokenizer", "not finite": "finite losses"}
    with pytest.raises(UserError, match=told[case]):
        ask(folder, data, tmp_path / "copa.parquet")
