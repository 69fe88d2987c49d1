"""Reference examples: what a record gives, how its two texts are joined, what is refused."""

from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_readers import LINES, pool_file, refusal, write_stream

from groupmates.pool.examples import Example, read_examples


def reference_file(folder: Path, lines: list[bytes], suffix: str = ".jsonl") -> str:
    return pool_file(folder, b"\n".join(lines), suffix).path


def read(path: str) -> list[tuple[str, str]]:
    return [(example.context, example.labelled) for example in read_examples(path)]


@pytest.mark.parametrize("suffix", LINES)
def test_records_give_context_and_labelled_text_as_written(tmp_path, suffix):
    lines = [
        b'{"context": "He said", "continuation": " hello", "index": 3}',
        b'{"prompt": "Add 1 and 2.\\n", "response": "3 ", "text": "ignored"}',
        b'{"text": " all of it"}',
        b'{"context": "", "continuation": "no context"}',
    ]
    assert read(reference_file(tmp_path, lines, suffix)) == [
        ("He said", " hello"),
        ("Add 1 and 2.\n", "3 "),
        ("", " all of it"),
        ("", "no context"),
    ]


def test_tables_are_references_too(tmp_path):
    rows = [{"prompt": "Add 1 and 2.", "response": "3", "index": 1}]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    write_stream(table, tmp_path / "a.arrow")
    for name in ("a.parquet", "a.arrow"):
        assert read(str(tmp_path / name)) == [("Add 1 and 2.", "3")]


@pytest.mark.parametrize(
    ("context", "labelled", "delimiter", "parts"),
    [
        # As the LAMBADA files of DCLM have it: without white space on either side.
        ("had never been", "searched", " ", ("had never been", " searched", "delimiter")),
        ("had never been", "searched", "\n", ("had never been", "\nsearched", "delimiter")),
        ("had never been", "searched", "", ("had never been", "searched", "as it is")),
        ("had never been", " searched", " ", ("had never been", " searched", "white space")),
        # A word is tokenised with the space before it.
        ("had never been  ", "searched", "", ("had never been", "  searched", "white space")),
        ("Answer:\n", "3", " ", ("Answer:\n", "3", "white space")),
        ("", "a text", " ", ("", "a text", "no context")),
    ],
)
def test_a_delimiter_joins_where_neither_side_has_white_space(context, labelled, delimiter, parts):
    assert Example("here", context, labelled).joined(delimiter) == parts


@pytest.mark.parametrize(
    ("line", "expected", "found"),
    [
        (b'{"prompt": "Add."}', "{prompt, response}", "['prompt']"),
        (b'{"question": "?"}', "'text'", "['question']"),
        (b'{"prompt": "Add.", "response": null}', "'response'", "null"),
        (b'{"prompt": 5, "response": "x"}', "'prompt'", "int"),
        (b'{"context": "a", "continuation": " "}', "'continuation'", "white space"),
        (b"[]", "a JSON object", "list"),
        (b"{", "a JSON object", "'{'"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(tmp_path, line, expected, found):
    path = reference_file(tmp_path, [orjson.dumps({"text": "fine"}), line])
    error = refusal(lambda: read(path))
    assert expected in error.expected
    assert found in error.found
    assert error.where == f"{path}, line 2"


def test_blank_lines_are_no_examples_and_count_as_lines(tmp_path):
    path = reference_file(tmp_path, [b"", b'{"text": "one"}', b" ", b""])
    assert [(e.where, e.labelled) for e in read_examples(path)] == [(f"{path}, line 2", "one")]
    error = refusal(lambda: read(reference_file(tmp_path, [b"", b" "])))
    assert "at least one row" in error.expected


def test_missing_and_empty_files_are_refused(tmp_path):
    error = refusal(lambda: read(str(tmp_path / "none.jsonl")))
    assert (error.found, error.where) == ("none", str(tmp_path / "none.jsonl"))
    assert "at least one row" in refusal(lambda: read(reference_file(tmp_path, []))).expected
