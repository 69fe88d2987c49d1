"""Pretraining on a selection: which text is trained on, what comes out, and what is refused."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist

import killed
import small
import tables
import together
import trainings
from groupmates import __main__ as cli
from groupmates.artefacts.store import read_table
from groupmates.artefacts.unfinished import STOPPED, folder_of
from groupmates.errors import UserError
from groupmates.maths.packing import windows
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import open_base
from groupmates.models.reference import reference_part
from groupmates.models.resumable import Training
from groupmates.models.schedule import warm_up_stable_decay
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.pool.token_windows import TokenWindows
from groupmates.settings import per_stage
from groupmates.stages import base, pretrain, pretrain_tokens, probe

BATCH = 2 * small.SEQUENCE


@pytest.fixture(scope="module")
def inputs(small_run, tmp_path_factory):
    return trainings.make_inputs(small_run, tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def parts(inputs):
    return sorted((inputs.folder / "pretrain/random/tokens").iterdir())


def trained(inputs, folder, number: int = 0, start=None, how=(), **changed):
    """The folder of a model that was trained with these settings."""
    model = folder / f"random/seed-{number}"
    pretrain.run(
        trainings.pretrain_settings(**changed),
        tokens=sorted((inputs.folder / "pretrain/random/tokens").iterdir()),
        start=start or inputs.run.base,
        reference=inputs.run.reference,
        number=number,
        output=model,
        curve=folder / "curve.parquet",
        examples=folder / "examples.parquet",
        ledger=folder / "ledger.parquet",
        milestones=folder / "milestones",
        **dict(how),
    )
    return model


# From the base model, and not from scratch.
FROM_BASE = {"architecture": None, "optimizer": None}


# The text


def test_a_part_has_every_document_once_with_its_tokens(inputs, parts):
    texts = {d["id"]: d["text"] for d in small.documents(trainings.DOCUMENTS)}
    names = list(texts)
    tokenizer = load_tokenizer(inputs.run.tokenizer)
    seen = []
    for part in parts:
        flat = np.load(part / "tokens.npy")
        table = read_table(part / "documents.parquet", "pretrain_documents")
        ends = np.cumsum(table["tokens"].to_numpy())
        for row, end in zip(table.to_pylist(), ends, strict=True):
            place = row["source_row"] + 12 * (row["source_file"] == "b.jsonl")
            (expected,) = document_tokens(tokenizer, [texts[names[place]]])
            assert flat[end - row["tokens"] : end].tolist() == expected.tolist()
            seen.append(place)
        assert ends[-1] == len(flat)
    assert sorted(seen) == list(range(trainings.DOCUMENTS))
    assert seen != sorted(seen)  # in no order of the pool


def test_a_killed_tokenisation_goes_on_and_ends_with_the_same_bytes(inputs, tmp_path, monkeypatch):
    def make(folder):
        output = folder / "pretrain/random/tokens/part-00000"
        pretrain_tokens.run(
            per_stage.PretrainTokensSettings(seed=0, text_columns=small.COLUMNS),
            pool=trainings.pool_of(inputs.folder),
            selection=[inputs.folder / "select.parquet"],
            tokenizer=inputs.run.tokenizer,
            part="00000",
            output=output,
        )
        return output

    monkeypatch.setattr("groupmates.stages.selected_tokens.TOKENISED_TOGETHER", 5)
    owner = "groupmates.stages.selected_tokens"
    monkeypatch.setattr(f"{owner}.document_tokens", Counted.tokens)
    attempts, calls = killed.survives(monkeypatch, tmp_path, Counted, "call", 3, make)
    assert attempts > 1
    assert len(calls) == 7 + attempts - 1  # 12 and 18 documents in fives; the broken calls again


class Counted:
    """What tokenises, as a method that may die."""

    @classmethod
    def call(cls, *arguments):
        return document_tokens(*arguments)

    @staticmethod
    def tokens(*arguments):
        return Counted.call(*arguments)


def test_a_part_without_documents_has_no_window(inputs, parts, tmp_path):
    empty = tmp_path / "pretrain/random/tokens/part-00001"
    pretrain_tokens.run(
        per_stage.PretrainTokensSettings(seed=0, text_columns=small.COLUMNS),
        pool=trainings.pool_of(inputs.folder),
        selection=[
            tables.selection(tmp_path / "none.parquet", [], trainings.pool_of(inputs.folder))
        ],
        tokenizer=inputs.run.tokenizer,
        part="00001",
        output=empty,
    )
    text, whole = (TokenWindows([*p], small.SEQUENCE) for p in ([parts[0], empty], [parts[0]]))
    assert len(text) == len(whole) > 0
    assert np.array_equal(text.rows(np.arange(len(text))), whole.rows(np.arange(len(text))))


# Which windows are trained on


def stop_after(step: int, monkeypatch) -> None:
    """The first process is told to stop in this step."""
    original = Training.step

    def take(under_way, *arguments):
        if under_way.done == step and under_way.processes.first:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(under_way, *arguments)

    monkeypatch.setattr(Training, "step", take)


def process(command, folder, stop: int | None, rank: int, count: int) -> None:
    """One of `count` processes; the rows that it works at go to a file."""
    original = lm.token_losses

    def losses(model, ids, *predicted):
        with (folder / f"rows-{rank}.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in ids.tolist())
        return original(model, ids, *predicted)

    lm.token_losses = losses
    if stop is not None:
        stop_after(stop, pytest.MonkeyPatch())
    together.meet(folder / "meeting", rank, count)
    assert cli.main(command) == 0
    dist.destroy_process_group()


def rows_of(command, folder, count: int, stop: int | None) -> list[list[int]]:
    """The rows of an attempt by so many processes, step after step."""
    folder.mkdir()
    status = 0 if stop is None else STOPPED
    together.run(count, process, command, folder, stop, status=status)
    read = [
        [json.loads(line) for line in (folder / f"rows-{rank}.jsonl").open()]
        for rank in range(count)
    ]
    shares = [len(rows) * 3 // sum(map(len, read)) for rows in read]  # of a batch of three
    steps = len(read[0]) // shares[0]
    return [
        row
        for step in range(steps)
        for rows, share in zip(read, shares, strict=True)
        for row in rows[step * share : (step + 1) * share]
    ]


def test_no_window_is_repeated_or_skipped_however_many_processes_go_on(inputs, parts, tmp_path):
    """Two to the middle of a pass, three with weights in parts to that of another, and one."""
    text = TokenWindows(parts[:1], small.SEQUENCE)
    steps = -(-2 * len(text) // 3)
    command = trainings.command(
        "pretrain",
        inputs,
        tmp_path / "out",
        batch_sequences=3,
        tokens=steps * 3 * small.SEQUENCE,
    )
    command.remove(str(parts[1]))
    stops = [(2, len(text) // 6), (3, len(text) // 2), (1, None)]
    seen = []
    for attempt, (count, stop) in enumerate(stops):
        sharding = ["--sharding", "fsdp"] * (count == 3)
        seen += rows_of([*command, *sharding], tmp_path / str(attempt), count, stop)
    assert len(seen) == 3 * steps
    every = sorted(text.rows(np.arange(len(text))).tolist())
    assert len({tuple(row) for row in every}) == len(every)
    first, second = seen[: len(text)], seen[len(text) : 2 * len(text)]
    assert sorted(first) == sorted(second) == every
    assert first != second
    models = {}
    undisturbed = [word.replace(str(tmp_path / "out"), str(tmp_path / "whole")) for word in command]
    assert cli.main(undisturbed) == 0
    for folder in ("out", "whole"):
        models[folder] = load_file(tmp_path / folder / "random/seed-0/model.safetensors")
    for name, weights in models["out"].items():
        torch.testing.assert_close(weights, models["whole"][name], rtol=1e-3, atol=1e-5)
    counted = read_table(tmp_path / "out/random/seed-0.ledger.parquet", "ledger")
    assert counted["tokens"].to_numpy().sum() == 3 * steps * small.SEQUENCE


# What comes out


def test_the_curve_counts_tokens_and_its_losses_are_those_of_the_steps(
    inputs, tmp_path, monkeypatch
):
    losses, original = [], Training.step

    def take(under_way, ids, rate):
        losses.append((rate, float(found := original(under_way, ids, rate))))
        return found

    monkeypatch.setattr(Training, "step", take)
    trained(inputs, tmp_path, **FROM_BASE)
    curve = read_table(tmp_path / "curve.parquet", "pretrain_curve").to_pydict()
    assert curve["step"] == [0, 3, 7, 10]
    assert curve["tokens"] == [step * BATCH for step in curve["step"]]
    heldout = reference_part(inputs.run.reference, "evaluation", 6)[0]
    assert curve["heldout_nats"][0] == heldout.loss(open_base(inputs.run.base)[0])
    assert math.isnan(curve["loss_nats"][0])
    for i, (first, last) in enumerate([(0, 3), (3, 7), (7, 10)], 1):
        mean = np.mean([loss for _, loss in losses[first:last]])
        assert curve["loss_nats"][i] == pytest.approx(mean, rel=1e-12)
        assert curve["learning_rate"][i] == losses[last - 1][0]
    examples = read_table(tmp_path / "examples.parquet", "pretrain_examples")
    total = examples["loss_sum_nats"].to_numpy().sum() / examples["label_tokens"].to_numpy().sum()
    assert curve["heldout_nats"][-1] == pytest.approx(total, abs=1e-12)


def test_a_second_stage_goes_on_where_the_first_has_ended(inputs, tmp_path, monkeypatch):
    rates, original = [], Training.step

    def take(under_way, ids, rate):
        rates.append(rate)
        return original(under_way, ids, rate)

    monkeypatch.setattr(Training, "step", take)
    first = trained(inputs, tmp_path / "1", end=0.45)
    second = trained(inputs, tmp_path / "2", start=first, stage=2, begin=0.45, end=1.0, **FROM_BASE)
    schedule = trainings.pretrain_settings().training
    assert rates == [warm_up_stable_decay(schedule, step, 10) for step in range(10)]
    curves = [
        read_table(tmp_path / f"{n}/curve.parquet", "pretrain_curve")["step"].to_pylist()
        for n in (1, 2)
    ]
    assert curves == [[0, 3], [7, 10]]
    done = [json.loads((m / "training.json").read_text())["pretrain"] for m in (first, second)]
    assert done == [{"steps": step, "tokens": step * BATCH} for step in (4, 10)]
    counted = load_file(second / "optimizer.safetensors")
    assert {float(t) for name, t in counted.items() if name.endswith(".step")} == {10.0}


def test_a_milestone_is_the_model_of_a_training_that_ends_there(inputs, tmp_path):
    command = trainings.command("pretrain", inputs, tmp_path / "whole", milestones=[0.2, 0.5])
    assert cli.main(command) == 0
    kept = tmp_path / "whole/random/seed-0.milestones"
    assert sorted(path.name for path in kept.iterdir()) == ["step-2", "step-5"]
    ended = trained(inputs, tmp_path / "half", end=0.5)
    for name in ("model.safetensors", "optimizer.safetensors", "training.json"):
        assert (kept / "step-5" / name).read_bytes() == (ended / name).read_bytes()


def test_the_last_models_are_kept_beside_the_milestones(inputs, tmp_path, monkeypatch):
    """Of a training of ten steps that is killed again and again."""
    often = {"milestones": [0.2], "save_steps": 3, "save_total_limit": 2}

    def make(folder):
        cli.main(trainings.command("pretrain", inputs, folder, **often))
        return folder / "random/seed-0"

    attempts, _ = killed.survives(monkeypatch, tmp_path, Training, "step", every=4, make=make)
    assert attempts > 2
    kept = tmp_path / "killed/random/seed-0.milestones"
    assert sorted(path.name for path in kept.iterdir()) == ["step-2", "step-6", "step-9"]


def test_the_model_can_be_probed_and_be_the_base_of_another_run(inputs, tmp_path):
    model = trained(inputs, tmp_path)
    again = tmp_path / "base"
    base.run(
        small.base_settings(checkpoint=str(model)),
        tokenizer=inputs.run.tokenizer,
        training_pool=inputs.run.training_pool,
        output=again,
    )
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (again / name).read_bytes() == (model / name).read_bytes()
    settings = per_stage.ProbeSettings(selection_examples=6, learning_rate=small.RATE)
    labels = []
    for folder in (model, again):
        output = tmp_path / f"{folder.name}.parquet"
        run = inputs.run
        given = {n: getattr(run, n) for n in ("probe_pool", "reference", "rollouts")}
        probe.run(settings, base=folder, **given, part=0, parts=4, output=output)
        labels.append(read_table(output, "probe")["influence_nats"].to_numpy())
    assert np.abs(labels[0]).min() > 0
    assert np.array_equal(*labels)


def test_a_training_can_be_compiled_and_tracked(inputs, tmp_path, monkeypatch):
    """Sharded ones are among those of several processes, above."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    models = [
        trained(inputs, tmp_path / name, how=how)
        for name, how in (("plain", {}), ("other", {"compile": 1, "tracker": "tensorboard"}))
    ]
    assert len(compiled) == 1
    assert list((tmp_path / "other/random/tensorboard").rglob("*tfevents*"))
    one, two = ((model / "model.safetensors").read_bytes() for model in models)
    assert one == two


