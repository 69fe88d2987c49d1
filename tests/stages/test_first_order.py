"""First-order labels: a product of gradients written out, the steps they foretell, jobs and kills."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

import killed
import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.maths.statistics import spearman
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import open_base
from groupmates.models.first_order import FirstOrder
from groupmates.models.probing import Probing, sequences_of
from groupmates.models.reference import reference_part
from groupmates.settings.per_stage import ProbeSettings
from groupmates.settings.sections import StepRate
from groupmates.stages import first_order

EXAMPLES = 6


def labelled(
    run: small.Run, folder: Path, part: int = 0, parts: int = 1, base: Path | None = None
) -> pa.Table:
    output = folder / f"part-{part}-of-{parts}.parquet"
    first_order.run(
        ProbeSettings(selection_examples=EXAMPLES, learning_rate=small.RATE),
        base=base or run.base,
        probe_pool=run.probe_pool,
        reference=run.reference,
        part=part,
        parts=parts,
        output=output,
    )
    return read_table(output, "first_order")


@pytest.fixture(scope="module")
def whole(small_run, tmp_path_factory) -> pa.Table:
    return labelled(small_run, tmp_path_factory.mktemp("first_order"))


def by_id(table: pa.Table) -> dict[str, float]:
    return dict(zip(table["doc_id"].to_pylist(), table["influence_nats"].to_pylist(), strict=True))


def test_every_document_of_the_probe_pool_has_one_label(small_run, whole):
    assert sorted(whole["doc_id"].to_pylist()) == sorted(sequences_of(small_run.probe_pool))


def test_a_label_is_the_slope_of_the_reference_loss_along_a_clipped_step(small_run, whole):
    model, optimizer, hyper = open_base(small_run.base)
    model.eval()
    weights = list(model.parameters())
    reference, _ = reference_part(small_run.reference, "selection", EXAMPLES)
    reference.pull_back(model)
    slopes = [p.grad.clone() for p in weights]
    before = lm.Snapshot(model, optimizer)
    expected, norms = {}, {}
    for doc_id, tokens in sequences_of(small_run.probe_pool).items():
        before.restore()
        start = [p.detach().clone() for p in weights]
        model.zero_grad()
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        lm.next_token_loss(model, ids, hyper.z_loss).backward()
        norms[doc_id] = float(torch.nn.utils.clip_grad_norm_(weights, hyper.clip_norm))
        optimizer.step()
        moved = zip(slopes, weights, start, strict=True)
        expected[doc_id] = sum(float((r * (p.detach() - w)).double().sum()) for r, p, w in moved)
    found = by_id(whole)
    assert [found[d] for d in expected] == pytest.approx(
        list(expected.values()), rel=1e-3, abs=1e-6
    )
    assert min(norms.values()) > hyper.clip_norm
    assert whole["gradient_norm"].to_pylist() == pytest.approx(list(norms.values()), rel=1e-4)
    assert min(expected.values()) < 0  # the documents are of the reference's words


def test_labels_rank_documents_as_small_steps_do(small_run, whole):
    reference, _ = reference_part(small_run.reference, "selection", EXAMPLES)
    probing = Probing(small_run.base, reference, StepRate(factor=0.01, absolute=None))
    start, found = probing.snapshot(), by_id(whole)
    measured = {}
    for doc_id, tokens in sequences_of(small_run.probe_pool).items():
        start.restore()
        probing.train(tokens)
        measured[doc_id] = probing.loss(doc_id, "") - probing.start_loss
    exact, labels = (np.array([of[d] for d in measured]) for of in (measured, found))
    assert spearman(labels, exact) > 0.85


def test_the_learning_rate_of_a_step_scales_labels(small_run):
    full, tenth = (opened(small_run, StepRate(factor=f, absolute=None)) for f in (1.0, 0.1))
    tokens, doc_ids = some(small_run, 5)
    found = [model.influences(tokens, doc_ids) for model in (full, tenth)]
    assert found[0][:, :2].tolist() == found[1][:, :2].tolist()
    assert found[0][:, 2] == pytest.approx(10 * found[1][:, 2], rel=1e-9)


@pytest.mark.parametrize("parts", [2, 7])
def test_any_number_of_jobs_gives_the_same_rows(small_run, whole, tmp_path, parts):
    found = [labelled(small_run, tmp_path, part, parts) for part in range(parts)]
    assert pa.concat_tables(found).equals(whole)
    assert max(map(len, found)) < len(whole)


# Documents that a GPU reads together


def opened(run: small.Run, rate: StepRate = small.RATE, together: int = 1) -> FirstOrder:
    reference, _ = reference_part(run.reference, "selection", EXAMPLES)
    model = FirstOrder(run.base, reference, rate)
    model.group = model.together = together
    return model


def some(run: small.Run, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Documents of different lengths, and their ids."""
    pool = list(sequences_of(run.probe_pool).items())[:count]
    return [tokens[: len(tokens) - i] for i, (_, tokens) in enumerate(pool)], [d for d, _ in pool]


