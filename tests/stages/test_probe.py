"""Oracle influences: marginals of recorded losses, the same in any number of jobs."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

import killed
import small
import tables
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.probing import Probing
from groupmates.models.reference import Reference, reference_part
from groupmates.models.tokenizer import token_lists
from groupmates.settings.per_stage import ProbeSettings
from groupmates.settings.sections import StepRate
from groupmates.stages import draw_rollouts, probe


def probed(
    run, folder, part: int = 0, parts: int = 1, rate: StepRate = small.RATE, **paths
) -> pa.Table:
    output = folder / f"shard-{part}-of-{parts}.parquet"
    inputs = {n: getattr(run, n) for n in ("base", "probe_pool", "reference", "rollouts")} | paths
    settings = ProbeSettings(selection_examples=6, learning_rate=rate)
    probe.run(settings, **inputs, part=part, parts=parts, output=output)
    return read_table(output, "probe")


def plan_of(run, folder, keep=lambda rollout: True) -> object:
    table = read_table(run.rollouts, "rollouts")
    rows = [r for r in table.to_pylist() if keep(r["rollout"])]
    columns = {name: [r[name] for r in rows] for name in table.column_names}
    return tables.write(folder / "plan.parquet", "rollouts", **columns)


@pytest.fixture(scope="module")
def whole(small_run, tmp_path_factory) -> pa.Table:
    return probed(small_run, tmp_path_factory.mktemp("probe"))


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().reshape(-1, small.LENGTH)


# Plans


def test_a_plan_has_every_step_of_every_rollout_in_order(small_run):
    plan = read_table(small_run.rollouts, "rollouts")
    assert plan["rollout"].to_pylist() == [r for r in range(7) for _ in range(small.LENGTH)]
    assert plan["step"].to_pylist() == [1, 2, 3] * 7
    pool = set(read_table(small_run.probe_pool, "probe_pool")["doc_id"].to_pylist())
    for documents in column(plan, "doc_id").tolist():
        assert len(set(documents)) == small.LENGTH
        assert set(documents) <= pool


def test_a_longer_plan_begins_with_the_shorter_one(small_run, tmp_path):
    output = tmp_path / "plan.parquet"
    draw_rollouts.run_random(
        small.plan_settings(20), probe_pool=small_run.probe_pool, output=output
    )
    longer = read_table(output, "rollouts")
    assert longer.slice(0, 21).equals(read_table(small_run.rollouts, "rollouts"))


# Labels


@pytest.mark.parametrize(
    ("rate", "applied"),
    [
        (small.RATE, small.ADAMW.learning_rate),
        (StepRate(factor=0.25, absolute=None), 0.25 * small.ADAMW.learning_rate),
        (StepRate(factor=None, absolute=3e-4), 3e-4),
    ],
)
def test_losses_and_influences_follow_from_steps_taken_one_by_one(
    small_run, tmp_path, rate, applied
):
    """The first two rollouts again, each on a model opened anew."""
    plan = plan_of(small_run, tmp_path, keep=lambda rollout: rollout < 2)
    table = probed(small_run, tmp_path, rate=rate, rollouts=plan)
    tokens = read_table(small_run.probe_pool, "probe_pool")
    sequence_of = dict(zip(tokens["doc_id"].to_pylist(), token_lists(tokens), strict=True))
    reference = reference_part(small_run.reference, "selection", 6)[0]
    for rollout in range(2):
        model = lm.load_lm(small_run.base).train()
        hyper = small.ADAMW.model_copy(update={"learning_rate": applied})
        optimizer = lm.make_optimizer(model, hyper)
        lm.load_optimizer(optimizer, model, small_run.base / "optimizer.safetensors")
        losses = [reference.loss(model)]
        for doc_id in column(table, "doc_id")[rollout]:
            ids = torch.from_numpy(sequence_of[doc_id].astype(np.int64))[None]
            lm.train_step(model, optimizer, ids, 1.0, 1e-4)
            losses.append(reference.loss(model))
        assert column(table, "loss_before_nats")[rollout].tolist() == losses[:-1]
        assert column(table, "loss_after_nats")[rollout].tolist() == losses[1:]


def test_a_step_begins_at_the_loss_that_the_step_before_ended_at(whole):
    before, after = column(whole, "loss_before_nats"), column(whole, "loss_after_nats")
    assert np.array_equal(before[:, 1:], after[:, :-1])
    assert len(np.unique(before[:, 0])) == 1  # every rollout starts at the checkpoint
    assert len(np.unique(after)) > 7


def test_an_influence_is_the_difference_of_two_recorded_losses(whole):
    # The trap: differencing in place subtracts already-differenced values from the second step on.
    before, after = column(whole, "loss_before_nats"), column(whole, "loss_after_nats")
    influence = column(whole, "influence_nats")
    assert np.array_equal(influence, after - before)
    assert influence.sum(axis=1) == pytest.approx(after[:, -1] - before[:, 0], abs=1e-12)
    assert np.abs(influence).min() > 0


@pytest.mark.parametrize("parts", [2, 7, 9])
def test_any_number_of_jobs_gives_the_same_rows(small_run, whole, tmp_path, parts):
    found = [probed(small_run, tmp_path, part, parts) for part in range(parts)]
    assert pa.concat_tables(found).equals(whole)
    sizes = [len(t) // small.LENGTH for t in found]
    assert max(sizes) - min(sizes) <= 1


def test_a_model_with_dropout_has_the_same_labels_in_any_number_of_jobs(small_run, tmp_path):
    # Found here once: dropout drew from one stream over all rollouts of a job.
    with_dropout = small.dropout_base(small_run, tmp_path)
    one, three = (
        pa.concat_tables(
            probed(small_run, tmp_path, part, parts, base=with_dropout) for part in range(parts)
        )
        for parts in (1, 3)
    )
    assert one.equals(three)


def test_a_checkpoint_without_a_finite_loss_is_named_and_no_document(small_run, tmp_path):
    broken = tmp_path / "base"
    shutil.copytree(small_run.base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["lm_head.weight"].fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="before any step") as caught:
        probed(small_run, tmp_path, base=broken)
    assert caught.value.where == str(broken)
    assert "doc-" not in str(caught.value)


def test_a_loss_that_is_no_number_names_rollout_step_and_document(small_run, tmp_path):
    broken = tmp_path / "base"
    shutil.copytree(small_run.base, broken)
    text = (broken / "training.json").read_text()
    rate = str(small.ADAMW.learning_rate)
    assert rate in text
    (broken / "training.json").write_text(text.replace(rate, "1e38"))
    plan = plan_of(small_run, tmp_path, keep=lambda rollout: rollout >= 3)
    with pytest.raises(UserError, match="finite reference loss") as caught:
        probed(small_run, tmp_path, base=broken, rollouts=plan)
    rows = read_table(plan, "rollouts").to_pylist()
    named = [r for r in rows if f"step {r['step']}" in caught.value.where and r["rollout"] == 3]
    assert "rollout 3" in caught.value.where
    assert repr(named[0]["doc_id"]) in caught.value.found
    assert not (tmp_path / "shard-0-of-1.parquet").exists()


# Resume


@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_killed_job_goes_on_after_its_last_save_with_the_same_bytes(
    small_run, tmp_path, monkeypatch, every
):
    """It dies at every seventh evaluation, at any step of a rollout."""

    def make(folder):
        folder.mkdir(exist_ok=True)
        probed(small_run, folder)
        return folder / "shard-0-of-1.parquet"

    attempts, evaluations = killed.survives(
        monkeypatch, tmp_path, Reference, "loss", 7, make, every
    )
    assert attempts > 3
    # One evaluation of the checkpoint per attempt, the one it dies at, and what was not yet saved.
    assert len(evaluations) <= 21 + attempts * (2 + every - 1)


def test_losses_of_plain_layers_are_not_subtracted_from_those_of_compiled_ones(
    small_run, tmp_path, monkeypatch, capsys
):
    killed.saving(monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed.dying(patch, Reference, "loss", 7)
        probed(small_run, tmp_path)
    monkeypatch.setattr(Probing, "compile_layers", lambda of, *_: setattr(of, "_longest", 64))
    probed(small_run, tmp_path, compile=1)
    assert "what was kept is of other settings or inputs; begins anew" in capsys.readouterr().err


def test_influences_that_drown_in_rounding_are_told_with_both_figures(
    small_run, tmp_path, monkeypatch, capsys
):
    probed(small_run, tmp_path / "clear")
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr(lm, "unit_roundoff", lambda: 1.0)
    table = probed(small_run, tmp_path / "drowned")
    spread = f"spread by {table['influence_nats'].to_numpy().std():.1e} nats"
    told = capsys.readouterr().err
    assert spread in told
    assert "raise probe.learning_rate.factor" in told
