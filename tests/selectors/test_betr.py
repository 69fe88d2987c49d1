"""betr: ranks worked by hand, the regression, encoders, shards, kills and refusals.

GROUPMATES_MINILM may name a folder with the real all-MiniLM-L6-v2.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer

import killed
import small
import tables
import trainings
import waiting
from groupmates.artefacts.store import read_json, read_table
from groupmates.errors import UserError
from groupmates.maths import target_ranks
from groupmates.maths.meaning import embedded, whitening
from groupmates.maths.target_ranks import ranks, target_scores
from groupmates.models import encoders
from groupmates.models.language_model import load_lm
from groupmates.models.ngrams import NgramRegression, features
from groupmates.models.tokenizer import document_tokens, load_tokenizer, train_tokenizer
from groupmates.selectors import betr, betr_vectors
from groupmates.selectors import order as orders
from groupmates.settings.selectors import Betr

BETR = Betr(
    encoder="lm",
    pooling="mean",
    max_tokens=16,
    combine="max",
    ngrams=2,
    hash_bits=14,
    penalty=0.1,
)
# Documents of two kinds; the reference's selection half is of the first, its other half of the second.
TARGETS = [f"a river runs below the old bridge number {i}" for i in range(6)]
OTHERS = [f"buy cheap {i} now click {i} here best price {i}" for i in range(6)]
DOCUMENTS = [
    text.format(i)
    for i in range(20)
    for text in (
        "seven small boats wait for wind and rain below the bridge {}",
        "buy one click here and get {} free best price",
        "their captains told nobody that summer had ended early in year {}",
    )
]


@dataclass(frozen=True)
class Inputs:
    """What `prepare` reads."""

    base: Path
    reference: Path
    tokenizer: Path
    probe_pool: Path
    training_pool: Path


def sampled(path: Path, texts: list[str]) -> Path:
    ids = [f"{path.stem}{i}" for i in range(len(texts))]
    return tables.write(path, path.stem, doc_id=ids, source_row=range(len(texts)), text=texts)


def make_inputs(
    folder: Path,
    targets: list[str] = TARGETS,
    held_out: list[str] = OTHERS,
    documents: list[str] = DOCUMENTS,
) -> Inputs:
    tokenizer = train_tokenizer(TARGETS + OTHERS + DOCUMENTS, 400)
    tokenizer.save_pretrained(folder / "tokenizer")
    small.tiny_lm(vocabulary=len(tokenizer)).save_pretrained(folder / "base")
    texts, half = [*targets, *held_out], len(documents) // 2
    reference = tables.write(
        folder / "reference.parquet",
        "reference",
        example_id=[str(i) for i in range(len(texts))],
        split=["selection"] * len(targets) + ["evaluation"] * len(held_out),
        input_ids=[tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts],
        label_start=1,
    )
    return Inputs(
        base=folder / "base",
        reference=reference,
        tokenizer=folder / "tokenizer",
        probe_pool=sampled(folder / "probe_pool.parquet", documents[:half]),
        training_pool=sampled(folder / "training_pool.parquet", documents[half:]),
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return small.bert_folder(tmp_path_factory.mktemp("bert"))


def prepared(inputs: Inputs, folder: Path, examples: int = 6, **changed: Any) -> Path:
    output = folder / "prepare/betr"
    chosen = BETR.model_copy(update=changed)
    settings = Betr.Prepare(
        selection_examples=examples, sequence_length=small.SEQUENCE, embedding_size=8, betr=chosen
    )
    files = vars(inputs) if chosen.encoder == "lm" else vars(replace(inputs, base=None))
    betr.prepare(settings, **files, output=output)
    return output


@pytest.fixture(scope="module")
def fitted(inputs, tmp_path_factory) -> Path:
    return prepared(inputs, tmp_path_factory.mktemp("fitted"))


def keys(regression: Path, folder: Path, texts: list[str], shards: int = 1) -> dict[str, float]:
    """Key of every document, in pool order; lower is better."""
    pool = [{"id": f"doc-{i}", "text": text} for i, text in enumerate(texts)]
    files, score = tables.scored_pool(folder, pool, shards)
    found = {}
    for partition, file in enumerate(files):
        output = folder / f"order/betr/part-{partition:05d}.parquet"
        betr.order(
            Betr.Order(text_columns=small.COLUMNS, bad_records="stop", betr=BETR),
            pool=[file],
            score=score,
            prepared=regression,
            partition=partition,
            partitions=shards,
            output=output,
        )
        ids = read_table(score[partition], "score", ["doc_id"])["doc_id"].to_pylist()
        table = read_table(output, "order")
        assert set(table["shard"].to_pylist()) <= {partition}
        found |= {ids[row["row"]]: row["key"] for row in table.to_pylist()}
    assert len(found) == len(texts)
    return found


# The score


def turned(*degrees: float) -> np.ndarray:
    """Unit vectors of the plane at these angles."""
    angle_N = np.deg2rad(degrees)
    return np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)


def test_scores_are_those_of_the_ranks_written_down():
    # Documents at 0, 10, 50 and 90 degrees, targets at 4 and at 80.
    # The first ranks them 1, 2, 3, 4 (distances 4, 6, 46, 86), the second 4, 3, 2, 1 (80, 70, 30, 10).
    documents, targets = turned(0, 10, 50, 90), turned(4, 80)
    best = target_scores(documents, targets, "max")
    assert best == pytest.approx([0, -1, -1, 0])  # best ranks 1, 2, 2, 1
    mean = target_scores(documents, targets, "mean")
    log3 = np.log2(3)
    assert mean == pytest.approx([-2 / 2, -(1 + log3) / 2, -(log3 + 1) / 2, -2 / 2])


def test_documents_of_equal_similarity_share_the_better_rank():
    assert ranks(np.array([0.5, 0.9, 0.5, 0.1, 0.9])).tolist() == [3, 1, 3, 5, 1]
    a_digit_apart = np.array([[0.5], [0.5 + 1e-6], [0.9]])
    assert target_scores(a_digit_apart, np.ones((1, 1)), "max") == pytest.approx([-1, -1, 0])


@pytest.mark.parametrize("combine", ["max", "mean"])
def test_scores_agree_with_a_sort_for_each_target_however_many_are_compared_at_once(
    combine, monkeypatch
):
    rng = np.random.default_rng(0)
    emb_ND, target_MD = rng.normal(size=(30, 5)), rng.normal(size=(7, 5))
    values_MN = []
    for target in target_MD:
        order = sorted(range(30), key=lambda j: -(emb_ND[j] @ target))
        values_MN.append([np.log2(1 / (order.index(j) + 1)) for j in range(30)])
    expected = np.max(values_MN, axis=0) if combine == "max" else np.mean(values_MN, axis=0)
    assert target_scores(emb_ND, target_MD, combine) == pytest.approx(expected)
    monkeypatch.setattr(target_ranks, "TOGETHER", 3)
    assert target_scores(emb_ND, target_MD, combine) == pytest.approx(expected)


# The regression


def test_the_regression_is_ridge_on_hashed_ngrams_and_its_figure_is_of_texts_it_has_not_seen():
    rng = np.random.default_rng(1)
    score_N = rng.normal(size=len(DOCUMENTS))
    found, correlation = NgramRegression.fit(BETR, DOCUMENTS, score_N)
    held_N = np.arange(len(DOCUMENTS)) % 10 == 9
    x_NF = features(BETR, DOCUMENTS).toarray()
    x, y = x_NF[~held_N], score_N[~held_N]
    centred = x - x.mean(axis=0)
    # The dual form of the normal equations.
    gram = centred @ centred.T + BETR.penalty * np.eye(len(x))
    weight_F = centred.T @ np.linalg.solve(gram, y - y.mean())
    expected_N = (x_NF - x.mean(axis=0)) @ weight_F + y.mean()
    assert found.score(DOCUMENTS) == pytest.approx(expected_N, abs=1e-4)
    assert correlation == pytest.approx(
        spearmanr(expected_N[held_N], score_N[held_N]).statistic, abs=1e-6
    )


def test_what_is_fitted_are_the_scores_of_the_sampled_documents(inputs, fitted):
    """The steps again, with a model that reads one text at a time."""
    lm, tokens = load_lm(inputs.base).eval(), load_tokenizer(inputs.tokenizer)
    hidden = []
    for text in [*TARGETS, *DOCUMENTS]:
        ids = document_tokens(tokens, [text], small.SEQUENCE + 1)[0].astype(np.int64)
        with torch.no_grad():
            states = lm.base_model(input_ids=torch.tensor(ids)[None]).last_hidden_state
        hidden.append(states[0].mean(0).numpy())
    target_MF, hidden_NF = np.array(hidden[:6]), np.array(hidden[6:])
    mean_F, axes_FD, _ = whitening(hidden_NF, 8)
    emb_ND, target_MD = (embedded(x, mean_F, axes_FD) for x in (hidden_NF, target_MF))
    score_N = target_scores(emb_ND, target_MD, "max")
    assert len(set(score_N)) > 5
    expected, correlation = NgramRegression.fit(BETR, DOCUMENTS, score_N)
    found = NgramRegression.load(BETR, fitted / betr.WEIGHTS)
    assert found.score(DOCUMENTS) == pytest.approx(expected.score(DOCUMENTS), abs=1e-5)
    body = read_json(fitted / "regression.json")
    assert (body["targets"], body["documents"], body["held_out_documents"]) == (6, 60, 6)
    assert body["held_out_spearman"] == pytest.approx(correlation)


def test_documents_of_the_targets_kind_come_before_others(inputs, bert, tmp_path):
    """The tiny BERT knows no word of these, so its own words stand in for two kinds."""
    likes, others = [small.words(8, seed=i) for i in range(30)], ["w1 w1 w2 w2"] * 30
    mine = make_inputs(tmp_path / "in", likes[:4], others[:4], [*likes, *others])
    regression = prepared(mine, tmp_path, examples=4, encoder=str(bert))
    found = list(keys(regression, tmp_path, [*others[:5], *likes[:5]]).values())
    assert max(found[5:]) < min(found[:5])


@pytest.mark.parametrize("combine", ["max", "mean"])
def test_a_document_that_equals_a_target_comes_first(tmp_path, combine):
    """It is rank 1 of that target, and what the regression has seen of it predicts so."""
    targets = [TARGETS[0]] * 2  # one task, so that this document is the best by either rule
    mine = make_inputs(tmp_path / "in", targets, OTHERS, [TARGETS[0], *DOCUMENTS])
    regression = prepared(mine, tmp_path, examples=2, combine=combine, penalty=1e-3)
    found = keys(regression, tmp_path, [*DOCUMENTS, TARGETS[0]])
    assert min(found, key=found.get) == f"doc-{len(DOCUMENTS)}"
    assert found[f"doc-{len(DOCUMENTS)}"] == pytest.approx(0, abs=0.1)  # log2(1 / 1)


def test_the_held_out_half_of_the_reference_is_never_read(inputs, fitted, tmp_path):
    mine = make_inputs(tmp_path / "in", held_out=["something else entirely"] * 3)
    again = prepared(mine, tmp_path, examples=99)
    assert (again / betr.WEIGHTS).read_bytes() == (fitted / betr.WEIGHTS).read_bytes()
    # Another selection half does change them, and so do fewer of its examples.
    turned_round = make_inputs(tmp_path / "other", OTHERS, TARGETS)
    for other in (
        prepared(turned_round, tmp_path / "swapped"),
        prepared(inputs, tmp_path / "few", 2),
    ):
        assert (other / betr.WEIGHTS).read_bytes() != (fitted / betr.WEIGHTS).read_bytes()


def test_max_and_mean_are_fitted_to_different_scores(inputs, fitted, tmp_path):
    mean = prepared(inputs, tmp_path, combine="mean")
    assert (mean / betr.WEIGHTS).read_bytes() != (fitted / betr.WEIGHTS).read_bytes()


# The encoders


def vectors(encoder: str | Path, inputs: Inputs, texts: list[str], **changed: Any) -> np.ndarray:
    chosen = BETR.model_copy(update={"encoder": str(encoder)} | changed)
    settings = Betr.Prepare(
        selection_examples=6, sequence_length=small.SEQUENCE, embedding_size=8, betr=chosen
    )
    return betr_vectors.encoder_of(settings, inputs.base, inputs.tokenizer)(texts)


def alone(folder: Path, text: str, pooling: str, max_tokens: int) -> np.ndarray:
    """A text's vector by transformers, as sentence-transformers makes it."""
    tokens = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    cut = tokens(text, add_special_tokens=False)["input_ids"][: max_tokens - 2]
    ids = torch.tensor([[tokens.cls_token_id, *cut, tokens.sep_token_id]])
    with torch.no_grad():
        hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    vector = hidden.mean(0) if pooling == "mean" else hidden[0]
    return torch.nn.functional.normalize(vector, dim=-1).numpy()


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_sentence_encoder_has_the_first_tokens_vector_or_the_mean(inputs, bert, pooling):
    texts = [small.words(n, seed=n) for n in (3, 40, 9)]
    found = vectors(bert, inputs, texts, pooling=pooling)
    expected = [alone(bert, text, pooling, 16) for text in texts]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def minilm() -> Path:
    folder = os.environ.get("GROUPMATES_MINILM")
    if not folder:
        pytest.skip("set GROUPMATES_MINILM to a folder with all-MiniLM-L6-v2 to test the real one")
    return Path(folder)