def test_documents_that_are_read_together_have_the_labels_of_each_alone(
    small_run, capsys, monkeypatch
):
    tokens, doc_ids = some(small_run, 7)
    alone = np.concatenate(
        [opened(small_run).influences([t], [d]) for t, d in zip(tokens, doc_ids, strict=True)]
    )
    monkeypatch.setattr("groupmates.models.first_order.BATCHES", 1)
    model = opened(small_run, together=3)
    batches = model.batches(tokens)
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))
    assert sorted(map(len, batches)) == [2, 2, 3]
    for rows in batches:
        found = model.influences([tokens[i] for i in rows], [doc_ids[i] for i in rows])
        assert found == pytest.approx(alone[rows], rel=1e-4, abs=1e-7)
    assert "from here on" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "together"),
    [(torch.OutOfMemoryError("no memory"), 3), (RuntimeError("vmap: item()"), 1)],
)
def test_a_model_or_a_memory_that_cannot_have_so_many_reads_fewer(
    small_run, capsys, monkeypatch, error, together
):
    tokens, doc_ids = some(small_run, 7)
    expected = opened(small_run).influences(tokens, doc_ids)
    model, gradients = opened(small_run, together=7), FirstOrder._gradients

    def of_few(self, sequences):
        if len(sequences) > together:
            raise error
        return gradients(self, sequences)

    monkeypatch.setattr(FirstOrder, "_gradients", of_few)
    assert model.influences(tokens, doc_ids) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert model.together == together
    assert capsys.readouterr().err.count(f"read {together} at a time from here on") == 1


def test_jobs_on_any_device_share_the_documents_alike(small_run):
    tokens, _ = some(small_run, 7)
    batches = opened(small_run, together=3).batches(tokens)
    model = opened(small_run, together=3)
    model.together = 1  # as on a CPU, or where memory is short
    assert [rows.tolist() for rows in model.batches(tokens)] == [rows.tolist() for rows in batches]


# Kills


@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_job_goes_on_after_its_last_save_with_the_same_bytes(
    small_run, tmp_path, monkeypatch, every
):
    def make(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        labelled(small_run, folder)
        return folder / "part-0-of-1.parquet"

    attempts, batches = killed.survives(
        monkeypatch, tmp_path, FirstOrder, "influences", 5, make, every
    )
    assert attempts > 2
    assert len(batches) <= 24 + attempts * every  # a document has at most one batch


# Refusals


def test_a_checkpoint_whose_loss_its_own_gradient_does_not_lower_is_refused(small_run, tmp_path):
    broken = tmp_path / "base"
    shutil.copytree(small_run.base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="finite") as caught:
        labelled(small_run, tmp_path, base=broken)
    assert caught.value.where == str(broken)


def test_a_token_past_the_embedding_names_its_document(small_run, tmp_path):
    reference, _ = reference_part(small_run.reference, "selection", EXAMPLES)
    model = FirstOrder(small_run.base, reference, small.RATE)
    vocabulary = json.loads((small_run.base / "config.json").read_text())["vocab_size"]
    with pytest.raises(UserError, match="rows of the model's embedding") as caught:
        model.influences([np.array([1, vocabulary])], ["doc-x"])
    assert "doc-x" in caught.value.where