def test_a_training_that_ends_within_its_warm_up_is_told(inputs, tmp_path, capsys):
    for warmup_steps, told in ((2, False), (500, True)):
        trained(inputs, tmp_path / f"{warmup_steps}", warmup_steps=warmup_steps)
        assert ("end within its warm-up of" in capsys.readouterr().err) == told


def test_weights_from_scratch_are_those_of_the_seed(inputs):
    def weights(number):
        settings = trainings.pretrain_settings()
        language = load_tokenizer(inputs.run.base)
        model, *_ = pretrain.starting_model(settings, inputs.run.base, language, number)
        return model.get_input_embeddings().weight.tolist()

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.25), (3, 1.0), (4, 1.0), (9, 1.0), (10, 0.82), (14, 0.1)]
)
def test_the_learning_rate_rises_stays_and_falls_to_its_last_value(step, rate):
    changed = {"warmup_steps": 4, "decay_share": 1 / 3, "decay_to": 0.1, "learning_rate": 1.0}
    schedule = trainings.pretrain_settings(**changed).training
    assert warm_up_stable_decay(schedule, step, 15) == pytest.approx(rate)


# What is refused


def test_more_passes_than_allowed_are_refused_with_their_numbers(inputs, parts, tmp_path):
    with pytest.raises(UserError, match=r"at most 1\.5 passes") as caught:
        trained(inputs, tmp_path, tokens=10**5, how={"max_passes": 1.5})
    whole = len(TokenWindows(parts, small.SEQUENCE))
    rows = 2 * -(-(10**5) // BATCH)
    assert f"{rows / whole:.2f}: {rows * 24:,} tokens" in caught.value.found
    assert f"{whole:,} windows of 24 tokens" in caught.value.found


def test_a_loss_that_is_no_number_names_its_text_and_spoils_nothing_that_was_kept(
    inputs, parts, tmp_path, monkeypatch
):
    calls, original = [], lm.token_losses

    def losses(model, ids, *predicted):
        calls.append(ids.tolist())
        loss, square = original(model, ids, *predicted)
        return loss * (math.nan if len(calls) == 3 else 1), square

    monkeypatch.setattr(lm, "token_losses", losses)
    killed.saving(monkeypatch)
    with pytest.raises(UserError, match="a finite loss in every step") as caught:
        trained(inputs, tmp_path)
    text = TokenWindows(parts, small.SEQUENCE)
    every = text.rows(np.arange(len(text))).tolist()
    ours = np.array([every.index(row) for row in calls[2]])
    names, ids = (", ".join(f) for f in (text.names(ours), text.documents_of(ours)))
    where = f"pretrain random seed 0, step 3 of 10, of the windows {names} with the documents {ids}"
    assert (caught.value.found, caught.value.where) == ("nan", where)
    kept = folder_of(tmp_path / "random/seed-0")
    assert [path.name for path in kept.glob("*.safetensors")] == ["after-2.safetensors"]
    assert all(t.isfinite().all() for t in load_file(kept / "after-2.safetensors").values())
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_documents_of_a_window_are_those_that_have_a_token_in_it(parts):
    text = TokenWindows(parts, small.SEQUENCE)
    first = len(windows(np.load(parts[0] / "tokens.npy"), small.SEQUENCE))
    for window, (part, place) in {first - 1: (0, first - 1), first + 2: (1, 2)}.items():
        table = read_table(parts[part] / "documents.parquet", "pretrain_documents")
        owners = np.repeat(table["doc_id"].to_numpy(), table["tokens"].to_numpy())
        inside = owners[place * small.SEQUENCE :][: small.SEQUENCE + 1].tolist()
        assert text.documents_of(np.array([window])) == list(dict.fromkeys(inside))
        assert text.names(np.array([window])) == [f"{parts[part].name} {place}"]


def test_windows_that_are_longer_than_a_selection_are_refused(inputs, parts):
    text = TokenWindows(parts, 10**5)
    model = small.tiny_lm()
    with pytest.raises(UserError, match="more than 100,000 tokens"):
        pretrain.check_tokens(text, model, load_tokenizer(inputs.run.base))


def test_a_token_without_an_embedding_is_refused_before_the_training(inputs, parts):
    text = TokenWindows(parts, small.SEQUENCE)
    with pytest.raises(UserError, match="token ids below 50"):
        pretrain.check_tokens(text, small.tiny_lm(), load_tokenizer(inputs.run.base))
