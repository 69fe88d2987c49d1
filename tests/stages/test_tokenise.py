"""Tokenised datasets, read back by the readers of those who train on them."""

import gzip
import json
import struct
import subprocess
import tarfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import webdataset

import brought
import small
import tables
from groupmates.artefacts import unfinished
from groupmates.artefacts.store import read_artefact_json, read_table
from groupmates.errors import UserError
from groupmates.models.tokenizer import document_tokens, load_tokenizer, train_tokenizer
from groupmates.pool.token_files import token_type
from groupmates.settings import config, per_stage
from groupmates.stages import materialise, selected_tokens, tokenise

WINDOW, PER_SHARD = 20, 3
OPEN_LM = config.OpenLm(window_tokens=WINDOW, windows_per_shard=PER_SHARD)


def settings(
    format: str, in_text: bool = False, bad_records: config.BadRecords = "stop"
) -> per_stage.TokeniseSettings:
    return per_stage.TokeniseSettings(
        seed=0,
        format=format,
        text_columns=small.COLUMNS,
        bad_records=bad_records,
        special_tokens_in_text=in_text,
        open_lm=OPEN_LM if format == "open_lm" else None,
    )


@pytest.fixture
def pool(tmp_path) -> Path:
    """Three files; of two of them every second line is selected, of the last one all."""
    documents = small.documents(40)
    for name, part in (("a", documents[:11]), ("b", documents[11:24]), ("c", documents[24:])):
        small.write_lines(tmp_path / f"pool/{name}.jsonl", part)
    return tmp_path / "pool"


ROWS = {"a": range(0, 11, 2), "b": range(1, 13, 2), "c": range(16)}
PARTS = {"00000": "ab", "00001": "c"}


def texts(names: str = "abc") -> list[str]:
    first = {"a": 0, "b": 11, "c": 24}
    return [small.documents(40)[first[name] + row]["text"] for name in names for row in ROWS[name]]


def selection_of(pool: Path, name: str) -> Path:
    places = [(f"{name}.jsonl", row) for row in ROWS[name]]
    files = small.marked(pool, [pool / f"{name}.jsonl"])
    return tables.selection(pool.parent / f"select-{name}.parquet", places, files)


def part_of(pool: Path, format: str, part: str, tokenizer: Path, names: str | None = None) -> Path:
    names = PARTS[part] if names is None else names
    output = pool.parent / "dataset" / f"part-{part}"
    tokenise.run(
        settings(format),
        pool=small.marked(pool, [pool / f"{name}.jsonl" for name in names]),
        selection=[selection_of(pool, name) for name in names],
        tokenizer=tokenizer,
        part=part,
        output=output,
    )
    return output


def dataset_of(pool: Path, format: str, tokenizer: Path) -> Path:
    """The folder of a whole dataset."""
    written = [part_of(pool, format, part, tokenizer) for part in PARTS]
    materialise.run_assemble(
        per_stage.AssembleSettings(run="tiny", format=format, license=None),
        written=written,
        select=[pool.parent / f"select-{name}.parquet" for name in "abc"],
        output=pool.parent / "dataset.json",
    )
    return pool.parent / "dataset"


def expected_windows(names: str, tokenizer: Path) -> list[list[int]]:
    stream = np.concatenate(document_tokens(load_tokenizer(tokenizer), texts(names)))
    whole = len(stream) // WINDOW * WINDOW
    return stream[:whole].reshape(-1, WINDOW).tolist()


def read_as_open_lm_does(manifest: Path) -> list[list[int]]:
    """Shard paths from the manifest in one brace expression, then webdataset's own reader."""
    lines = [json.loads(line) for line in manifest.read_bytes().decode().split("\n")[:-1]]
    names = ",".join(line["shard"] for line in lines)
    url = str(manifest).rpartition("/")[0] + "/{" + names + "}.tar"
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(url),
        webdataset.tarfile_to_samples(handler=webdataset.reraise_exception),
        webdataset.decode(),
        webdataset.rename(json="json.gz"),
        webdataset.to_tuple("json"),
    )
    windows = [window for (window,) in pipeline]
    assert len(windows) == sum(line["num_sequences"] for line in lines)
    return windows


