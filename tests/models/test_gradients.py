"""Gradients of the attention layers against single backward passes, dense matrices and true steps."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

import small
from groupmates.errors import UserError
from groupmates.maths.conjugate_gradient import conjugate_gradient
from groupmates.models.gradients import AttentionGradients
from groupmates.models.reference import Reference

Z_LOSS = 0.01
RNG = np.random.default_rng(0)
DOCUMENTS = [RNG.integers(0, 50, n).astype(np.int32) for n in (5, 20, 20, 2, 40)]
EXAMPLES = [RNG.integers(0, 50, n).astype(np.int32) for n in (6, 4, 9)]
STARTS = np.array([2, 1, 7])


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    return GPT2LMHeadModel(config)


MODELS = {
    "llama": lambda: small.tiny_lm(small.LLAMA),
    "gpt_neox": lambda: small.tiny_lm(small.NEOX),
    "gpt2": gpt2,
}
NAMES = {
    "llama": {f"model.layers.0.self_attn.{p}_proj.weight" for p in "qkvo"},
    "gpt_neox": {
        f"gpt_neox.layers.0.attention.{m}.{k}"
        for m in ("query_key_value", "dense")
        for k in ("weight", "bias")
    },
    "gpt2": {
        f"transformer.h.0.attn.{m}.{k}" for m in ("c_attn", "c_proj") for k in ("weight", "bias")
    },
}
EVERY = pytest.mark.parametrize("name", MODELS)


def gradients(name):
    return AttentionGradients(MODELS[name](), Z_LOSS, "base")


def reference():
    return Reference(EXAMPLES, STARTS, batch_tokens=20)  # two batches


def flat(parts):
    return torch.cat([p.flatten() for p in parts])


def backward(found, loss):
    return flat(torch.autograd.grad(loss, list(found.parameters.values())))


def document_loss(model, sequence):
    """As a training step has it, one document at a time and without padding."""
    ids = torch.from_numpy(sequence.astype(np.int64))[None]
    logits = model(input_ids=ids[:, :-1]).logits[0]
    z = logits.logsumexp(-1).square().mean()
    return cross_entropy(logits, ids[0, 1:]) + Z_LOSS * z


def label_logits(model):
    """Logits of all label positions, one example at a time, and the labels."""
    rows, labels = [], []
    for example, start in zip(EXAMPLES, STARTS, strict=True):
        ids = torch.from_numpy(example.astype(np.int64))
        rows.append(model(input_ids=ids[None]).logits[0, start - 1 : -1])
        labels.append(ids[start:])
    return torch.cat(rows), torch.cat(labels)


def tracked(name):
    """The gradients' object, and its model with gradients of these parameters."""
    found = gradients(name)
    model = found._model
    for parameter in found.parameters.values():
        parameter.requires_grad_(True)
    return found, model


@EVERY
def test_the_parameters_are_those_of_the_attention_projections(name):
    assert set(gradients(name).parameters) == NAMES[name]


@EVERY
def test_a_dot_product_is_that_of_the_documents_own_gradient(name):
    found, model = tracked(name)
    vector = torch.randn(
        sum(p.numel() for p in found.parameters.values()),
        generator=torch.Generator().manual_seed(1),
    )
    expected = [float(backward(found, document_loss(model, d)) @ vector) for d in DOCUMENTS]
    model.requires_grad_(False)
    np.testing.assert_allclose(found.dots(DOCUMENTS, vector), expected, rtol=1e-4, atol=1e-6)
    alone = np.concatenate([found.dots([d], vector) for d in DOCUMENTS])
    np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-6)


@EVERY
def test_the_reference_gradient_is_that_of_the_mean_over_label_tokens(name):
    found, model = tracked(name)
    expected = backward(found, cross_entropy(*label_logits(model)))
    model.requires_grad_(False)
    torch.testing.assert_close(found.of_reference(reference()), expected, rtol=1e-4, atol=1e-7)


def dense_gauss_newton(found, model) -> torch.Tensor:
    """[P, P], from the derivative of every logit."""
    logits, _ = label_logits(model)
    parameters = list(found.parameters.values())
    total = 0.0
    for row in logits:
        jacobian = torch.stack(
            [flat(torch.autograd.grad(z, parameters, retain_graph=True)) for z in row]
        ).double()
        p = row.detach().double().softmax(-1)
        total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total / len(logits)


@EVERY
def test_conjugate_gradient_on_products_solves_the_dense_gauss_newton_system(name):
    found, model = tracked(name)
    matrix = dense_gauss_newton(found, model)
    model.requires_grad_(False)
    gradient, damping = found.of_reference(reference()), 1e-2
    expected = torch.linalg.solve(
        matrix + damping * torch.eye(len(matrix)), gradient.double()
    ).float()
    product = found.gauss_newton(reference(), gradient)
    torch.testing.assert_close(product, (matrix @ gradient.double()).float(), rtol=1e-3, atol=1e-6)
    solved, residual = conjugate_gradient(
        lambda v: found.gauss_newton(reference(), v) + damping * v, gradient, 60, 1e-5
    )
    assert residual <= 1e-5
    assert float((solved - expected).norm() / expected.norm()) < 1e-3
    # The curvature matters here: without it the direction is another one.
    plain = gradient / damping
    assert float((plain - expected).norm() / expected.norm()) > 1e-2


def test_minus_the_product_of_gradients_is_what_a_small_step_does_to_the_reference_loss():
    found, model = tracked("llama")
    steps = [backward(found, document_loss(model, d)) for d in DOCUMENTS]
    model.requires_grad_(False)
    examples, weights = reference(), flat(found.parameters.values()).clone()
    influence = -found.dots(DOCUMENTS, found.of_reference(examples))
    size, changes = 1e-2, []
    for step in steps:
        losses = []
        for sign in (-1.0, 1.0):
            moved = weights + sign * size * step
            nn.utils.vector_to_parameters(moved, found.parameters.values())
            losses.append(examples.loss(model))
        changes.append((losses[0] - losses[1]) / (2 * size))  # of a step against the gradient
    np.testing.assert_allclose(influence, changes, rtol=0.02, atol=1e-4)
    assert influence.min() < 0


def test_a_model_without_attention_is_refused():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

    with pytest.raises(UserError, match="none in Plain") as caught:
        AttentionGradients(Plain(), 0.0, "some/base")
    assert caught.value.where == "some/base"