def test_the_real_minilm_ranks_what_means_the_same_first(inputs):
    folder = minilm()
    texts = [
        "The cat sits on the mat.",
        "Stock markets fell sharply on Monday.",
        "Plants turn sunlight into sugar.",
        "A kitten is lying on the rug.",
        "Share prices dropped at the start of the week.",
        "Photosynthesis makes glucose from light.",
    ]
    emb_ND = vectors(folder, inputs, texts, max_tokens=256)
    np.testing.assert_allclose(emb_ND, [alone(folder, t, "mean", 256) for t in texts], atol=1e-5)
    assert emb_ND.shape == (6, 384)
    # Each of the first three is a target, the others are the documents.
    best = [ranks(emb_ND[3:] @ target).argmin() for target in emb_ND[:3]]
    assert best == [0, 1, 2]


def test_the_real_minilm_selects_documents_on_the_targets_subject(tmp_path):
    folder = minilm()
    boats = [f"The ship left harbour {i} and sailed through wind and waves." for i in range(30)]
    trade = [f"Buy {i} now for the best price, free delivery." for i in range(30)]
    targets = [f"A captain steers vessel {i} across the sea." for i in range(4)]
    mine = make_inputs(tmp_path / "in", targets, trade[:4], [*boats, *trade])
    regression = prepared(mine, tmp_path, examples=4, encoder=str(folder), max_tokens=64)
    assert read_json(regression / "regression.json")["held_out_spearman"] > 0.5
    found = list(keys(regression, tmp_path, [*trade[:5], *boats[:5]]).values())
    assert max(found[5:]) < min(found[:5])


