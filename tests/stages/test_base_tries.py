"""Checkpoints as users bring them: what base accepts runs to the end, what cannot is refused there."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import brought
import small
from groupmates.artefacts.store import Provenance, digest, read_table, write_json, write_table
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.influence import InfluenceModel, make_encoder
from groupmates.models.tokenizer import load_tokenizer
from groupmates.selectors import color, oracle_greedy, quad
from groupmates.settings import config, per_stage
from groupmates.settings.selectors import Color, OracleGreedy, Quad
from groupmates.stages import base, check, draw_rollouts, evaluate, probe, score, semantic
from groupmates.stages.shard_rows import Shard


def made(run, output, **changed):
    base.run(
        small.base_settings(**changed),
        tokenizer=run.tokenizer,
        training_pool=run.training_pool,
        output=output,
    )
    return output


def probed(run, folder, base_folder):
    """Oracle influences of seven random rollouts."""
    rollouts = folder / "rollouts.parquet"
    draw_rollouts.run_random(small.plan_settings(), probe_pool=run.probe_pool, output=rollouts)
    output = folder / "probe/random/shard-00000.parquet"
    probe.run(
        per_stage.ProbeSettings(selection_examples=4, learning_rate=small.RATE),
        base=base_folder,
        probe_pool=run.probe_pool,
        reference=run.reference,
        rollouts=rollouts,
        part=0,
        parts=1,
        output=output,
    )
    return read_table(output, "probe")


# Projected embeddings (OPT-350M)


def test_a_checkpoint_with_projected_embeddings_runs_through_base_probe_and_scoring(tmp_path):
    """It died in fit, after all of probing: config.hidden_size is not the hidden states' size."""
    tokenizer = brought.bytes_tokenizer(tmp_path / "tokenizer")
    run = brought.sampled(tmp_path, tokenizer)
    brought.projected_opt(tmp_path / "opt", len(load_tokenizer(tokenizer)))
    output = made(run, tmp_path / "base", checkpoint=str(tmp_path / "opt"))
    assert len(probed(run, tmp_path, output)) == 7 * small.LENGTH
    encoder = make_encoder(small.fit_settings("lm"), output)
    model = InfluenceModel(small.fit_settings("lm"), encoder)
    sequences = [np.arange(1, 6), np.arange(3, 20)]
    prepared = model.encoder.prepare(["", ""], sequences, 64)
    assert prepared.shape == (2, 24)  # embeddings 16, the one layer 8
    assert model(prepared, np.array([[0, 1], [1, 0]])).shape == (2, 2)


# Tried before it is trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return brought.sampled(folder, brought.bytes_tokenizer(folder / "tokenizer"))


@pytest.fixture
def checkpoint(run, tmp_path):
    rows = len(load_tokenizer(run.tokenizer))
    small.tiny_lm(small.LLAMA, rows, seed=3).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_checkpoint_is_tried_before_the_first_step(run, tmp_path, checkpoint, monkeypatch):
    def refused(model, ids, z_loss, where):
        raise UserError(expected="a", found="b", where=where, todo="d")

    monkeypatch.setattr(base, "try_out", refused)
    monkeypatch.setattr(base, "train", lambda *args: pytest.fail("trained first"))
    with pytest.raises(UserError) as caught:
        made(run, tmp_path / "base", checkpoint=str(checkpoint))
    assert caught.value.where == str(checkpoint)


def test_trying_changes_no_bit_of_what_is_written(run, tmp_path, monkeypatch):
    first = made(run, tmp_path / "tried")
    monkeypatch.setattr(base, "try_out", lambda *args: None)
    second = made(run, tmp_path / "not")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_model_that_is_not_saved_as_it_is_leaves_no_base(run, tmp_path, checkpoint, monkeypatch):
    opened = lm.load_lm

    def otherwise(folder):
        model = opened(folder)
        if folder != checkpoint:  # as where a weight has a name that is read as another
            model.lm_head.weight.data.mul_(2)
        return model

    monkeypatch.setattr(lm, "load_lm", otherwise)
    with pytest.raises(UserError, match="loaded again") as caught:
        made(run, tmp_path / "base", checkpoint=str(checkpoint))
    assert caught.value.where == str(tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_quantised_checkpoint_is_refused(run, tmp_path, checkpoint):
    """FP8 and GPTQ ended in an ImportError."""
    path = checkpoint / "config.json"
    how = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | how))
    with pytest.raises(UserError, match="dequantise"):
        made(run, tmp_path / "base", checkpoint=str(checkpoint))


# Sizes of tokenizers


