"""Documents to embeddings: the same whatever stands beside a document, and free of its length."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

import small
from groupmates.errors import UserError
from groupmates.models import first_token
from groupmates.models import tokenizer as text
from groupmates.models.encoders import ChunkEncoder, LmEncoder
from small import CLS, ROOM, SEP, VOCABULARY, bert_folder, words


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return bert_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def lm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    small.tiny_lm(small.LLAMA.model_copy(update={"layers": 4})).save_pretrained(folder)
    return folder


def sequences(number: int = 9) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 50, n).astype(np.int32) for n in rng.integers(1, 30, number)]


# The probed language model


def lm_encoder(folder, found, batch_tokens: int = 64) -> tuple[LmEncoder, torch.Tensor]:
    encoder = LmEncoder(folder, 8)
    prepared = encoder.prepare([""] * len(found), found, batch_tokens)
    encoder.calibrate(prepared)
    return encoder, prepared


@pytest.mark.parametrize("batch_tokens", [1, 50, 5000])
def test_features_are_mean_states_of_three_layers_of_each_document_alone(lm_folder, batch_tokens):
    found = sequences()
    encoder, prepared = lm_encoder(lm_folder, found, batch_tokens)
    lm = encoder._lm[0]
    for row, sequence in zip(prepared, found, strict=True):
        ids = torch.from_numpy(sequence.astype(np.int64))[None]
        with torch.no_grad():
            states = lm(input_ids=ids, output_hidden_states=True).hidden_states
        layers = [states[0], states[2], states[4]]
        wanted = torch.cat([hidden[0].mean(0) for hidden in layers])
        assert torch.allclose(row, wanted, atol=1e-5)


def test_embeddings_have_unit_length_and_the_size_that_fits(lm_folder):
    encoder, prepared = lm_encoder(lm_folder, sequences())
    embeddings = encoder(prepared, np.arange(9))
    assert embeddings.shape == (9, 8)
    assert torch.allclose(embeddings.norm(dim=-1), torch.ones(9), atol=1e-6)
    assert LmEncoder(lm_folder, 1000).size == 3 * 16  # no more than three layers have


def test_a_documents_embedding_is_its_own_in_any_order_and_company(lm_folder):
    found = sequences()
    encoder, prepared = lm_encoder(lm_folder, found)
    whole = encoder(prepared, np.arange(9))
    reversed_ = encoder.prepare([""] * 9, found[::-1], 40)
    assert torch.allclose(encoder(reversed_, np.arange(9)).flip(0), whole, atol=1e-5)
    assert torch.allclose(encoder(prepared, np.array([7, 2, 2])), whole[[7, 2, 2]], atol=1e-6)


def test_the_map_begins_as_the_whitening_of_standardised_features(lm_folder):
    encoder, prepared = lm_encoder(lm_folder, sequences(60) * 50)
    standard = (prepared - prepared.mean(0)) / prepared.std(0)
    _, vectors = np.linalg.eigh(np.cov(standard.numpy().T))
    kept = standard @ encoder.map.weight.detach().T
    np.testing.assert_allclose(np.cov(kept.numpy().T), np.eye(8), atol=0.02)
    # of the leading directions, the others not at all
    assert np.abs(encoder.map.weight.detach().numpy() @ vectors[:, :-8]).max() < 1e-3


def test_the_language_model_under_the_map_is_frozen_and_no_learned_weight(lm_folder):
    encoder, prepared = lm_encoder(lm_folder, sequences())
    assert {name for name, _ in encoder.named_parameters()} == {"map.weight"}
    before = [p.clone() for p in encoder._lm[0].parameters()]
    encoder(prepared, np.arange(3)).sum().backward()
    assert all(p.grad is None for p in encoder._lm[0].parameters())
    encoder.train()
    assert not encoder._lm[0].training
    assert all(torch.equal(a, b) for a, b in zip(before, encoder._lm[0].parameters(), strict=True))


def test_a_window_of_one_token_more_than_the_models_positions_is_encoded(tmp_path):
    # The probed window has sequence_length + 1 tokens, a model with learned positions as many
    # positions as it predicts tokens: the last token, only ever a target, is left out.
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "n_positions": 10, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(tmp_path)
    window = np.arange(11)
    encoder = LmEncoder(tmp_path, 8)
    longer, exact = encoder.prepare(["", ""], [window, window[:10]], 64)
    assert torch.allclose(longer, exact, atol=1e-6)


# A fine-tuned encoder


def chunk_encoder(folder, chunks: int = 4) -> ChunkEncoder:
    return ChunkEncoder(folder, ROOM + 2, chunks).eval()


def embed(encoder: ChunkEncoder, texts: list[str], batch_tokens: int = 64) -> torch.Tensor:
    prepared = encoder.prepare(texts, [], batch_tokens)
    with torch.no_grad():
        return encoder(prepared, np.arange(len(texts)))


@pytest.mark.parametrize(
    ("number", "chunks"), [(1, 1), (ROOM, 1), (ROOM + 1, 2), (2 * ROOM, 2), (4 * ROOM, 4), (99, 4)]
)
def test_a_document_has_as_many_chunks_as_its_text_fills_and_no_empty_one(bert, number, chunks):
    encoder = chunk_encoder(bert)
    text = words(number)
    (pieces,) = encoder.prepare([text], [], 64)
    assert len(pieces) == chunks
    for piece in pieces:
        assert (piece[0], piece[-1]) == (CLS, SEP)
        assert 3 <= len(piece) <= ROOM + 2
    inside = np.concatenate([piece[1:-1] for piece in pieces]).tolist()
    assert inside == [VOCABULARY[w] for w in text.split()][: 4 * ROOM]


def test_a_text_without_a_token_of_the_encoder_is_one_empty_chunk_with_a_vector(bert):
    encoder = chunk_encoder(bert)
    ((piece,),) = encoder.prepare([""], [], 64)
    assert piece.tolist() == [CLS, SEP]
    assert embed(encoder, [words(3), ""]).norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_tokenising_in_blocks_changes_no_chunk(bert, monkeypatch):
    encoder, texts = chunk_encoder(bert), [words(n, seed=n) for n in (3, 20, 99, 1, 7)]
    whole = encoder.prepare(texts, [], 64)
    monkeypatch.setattr(text, "TOKENISED_TOGETHER", 2)
    for before, after in zip(whole, encoder.prepare(texts, [], 64), strict=True):
        assert [p.tolist() for p in before] == [p.tolist() for p in after]


def test_a_special_token_that_a_text_spells_is_no_such_token(tmp_path, bert):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bert)
    assert CLS in tokenizer("w1 [CLS] w2", add_special_tokens=False)["input_ids"]
    encoder = chunk_encoder(bert)
    encoder.save(tmp_path)
    for read in (encoder, chunk_encoder(tmp_path)):
        ((piece,),) = read.prepare(["w1 [CLS] w2"], [], 64)
        assert piece.tolist().count(CLS) == 1
        assert (piece[1], piece[-2]) == (VOCABULARY["w1"], VOCABULARY["w2"])


def test_a_text_of_one_chunk_is_encoded_as_the_encoder_alone_does(bert):
    encoder, text = chunk_encoder(bert), words(5)
    ids = torch.tensor([[CLS, *(VOCABULARY[w] for w in text.split()), SEP]])
    with torch.no_grad():
        plain = BertModel.from_pretrained(bert).eval()(input_ids=ids).last_hidden_state[0, 0]
    assert torch.allclose(embed(encoder, [text])[0], normalize(plain, dim=0), atol=1e-5)


def test_an_embedding_is_the_mean_of_the_unit_vectors_of_the_chunks(bert):
    encoder, text = chunk_encoder(bert), words(2 * ROOM + 3)
    parts = text.split()
    thirds = [" ".join(parts[i : i + ROOM]) for i in range(0, len(parts), ROOM)]
    assert torch.allclose(embed(encoder, [text])[0], embed(encoder, thirds).mean(0), atol=1e-5)


def test_length_does_not_leak_into_the_embedding(bert):
    # The trap: an average over always four chunks mixes the vector of padding into short texts,
    # so that an embedding tells how many chunks hold text. Here a chunk repeated is the chunk.
    encoder, chunk = chunk_encoder(bert), words(ROOM)
    once, twice, four_times = embed(encoder, [chunk, f"{chunk} {chunk}", " ".join([chunk] * 4)])
    assert torch.allclose(once, twice, atol=1e-5)
    assert torch.allclose(once, four_times, atol=1e-5)
    assert once.norm().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 20, 5000])
def test_batching_changes_no_embedding(bert, batch_tokens):
    encoder = chunk_encoder(bert)
    texts = [words(n, seed=n) for n in (1, 20, 3, 7, 40, 12)]
    alone = torch.cat([embed(encoder, [text]) for text in texts])
    assert torch.allclose(embed(encoder, texts, batch_tokens), alone, atol=1e-5)


def bert_like(folder: Path, **changed: object) -> Path:
    """The folder of a random encoder of two layers, of the kind `kind`."""
    torch.manual_seed(1)
    kind = changed.pop("kind", BertConfig)
    shape = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    model = AutoModel.from_config(kind(**shape | changed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def of_first_tokens(encoder, first: bool, monkeypatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """First states of three texts, one padded, and gradients, with the short cut or without."""
    monkeypatch.setattr(encoder, "_groupmates_built_as_bert", None if first else False, False)
    ids = torch.arange(24).view(3, 8) + 4
    real = torch.arange(8) < torch.tensor([[8], [3], [5]])
    states = first_token.first_states(encoder, ids, real)
    states.square().sum().backward()
    grads = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    return states.detach(), grads


@pytest.mark.parametrize("kind", [BertConfig, XLMRobertaConfig, ElectraConfig])
def test_the_last_layer_at_first_tokens_gives_the_vectors_and_gradients_of_the_whole(
    tmp_path, monkeypatch, kind
):
    encoder = AutoModel.from_pretrained(bert_like(tmp_path, kind=kind)).eval()
    widths: list[int] = []
    last = encoder.encoder.layer[-1].intermediate
    last.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
    whole, gradients = of_first_tokens(encoder, False, monkeypatch)
    short, same = of_first_tokens(encoder, True, monkeypatch)
    assert widths[0] == 8 and widths[-1] == 1
    torch.testing.assert_close(short, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(same, gradients, atol=1e-4, rtol=1e-4)


def test_an_encoder_that_is_built_otherwise_runs_its_last_layer_whole(tmp_path, monkeypatch):
    other = AutoModel.from_pretrained(bert_like(tmp_path / "a", kind=DistilBertConfig)).eval()
    assert not first_token.built_as_bert(other)
    # Its modules have BERT's names, but a token sees only those before it.
    causal = AutoModel.from_pretrained(bert_like(tmp_path / "b", is_decoder=True)).eval()
    assert not first_token.built_as_bert(causal)
    ids = torch.arange(8)[None] + 4
    whole = first_token.whole_states(causal, ids, None)[:, 0]
    assert torch.equal(first_token.first_states(causal, ids, None), whole)


def test_a_chunk_may_be_the_mean_over_its_tokens(bert):
    encoder, text = ChunkEncoder(bert, ROOM + 2, 4, "mean").eval(), words(5)
    ids = torch.tensor([[CLS, *(VOCABULARY[w] for w in text.split()), SEP]])
    with torch.no_grad():
        plain = BertModel.from_pretrained(bert).eval()(input_ids=ids).last_hidden_state[0].mean(0)
    assert torch.allclose(embed(encoder, [text])[0], normalize(plain, dim=0), atol=1e-5)


def test_rows_choose_documents_and_may_repeat(bert):
    encoder = chunk_encoder(bert)
    prepared = encoder.prepare([words(n, seed=n) for n in (3, 20, 9)], [], 64)
    with torch.no_grad():
        whole = encoder(prepared, np.arange(3))
        assert torch.allclose(encoder(prepared, np.array([2, 0, 2])), whole[[2, 0, 2]], atol=1e-5)


def test_the_encoder_is_fine_tuned(bert):
    encoder = chunk_encoder(bert)
    encoder(encoder.prepare([words(9)], [], 64), np.array([0])).sum().backward()
    learned = [n for n, p in encoder.named_parameters() if p.grad is not None]
    assert any("embeddings" in n for n in learned)


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"fit\.encoder\.name"):
        ChunkEncoder(tmp_path, 8, 4)


def test_a_tokenizer_without_cls_is_refused(bert, tmp_path):
    model = BertModel.from_pretrained(bert)
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(bert, cls_token=None).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cls and sep"):
        ChunkEncoder(tmp_path, 8, 4)
