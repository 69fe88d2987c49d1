"""Trainings that are stopped and started again: nothing of the artefacts changes, little is redone."""

import signal
import subprocess
import sys

import pytest
import torch

import killed
import trainings
import waiting
from groupmates import __main__ as cli
from groupmates.models.resumable import warm_up_then_decay
from groupmates.stages import evaluate, selected_tokens


@pytest.fixture(scope="module")
def inputs(small_run, tmp_path_factory):
    return trainings.make_inputs(small_run, tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """The artefacts of every training in one go."""
    found = {}
    for name in trainings.NAMES:
        results = tmp_path_factory.mktemp(f"undisturbed-{name}")
        assert cli.main(trainings.command(name, inputs, results)) == 0
        found[name] = trainings.artefacts(results)
    return found


STEPS = {"base": 7, "moments": 7, "fit": 3 * 3, "evaluate": 10, "pretrain": 10}  # of every training


class Steps:
    """Counts AdamW's steps, and breaks off after every `until`-th one, before it could be saved."""

    def __init__(self, monkeypatch, until: int | None = None) -> None:
        self.taken, self.since, self.until = 0, 0, until
        original = torch.optim.AdamW.step

        def step(optimizer, *arguments):
            original(optimizer, *arguments)
            self.taken, self.since = self.taken + 1, self.since + 1
            if self.since == self.until:
                self.since = 0
                raise RuntimeError("broken off")

        monkeypatch.setattr(torch.optim.AdamW, "step", step)


@pytest.mark.parametrize("name", trainings.NAMES)
@pytest.mark.parametrize(("saved", "broken"), [(1, 2), (2, 3), (2, 5), (3, 4)])
def test_a_training_that_is_broken_off_again_and_again_ends_as_the_undisturbed_one(
    name, saved, broken, inputs, undisturbed, tmp_path, monkeypatch
):
    command = trainings.command(name, inputs, tmp_path)
    killed.saving(monkeypatch, saved)
    steps, interruptions = Steps(monkeypatch, broken), 0
    while cli.main(command) != 0:
        interruptions += 1
        assert interruptions < STEPS[name], "no attempt came any further"
    assert interruptions > 0
    assert trainings.artefacts(tmp_path) == undisturbed[name]
    # Of every interruption at most the steps since the last save, the broken one included.
    assert STEPS[name] < steps.taken <= STEPS[name] + interruptions * saved


@pytest.mark.parametrize("name", trainings.NAMES)
def test_progress_of_other_settings_is_never_picked_up(
    name, inputs, undisturbed, tmp_path, monkeypatch, capsys
):
    other = {"fit": {"epochs": 4}, "evaluate": {"points": 3}}.get(name, {"batch_sequences": 3})
    killed.saving(monkeypatch, 1)
    with monkeypatch.context() as patch:
        Steps(patch, 3)
        assert cli.main(trainings.command(name, inputs, tmp_path, **other)) == 1
    assert cli.main(trainings.command(name, inputs, tmp_path)) == 0
    assert "of other settings or inputs; begins anew" in capsys.readouterr().err
    assert trainings.artefacts(tmp_path) == undisturbed[name]


def test_documents_that_were_read_are_not_read_again(inputs, undisturbed, tmp_path, monkeypatch):
    read, original = [], selected_tokens.chosen_texts

    def reads(file, rows, column):
        if len(rows):
            read.append(file.name)
            if read == ["a.jsonl", "b.jsonl"]:
                raise RuntimeError("broken off")
        return original(file, rows, column)

    monkeypatch.setattr(selected_tokens, "chosen_texts", reads)
    killed.saving(monkeypatch, 1)
    command = trainings.command("evaluate", inputs, tmp_path)
    assert [cli.main(command), cli.main(command)] == [1, 0]
    assert read == ["a.jsonl", "b.jsonl", "b.jsonl"]
    assert trainings.artefacts(tmp_path) == undisturbed["evaluate"]


def test_a_broken_end_of_evaluate_leaves_both_outputs_to_the_next_attempt(
    inputs, undisturbed, tmp_path, monkeypatch
):
    """The curve is written, the examples are not: no step is trained again."""
    command, original = trainings.command("evaluate", inputs, tmp_path), evaluate.write_table

    def write(path, artefact, *rest):
        if artefact == "example_losses":
            raise RuntimeError("broken off")
        original(path, artefact, *rest)

    killed.saving(monkeypatch, 1)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "write_table", write)
        assert cli.main(command) == 1
    steps = Steps(monkeypatch)
    assert cli.main(command) == 0
    assert steps.taken == 0
    assert trainings.artefacts(tmp_path) == undisturbed["evaluate"]


def started(command: list[str], *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "groupmates", *command, *options],
        env=waiting.environment(OMP_NUM_THREADS="1"),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
def test_sigkill_and_sigterm_of_a_real_process_lose_no_byte(inputs, tmp_path):
    long = {"training_steps": 300}
    whole = trainings.command("base", inputs, tmp_path / "whole", **long)
    assert waiting.ended(started(whole)) == 0
    command = trainings.command("base", inputs, tmp_path / "broken", **long)
    kept = tmp_path / "broken/.base.kept"
    for ending in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2):
        process = started(command, "--save-seconds", "0")
        before = set(kept.glob("after-*"))
        waiting.until(
            lambda seen=before: set(kept.glob("after-*")) - seen, "a save", process, step=0.005
        )
        process.send_signal(ending)
        told = process.communicate()[1]
        killed = ending == signal.SIGKILL
        assert process.returncode == (-signal.SIGKILL if killed else 128 + signal.SIGTERM), told
        assert killed or "told to stop, progress is kept" in told
    last = started(command)
    told = last.communicate()[1]
    assert last.returncode == 0, told
    assert "goes on after" in told
    assert trainings.artefacts(tmp_path / "broken") == trainings.artefacts(tmp_path / "whole")


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    assert [warm_up_then_decay(s, 4, 12) for s in (0, 2, 4, 8, 12)] == [0, 0.5, 1, 0.5, 0]
    assert warm_up_then_decay(0, 0, 1) == 1.0
    assert warm_up_then_decay(2, 2, 2) == 0.0
