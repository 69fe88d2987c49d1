"""Compiled layers compute what plain ones do, or are not compiled at all.

Most tests trace the layers and leave out the compiler, which takes a minute. One has the compiler.
"""

import numpy as np
import pytest
import torch
from torch import nn

import small
from groupmates.artefacts.store import read_table
from groupmates.models import compiled
from groupmates.models import language_model as lm
from groupmates.models.compiled import compile_layers, layers_of
from groupmates.models.influence import InfluenceModel, make_encoder
from groupmates.models.probing import Probing, padded_length
from groupmates.models.reference import reference_part
from groupmates.models.tokenizer import token_lists

FAMILIES = [small.LLAMA, small.NEOX, small.QWEN]


@pytest.fixture
def traced(monkeypatch) -> list[nn.Module]:
    """The layers that were compiled, by tracing alone."""
    original, found = nn.Module.compile, []

    def compile_module(self, mode=None, dynamic=None):
        found.append(self)
        original(self, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    torch._dynamo.reset()
    return found


def model(architecture=small.LLAMA):
    return small.tiny_lm(architecture.model_copy(update={"layers": 3})).to(lm.device())


def trials(of: nn.Module) -> dict:
    return {"loss": lambda: [losses(of)]}


def losses(of: nn.Module) -> np.ndarray:
    with torch.no_grad():
        ids = torch.arange(12, device=lm.device())[None] % small.SEQUENCE
        return lm.token_losses(of, ids)[0][None].cpu().numpy()


@pytest.mark.parametrize("architecture", FAMILIES, ids=lambda a: a.family)
def test_all_layers_are_compiled_and_give_the_same(architecture, traced, capsys):
    of = model(architecture)
    before = losses(of)
    assert compile_layers(of, "probe", trials(of), dynamic=False)
    assert traced == layers_of(of)
    assert len(traced) == 3
    assert losses(of) == pytest.approx(before, rel=1e-6)
    assert "[probe] 3 layers compiled and compared" in capsys.readouterr().err


def test_every_pass_over_the_layers_begins_a_step_of_its_graphs(traced, monkeypatch):
    begun = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    of = model()
    assert compile_layers(of, "probe", trials(of), dynamic=False)
    del begun[:]
    losses(of)
    of.base_model(input_ids=torch.arange(3, device=lm.device())[None], use_cache=False)
    assert len(begun) >= 2


def test_a_compiler_that_fails_is_told_and_nothing_is_compiled(monkeypatch, capsys):
    def without(self, **how):
        self._compiled_call_impl = lambda *given, **named: 1 / 0

    monkeypatch.setattr(nn.Module, "compile", without)
    of = model()
    before, calls = losses(of), []

    def trial():
        calls.append(1)
        of.eval()
        # The first is to be without the compiler.
        return [losses(of) if len(calls) > 1 else before]

    assert not compile_layers(of, "probe", {"loss": trial})
    assert losses(of) == before
    assert of.training
    told = capsys.readouterr().err.splitlines()
    assert told == ["[probe] layers are not compiled: ZeroDivisionError: division by zero"]


def test_a_compiler_that_fails_without_a_word_is_told_by_its_kind(monkeypatch, capsys):
    def trial():
        assert not called
        called.append(1)
        return [np.ones(1)]

    called = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: None)
    assert not compile_layers(model(), "probe", {"loss": trial})
    assert "layers are not compiled: AssertionError" in capsys.readouterr().err


def test_layers_that_compute_something_else_are_not_compiled(traced, capsys):
    of, numbers = model(), iter([1.0, 1.03])
    assert not compile_layers(of, "probe", {"128 tokens": lambda: [np.array([next(numbers)])]})
    assert all(layer._compiled_call_impl is None for layer in layers_of(of))
    assert not of.base_model._forward_pre_hooks
    assert "128 tokens: results differ by 3.0% once compiled" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_not_compiled_either(traced):
    of, numbers = model(), iter([1.0, np.nan])
    assert not compile_layers(of, "probe", {"loss": lambda: [np.array([next(numbers)])]})