def test_a_model_is_made_as_large_as_the_largest_id_asks(tmp_path):
    """A tokenizer with a gap among its ids ended in an IndexError."""
    largest = brought.gapped_tokenizer(tmp_path / "tokenizer")
    run = brought.sampled(tmp_path, tmp_path / "tokenizer")
    output = made(run, tmp_path / "base")
    rows = lm.load_lm(output).get_input_embeddings().num_embeddings
    assert rows == -(-(largest + 1) // 64) * 64 > len(load_tokenizer(run.tokenizer)) + 64
    assert np.isfinite(probed(run, tmp_path, output)["loss_after_nats"].to_numpy()).all()


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """A checkpoint whose tokenizer has two tokens past its embedding, and a run on it."""
    folder = tmp_path_factory.mktemp("longer")
    tokenizer, rows = brought.longer_tokenizer(folder / "tokenizer")
    small.tiny_lm(small.LLAMA, rows, seed=3).save_pretrained(folder / "checkpoint")
    load_tokenizer(tokenizer).save_pretrained(folder / "checkpoint")
    run = brought.sampled(folder / "good", tokenizer)
    bad = [d | {"text": f"{brought.PAST} {d['text']}"} for d in small.documents()]
    texts = [e | {"continuation": f" {brought.PAST}{e['continuation']}"} for e in examples()]
    foggy = brought.sampled(folder / "bad", tokenizer, bad, texts)
    return SimpleNamespace(
        rows=rows,
        good=run,
        bad=foggy,
        checkpoint=folder / "checkpoint",
        base=made(run, folder / "base", checkpoint=str(folder / "checkpoint")),
    )


def examples():
    return small.reference_examples()


def refused(longer, caught, *where: str) -> None:
    """The error names the token, its id, the rows and the place."""
    assert caught.value.expected.startswith(f"token ids below {longer.rows:,}, the rows")
    assert caught.value.found == f"the token {brought.PAST!r} with the id {longer.rows + 1:,}"
    assert all(words in caught.value.where for words in where)


def test_tokens_past_the_embedding_are_accepted_with_a_line_in_the_log(longer, tmp_path, capsys):
    made(longer.good, tmp_path / "base", checkpoint=str(longer.checkpoint))
    told = capsys.readouterr().err
    assert f"2 tokens, such as {brought.SPECIAL!r}, lie past" in told
    assert f"{longer.rows:,} rows" in told
    assert len(probed(longer.good, tmp_path, tmp_path / "base")) == 7 * small.LENGTH


def test_end_of_text_past_the_embedding_is_refused(longer, tmp_path):
    tokenizer = load_tokenizer(longer.good.tokenizer)
    tokenizer.eos_token = brought.SPECIAL
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="end-of-text") as caught:
        base.run(
            small.base_settings(checkpoint=str(longer.checkpoint)),
            tokenizer=tmp_path / "tokenizer",
            training_pool=longer.good.training_pool,
            output=tmp_path / "base",
        )
    assert repr(brought.SPECIAL) in caught.value.found


def test_a_training_document_with_such_a_token_is_refused_in_base(longer, tmp_path):
    with pytest.raises(UserError) as caught:
        made(longer.bad, tmp_path / "base", checkpoint=str(longer.checkpoint))
    refused(longer, caught, "document 'doc-0", "a.jsonl, line ")


def test_a_probed_document_or_reference_example_with_such_a_token_is_refused(longer, tmp_path):
    mixed = SimpleNamespace(probe_pool=longer.bad.probe_pool, reference=longer.good.reference)
    with pytest.raises(UserError) as caught:
        probed(mixed, tmp_path / "a", longer.base)
    refused(longer, caught, "document 'doc-0")
    mixed = SimpleNamespace(probe_pool=longer.good.probe_pool, reference=longer.bad.reference)
    with pytest.raises(UserError) as caught:
        probed(mixed, tmp_path / "b", longer.base)
    refused(longer, caught, "the selection part of the reference set, example ", brought.PAST)


def checked(run, folder):
    output = folder / "check/shard-00000.parquet"
    check.run(small.check_settings()[0], pool=[str(run.pool)], output=output)
    return output


@pytest.fixture(scope="module")
def scored(longer, tmp_path_factory):
    """A score table of the documents with such a token, as another encoder than `lm` would write."""
    folder = tmp_path_factory.mktemp("scored")
    check_file = checked(longer.bad, folder)
    shard = Shard.of([str(longer.bad.pool)], check_file)
    documents = small.documents()
    n = len(documents)
    columns = {
        "doc_id": [d["id"] for d in documents],
        "source_file": [shard.files[0].name] * n,
        "source_row": np.arange(n),
        "source": [""] * n,
        "n_tokens": [10] * n,
        "individual_influence": np.zeros(n, np.float32),
        "embedding": np.ones((n, 1), np.float32),
    }
    path = folder / "score/shard-00000.parquet"
    write_table(path, "score", Provenance("score", {}, shard.inputs), columns, embedding_size=1)
    select = {name: columns[name] for name in ("doc_id", "source_file", "source_row", "n_tokens")}
    select |= {"cluster": np.zeros(n, int), "rank": np.arange(n)}
    select |= {
        "individual_influence": np.zeros(n, np.float32),
        "group_influence": np.zeros(n),
    }
    selected = folder / "select/random/shard-00000.parquet"
    write_table(selected, "select", Provenance("select", {}, shard.inputs), select)
    return SimpleNamespace(check=check_file, score=path, select=selected, folder=folder)


