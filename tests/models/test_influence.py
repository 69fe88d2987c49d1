"""The influence model as an artefact: what is saved is what was fitted, the encoder included."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import small
from groupmates.artefacts.store import Provenance, write_folder_provenance
from groupmates.errors import UserError
from groupmates.maths.labels import LabelScale
from groupmates.models.influence import InfluenceModel, Uncopied, make_encoder
from groupmates.settings import config
from small import bert_folder, fit_settings, words

KINDS = ["lm", "bert"]
TEXTS = [words(n, seed=n) for n in (3, 20, 9, 1, 14)]
SEQUENCES = [np.random.default_rng(n).integers(0, 50, n + 2).astype(np.int32) for n in range(5)]
ROLLOUTS = np.array([[0, 1, 2], [3, 1, 4]])
SCALE = LabelScale(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]))


@pytest.fixture
def learned(tmp_path, request):
    """A model whose every weight, the encoder's too, has moved from where it began."""
    lm_folder = tmp_path / "lm"
    small.tiny_lm().save_pretrained(lm_folder)
    name = "lm" if request.param == "lm" else str(bert_folder(tmp_path / "bert"))
    settings = fit_settings(name, "nearest")
    model = InfluenceModel(settings, make_encoder(settings, lm_folder))
    model.encoder.calibrate(model.encoder.prepare(TEXTS, SEQUENCES, 64))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("learned", KINDS, indirect=True)
def test_documents_that_are_not_copied_are_the_same_documents(learned):
    prepared = learned.encoder.prepare(TEXTS, SEQUENCES, 64)
    assert torch.equal(learned(Uncopied(prepared), ROLLOUTS), learned(prepared, ROLLOUTS))


def test_chunks_longer_than_the_encoder_has_positions_are_refused(tmp_path):
    settings = fit_settings(str(bert_folder(tmp_path / "bert")))
    encoder = settings.encoder.model_copy(update={"chunk_tokens": 17})
    with pytest.raises(UserError, match="at most 16 tokens") as caught:
        make_encoder(settings.model_copy(update={"encoder": encoder}), tmp_path)
    assert (caught.value.found, caught.value.where) == ("17", "fit.encoder.chunk_tokens")


def saved(model: InfluenceModel, folder):
    model.save(folder)
    (folder / "relation.json").write_text(json.dumps(model.relation_record(SCALE)))
    write_folder_provenance(folder, "fit", Provenance("fit", {}))
    return folder


@pytest.mark.parametrize("learned", KINDS, indirect=True)
def test_a_loaded_model_scores_as_the_fitted_one(learned, tmp_path):
    loaded = InfluenceModel.load(saved(learned, tmp_path / "fit"))
    assert set(loaded.state_dict()) == set(learned.state_dict())
    for name, tensor in learned.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    for before, after in zip(
        learned.score(TEXTS, SEQUENCES, 64), loaded.score(TEXTS, SEQUENCES, 64), strict=True
    ):
        assert np.array_equal(before, after)
    assert loaded.relation() == learned.relation()
    assert not loaded.training


@pytest.mark.parametrize("learned", KINDS, indirect=True)
def test_a_loaded_model_needs_nothing_but_its_folder(learned, tmp_path):
    folder = saved(learned, tmp_path / "fit")
    moved = folder.rename(tmp_path / "elsewhere")
    for other in ("lm", "bert"):
        if (tmp_path / other).exists():
            (tmp_path / other).rename(tmp_path / f"{other}-gone")
    assert InfluenceModel.load(moved).score(TEXTS, SEQUENCES, 64)[0].shape == (5,)


@pytest.mark.parametrize("learned", KINDS, indirect=True)
def test_a_model_file_without_a_weight_is_refused(learned, tmp_path):
    # A weight that is silently left at its beginning would score the whole pool wrongly.
    folder = saved(learned, tmp_path / "fit")
    weights = load_file(folder / "model.safetensors")
    del weights["head.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"head\.weight"):
        InfluenceModel.load(folder)


@pytest.mark.parametrize("learned", KINDS, indirect=True)
def test_the_record_has_what_was_learned(learned):
    record = learned.relation_record(SCALE)
    assert (record["alpha"], record["beta"]) == (learned.alpha.item(), learned.beta.item())
    assert 1.0 not in (record["alpha"], record["beta"])
    assert (record["kernel"], record["sharpness"]) == ("nearest", 4.0)
    assert record["head_bias"] == learned.head.bias.item()
    assert record["label_mean_nats"] == [0.1, 0.2, 0.3]
    assert record["label_std_nats"] == [1.0, 2.0, 3.0]
    assert config.Fit.model_validate(record["fit"]) == learned.settings


@pytest.mark.parametrize("learned", KINDS, indirect=True)
def test_scores_are_the_first_steps_of_theta(learned):
    individual, embeddings = learned.score(TEXTS, SEQUENCES, 64)
    weight, bias = learned.head.weight[0].detach().numpy(), learned.head.bias.item()
    assert individual == pytest.approx(embeddings @ weight + bias, abs=1e-5)
    prepared = learned.encoder.prepare(TEXTS, SEQUENCES, 64)
    with torch.no_grad():
        theta = learned(prepared, ROLLOUTS).numpy()
    assert theta[:, 0] == pytest.approx(individual[[0, 3]], abs=1e-5)
    # nearest kernel: alpha - alpha / beta * max(0, cosine) ** 4
    relation = learned.relation()
    cosine = max(0.0, float(embeddings[0] @ embeddings[1]))
    second = (relation.alpha - relation.alpha / relation.beta * cosine**4) * individual[1]
    assert theta[0, 1] == pytest.approx(second, abs=1e-5)


@pytest.mark.parametrize("learned", KINDS, indirect=True)
def test_scores_do_not_depend_on_batches_or_on_dropout(learned):
    learned.train()  # score turns dropout off by itself
    a, b = learned.score(TEXTS, SEQUENCES, 8)[0], learned.score(TEXTS, SEQUENCES, 9999)[0]
    assert a == pytest.approx(b, abs=1e-5)


def test_a_new_model_predicts_the_mean_label_for_every_document(tmp_path):
    small.tiny_lm().save_pretrained(tmp_path)
    settings = fit_settings("lm")
    model = InfluenceModel(settings, make_encoder(settings, tmp_path))
    model.encoder.calibrate(model.encoder.prepare(TEXTS, SEQUENCES, 64))
    assert model.score(TEXTS, SEQUENCES, 64)[0].tolist() == [0.0] * 5
    assert (model.alpha.item(), model.beta.item()) == (1.0, 1.0)