# Invariances


def test_shards_and_blocks_change_no_key(fitted, tmp_path, monkeypatch):
    found = [keys(fitted, tmp_path / str(n), DOCUMENTS, n) for n in (1, 2, 7)]
    monkeypatch.setattr(orders, "TOGETHER", 3)
    found.append(keys(fitted, tmp_path / "blocks", DOCUMENTS, 2))
    assert found[0] == found[1] == found[2] == found[3]
    assert len(set(found[0].values())) > 20


def test_a_shard_without_a_document_has_an_empty_order(fitted, tmp_path):
    assert len(keys(fitted, tmp_path, DOCUMENTS[:2], shards=3)) == 2
    assert len(read_table(tmp_path / "order/betr/part-00002.parquet", "order")) == 0


@pytest.mark.parametrize("encoder", ["lm", "bert"])
def test_blocks_and_batches_of_texts_change_no_weight(inputs, bert, tmp_path, monkeypatch, encoder):
    chosen = {"encoder": "lm" if encoder == "lm" else str(bert)}
    whole = prepared(inputs, tmp_path / "whole", **chosen)
    monkeypatch.setattr(betr, "TOGETHER", 7)
    monkeypatch.setattr(betr_vectors, "BATCH_TOKENS", 40)
    parts = prepared(inputs, tmp_path / "parts", **chosen)
    assert (parts / betr.WEIGHTS).read_bytes() == (whole / betr.WEIGHTS).read_bytes()


