"""The probed language model: losses that count labels alone, and steps that can be taken back."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

import small
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.reference import Reference, head_is_linear

FAMILIES = pytest.mark.parametrize(
    "architecture", [small.LLAMA, small.NEOX, small.QWEN], ids=["llama", "gpt_neox", "qwen3"]
)
SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def example_set(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Reference examples of very unequal lengths and label counts."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 50, n).astype(np.int32) for n in (2, 30, 7, 7, 12, 30, 3, 19)]
    starts = np.array([rng.integers(1, len(s)) for s in sequences])
    return sequences, starts


def naive_sums(model, sequences, starts) -> list[float]:
    """Summed label losses, one example and one token at a time, without any padding."""
    sums = []
    for sequence, start in zip(sequences, starts, strict=True):
        ids = torch.from_numpy(sequence.astype(np.int64))
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        probability = torch.softmax(logits.double(), -1)
        sums.append(
            sum(-float(probability[t - 1, ids[t]].log()) for t in range(start, len(sequence)))
        )
    return sums


def state_of(model, optimizer) -> list[torch.Tensor]:
    """Copies of all weights, moments and step counters."""
    tensors = [p.detach().clone() for p in model.parameters()]
    return tensors + [
        optimizer.state[p][key].clone() for p in model.parameters() for key in lm.STATE
    ]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def step_on(model, optimizer, seed: int) -> None:
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, 50, (1, 13)))
    lm.train_step(model, optimizer, ids, 1.0, 1e-4)


def warm(architecture=small.LLAMA, steps: int = 4):
    """A model under way: weights moved, moments and step counters not zero."""
    model = small.tiny_lm(architecture)
    optimizer = lm.make_optimizer(model, small.ADAMW)
    for seed in range(steps):
        step_on(model, optimizer, seed)
    return model, optimizer


# Reference loss


@FAMILIES
@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_losses_are_those_of_examples_computed_one_by_one(architecture, batch_tokens):
    model, (sequences, starts) = small.tiny_lm(architecture), example_set()
    reference = Reference(sequences, starts, batch_tokens)
    naive = naive_sums(model, sequences, starts)
    assert reference.example_losses(model) == pytest.approx(naive, rel=1e-4, abs=1e-5)
    labels = sum(len(s) - start for s, start in zip(sequences, starts, strict=True))
    assert reference.loss(model) == pytest.approx(sum(naive) / labels, rel=1e-5)


def test_the_loss_is_a_mean_over_tokens_and_not_over_batches_or_examples():
    # One label in the short example, 28 in the long one.
    model = small.tiny_lm()
    rng = np.random.default_rng(0)
    sequences, starts = [rng.integers(0, 50, 2), rng.integers(0, 50, 29)], np.array([1, 1])
    short, long = naive_sums(model, sequences, starts)
    assert abs((short + long / 28) / 2 - (short + long) / 29) > 0.01
    for batch_tokens in (1, 10_000):
        loss = Reference(sequences, starts, batch_tokens).loss(model)
        assert loss == pytest.approx((short + long) / 29, rel=1e-5)


def test_context_counts_as_context_and_never_as_label():
    model, (sequences, _) = small.tiny_lm(), example_set()
    one, start = [sequences[1]], np.array([20])
    counted = Reference(one, start, 100)
    assert counted.labels_N.tolist() == [10]
    as_label = Reference(one, np.array([19]), 100).example_losses(model)
    assert as_label[0] > counted.example_losses(model)[0] + 1e-3  # one more token, one more loss
    other_context = one[0].copy()
    other_context[5] = (other_context[5] + 1) % 50
    moved = Reference([other_context], start, 100).example_losses(model)
    assert abs(moved - counted.example_losses(model))[0] > 1e-6


def test_the_loss_leaves_the_training_mode_and_makes_no_gradient():
    model = small.tiny_lm().train()
    Reference(*example_set(), 64).loss(model)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_reference_loss_has_no_dropout_though_the_model_trains_with_it():
    model = small.tiny_lm(small.NEOX)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    reference = Reference(*example_set(), 64)
    assert reference.loss(model.train()) == reference.loss(model.eval())


# Heads


def scaled_models() -> dict:
    return {
        "cohere": CohereConfig(**SMALL, logit_scale=0.25),
        "granite": GraniteConfig(**SMALL, logits_scaling=4.0),
        "gemma2": Gemma2Config(**SMALL, final_logit_softcapping=3.0),
        "gemma2, high cap": Gemma2Config(**SMALL, final_logit_softcapping=30.0),
    }


@FAMILIES
def test_a_plain_head_is_found_to_be_linear(architecture):
    assert head_is_linear(small.tiny_lm(architecture))


def test_a_head_is_looked_at_in_float32_though_its_caller_is_in_autocast():
    model, seen = small.tiny_lm(), []
    model.get_output_embeddings().register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast(lm.device().type, torch.bfloat16):
        assert head_is_linear(model)
    assert set(seen) == {torch.float32}


def test_losses_that_are_compared_know_no_autocast_of_their_caller():
    model = small.tiny_lm().eval()
    sequences, starts = example_set()
    reference, precision = Reference(sequences, starts, 64), torch.get_float32_matmul_precision()
    plain = reference.loss(model), lm.mean_losses(model, sequences).tolist()
    with torch.autocast(lm.device().type, torch.bfloat16):
        assert (reference.loss(model), lm.mean_losses(model, sequences).tolist()) == plain
    assert torch.get_float32_matmul_precision() == precision


@pytest.mark.parametrize("name", scaled_models())
def test_label_losses_keep_what_a_model_does_to_its_logits(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(scaled_models()[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval()
    assert not head_is_linear(model)
    sequences, starts = example_set()
    found = Reference(sequences, starts, 64).example_losses(model)
    assert found == pytest.approx(naive_sums(model, sequences, starts), rel=1e-4)


# Training steps


@FAMILIES
@pytest.mark.parametrize(("clip", "z_loss"), [(1.0, 1e-4), (0.05, 0.3)])
def test_a_step_is_adamw_on_cross_entropy_and_z_loss_with_a_clipped_gradient(
    architecture, clip, z_loss
):
    model = small.tiny_lm(architecture)
    plain = copy.deepcopy(model)
    # A large epsilon: some gradients of gpt_neox are nothing but rounding (the bias of the keys).
    hyper = small.ADAMW.model_copy(update={"epsilon": 1e-3})
    optimizer = lm.make_optimizer(model, hyper)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
    rng = np.random.default_rng(0)
    for step in range(1, 4):
        ids = torch.from_numpy(rng.integers(0, 50, (2, 11)))
        lm.train_step(model, optimizer, ids, clip, z_loss)

        plain.zero_grad()
        logits = plain(input_ids=ids[:, :-1]).logits.reshape(-1, 50)
        loss = cross_entropy(logits, ids[:, 1:].reshape(-1))
        loss = loss + z_loss * torch.logsumexp(logits, -1).square().mean()
        loss.backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in plain.parameters()))
        with torch.no_grad():
            for p, (m, v) in zip(plain.parameters(), moments, strict=True):
                gradient = p.grad * min(1.0, clip / (float(norm) + 1e-6))
                m.lerp_(gradient, 1 - hyper.beta1)
                v.lerp_(gradient.square(), 1 - hyper.beta2)
                if p.ndim >= 2:
                    p.mul_(1 - hyper.learning_rate * hyper.weight_decay)
                centred = m / (1 - hyper.beta1**step)
                spread = (v / (1 - hyper.beta2**step)).sqrt() + hyper.epsilon
                p.sub_(hyper.learning_rate * centred / spread)
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5), name


@pytest.mark.parametrize(
    ("tokens", "parts"), [(60, [5]), (59, [4, 1]), (24, [2, 2, 1]), (1, [1] * 5)]
)
def test_a_step_in_parts_is_the_step_on_the_whole_batch(monkeypatch, tokens, parts):
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (5, 12)))
    gradients = []
    for limit in (lm.MICRO_TOKENS, tokens):
        monkeypatch.setattr(lm, "MICRO_TOKENS", limit)
        model, seen = small.tiny_lm(), []
        model.register_forward_pre_hook(
            lambda *call, seen=seen: seen.append(len(call[2]["input_ids"])), with_kwargs=True
        )
        lm.train_step(model, lm.make_optimizer(model, small.ADAMW), ids, 1.0, 0.3)
        gradients.append([p.grad for p in model.parameters()])
    assert seen == parts
    for whole, in_parts in zip(*gradients, strict=True):
        assert torch.allclose(whole, in_parts, atol=1e-6)
    assert len(parts) > 1 or same(*gradients)


def test_weight_decay_moves_matrices_and_leaves_vectors():
    groups = lm.make_optimizer(small.tiny_lm(), small.ADAMW).param_groups
    decay = {p.ndim: g["weight_decay"] for g in groups for p in g["params"]}
    assert decay == {2: 0.033, 1: 0.0}


# Snapshots


@FAMILIES
def test_a_snapshot_restores_weights_moments_and_step_counters_bit_by_bit(architecture):
    model, optimizer = warm(architecture)
    snapshot, before = lm.Snapshot(model, optimizer), state_of(model, optimizer)
    for round_number in range(3):
        for seed in range(5):
            step_on(model, optimizer, 100 * round_number + seed)
        assert not same(before, state_of(model, optimizer))
        snapshot.restore()
        assert same(before, state_of(model, optimizer))


@pytest.mark.parametrize(
    ("layers", "hidden_size", "vocabulary", "tokens"),
    [
        (3, 96, 2_048, 16_384),
        (24, 1024, 50_304, 16_384),
        (32, 2560, 50_304, 4_915),
        (26, 1152, 262_144, 4_096),
    ],
)
def test_large_models_and_vocabularies_take_fewer_tokens_in_a_pass(
    layers, hidden_size, vocabulary, tokens
):
    model = small.tiny_lm()
    model.config.num_hidden_layers, model.config.hidden_size = layers, hidden_size
    model.config.vocab_size = vocabulary
    assert lm.pass_tokens(model) == tokens


# AdamW state on disk


@FAMILIES
def test_saved_optimizer_state_comes_back_bit_by_bit(architecture, tmp_path):
    model, optimizer = warm(architecture)
    lm.save_optimizer(optimizer, model, tmp_path / "optimizer.safetensors")
    fresh = lm.make_optimizer(model, small.ADAMW)
    assert not same(state_of(model, optimizer), state_of(model, fresh))
    lm.load_optimizer(fresh, model, tmp_path / "optimizer.safetensors")
    assert same(state_of(model, optimizer), state_of(model, fresh))


def test_optimizer_state_is_named_after_the_parameters(tmp_path):
    model, optimizer = warm()
    lm.save_optimizer(optimizer, model, tmp_path / "o.safetensors")
    names = {f"{n}.{k}" for n, _ in model.named_parameters() for k in lm.STATE}
    assert set(load_file(tmp_path / "o.safetensors")) == names


@pytest.mark.parametrize("wrong", ["missing", "misshapen"])
def test_state_of_another_model_is_refused_with_the_tensors_name(tmp_path, wrong):
    model, optimizer = warm()
    path, name = tmp_path / "o.safetensors", "lm_head.weight.exp_avg"
    lm.save_optimizer(optimizer, model, path)
    tensors = load_file(path)
    shape = tuple(tensors[name].shape)
    if wrong == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(3, 4)
    save_file(tensors, path)
    with pytest.raises(UserError) as caught:
        lm.load_optimizer(optimizer, model, path)
    assert caught.value.expected == f"a tensor {name} of shape {shape}"
    assert caught.value.found == ("none" if wrong == "missing" else "shape (3, 4)")
    assert caught.value.where == str(path)


def test_a_damaged_optimizer_file_is_refused(tmp_path):
    model, optimizer = warm()
    path = tmp_path / "optimizer.safetensors"
    lm.save_optimizer(optimizer, model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read") as caught:
        lm.load_optimizer(optimizer, model, path)
    assert caught.value.where == str(path)


# Loading


def test_a_sequence_longer_than_the_models_positions_is_refused():
    with pytest.raises(UserError, match="at most 64 tokens") as caught:
        lm.check_fits(small.tiny_lm(), 65, "here")
    assert "sample.sequence_length" in caught.value.todo


def test_a_saved_model_comes_back_in_float32(tmp_path):
    model = small.tiny_lm()
    model.save_pretrained(tmp_path / "float")
    loaded = lm.load_lm(tmp_path / "float")
    assert same(list(model.parameters()), list(loaded.parameters()))
    copy.deepcopy(model).bfloat16().save_pretrained(tmp_path / "half")
    assert {p.dtype for p in lm.load_lm(tmp_path / "half").parameters()} == {torch.float32}


def test_pickled_weights_are_refused(tmp_path):
    model = small.tiny_lm()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        lm.load_lm(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert "pickled weights" in caught.value.todo


def test_a_folder_that_is_missing_is_not_asked_of_the_hub(monkeypatch):
    def asked(*arguments, **named):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", asked)
    with pytest.raises(UserError, match=r"base\.checkpoint") as caught:
        lm.load_lm(Path("checkpoints/typo"))
    assert (caught.value.expected, caught.value.found) == ("a folder", "none")
    assert caught.value.where == "checkpoints/typo"


def test_a_tensor_that_the_weights_lack_is_named_and_not_drawn_at_random(tmp_path):
    small.tiny_lm().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.up_proj\.weight among them") as caught:
        lm.load_lm(tmp_path)
    assert (caught.value.where, caught.value.found) == (str(tmp_path), "none for 1 of its tensors")


def test_tied_weights_are_not_missed(tmp_path):
    tied = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(tied).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    lm.load_lm(tmp_path)


REMOTE = "raise AssertionError('code of the checkpoint was run')"


@pytest.mark.parametrize("kind", ["llama", "unheard_of"])
def test_code_of_a_checkpoint_s_own_is_never_run(tmp_path, kind):
    """Of a model that transformers brings along its own code runs; another one is refused."""
    model = small.tiny_lm()
    model.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text()) | {"model_type": kind}
    told["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "code.py").write_text(REMOTE)
    if kind == "llama":
        assert type(lm.load_lm(tmp_path)) is type(model)
        return
    with pytest.raises(UserError, match="own code is never run") as caught:
        lm.load_lm(tmp_path)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *("no folder", "empty folder", "no weights", "damaged weights", "damaged settings"),
        "weights of another shape",
    ],
)
def test_what_is_no_model_is_refused_with_its_place(tmp_path, content):
    folder = tmp_path / "model"
    if content != "no folder":
        folder.mkdir()
    if content == "no weights":
        small.tiny_lm().config.save_pretrained(folder)
    if content == "weights of another shape":
        small.tiny_lm().save_pretrained(folder)
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(told | {"vocab_size": 77}))
    if content == "damaged settings":
        small.tiny_lm().save_pretrained(folder)
        (folder / "config.json").write_text('{"model_type": "lla')
    if content == "damaged weights":
        small.tiny_lm().save_pretrained(folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError, match=r"base\.checkpoint") as caught:
        lm.load_lm(folder)
    assert caught.value.where == str(folder)


def test_weights_are_determined_by_the_seed():
    a, b, c = (lm.make_lm(small.LLAMA, 50, 64, 0, seed) for seed in (1, 1, 2))
    assert same(list(a.parameters()), list(b.parameters()))
    assert not same(list(a.parameters()), list(c.parameters()))


@pytest.mark.parametrize(("known", "told"), [(False, 1), (True, 0)])
def test_a_gpu_without_bf16_computes_in_float32_and_says_so_once(monkeypatch, capsys, known, told):
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "is_bf16_supported", lambda including_emulation=True: known)
    monkeypatch.setattr(cuda, "get_device_name", lambda: "Tesla T4")
    lm.has_bfloat16.cache_clear()
    assert [lm.has_bfloat16(), lm.has_bfloat16()] == [known, known]
    assert isinstance(lm.autocast(), torch.autocast) == known
    assert lm.unit_roundoff() == (2.0**-11 if known else 2.0**-24)
    assert capsys.readouterr().err.count("Tesla T4 has neither bf16 nor TF32") == told
    monkeypatch.undo()
    lm.has_bfloat16.cache_clear()