# open_lm


def test_open_lm_reads_the_windows_of_all_documents_and_the_manifest_counts_them(pool, small_run):
    folder = dataset_of(pool, "open_lm", small_run.tokenizer)
    found = read_as_open_lm_does(folder / "manifest.jsonl")
    ours = expected_windows("ab", small_run.tokenizer) + expected_windows("c", small_run.tokenizer)
    assert len(found) > 3 * PER_SHARD
    assert sorted(found) == sorted(ours)
    card = read_artefact_json(folder.with_suffix(".json"), "dataset_card")
    tokens = sum(map(len, document_tokens(load_tokenizer(small_run.tokenizer), texts())))
    assert (card["documents"], card["tokens"], card["sequences"]) == (28, tokens, len(found))


def test_every_shard_but_a_part_s_last_is_full_and_lies_where_the_manifest_says(pool, small_run):
    folder = dataset_of(pool, "open_lm", small_run.tokenizer)
    manifest = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    listed = {folder / f"{line['shard']}.tar": line["num_sequences"] for line in manifest}
    assert sorted(listed) == sorted(folder.rglob("*.tar"))
    for part in PARTS:
        *full, last = [n for path, n in listed.items() if path.parent.name == f"part-{part}"]
        assert set(full) == {PER_SHARD} and 0 < last <= PER_SHARD
    for path, n in listed.items():  # as open_lm.utils.make_wds_manifest counts
        members = subprocess.check_output(["tar", "tf", path], text=True).split()
        assert len(members) == n


def test_windows_are_shuffled_within_a_part_and_keys_are_unique(pool, small_run):
    folder = dataset_of(pool, "open_lm", small_run.tokenizer)
    found = read_as_open_lm_does(folder / "manifest.jsonl")
    ours = expected_windows("ab", small_run.tokenizer)
    first = found[: len(ours)]
    assert first != ours
    assert sorted(first) == sorted(ours)
    keys = []
    for path in folder.rglob("*.tar"):
        with tarfile.open(path) as archive:
            keys += archive.getnames()
    assert len(set(keys)) == len(keys) == len(found)


def test_the_table_beside_the_shards_names_the_documents_of_every_window(pool, small_run):
    folder = dataset_of(pool, "open_lm", small_run.tokenizer)
    tokenizer = load_tokenizer(small_run.tokenizer)
    for part, names in PARTS.items():
        documents = document_tokens(tokenizer, texts(names))
        stream = [
            (name, token)
            for name, tokens in zip(ids(names), documents, strict=True)
            for token in tokens.tolist()
        ]
        expected = [stream[i : i + WINDOW] for i in range(0, len(stream) - WINDOW + 1, WINDOW)]
        table = read_table(folder / f"part-{part}/windows.parquet", "windows").to_pylist()
        found = []
        for path in sorted((folder / f"part-{part}").glob("*.tar")):
            for key, window in members(path):
                pieces = [piece for piece in table if piece["key"] == key]
                owners = [piece["doc_id"] for piece in pieces for _ in range(piece["tokens"])]
                found.append(list(zip(owners, window, strict=True)))
                lengths = np.array([piece["tokens"] for piece in pieces])
                assert [piece["first"] for piece in pieces] == [0, *np.cumsum(lengths)[:-1]]
        assert sorted(found) == sorted(expected)
        assert {f"{row['source_file']}#{row['source_row']}" for row in table} <= set(ids(names))
        assert len({row["key"] for row in table}) == len(found) > PER_SHARD


