"""Documents of which a tokenizer knows no character: bad records like any other."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import brought
import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.models import tokenizer as tokenizer_module
from groupmates.models.tokenizer import BEGINNING, load_tokenizer, tokenless
from groupmates.pool import documents as pool_documents
from groupmates.pool.documents import REPEATED
from groupmates.selectors import order
from groupmates.settings import config, per_stage
from groupmates.stages import base, check, draw_rollouts, score, semantic, shard_rows

EMPTY = (3, 11, 12, 38)  # rows without a token


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return brought.words_tokenizer(tmp_path_factory.mktemp("words"))


def documents(empty=EMPTY):
    rows = small.documents()
    return [row | {"text": brought.FOREIGN} if i in empty else row for i, row in enumerate(rows)]


def pool_of(folder: Path, rows: list[dict] | None = None) -> Path:
    return small.write_lines(folder / "pool/a.jsonl", rows or documents())


def checked(folder: Path, pool: Path, tokenizer: Path | None, bad_records: str = "skip") -> Path:
    """The check of a shard of one file."""
    output = folder / "check/shard-00000.parquet"
    settings, _ = small.check_settings(bad_records)
    check.run(settings, pool=[str(pool)], tokenizer=tokenizer, output=output)
    return output


# What has a token


def test_a_text_has_no_token_only_where_the_whole_of_it_has_none(tokenizer):
    late = "。" * BEGINNING + " river"
    texts = ["a river", brought.FOREIGN, "。", late, "。" * BEGINNING, "<|endoftext|>", "river。"]
    assert tokenless(tokenizer)(texts) == [False, True, True, False, True, False, False]
    ids = load_tokenizer(tokenizer)(texts)["input_ids"]
    assert [not i for i in ids] == [False, True, True, False, True, False, False]


def test_whole_texts_are_tokenised_only_where_their_beginning_has_no_token(tokenizer, monkeypatch):
    seen: list[int] = []
    counts = tokenizer_module._counts(tokenizer)

    def spied(texts):
        seen.extend(map(len, texts))
        return counts(texts)

    monkeypatch.setattr(tokenizer_module, "_counts", lambda folder: spied)
    assert tokenless(tokenizer)(["river " * 100, brought.FOREIGN]) == [False, True]
    assert seen == [BEGINNING, BEGINNING, len(brought.FOREIGN)]


def test_a_tokenizer_with_a_fallback_to_bytes_has_a_token_of_every_text(tmp_path):
    folder = brought.bytes_tokenizer(tmp_path)
    assert tokenless(folder)([brought.FOREIGN, "\u0000", "a"]) == [False] * 3


def test_a_damaged_tokenizer_is_told(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
        tokenless(tmp_path)
    assert caught.value.where == str(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="a folder"):
        tokenless(tmp_path / "absent")


def test_the_check_reads_a_tokenizer_without_torch_and_transformers(tokenizer, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from groupmates.stages import check; from groupmates.settings.per_stage import *\n"
        "settings = CheckSettings.model_validate_json(sys.argv[1])\n"
        "check.run(settings, pool=[sys.argv[2]], tokenizer=Path(sys.argv[3]), "
        "output=Path(sys.argv[4]))\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    settings = small.check_settings("skip")[0].model_dump_json()
    arguments = [settings, pool_of(tmp_path), tokenizer, tmp_path / "check.parquet"]
    path = str(Path(check.__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env={"PYTHONPATH": path}, check=True
    )
    assert read_table(tmp_path / "check.parquet", "check")["rejected"].to_pylist() == [len(EMPTY)]


# The check


def test_skip_lists_what_has_no_token_beside_other_bad_records(tokenizer, tmp_path):
    pool = pool_of(tmp_path)
    lines = pool.read_text().splitlines()
    lines[20] = "{broken"
    pool.write_text("\n".join(lines) + "\n")
    shard = checked(tmp_path, pool, tokenizer)
    (listed,) = read_table(shard, "check").to_pylist()
    assert (listed["documents"], listed["rejected"]) == (35, 5)
    assert len(listed["id_hashes"]) == 35
    rejects = [(r["row"], r["reason"]) for r in listed["rejects"]]
    expected = dict.fromkeys(EMPTY, "no token") | {20: "not JSON"}
    assert rejects == sorted(expected.items())
    files = tmp_path / "check/files.parquet"
    of_pool = small.check_settings("skip", max_bad_share=0.2)[1]
    check.run_pool(
        of_pool,
        pool=[str(pool)],
        check=[shard],
        output=files,
        rejects=tmp_path / "check/rejects.parquet",
    )
    table = read_table(tmp_path / "check/rejects.parquet", "rejects")
    assert list(zip(table["source_row"].to_pylist(), table["reason"].to_pylist(), strict=True)) == (
        sorted(expected.items())
    )
    assert brought.FOREIGN[:40] in table["found"].to_pylist()[0]


@pytest.mark.parametrize("together", [1, 7, 1000])
def test_stop_names_the_first_file_and_line(tokenizer, tmp_path, monkeypatch, together):
    monkeypatch.setattr(pool_documents, "TESTED_TOGETHER", together)
    pool = pool_of(tmp_path)
    with pytest.raises(UserError, match="a text that has tokens") as caught:
        checked(tmp_path, pool, tokenizer, "stop")
    assert caught.value.where == f"{pool}, line {EMPTY[0] + 1}"
    assert "pool.bad_records: skip" in caught.value.todo
    assert brought.FOREIGN[:20] in caught.value.found
    assert not (tmp_path / "check/shard-00000.parquet").exists()


def test_a_file_in_which_nothing_has_a_token_stops_the_run_always(tokenizer, tmp_path):
    pool = pool_of(tmp_path, documents(range(40)))
    with pytest.raises(UserError, match="a good record") as caught:
        checked(tmp_path, pool, tokenizer)
    assert caught.value.found.startswith("40 bad ones")


def test_without_a_given_tokenizer_every_text_is_as_good(tmp_path):
    (listed,) = read_table(checked(tmp_path, pool_of(tmp_path), None), "check").to_pylist()
    assert (listed["documents"], listed["rejected"]) == (40, 0)


def test_a_later_document_of_an_id_is_listed_behind_what_has_no_token(tokenizer, tmp_path):
    rows = documents()
    rows[39] = rows[39] | {"id": "doc-030"}
    pool = pool_of(tmp_path, rows)
    check.run_pool(
        small.check_settings("skip", max_bad_share=0.3)[1],
        pool=[str(pool)],
        check=[checked(tmp_path, pool, tokenizer)],
        output=tmp_path / "files.parquet",
        rejects=tmp_path / "rejects.parquet",
    )
    listed = read_table(tmp_path / "rejects.parquet", "rejects").to_pylist()
    assert [r["source_row"] for r in listed if r["reason"] == REPEATED] == [39]


# The sample


def drawn(folder: Path, tokenizer: Path, bad_records: str, **counts: int) -> brought.Sampled:
    return brought.sampled(
        folder, tokenizer, documents(), words_examples(), bad_records=bad_records, **counts
    )


def words_examples():
    """Their labels are words: the tokenizer knows no digit."""
    return [
        {"context": e["context"], "continuation": f" wait {e['context']}"}
        for e in small.reference_examples()
    ]


def sampled_ids(run: brought.Sampled) -> list[str]:
    tables = [read_table(getattr(run, n), n) for n in ("probe_pool", "training_pool")]
    return [i for table in tables for i in table["doc_id"].to_pylist()]


def test_the_sample_is_drawn_from_documents_with_a_token(tokenizer, tmp_path):
    run = drawn(tmp_path, tokenizer, "skip", probe_documents=10, training_documents=10)
    ids = sampled_ids(run)
    assert len(ids) == 20
    empty = {f"doc-{i:03d}" for i in EMPTY}
    assert not empty & set(ids)
    # As it would be without these documents in the pool.
    rows = [row for row in documents() if row["id"] not in empty]
    other = brought.sampled(
        tmp_path / "other",
        tokenizer,
        rows,
        words_examples(),
        probe_documents=10,
        training_documents=10,
    )
    assert sampled_ids(other) == ids
    lengths = [len(ids) for ids in read_table(run.probe_pool, "probe_pool")["input_ids"]]
    assert min(lengths) > 1


def test_a_sample_that_stops_names_the_document_it_would_draw(tokenizer, tmp_path):
    with pytest.raises(UserError, match="a text that has tokens") as caught:
        drawn(tmp_path, tokenizer, "stop")
    assert caught.value.where == f"{tmp_path}/pool/a.jsonl, line {EMPTY[0] + 1}"
    assert not (tmp_path / "sample").exists()


def test_a_sample_that_is_too_small_counts_documents_with_a_token(tokenizer, tmp_path):
    with pytest.raises(UserError, match="at least 38 documents") as caught:
        drawn(tmp_path, tokenizer, "skip", probe_documents=38)
    assert caught.value.found == "36"


# Scoring, and who reads what was scored


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    """Everything up to a scored pool, with documents that have no token left out."""
    folder = tmp_path_factory.mktemp("run")
    found = drawn(folder, tokenizer, "skip", probe_documents=20, training_documents=16)
    base.run(
        small.base_settings(),
        tokenizer=found.tokenizer,
        training_pool=found.training_pool,
        output=folder / "base",
    )
    return found


KEPT = [f"doc-{i:03d}" for i in range(40) if i not in EMPTY]


@pytest.fixture(scope="module")
def scored(run, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    model = small.influence_model(with_base(run), folder / "fit")
    output = folder / "score.parquet"
    score.run(
        per_stage.ScoreSettings(
            columns=small.COLUMNS,
            bad_records="skip",
            sequence_length=small.SEQUENCE,
            score=config.Passes(batch_tokens=256),
        ),
        pool=[str(run.pool)],
        check=checked(folder, run.pool, tokenizer),
        model=model,
        output=output,
    )
    return output


def with_base(run: brought.Sampled) -> small.Run:
    return small.Run(
        **{name: getattr(run, name) for name in vars(run)},
        base=run.folder / "base",
        rollouts=run.folder / "rollouts.parquet",
    )


def test_scores_are_of_the_documents_with_a_token(scored):
    table = read_table(scored, "score")
    assert table["doc_id"].to_pylist() == KEPT
    assert table["source_row"].to_pylist() == [i for i in range(40) if i not in EMPTY]
    assert min(table["n_tokens"].to_pylist()) > 1


def test_row_groups_do_not_change_what_is_left_out(run, tokenizer, tmp_path, monkeypatch):
    shard = shard_rows.Shard.of([str(run.pool)], checked(tmp_path, run.pool, tokenizer))
    assert shard.documents == len(KEPT)
    monkeypatch.setattr(shard_rows, "ROW_GROUP", 5)
    blocks = list(shard_rows.blocks(0, shard, small.COLUMNS, "skip"))
    assert [d.doc_id for _, block in blocks for d in block] == KEPT
    assert [len(block) for _, block in blocks] == [5] * 7 + [1]
    left = list(shard_rows.blocks(10, shard, small.COLUMNS, "skip"))
    assert [d.doc_id for _, block in left for d in block] == KEPT[10:]


def test_embeddings_of_meaning_are_of_the_same_documents(run, scored, tokenizer, tmp_path):
    encoder = tmp_path / "encoder.safetensors"
    semantic.run_fit(
        per_stage.SemanticFitSettings(semantic=config.Semantic(embedding_size=8)),
        base=run.folder / "base",
        probe_pool=run.probe_pool,
        output=encoder,
    )
    output = tmp_path / "semantic.parquet"
    semantic.run_embed(
        per_stage.EmbedSettings(
            text_columns=small.COLUMNS,
            bad_records="skip",
            sequence_length=small.SEQUENCE,
            score=config.Passes(batch_tokens=256),
        ),
        pool=[str(run.pool)],
        check=checked(tmp_path, run.pool, tokenizer),
        base=run.folder / "base",
        tokenizer=run.tokenizer,
        encoder=encoder,
        output=output,
    )
    order.check_same_documents([scored], [output])


@pytest.mark.parametrize("together", [1, 7, 1000])
def test_selectors_read_the_documents_that_were_scored(run, scored, monkeypatch, together):
    monkeypatch.setattr(order, "TOGETHER", together)
    blocks = list(order.documents_of_shard(scored, [str(run.pool)], small.COLUMNS, "skip"))
    assert [d.doc_id for block in blocks for d in block] == KEPT
    assert max(map(len, blocks)) <= together


def test_rollouts_train_on_documents_with_tokens_alone(run, tmp_path):
    """Probing such a document ended in an IndexError."""
    rollouts = tmp_path / "rollouts.parquet"
    draw_rollouts.run_random(small.plan_settings(), probe_pool=run.probe_pool, output=rollouts)
    drawn_ids = set(read_table(rollouts, "rollouts")["doc_id"].to_pylist())
    assert drawn_ids <= set(KEPT)
    lengths = np.array([len(i) for i in read_table(run.probe_pool, "probe_pool")["input_ids"]])
    assert (lengths > 1).all()