def stage_of(name, longer, scored, folder):
    """What reads the pool with the probed model, ready to run."""
    pool, good = [str(longer.bad.pool)], longer.good
    of_base = {"base": longer.base, "tokenizer": good.tokenizer}
    window = {"text_columns": small.COLUMNS, "sequence_length": small.SEQUENCE}
    batches = config.Passes(batch_tokens=256)
    if name == "score":
        settings = per_stage.ScoreSettings(
            columns=small.COLUMNS,
            bad_records="stop",
            sequence_length=small.SEQUENCE,
            score=batches,
        )
        run = SimpleNamespace(base=longer.base, tokenizer=good.tokenizer)
        fitted = small.influence_model(run, folder / "fit")
        return lambda: score.run(
            settings, pool=pool, check=scored.check, model=fitted, output=folder / "score.parquet"
        )
    if name == "embed":
        encoder = folder / "encoder.safetensors"
        of_fit = per_stage.SemanticFitSettings(semantic=config.Semantic(embedding_size=8))
        semantic.run_fit(of_fit, base=longer.base, probe_pool=good.probe_pool, output=encoder)
        settings = per_stage.EmbedSettings(bad_records="stop", score=batches, **window)
        arguments = of_base | {"check": scored.check, "encoder": encoder}
        return lambda: semantic.run_embed(
            settings, pool=pool, output=folder / "semantic.parquet", **arguments
        )
    if name == "fit-semantic":
        of_fit = per_stage.SemanticFitSettings(semantic=config.Semantic(embedding_size=8))
        return lambda: semantic.run_fit(
            of_fit,
            base=longer.base,
            probe_pool=longer.bad.probe_pool,
            output=folder / "encoder.safetensors",
        )
    of_base["score"] = [scored.score]
    if name == "color":
        settings = Color.Prepare(
            seed=0, selection_examples=4, color=Color(training_steps=2, learning_rate=1e-3)
        )
        color.prepare(
            settings, base=longer.base, reference=good.reference, output=folder / "prepared"
        )
        return lambda: color.order(
            Color.Order(bad_records="stop", **window),
            prepared=folder / "prepared",
            pool=pool,
            partition=0,
            partitions=1,
            output=folder / "order.parquet",
            **of_base,
        )
    of_base |= {"reference": good.reference, "pool": pool}
    made_by = Provenance("test", {})
    if name == "quad":
        n = len(small.documents())
        cluster, centroids = folder / "cluster.parquet", folder / "centroids.npy"
        ids = [d["id"] for d in small.documents()]
        write_table(cluster, "cluster", made_by, {"doc_id": ids, "cluster": np.arange(n) % 2})
        np.save(centroids, np.eye(2, dtype=np.float32))
        body = {"sha256": digest(centroids)}
        write_json(centroids.with_suffix(".json"), "centroids", made_by, body)
        chosen = {
            "iterations": 1,
            "arms_per_iteration": 1,
            "documents_per_arm": 3,
            "threshold": None,
            "exploration": 1e-3,
            "neighbour_distance": 0.2,
            "hessian": "none",
            "damping": 1e-3,
            "cg_iterations": 5,
            "cg_tolerance": 1e-3,
        }
        settings = Quad.Prepare(seed=0, selection_examples=4, quad=Quad(**chosen), **window)
        arguments = of_base | {"cluster": [cluster], "centroids": centroids}
        return lambda: quad.prepare(settings, output=folder / "quad", **arguments)
    if name == "oracle_greedy":
        body = {"documents": 40, "picks": 2, "evaluations": 80}
        write_json(folder / "prepared" / oracle_greedy.ALLOWED, "brute_force", made_by, body)
        settings = OracleGreedy.Order(
            seed=0,
            selection_examples=4,
            learning_rate=small.RATE,
            budget=config.Budget(ratio=0.05, tokens=None),
            candidates=None,
            **window,
        )
        return lambda: oracle_greedy.order(
            settings, prepared=folder / "prepared", output=folder / "order.parquet", **of_base
        )
    assert name == "evaluate"
    training = {
        "tokens": 200,
        "batch_sequences": 2,
        "learning_rate": 1e-2,
        "learning_rate_warmup_steps": 1,
        "points": 2,
    }
    settings = per_stage.EvaluateSettings(
        seed=0,
        evaluation_examples=4,
        training=config.EvaluateTraining(**training),
        **window,
    )
    del of_base["score"]
    return lambda: evaluate.run(
        settings,
        select=[scored.select],
        number=0,
        curve=folder / "random/curve.parquet",
        examples=folder / "random/examples.parquet",
        **of_base,
    )


@pytest.mark.parametrize(
    "name",
    ["score", "embed", "fit-semantic", "color", "quad", "oracle_greedy", "evaluate"],
)
def test_a_document_with_such_a_token_is_refused_wherever_it_is_read(
    name, longer, scored, tmp_path
):
    stage = stage_of(name, longer, scored, tmp_path)
    with pytest.raises(UserError) as caught:
        stage()
    refused(longer, caught)
    if name != "evaluate":
        assert "document 'doc-0" in caught.value.where
    if name in ("score", "embed", "quad", "evaluate"):
        assert f"{longer.bad.pool}, line " in caught.value.where