def test_a_gradient_of_one_layer_that_is_wrong_is_seen(traced):
    """Not hidden by the loss, nor by the norms of the other layers."""
    of, wrong = model(), iter([10.0, 9.0])
    trial = lambda: [np.array(10.0), np.array([1.0, next(wrong)])]  # noqa: E731
    assert not compile_layers(of, "probe", {"128 tokens": trial})


@pytest.mark.parametrize("works", [True, False])
def test_a_lost_gpu_is_no_fault_of_the_compiler_and_a_failed_capture_is(works, traced, monkeypatch):
    monkeypatch.setattr(compiled, "_gpu_works", lambda: works)

    def failed():
        raise torch.AcceleratorError("operation not permitted when stream is capturing")

    of = model()
    if works:
        assert not compile_layers(of, "probe", {"loss": failed})
    else:
        with pytest.raises(torch.AcceleratorError):
            compile_layers(of, "probe", {"loss": failed})


def test_a_model_that_names_no_layers_is_told(capsys):
    assert not compile_layers(nn.Linear(2, 2), "probe", {})
    assert "Linear names no layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("predicted", "expected"), [(1, 64), (64, 64), (65, 128), (129, 200), (200, 200)]
)
def test_documents_are_padded_to_powers_of_two_up_to_the_longest(predicted, expected):
    assert padded_length(predicted, 200) == expected


@pytest.mark.parametrize("architecture", FAMILIES, ids=lambda a: a.family)
def test_padding_changes_no_gradient(architecture):
    found = []
    for padding in (0, 9):
        of = model(architecture)
        ids = torch.arange(1, 16, device=lm.device())[None]
        predicted = 14 if padding else None
        loss = lm.pull_back(of, nn.functional.pad(ids, (0, padding)), 0.1, predicted=predicted)
        found.append(torch.cat([loss[None], *(p.grad.flatten() for p in of.parameters())]))
    assert torch.allclose(*found, atol=1e-6)


def probing(run) -> Probing:
    return Probing(run.base, reference_part(run.reference, "selection", 6)[0], small.RATE)


def influences(of: Probing, sequences: list[np.ndarray]) -> list[float]:
    start, found = of.snapshot(), []
    for number, sequence in enumerate(sequences):
        start.restore()
        of.train(sequence)
        found.append(of.loss(f"doc-{number}", "here") - of.start_loss)
    return found


def test_influences_of_compiled_layers_are_those_of_plain_ones(small_run, traced, monkeypatch):
    monkeypatch.setattr(
        "groupmates.models.probing.SHORTEST", 8
    )  # so that there are several lengths
    sequences = token_lists(read_table(small_run.probe_pool, "probe_pool"))[:8]
    expected = influences(probing(small_run), sequences)
    ours = probing(small_run)
    ours.compile_layers("probe", sequences)
    assert traced
    assert influences(ours, sequences) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_scores_of_a_compiled_encoder_are_those_of_a_plain_one(tmp_path, traced):
    folder = small.bert_folder(tmp_path)
    settings = small.fit_settings(str(folder))
    of = InfluenceModel(settings, make_encoder(settings, folder))
    nn.init.normal_(of.head.weight)
    read = of.encoder.read([f"w{i} w{i + 1} w{i + 2}" * (i % 3 + 1) for i in range(20)], [])
    expected = of.score_read(read, 64)
    of.compile_layers("score", read[:5])
    assert traced
    for found, plain in zip(of.score_read(read, 64), expected, strict=True):
        np.testing.assert_allclose(found, plain, atol=1e-5)


def test_the_encoder_lm_stays_as_it_is_and_that_is_told(small_run, tmp_path, traced, capsys):
    of = InfluenceModel.load(small.influence_model(small_run, tmp_path / "final"))
    of.compile_layers("score", [])
    assert not traced
    assert "[score] the layers of the encoder lm are not compiled" in capsys.readouterr().err


@pytest.mark.long
def test_the_compiler_itself_gives_the_same_influences(small_run):
    torch._dynamo.reset()
    sequences = token_lists(read_table(small_run.probe_pool, "probe_pool"))[:3]
    expected = influences(probing(small_run), sequences)
    ours = probing(small_run)
    ours.compile_layers("probe", sequences)
    assert ours.compiled
    assert influences(ours, sequences) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert compiled.layers_of(ours._model)[0]._compiled_call_impl is not None
