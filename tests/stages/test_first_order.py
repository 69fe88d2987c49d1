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


def test_a_label_is_the_product_of_two_gradients_in_adamws_metric(small_run, whole):
    model, optimizer, hyper = open_base(small_run.base)
    model.eval()
    weights = list(model.parameters())
    reference, _ = reference_part(small_run.reference, "selection", EXAMPLES)
    reference.pull_back(model)
    of_reference = [p.grad.double() for p in weights]
    step = float(optimizer.state[weights[0]]["step"]) + 1
    norm = float(sum(g.square().sum() for g in of_reference)) ** 0.5
    roots = []  # of the second moment after a step on the reference
    for parameter, gradient in zip(weights, of_reference, strict=True):
        clipped = gradient * min(1.0, hyper.clip_norm / norm)
        before = optimizer.state[parameter]["exp_avg_sq"].double()
        second = hyper.beta2 * before + (1 - hyper.beta2) * clipped.square()
        roots.append((second / (1 - hyper.beta2**step)).sqrt())
    rate = hyper.learning_rate * (1 - hyper.beta1) / (1 - hyper.beta1**step)
    expected = {}
    for doc_id, tokens in sequences_of(small_run.probe_pool).items():
        model.zero_grad()
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        lm.next_token_loss(model, ids, z_loss=0.0).backward()
        product = sum(
            float((a * p.grad.double() / (root + hyper.epsilon)).sum())
            for a, p, root in zip(of_reference, weights, roots, strict=True)
        )
        expected[doc_id] = -rate * product
    found = by_id(whole)
    assert [found[d] for d in expected] == pytest.approx(
        list(expected.values()), rel=0.02, abs=1e-6
    )
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


def test_the_learning_rate_of_a_step_scales_labels_and_changes_no_loss(small_run, whole):
    reference, _ = reference_part(small_run.reference, "selection", EXAMPLES)
    full, tenth = (
        FirstOrder(small_run.base, reference, StepRate(factor=factor, absolute=None)).rate
        for factor in (1.0, 0.1)
    )
    assert full == pytest.approx(10 * tenth)
    towards, away, influence = (
        whole[name].to_numpy() for name in ("loss_towards_nats", "loss_away_nats", "influence_nats")
    )
    assert influence == pytest.approx(full * (away - towards))


@pytest.mark.parametrize("parts", [2, 7])
def test_any_number_of_jobs_gives_the_same_rows(small_run, whole, tmp_path, monkeypatch, parts):
    # So few tokens a pass that there are batches for the jobs, and that each holds several documents.
    monkeypatch.setattr(lm, "CACHED_TOKENS", 3 * small.SEQUENCE)
    (tmp_path / "whole").mkdir()
    one = labelled(small_run, tmp_path / "whole")
    found = [labelled(small_run, tmp_path, part, parts) for part in range(parts)]
    assert pa.concat_tables(found).equals(one)
    assert max(map(len, found)) < len(one)
    assert by_id(one) == pytest.approx(by_id(whole), rel=1e-3)


@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_job_goes_on_after_its_last_save_with_the_same_bytes(
    small_run, tmp_path, monkeypatch, every
):
    monkeypatch.setattr(lm, "CACHED_TOKENS", 2 * small.SEQUENCE)

    def make(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        labelled(small_run, folder)
        return folder / "part-0-of-1.parquet"

    attempts, batches = killed.survives(monkeypatch, tmp_path, FirstOrder, "losses", 5, make, every)
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
        model.losses([np.array([1, vocabulary])], ["doc-x"])
    assert "doc-x" in caught.value.where
