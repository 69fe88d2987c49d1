"""The training loop: what it keeps, what it tells, and how it spreads over processes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import killed
import small
import together
from groupmates.artefacts.store import Provenance
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models import tracking
from groupmates.models.resumable import Training

STEPS = 4


def training(output: Path, provenance: Provenance | None = None, **options: Any) -> Training:
    model = small.tiny_lm(small.LLAMA)
    optimizer = lm.make_optimizer(model, small.ADAMW)
    provenance = provenance or Provenance("curve", {})
    return Training(output, "curve", provenance, model, optimizer, 0, small.ADAMW, **options)


def batch(step: int) -> torch.Tensor:
    """Five sequences, which no number of processes shares evenly; the last of all are two."""
    rows = 2 if step == STEPS - 1 else 5
    return torch.from_numpy(np.random.default_rng(step).integers(0, 50, (rows, 13)))


def trained(under_way: Training, until: int = STEPS, spoiled: int | None = None) -> list[float]:
    """The losses of the steps that are left; broken off after `until`, weights spoiled in one."""
    losses = []
    with under_way:
        for step in under_way.steps(STEPS, "tiny"):
            if step == until:
                raise RuntimeError("broken off")
            rate = math.inf if step == spoiled else 1e-2
            losses.append(float(under_way.step(batch(step), rate)))
    return losses


def loss_of(model) -> float:
    return float(lm.next_token_loss(model, batch(0), 0.0).detach())


# Sharded


def shard(folder: Path, until: int, rank: int, count: int) -> None:
    """The training as one of `count` processes that have a part of every tensor each."""
    lm.MICRO_TOKENS = 26  # two rows: more passes in some processes than in others
    together.meet(folder / f"meeting-{count}", rank, count)
    with pytest.MonkeyPatch.context() as patch:
        killed.saving(patch, 1)
        under_way = training(folder / "curve.parquet", sharding="fsdp")
        if until < STEPS:
            with pytest.raises(RuntimeError, match="broken off"):
                trained(under_way, until)
            return
        losses = trained(under_way)
    assert len(losses) == STEPS - 2
    looked = under_way.look(loss_of)
    whole = under_way.whole()
    assert (whole is None) == (looked is None) == (rank > 0)
    if whole:
        model, optimizer = whole
        model.save_pretrained(folder / "model")
        lm.save_optimizer(optimizer, model, folder / "optimizer.safetensors")
        np.save(folder / "losses.npy", [*losses, looked])


def test_sharded_processes_take_the_steps_of_one_and_go_on_in_another_number(tmp_path):
    for count, until in ((2, 2), (3, STEPS)):
        together.run(count, shard, tmp_path, until)
    one = training(tmp_path / "one.parquet")
    losses = trained(one)
    model, optimizer = one.whole()
    looked = one.look(loss_of)
    assert np.load(tmp_path / "losses.npy") == pytest.approx([*losses[2:], looked], rel=1e-4)
    sharded = lm.load_lm(tmp_path / "model")
    loaded = lm.make_optimizer(sharded, small.ADAMW)
    lm.load_optimizer(loaded, sharded, tmp_path / "optimizer.safetensors")
    for (name, ours), theirs in zip(model.named_parameters(), sharded.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5), name
        for key in lm.STATE:
            state, other = optimizer.state[ours][key], loaded.state[theirs][key]
            assert torch.allclose(state, other, rtol=1e-3, atol=1e-6), (name, key)


# Processes that disagree


def disagree(folder: Path, rank: int, count: int) -> None:
    """The last process reads another file; then it has other weights after a step."""
    together.meet(folder / "meeting", rank, count)
    seen = Provenance("curve", {}, {"tokens[0]": "another" if rank == 2 else "one"})
    with pytest.raises(
        UserError, match=r"same tokens\[0\] in each of 3 .*\n.* one in process 0, ano"
    ):
        training(folder / "other.parquet", provenance=seen)
    under_way = training(folder / "curve.parquet")
    original = under_way.step

    def takes(*arguments: Any) -> torch.Tensor:
        loss = original(*arguments)
        if rank == 2 and under_way.done == 1:
            with torch.no_grad():
                next(under_way.joined.parameters()).mul_(1.01)
        return loss

    under_way.step = takes  # type: ignore[method-assign]
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(UserError, match=r"same weights in each of 3 .*\n(.*\n)*.* step 2 of"),
    ):
        killed.saving(patch)
        trained(under_way)


def test_processes_that_see_other_files_or_have_other_weights_are_told(tmp_path):
    together.run(3, disagree, tmp_path)


# What is not finite


@pytest.mark.parametrize(("spoiled", "named"), [(1, 2), (STEPS - 1, STEPS)])
def test_weights_that_are_spoiled_are_told_by_their_step_and_never_kept(
    spoiled, named, tmp_path, monkeypatch
):
    killed.saving(monkeypatch, 1)
    under_way = training(tmp_path / "curve.parquet", todo="mend it")
    under_way.told = lambda step: f", window {100 + step}"
    with pytest.raises(UserError) as caught:
        trained(under_way, spoiled=spoiled)
    assert caught.value.where == f"tiny, step {named} of 4, window {99 + named}"
    assert caught.value.todo == "mend it"
    again = training(tmp_path / "curve.parquet")
    assert again.done == spoiled
    assert all(p.isfinite().all() for p in again.whole()[0].parameters())


def test_a_loss_that_is_not_finite_is_told_by_the_first_such_step(tmp_path):
    with pytest.raises(UserError, match="step 3 of 4") as caught:
        trained(training(tmp_path / "curve.parquet"), spoiled=1)
    assert caught.value.found == "nan"


# Trackers


def test_a_tracker_has_every_step_and_what_the_loop_adds(tmp_path):
    under_way = training(tmp_path / "random/seed-0.parquet", tracker="tensorboard")
    with under_way:
        losses = []
        for step in under_way.steps(STEPS, "tiny"):
            if step == 2:
                under_way.log(heldout_nats=0.5)
            losses.append(float(under_way.step(batch(step), 0.01 * step)))
        under_way.log(heldout_nats=0.25)
    events = EventAccumulator(str(tmp_path / "random/tensorboard/random-seed-0.parquet"))
    events.Reload()
    told = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    assert told["loss_nats"] == pytest.approx(dict(enumerate(losses)))
    assert told["learning_rate"] == pytest.approx({s: 0.01 * s for s in range(STEPS)})
    assert told["heldout_nats"] == {2: 0.5, STEPS: 0.25}
    assert list(told["tokens_per_second"]) == [STEPS - 1]


def test_a_tracker_that_fails_is_told_once_and_the_training_goes_on(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(tracking.LOGGER_TYPE_TO_CLASS["tensorboard"], "log", fail)
    assert len(trained(training(tmp_path / "curve.parquet", tracker="tensorboard"))) == STEPS
    assert capsys.readouterr().err.count("no network") == 1


@pytest.mark.parametrize(("name", "todo"), [("wandb", "pip install wandb"), ("paper", "name one")])
def test_a_tracker_that_is_not_there_is_told_before_the_training(name, todo, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    with pytest.raises(UserError, match=todo):
        training(tmp_path / "curve.parquet", tracker=name)


def test_the_last_line_has_loss_and_tokens_per_second(tmp_path, capsys):
    losses = trained(training(tmp_path / "curve.parquet"))
    assert f"· loss {losses[-1]:.3f} · " in capsys.readouterr().err.splitlines()[-1]


def test_a_compiled_training_takes_the_same_steps(tmp_path, monkeypatch):
    compiled, original = [], torch.compile

    def traced(model):  # without a compiler, which takes a minute
        compiled.append(model)
        return original(model, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    under_way = training(tmp_path / "curve.parquet", compile=True)
    assert compiled == [under_way.whole()[0]]
    plain = trained(training(tmp_path / "plain.parquet"))
    assert trained(under_way) == pytest.approx(plain, rel=1e-5)
