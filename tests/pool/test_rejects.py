"""Bad records: which they are, that they are listed and never lost, and that all readers agree."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_readers import COLUMNS, KINDS, LINES, PACKED, PLAIN, copied_lines, refusal, write_stream

import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.pool import documents, text_lines
from groupmates.pool.documents import BadRecord, Reject, read_documents
from groupmates.pool.listing import PoolFile
from groupmates.settings import config, per_stage
from groupmates.stages import sample, score

GOOD = b'{"id": "a", "text": "one"}'
BAD = {
    b"{broken": ("not JSON", "'{broken'"),
    b"one": ("not JSON", "'one'"),
    b'{"id": "b", "text": "caf\xe9"}': ("not UTF-8", "the byte 0xe9 at position 25"),
    b"[1]": ("no JSON object", "a JSON list: '[1]'"),
    b'{"id": "b", "body": "two"}': ("no text", "the fields ['id', 'body']"),
    b'{"id": "b", "text": 5}': ("no text", "int in 'text'"),
    b'{"id": "b", "text": " \\n"}': ("empty text", "nothing but white space"),
    b'{"id": "b", "text": ""}': ("empty text", "an empty string"),
}
FURTHER = {
    b'{"id": "b", "text": null}': ("no text", "null in 'text'"),
    b'{"text": "two"}': ("no id", "the fields ['text']"),
    b'{"id": null, "text": "two"}': ("no id", "None"),
    b'{"id": [1], "text": "two"}': ("no id", "[1]"),
}


@pytest.mark.parametrize(
    ("first", "advice"),
    [
        (b"\xef\xbb\xbf" + GOOD, "without its byte order mark"),
        (b"[", "one object on each line"),
        (b"{broken", "correct or remove the line"),
    ],
)
def test_a_file_of_another_kind_is_told_from_a_broken_line(tmp_path, first, advice):
    """Removing the line would lose its document, and leave the next line as bad."""
    error = refusal(lambda: list(read_documents(lines_file(tmp_path, [first, GOOD]), PLAIN)))
    assert advice in error.todo
    assert error.where.endswith("line 1")


def lines_file(folder: Path, lines: list[bytes], suffix: str = ".jsonl") -> PoolFile:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part{suffix}"
    path.write_bytes(PACKED[suffix](b"".join(line + b"\n" for line in lines)))
    return PoolFile(str(path), path.name)


def texts_file(folder: Path, texts: list[bytes | None], suffix: str) -> PoolFile:
    """A table whose texts may be anything."""
    path = folder / f"part{suffix}"
    table = pa.table({"text": pa.array(texts, pa.binary()).view(pa.string())})
    if suffix == ".arrow":
        write_stream(table, path)
    else:
        pq.write_table(table, path, row_group_size=3)
    return PoolFile(str(path), path.name)


def read(file: PoolFile, columns: config.PoolColumns = PLAIN) -> tuple[list[int], list[Reject]]:
    """Rows of the documents, and the bad records."""
    rejects: list[Reject] = []
    return [d.row for d in read_documents(file, columns, rejects)], rejects


@pytest.mark.parametrize("suffix", LINES)
def test_bad_lines_are_told_with_row_reason_and_what_was_found(tmp_path, suffix):
    """All of them in a list; without one, the first stops with what is to be done."""
    bad = BAD | FURTHER
    lines = [part for line in bad for part in (line, GOOD)]
    rows, rejects = read(lines_file(tmp_path, lines, suffix), COLUMNS)
    assert rows == list(range(1, 2 * len(bad), 2))
    assert [r.row for r in rejects] == list(range(0, 2 * len(bad), 2))
    for line, reject, (reason, found) in zip(bad, rejects, bad.values(), strict=True):
        assert (reject.reason, found in reject.found) == (reason, True)
        file = lines_file(tmp_path, [GOOD, line, GOOD], suffix)
        with pytest.raises(BadRecord) as caught:
            list(read_documents(file, COLUMNS))
        assert (caught.value.reason, caught.value.where) == (reason, f"{file.path}, line 2")
        assert found in caught.value.found
        assert "pool.bad_records: skip" in caught.value.todo


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_bad_rows_of_a_table_are_listed_one_by_one(tmp_path, suffix):
    texts = [b"one", b"caf\xe9", None, b" ", b"", b"two", b"\xff"]
    rows, rejects = read(texts_file(tmp_path, texts, suffix))
    assert rows == [0, 5]
    assert [(r.row, r.reason) for r in rejects] == [
        (1, "not UTF-8"),
        (2, "no text"),
        (3, "empty text"),
        (4, "empty text"),
        (6, "not UTF-8"),
    ]
    assert "0xe9 at position 4" in rejects[0].found


@pytest.mark.parametrize("suffix", LINES)
def test_a_blank_line_is_neither_a_document_nor_a_bad_record_and_counts_as_a_row(tmp_path, suffix):
    file = lines_file(tmp_path, [b"", GOOD, b" \t\r", b"", GOOD, b"  "], suffix)
    assert [(d.row, d.doc_id) for d in read_documents(file, PLAIN)] == [
        (1, "part" + suffix + "#1"),
        (4, "part" + suffix + "#4"),
    ]
    assert read(file) == ([1, 4], [])
    assert copied_lines(file, [4], tmp_path) == GOOD + b"\n"
    assert read(lines_file(tmp_path, [b"", b" "], suffix)) == ([], [])


def test_a_file_of_bad_records_and_blank_lines_counts_the_bad_ones(tmp_path):
    error = refusal(lambda: read(lines_file(tmp_path, [b"", b"x", b"", b"y", b""])))
    assert (error.found.split(",")[0], error.where[-6:]) == ("2 bad ones", "line 2")


def test_white_space_that_is_cut_as_too_long_is_a_bad_record(tmp_path, monkeypatch):
    monkeypatch.setattr("groupmates.pool.text_lines.CHUNK_BYTES", 100)
    monkeypatch.setattr(text_lines, "LONGEST_RECORD_BYTES", 1000)
    rows, rejects = read(lines_file(tmp_path, [b" " * 5000 + GOOD, GOOD]))
    assert (rows, [r.reason for r in rejects]) == ([1], ["too long"])


def test_the_beginning_of_a_long_bad_line_is_kept_and_no_more(tmp_path):
    _, (reject,) = read(lines_file(tmp_path, [b"x" * 10_000, GOOD]))
    assert reject.found.startswith("'xxxx")
    assert len(reject.found) <= documents.SHOWN


def test_a_bad_line_of_a_damaged_file_is_told_as_damage(tmp_path):
    """Its checksum, at the end, says what the line does not."""
    whole = gzip.compress(b"\n".join([GOOD] * 50), compresslevel=0)
    at = whole.index(b'"text"') + 2
    path = tmp_path / "part.jsonl.gz"
    path.write_bytes(whole[:at] + b'"' + whole[at + 1 :])
    error = refusal(lambda: list(read_documents(PoolFile(str(path), path.name), PLAIN)))
    assert not isinstance(error, BadRecord)
    assert "damaged" in error.found
    assert "copy or make the file again" in error.todo


@pytest.mark.parametrize("suffix", LINES)
def test_a_line_of_100_mb_is_a_bad_record(tmp_path, suffix):
    line = b'{"text": "' + b"word " * 20_000_000 + b'"}'
    file = lines_file(tmp_path, [GOOD, line, GOOD], suffix)
    error = refusal(lambda: list(read_documents(file, PLAIN)))
    assert error.expected == "a record of at most 67,108,864 bytes"
    assert error.found.startswith('a longer line: \'{"text": "word word')
    assert error.where == f"{file.path}, line 2"
    assert "split or remove" in error.todo
    rows, (reject,) = read(file)
    assert rows == [0, 2]
    assert (reject.row, reject.reason) == (1, "too long")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_text_of_100_mb_in_a_table_is_a_bad_record(tmp_path, suffix):
    rows, (reject,) = read(texts_file(tmp_path, [b"one", b"word " * 20_000_000], suffix))
    assert rows == [0]
    assert (reject.row, reject.reason) == (1, "too long")


def test_a_file_of_one_long_line_is_cut_while_it_streams(tmp_path, monkeypatch):
    monkeypatch.setattr("groupmates.pool.text_lines.CHUNK_BYTES", 100)
    monkeypatch.setattr(text_lines, "LONGEST_RECORD_BYTES", 1000)
    longest = []
    true_object = documents.object_of
    monkeypatch.setattr(
        documents,
        "object_of",
        lambda line: longest.append(len(line)) or true_object(line),
    )
    rows, rejects = read(lines_file(tmp_path, [b"[" * 50_000, GOOD]))
    assert (rows, [r.row for r in rejects]) == ([1], [0])
    assert 1000 < max(longest) <= 1100


@pytest.mark.parametrize("rejects", [None, []])
def test_a_file_of_bad_records_alone_is_refused_in_any_case(tmp_path, rejects):
    file = lines_file(tmp_path, [b'{"body": "one"}'] * 3)
    error = refusal(lambda: list(read_documents(file, PLAIN, rejects)))
    assert "a string in the field 'text'" in error.expected
    assert "['body']" in error.found
    assert error.where == f"{file.path}, line 1"
    assert rejects is None or "3 bad ones" in error.found


def test_a_listing_that_grows_without_end_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MOST_REJECTS", 5)
    error = refusal(lambda: read(lines_file(tmp_path, [GOOD, *[b"x"] * 9])))
    assert "at most 5 bad records" in error.expected
    assert error.where.endswith("line 7")


# The stages


@pytest.fixture
def pool(tmp_path) -> list[Path]:
    """40 good documents and 8 bad records, in two files."""
    lines = [orjson.dumps(d) for d in small.documents()]
    for number, bad in enumerate(BAD):
        lines.insert(5 * number + 1, bad)
    folder = tmp_path / "pool"
    return [
        Path(lines_file(folder / name, part).path)
        for name, part in (("a", lines[:30]), ("b", lines[30:]))
    ]


def checked(pool: list[Path], folder: Path, max_bad_share: float) -> tuple[Path, Path, Path]:
    files = small.marked(folder / "pool", pool)
    (shard,) = small.check_pool([files], folder, "skip", max_bad_share)
    return shard, folder / "files.parquet", folder / "rejects.parquet"


def test_the_check_counts_bad_records_and_lists_every_one(pool, tmp_path, capsys):
    _, files, rejects = checked(pool, tmp_path, 0.2)
    listing = read_table(rejects, "rejects").to_pylist()
    assert [(r["source_file"], r["source_row"]) for r in listing] == [
        *(("a/part.jsonl", row) for row in (1, 6, 11, 16, 21, 26)),
        *(("b/part.jsonl", row) for row in (1, 6)),
    ]
    assert [r["reason"] for r in listing] == [reason for reason, _ in BAD.values()]
    counts = read_table(files, "files", ["documents", "rejected"]).to_pylist()
    assert counts == [{"documents": 24, "rejected": 6}, {"documents": 16, "rejected": 2}]
    assert "8 of 48 records are left out: 2 not JSON" in capsys.readouterr().err


def test_more_bad_records_than_the_ceiling_stop_with_the_file_that_has_most(pool, tmp_path):
    error = refusal(lambda: checked(pool, tmp_path, 0.1))
    assert "at most 10.00% bad records" in error.expected
    assert "8 of 48, 16.67%: 2 not JSON, 2 no text" in error.found
    assert error.where.startswith(
        f"6 in {pool[0]}, the first of them {pool[0]}, line 2: '{{broken'"
    )
    assert "pool.max_bad_share" in error.todo
    assert not (tmp_path / "files.parquet").exists()
    checked(pool, tmp_path, 8 / 48)


def test_check_sample_and_score_leave_out_the_same_records(pool, tmp_path, small_run, capsys):
    shard, _, rejects = checked(pool, tmp_path, 0.2)
    files = small.marked(tmp_path / "pool", pool)
    sample.run(
        small.sample_settings(20, 20, "skip"),
        pool=files,
        tokenizer=tmp_path / "tokenizer",
        probe_pool=tmp_path / "probe_pool.parquet",
        training_pool=tmp_path / "training_pool.parquet",
    )
    assert "8 bad records are left out" in capsys.readouterr().err
    score.run(
        per_stage.ScoreSettings(
            columns=small.COLUMNS,
            bad_records="skip",
            sequence_length=12,
            score=config.Passes(batch_tokens=1000),
        ),
        pool=files,
        check=shard,
        model=small.influence_model(small_run, tmp_path / "model"),
        output=tmp_path / "score.parquet",
    )
    sampled = [
        row
        for name in ("probe_pool", "training_pool")
        for row in places(tmp_path / f"{name}.parquet", name)
    ]
    scored = places(tmp_path / "score.parquet", "score")
    assert set(sampled) == set(scored)
    assert len(sampled) == len(scored) == 40
    left_out = places(rejects, "rejects")
    assert not set(scored) & set(left_out)
    assert len(set(scored) | set(left_out)) == 48
    for name, row, text in read_texts(tmp_path / "probe_pool.parquet"):
        line = (tmp_path / "pool" / name).read_bytes().split(b"\n")[row]
        assert orjson.loads(line)["text"] == text


def places(path: Path, artefact: str) -> list[tuple[str, int]]:
    table = read_table(path, artefact, ["source_file", "source_row"])
    files = table["source_file"].cast("string").to_pylist()
    return list(zip(files, table["source_row"].to_pylist(), strict=True))


def read_texts(path: Path) -> list[tuple[str, int, str]]:
    table = read_table(path, "probe_pool", ["source_file", "source_row", "text"])
    return [(r["source_file"], r["source_row"], r["text"]) for r in table.to_pylist()]


# Damage of any kind


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_any_byte_of_a_table_may_be_wrong(tmp_path, suffix):
    """What once came up: lengths of petabytes, names of columns that are not UTF-8."""
    file = texts_file(tmp_path, [b"one", None, b"two"], suffix)
    content = Path(file.path).read_bytes()
    refused = 0
    for at in range(len(content)):
        wrong = content[at] ^ (255 if at % 2 else 1 << at % 8)
        Path(file.path).write_bytes(content[:at] + bytes([wrong]) + content[at + 1 :])
        try:
            rows, rejects = read(file)
        except UserError as error:
            refused += 1
            assert file.path in error.where
            continue
        assert sorted([*rows, *(r.row for r in rejects)]) == [0, 1, 2]
    assert refused > len(content) / 4


RECORDS = st.one_of(
    st.sampled_from([*BAD, GOOD, b'{"text": "' + b"long " * 40 + b'"}']),
    st.text(max_size=20).map(lambda text: orjson.dumps({"text": text})),
    st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")),
)
TEXTS = st.one_of(
    st.none(),
    st.binary(max_size=12),
    st.text(max_size=12).map(lambda text: text.encode()),
    st.just(b"long " * 40),
)


@st.composite
def damage(draw: Any) -> tuple[str, float, bytes]:
    """How, where (as a share of the file), and what comes in."""
    kind = draw(st.sampled_from(["none", "cut", "change", "insert", "remove", "append"]))
    return kind, draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=9))


def damaged(content: bytes, how: tuple[str, float, bytes]) -> bytes:
    kind, share, new = how
    at = int(share * len(content))
    return {
        "none": content,
        "cut": content[:at],
        "change": content[:at] + new + content[at + len(new) :],
        "insert": content[:at] + new + content[at:],
        "remove": content[:at] + content[at + len(new) :],
        "append": content + new,
    }[kind]


def present(path: Path, suffix: str) -> list[int]:
    """Rows of the records of a file that can be read, found by other means than ours."""
    if suffix == ".parquet":
        return list(range(pq.read_metadata(path).num_rows))
    if suffix == ".arrow":
        return list(range(sum(len(batch) for batch in pa.ipc.open_stream(path.read_bytes()))))
    content = path.read_bytes()
    if suffix == ".jsonl.gz":
        content = gzip.decompress(content)
    if suffix == ".jsonl.zst":
        reader = zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True)
        content = reader.read()
    return [row for row, line in enumerate(content.split(b"\n")) if line.strip()]


@settings(max_examples=int(os.environ.get("GROUPMATES_FUZZ_EXAMPLES", 400)), deadline=None)
@given(
    suffix=st.sampled_from(KINDS),
    records=st.lists(RECORDS, max_size=12),
    texts=st.lists(TEXTS, max_size=12),
    how=damage(),
    chunk=st.integers(1, 200),
)
@example(".parquet", [], [b"a", None, b"\xff"], ("none", 0.0, b"x"), 7)
@example(".jsonl.zst", [GOOD], [], ("append", 0.0, b"garbage"), 7)
def test_of_any_damaged_file_every_record_is_read_or_listed_or_the_file_is_refused(
    tmp_path_factory, suffix, records, texts, how, chunk
):
    folder = tmp_path_factory.mktemp("damaged")
    lines = suffix in LINES
    file = lines_file(folder, records, suffix) if lines else texts_file(folder, texts, suffix)
    path = Path(file.path)
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groupmates.pool.text_lines.CHUNK_BYTES", chunk)
        patch.setattr(text_lines, "LONGEST_RECORD_BYTES", 100)
        try:
            rows, rejects = read(file)
        except UserError as error:
            assert path.name in error.where
            assert error.expected
            assert error.found
            assert error.todo
            with pytest.raises(UserError):
                list(read_documents(file, PLAIN))
            return
        assert sorted([*rows, *(r.row for r in rejects)]) == present(path, suffix)
        assert rows == sorted(rows)
        if rejects:
            error = refusal(lambda: list(read_documents(file, PLAIN)))
            assert error.where.endswith(f" {rejects[0].row + 1}")
        else:
            assert [d.row for d in read_documents(file, PLAIN)] == rows