def test_a_killed_preparation_embeds_no_block_twice_and_ends_with_the_same_bytes(
    inputs, tmp_path, monkeypatch
):
    monkeypatch.setattr(betr, "TOGETHER", 10)  # 66 texts, seven blocks
    attempts, calls = killed.survives(
        monkeypatch,
        tmp_path,
        encoders,
        "length_batches",
        3,
        lambda folder: prepared(inputs, folder),
    )
    assert attempts > 2
    assert len(calls) == 7 + attempts - 1


def test_a_killed_order_begins_anew_and_writes_the_same_bytes(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(orders, "TOGETHER", 20)
    keys(fitted, tmp_path / "whole", DOCUMENTS)
    with monkeypatch.context() as patch:
        calls = killed.dying(patch, NgramRegression, "score", 2)
        with pytest.raises(KeyboardInterrupt):
            keys(fitted, tmp_path / "killed", DOCUMENTS)
    assert len(calls) == 2
    assert not (tmp_path / "killed/order").exists()
    keys(fitted, tmp_path / "killed", DOCUMENTS)
    assert trainings.artefacts(tmp_path / "killed") == trainings.artefacts(tmp_path / "whole")


def test_the_order_needs_no_torch():
    code = "import groupmates.selectors.betr, sys; print('torch' in sys.modules)"
    assert waiting.python("-c", code).stdout.split() == ["False"]


# Refusals


def test_too_few_targets_are_refused(inputs, tmp_path):
    with pytest.raises(UserError) as caught:
        prepared(inputs, tmp_path, examples=1)
    assert caught.value.expected == "at least 2 reference examples that steer the selection"
    assert caught.value.found == "1"
    assert caught.value.where == str(inputs.reference)
    assert "reference.selection_examples" in caught.value.todo
    assert not (tmp_path / "prepare/betr").exists()


def test_too_few_documents_are_refused(tmp_path):
    mine = make_inputs(tmp_path / "in", documents=DOCUMENTS[:19])
    with pytest.raises(UserError) as caught:
        prepared(mine, tmp_path)
    assert (caught.value.expected, caught.value.found) == (
        "at least 20 sampled documents to rank",
        "19",
    )
    assert "probe_pool.parquet" in caught.value.where
    assert "sample.probe_documents" in caught.value.todo


def test_more_tokens_than_the_encoder_has_positions_are_refused(inputs, bert):
    with pytest.raises(UserError, match="at most 16 tokens") as caught:
        vectors(bert, inputs, TARGETS, max_tokens=17)
    assert (caught.value.found, caught.value.where) == ("17", "select.betr.max_tokens")


def test_an_encoder_that_is_none_is_told_by_its_key(inputs, tmp_path):
    with pytest.raises(UserError, match=r"select\.betr\.encoder"):
        vectors(tmp_path, inputs, TARGETS)


def test_vectors_that_are_not_finite_are_told():
    emb_ND = np.array([[0.0, 1.0], [np.nan, 1.0], [np.inf, 0.0]])
    with pytest.raises(UserError, match="'b', one of 2 such") as caught:
        betr.check_vectors(emb_ND, ["a", "b", "c"], "lm")
    assert caught.value.where == "select.betr.encoder: lm"
    betr.check_vectors(emb_ND[:1], ["a"], "lm")


def test_a_damaged_regression_is_told(inputs, tmp_path):
    output = prepared(inputs, tmp_path) / betr.WEIGHTS
    output.write_bytes(output.read_bytes()[:100])
    with pytest.raises(UserError, match=r"regression\.safetensors"):
        keys(output.parent, tmp_path, DOCUMENTS[:3])


def test_the_records_name_what_was_read(inputs, fitted, tmp_path):
    made = read_json(fitted / "regression.json")["provenance"]
    assert set(made["inputs"]) == set(vars(inputs))
    keys(fitted, tmp_path, DOCUMENTS[:3])
    table = read_table(tmp_path / "order/betr/part-00000.parquet", "order")
    found = json.loads(table.schema.metadata[b"groupmates"])["inputs"]
    assert set(found) == {"regression", "score[0]"}
