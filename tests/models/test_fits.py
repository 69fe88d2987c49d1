"""What a model can read: token ids by its embedding, hidden states by what it gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, RecurrentGemmaConfig

import brought
import small
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.encoders import LmEncoder, feature_size, mean_hidden_states
from groupmates.models.reference import Reference, check_reference
from groupmates.models.semantic import SemanticEncoder
from groupmates.models.tokenizer import largest_id, load_tokenizer, loading
from groupmates.models.try_out import try_out

IDS = np.arange(18, dtype=np.int32).reshape(2, 9)


# Sizes


def test_the_hidden_size_is_what_the_model_gives_and_not_what_its_configuration_says(tmp_path):
    model = brought.projected_opt(tmp_path, 50)
    assert (model.config.hidden_size, feature_size(model)) == (16, 8)
    assert feature_size(small.tiny_lm()) == 16


def test_an_encoder_of_projected_hidden_states_has_the_size_of_all_layers_it_reads(tmp_path):
    model = brought.projected_opt(tmp_path, 50).eval()
    sequences = [np.arange(3), np.arange(5, 12)]
    encoder = LmEncoder(tmp_path, 100)
    found = encoder.prepare(["", ""], sequences, 64)
    assert (encoder.size, tuple(found.shape)) == (24, (2, 24))  # embeddings 16, the one layer 8
    with torch.no_grad():
        for row, sequence in zip(found, sequences, strict=True):
            ids = torch.from_numpy(sequence)[None]
            last = model.model(input_ids=ids).last_hidden_state[0]
            assert torch.allclose(row[16:], last.mean(0), atol=1e-6)
    encoder.calibrate(torch.randn(20, 24))
    assert encoder(found, np.arange(2)).shape == (2, 24)


def test_a_semantic_encoder_of_projected_hidden_states_opens_again(tmp_path):
    brought.projected_opt(tmp_path / "lm", 50)
    sequences = [np.arange(i, i + 5) for i in range(20)]
    names = [f"{i}" for i in range(20)]
    encoder, _ = SemanticEncoder.fit(tmp_path / "lm", sequences, names, 100)
    assert len(encoder.mean_F) == 8
    encoder.save(tmp_path / "encoder.safetensors")
    again = SemanticEncoder.load(tmp_path / "lm", tmp_path / "encoder.safetensors")
    np.testing.assert_array_equal(again(sequences, 64), encoder(sequences, 64))


def test_the_largest_id_is_no_number_of_tokens(tmp_path):
    largest = brought.gapped_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert largest_id(tokenizer) == largest == len(tokenizer) - 1 + brought.GAP


# Token ids


@pytest.fixture
def longer(tmp_path):
    folder, rows = brought.longer_tokenizer(tmp_path / "tokenizer")
    return folder, rows, small.tiny_lm(vocabulary=rows)


def test_an_id_past_the_last_row_is_told_with_token_id_rows_and_document(longer):
    folder, rows, model = longer
    sequences = [np.array([1, rows - 1]), np.array([], np.int32), np.array([3, rows + 1, rows])]
    lm.check_ids(model, sequences[:2], str, folder)
    with pytest.raises(UserError) as caught:
        lm.check_ids(model, sequences, "document {}".format, folder)
    assert caught.value.expected.startswith(f"token ids below {rows:,}")
    assert caught.value.found == f"the token {brought.PAST!r} with the id {rows + 1:,}"
    assert caught.value.where == "document 2"


def test_the_advice_about_a_token_past_the_embedding_helps_where_no_tokenizer_is_given(longer):
    """It was to set sample.tokenizer to null, which it was."""
    folder, rows, _ = longer
    plain, special = (lm.past_embedding(i, rows, "", folder).todo for i in (rows + 1, rows))
    ways = [
        "take the text out of the pool",
        "remove the token",
        "add a row",
        "if sample.tokenizer is",
    ]
    assert all(way in plain for way in ways)
    assert "special_tokens_in_text" in special and "special_tokens_in_text" not in plain


def test_ids_must_be_rows_of_the_output_embedding_too(longer):
    folder, rows, model = longer
    model.set_output_embeddings(torch.nn.Linear(16, rows - 5, bias=False))
    assert lm.embedding_rows(model) == rows - 5
    with pytest.raises(UserError, match=f"the id {rows - 5:,}"):
        lm.check_ids(model, [np.array([rows - 5])], str, folder)


def test_a_reference_example_that_the_model_cannot_read_is_told_with_its_text(longer):
    folder, _, model = longer
    tokenizer = load_tokenizer(folder)
    ids = np.array(tokenizer("a fog on the river")["input_ids"])
    good = np.array(tokenizer("a river")["input_ids"])
    reference = Reference([good, ids], np.array([1, 1]), 64, ["example a", "example b"])
    with pytest.raises(UserError) as caught:
        check_reference(model, reference, folder, "selection")
    assert "the selection part of the reference set, example b: 'a" in caught.value.where
    assert repr(brought.PAST) in caught.value.found
    check_reference(model, Reference([good], np.array([1]), 64), folder, "selection")


# Trying a model out


def test_what_is_tried_out_stays_as_it_is():
    model = small.tiny_lm().train()
    optimizer = lm.make_optimizer(model, small.ADAMW)
    lm.train_step(model, optimizer, torch.from_numpy(IDS.astype(np.int64)), 1.0, 0.0)
    before = [p.clone() for p in model.parameters()]
    state = [optimizer.state[p][k].clone() for p in model.parameters() for k in lm.STATE]
    logits = try_out(model, IDS, 1e-4, "here")
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(IDS.astype(np.int64))[:, :-1]).logits
    assert torch.allclose(logits, expected, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    after = [optimizer.state[p][k] for p in model.parameters() for k in lm.STATE]
    assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
    assert model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("architecture", [small.LLAMA, small.NEOX])
def test_models_that_are_made_here_can_do_all_of_it(architecture):
    try_out(small.tiny_lm(architecture), IDS, 1e-4, "here")


def test_a_model_of_recurrent_layers_alone_can_do_all_of_it():
    """It has no cache of attention, which its own forward pass asks for unless it is told."""
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "lru_width": 16}
    config = RecurrentGemmaConfig(**shape, num_hidden_layers=2, num_attention_heads=2)
    try_out(AutoModelForCausalLM.from_config(config), IDS, 1e-4, "here")


def test_projected_embeddings_can_do_all_of_it(tmp_path):
    try_out(brought.projected_opt(tmp_path, 50), IDS, 1e-4, "here")


def test_a_model_that_looks_to_the_right_is_refused():
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertLMHeadModel(BertConfig(**shape, intermediate_size=32, is_decoder=False))
    for parameter in bert.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    with pytest.raises(UserError, match="a causal model") as caught:
        try_out(bert, IDS, 1e-4, "the checkpoint")
    assert caught.value.where == "the checkpoint"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda model: setattr(model.model.norm, "weight", None), "a model that can be trained"),
        (lambda model: model.requires_grad_(False), "a model that can be trained"),
        (lambda model: model.lm_head.weight.data.fill_(float("nan")), "finite logits"),
        (lambda model: model.model.register_forward_hook(without_hidden), "can be trained and"),
    ],
)
def test_what_a_later_stage_could_not_do_is_told_before(broken, told):
    model = small.tiny_lm()
    broken(model)
    with pytest.raises(UserError, match=told) as caught:
        try_out(model, IDS, 1e-4, "the checkpoint")
    assert (caught.value.where, "base.checkpoint" in caught.value.todo) == ("the checkpoint", True)


def without_hidden(module, inputs, output):
    """What the base model of another kind may give: no last_hidden_state."""
    return output.to_tuple()


def test_memory_that_runs_out_is_no_fault_of_the_checkpoint(monkeypatch):
    model = small.tiny_lm()

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        try_out(model, IDS, 1e-4, "here")


def test_logits_at_single_labels_need_no_head_as_wide_as_the_hidden_states():
    """A head that projects first: labels then come from whole logits."""
    model = small.tiny_lm()
    model.lm_head = Projecting(model.lm_head)
    assert try_out(model, IDS, 1e-4, "here").shape == (2, 8, 50)


class Projecting(torch.nn.Module):
    """Logits of hidden states that are halved before the last map."""

    def __init__(self, head):
        super().__init__()
        self.halve = torch.nn.Linear(16, 8, bias=False)
        self.weight = torch.nn.Parameter(torch.randn(50, 8))

    def forward(self, hidden):
        return self.halve(hidden) @ self.weight.T


# Quantised checkpoints


@pytest.mark.parametrize("method", ["fp8", "gptq", "compressed-tensors", "bitsandbytes"])
def test_a_quantised_checkpoint_is_refused_with_the_way_to_dequantise_it(tmp_path, method):
    small.tiny_lm().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    how = {"quantization_config": {"quant_method": method, "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | how))
    with pytest.raises(UserError, match="quantization_config") as caught:
        lm.load_lm(tmp_path)
    assert repr(method) in caught.value.found
    assert caught.value.where == str(path)
    assert "dequantize()" in caught.value.todo


def test_a_package_that_a_checkpoint_needs_is_told(tmp_path):
    with (
        pytest.raises(UserError, match="needs `accelerate`") as caught,
        loading(Path("there"), "a model", "install it"),
    ):
        raise ImportError("this model needs `accelerate`")
    assert caught.value.where == "there"


def test_mean_hidden_states_of_no_document_have_the_models_size(tmp_path):
    brought.projected_opt(tmp_path, 50)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert mean_hidden_states(model, [], 64).shape == (0, 8)