def members(shard: Path) -> list[tuple[str, list[int]]]:
    """Key and tokens of each window of a .tar."""
    with tarfile.open(shard) as archive:
        return [
            (member.name.removesuffix(".json.gz"), json.loads(gzip.decompress(content)))
            for member in archive
            for content in [archive.extractfile(member).read()]
        ]


def ids(names: str) -> list[str]:
    return [f"{name}.jsonl#{row}" for name in names for row in ROWS[name]]


def test_a_selection_that_fills_no_window_is_told(pool, small_run, monkeypatch):
    monkeypatch.setattr(__name__ + ".OPEN_LM", OPEN_LM.model_copy(update={"window_tokens": 10**6}))
    with pytest.raises(UserError, match=r"fills a window(.|\n)*materialise.shards_per_job"):
        dataset_of(pool, "open_lm", small_run.tokenizer)


# Megatron


def megatron():
    """Its own reader; installed with the other packages of the tests on Linux."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Transformer Engine is not there
        return pytest.importorskip("megatron.core.datasets.indexed_dataset")


def read_by_megatron(folder: Path):
    return megatron().IndexedDataset(str(folder / "tokens"), multimodal=False, mmap=True)


def read_whole(folder: Path, tokenizer: Path) -> type:
    """Every document with its end, as this tokenizer has it; the type of the tokens."""
    found = read_by_megatron(folder)
    ours = document_tokens(load_tokenizer(tokenizer), texts())
    assert [found[i].tolist() for i in range(len(found))] == [t.tolist() for t in ours]
    assert found.document_indices.tolist() == list(range(len(ours) + 1))
    return found.index.dtype


def test_megatron_core_reads_every_document_with_its_end(pool, small_run):
    folder = dataset_of(pool, "megatron", small_run.tokenizer)
    assert read_whole(folder, small_run.tokenizer) is np.uint16
    names = sorted(path.name for path in folder.iterdir())
    parts = ["part-00000", "part-00001"]
    assert names == ["README.md", "documents.parquet", *parts, "tokens.bin", "tokens.idx"]


def test_the_table_beside_the_index_names_its_documents_in_their_order(pool, small_run):
    folder = dataset_of(pool, "megatron", small_run.tokenizer)
    table = read_table(folder / "documents.parquet", "documents")
    assert table["doc_id"].to_pylist() == ids("abc")
    assert table["source_file"].to_pylist() == [i.partition("#")[0] for i in ids("abc")]
    assert table["source_row"].to_pylist() == [int(i.partition("#")[2]) for i in ids("abc")]
    index = (folder / "tokens.idx").read_bytes()
    (documents,) = struct.unpack_from("<Q", index, 18)
    lengths = np.frombuffer(index, "<i4", documents, 34)
    assert table["tokens"].to_pylist() == lengths.tolist()
    assert (folder / "tokens.bin").stat().st_size == 2 * lengths.sum()


def test_how_many_shards_a_job_takes_changes_no_byte_of_a_megatron_dataset(
    pool, small_run, monkeypatch
):
    apart = contents(dataset_of(pool, "megatron", small_run.tokenizer))
    monkeypatch.setitem(PARTS, "00000", "abc")
    monkeypatch.delitem(PARTS, "00001")
    together = contents(dataset_of(pool, "megatron", small_run.tokenizer))
    assert "part-00001/lengths.npy" in apart and "part-00001/lengths.npy" not in together
    for name in ("tokens.bin", "tokens.idx"):
        assert together[name] == apart[name]


def test_the_type_of_tokens_is_that_of_megatron_s_own_rule():
    for vocabulary in (300, 65499, 65500, 128_256):
        assert token_type(vocabulary) == np.dtype(megatron().DType.optimal_dtype(vocabulary))


def test_a_large_vocabulary_is_read_back_by_megatron_core(pool, small_run, monkeypatch):
    monkeypatch.setattr(tokenise, "token_type", lambda vocabulary: np.dtype("<i4"))
    folder = dataset_of(pool, "megatron", small_run.tokenizer)
    assert read_whole(folder, small_run.tokenizer) is np.int32


# Special tokens that are spelt in a text


@pytest.mark.parametrize("in_text", [False, True])
@pytest.mark.parametrize("format", ["open_lm", "megatron"])
def test_a_spelt_end_of_text_is_text_unless_the_settings_say_otherwise(
    format, in_text, pool, small_run, monkeypatch
):
    spelt = [d | {"text": f"{d['text']}<|endoftext|> more"} for d in small.documents(11)]
    small.write_lines(pool / "a.jsonl", spelt)
    monkeypatch.setattr(__name__ + ".settings", partial(settings, in_text=in_text))
    # Nothing is dropped.
    one = OPEN_LM.model_copy(update={"window_tokens": 1, "windows_per_shard": 10_000})
    monkeypatch.setattr(__name__ + ".OPEN_LM", one)
    folder = part_of(pool, format, "00000", small_run.tokenizer, "a")
    if format == "megatron":
        found = np.fromfile(folder / "tokens.bin", np.uint16).tolist()
    else:
        found = [token for _, window in members(folder / "00000000.tar") for token in window]
    end = load_tokenizer(small_run.tokenizer).eos_token_id
    assert found.count(end) == len(ROWS["a"]) * (1 + in_text)


# Documents of which the tokenizer knows no character


def with_foreign(pool: Path) -> None:
    """The second selected document of the first file has no word, and the last one of the last."""
    for name, rows, changed in (("a", range(11), 2), ("c", range(24, 40), 15)):
        lines = [small.documents(40)[row] for row in rows]
        lines[changed] = lines[changed] | {"text": brought.FOREIGN}
        small.write_lines(pool / f"{name}.jsonl", lines)


@pytest.mark.parametrize("format", ["open_lm", "megatron"])
def test_a_document_without_a_token_stops_with_its_id_file_and_line(format, pool, tmp_path):
    """It was written as a bare end-of-text."""
    with_foreign(pool)
    with pytest.raises(UserError, match=r"materialise\.tokenizer") as caught:
        part_of(pool, format, "00000", brought.words_tokenizer(tmp_path / "words"))
    assert caught.value.where == f"document 'a.jsonl#2', {pool}/a.jsonl, line 3"
    assert brought.FOREIGN[:20] in caught.value.found
    assert "pool.bad_records" in caught.value.todo


@pytest.mark.parametrize("format", ["open_lm", "megatron"])
def test_skip_leaves_a_document_without_a_token_out_of_dataset_and_counts(
    format, pool, tmp_path, monkeypatch, capsys
):
    with_foreign(pool)
    words = brought.words_tokenizer(tmp_path / "words")
    monkeypatch.setattr(__name__ + ".settings", partial(settings, bad_records="skip"))
    one = OPEN_LM.model_copy(update={"window_tokens": 1, "windows_per_shard": 10_000})
    monkeypatch.setattr(__name__ + ".OPEN_LM", one)  # nothing is dropped
    folder = dataset_of(pool, format, words)
    kept = [i for i in ids("abc") if i not in ("a.jsonl#2", "c.jsonl#15")]
    whole = dict(zip(ids("abc"), texts(), strict=True))
    documents = document_tokens(load_tokenizer(words), [whole[i] for i in kept])
    card = read_artefact_json(folder.with_suffix(".json"), "dataset_card")
    assert (card["documents"], card["tokens"]) == (26, sum(map(len, documents)))
    assert "| documents | 26 |" in (folder / "README.md").read_text()
    assert capsys.readouterr().err.count("WARNING: 1 documents without a token are left out") == 2
    if format == "megatron":
        found = read_by_megatron(folder)
        assert [d.tolist() for d in found] == [d.tolist() for d in documents]
        table = read_table(folder / "documents.parquet", "documents")
        assert table["doc_id"].to_pylist() == kept
        assert table["tokens"].to_pylist() == [len(d) for d in documents]
        return
    tables_of_parts = [read_table(p, "windows") for p in sorted(folder.rglob("windows.parquet"))]
    owners = [i for table in tables_of_parts for i in table["doc_id"].to_pylist()]
    expected = [i for i, d in zip(kept, documents, strict=True) for _ in d]
    assert sorted(owners) == sorted(expected)
    assert card["sequences"] == len(expected)


# Whatever happens on the way


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("format", ["open_lm", "megatron"])
def test_the_size_of_pieces_and_blocks_changes_no_byte(format, pool, small_run, monkeypatch):
    whole = contents(part_of(pool, format, "00000", small_run.tokenizer))
    monkeypatch.setattr(selected_tokens, "PIECE_TOKENS", 37)
    monkeypatch.setattr(selected_tokens, "TEXT_TOGETHER", 100)
    assert contents(part_of(pool, format, "00000", small_run.tokenizer)) == whole


class Killed(Exception):
    pass


@pytest.mark.parametrize("format", ["open_lm", "megatron"])
def test_a_part_killed_after_any_of_its_saves_ends_as_if_it_had_not_been(
    format, pool, small_run, monkeypatch
):
    monkeypatch.setattr(selected_tokens, "PIECE_TOKENS", 60)
    monkeypatch.setattr(selected_tokens, "TEXT_TOGETHER", 100)
    output = part_of(pool, format, "00000", small_run.tokenizer)
    whole = contents(output)
    save, calls = unfinished.Kept.save, []

    def interrupted(*arguments, **named):
        save(*arguments, **named)
        calls.append(arguments)
        raise Killed

    attempts = 0
    with monkeypatch.context() as patched:
        patched.setattr(unfinished.Kept, "save", interrupted)
        while True:
            attempts += 1
            try:
                part_of(pool, format, "00000", small_run.tokenizer)
                break
            except Killed:
                assert attempts < 100
    assert attempts > 4  # one save each, and none is done twice
    assert contents(output) == whole
    assert sorted(p.name for p in output.parent.iterdir()) == [output.name]


def test_progress_with_another_tokenizer_is_not_gone_on_with(
    pool, small_run, tmp_path, monkeypatch
):
    other = tmp_path / "other"
    train_tokenizer([d["text"] for d in small.documents(10)], 290).save_pretrained(other)
    with monkeypatch.context() as patched:
        patched.setattr(tokenise.store, "replacing", lambda path: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            part_of(pool, "megatron", "00000", small_run.tokenizer)
    read_whole(dataset_of(pool, "megatron", other), other)


@pytest.mark.parametrize("format", ["open_lm", "megatron"])
def test_a_part_of_which_nothing_was_selected_is_empty(format, pool, small_run, monkeypatch):
    monkeypatch.setitem(ROWS, "c", range(0))
    folder = dataset_of(pool, format, small_run.tokenizer)
    if format == "open_lm":
        found = read_as_open_lm_does(folder / "manifest.jsonl")
        assert sorted(found) == sorted(expected_windows("ab", small_run.tokenizer))
    else:
        assert len(read_by_megatron(folder)) == 12


def test_a_pool_file_that_was_replaced_since_it_was_scored_is_refused(pool, small_run, monkeypatch):
    scored = selection_of(pool, "a")
    monkeypatch.setattr(__name__ + ".selection_of", lambda pool, name: scored)
    size = (pool / "a.jsonl").stat().st_size
    small.write_lines(pool / "a.jsonl", small.documents(5))
    with pytest.raises(UserError, match=f"{size:,} bytes, sha256") as caught:
        part_of(pool, "open_lm", "00000", small_run.tokenizer, "a")
    assert caught.value.where == str(pool / "a.jsonl")
    with pytest.raises(UserError, match="a file that was scored"):
        part_of(pool, "open_lm", "00000", small_run.tokenizer, "ab")
