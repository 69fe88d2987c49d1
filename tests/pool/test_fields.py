"""Fields beside the text, in a dataset of Parquet: what is written is what stood there."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_readers import pool_file, refusal

from groupmates.pool.copy_rows import convert_rows
from groupmates.pool.listing import PoolFile


def converted(file: PoolFile, folder) -> str:
    convert_rows(file, np.array([0]), pa.array(["a"]), "text", folder / "out.parquet")
    return pq.read_table(folder / "out.parquet")["fields"][0].as_py()


@pytest.mark.parametrize(
    "number",
    [
        "123456789012345678901234567890",
        "0.12345678901234567890123",
        "18446744073709551616",
        "1.5",
        "123456.1e-400",
        "9007199254740993e0",
    ],
)
def test_a_number_keeps_all_its_digits(tmp_path, number):
    line = f'{{"text": "one", "n": {number}, "in": {{"n": [{number}]}}}}'
    expected = f'{{"n":{number},"in":{{"n":[{number}]}}}}'
    assert converted(pool_file(tmp_path, line.encode()), tmp_path) == expected


def table_file(folder, **columns) -> PoolFile:
    pq.write_table(pa.table({"text": ["one"], **columns}), folder / "a.parquet")
    return PoolFile(str(folder / "a.parquet"), "a.parquet")


def test_dates_and_decimals_are_their_text(tmp_path):
    file = table_file(
        tmp_path, price=[Decimal("1.50")], day=[datetime.date(2024, 3, 1)], none=[None]
    )
    assert json.loads(converted(file, tmp_path)) == {
        "price": "1.50",
        "day": "2024-03-01",
        "none": None,
    }


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(("zone", "expected"), [(None, ""), ("UTC", "+00:00")])
def test_times_of_any_unit_are_their_text(tmp_path, unit, zone, expected):
    """Nanoseconds are the unit of pandas."""
    file = table_file(tmp_path, ts=pa.array([0], pa.timestamp(unit, zone)))
    assert json.loads(converted(file, tmp_path)) == {"ts": f"1970-01-01T00:00:00{expected}"}


def test_a_time_keeps_its_nanoseconds(tmp_path):
    file = table_file(tmp_path, ts=pa.array([123_456_789], pa.timestamp("ns")))
    assert json.loads(converted(file, tmp_path)) == {"ts": "1970-01-01T00:00:00.123456789"}


def test_of_a_key_that_occurs_twice_the_last_value_stays(tmp_path):
    line = b'{"text": "one", "n": 1, "n": 2}'
    assert converted(pool_file(tmp_path, line), tmp_path) == '{"n":2}'


@pytest.mark.parametrize(
    ("number", "kind"), [(float("inf"), "float"), ([[1.5, -float("inf")]], "list")]
)
def test_an_infinity_is_refused_and_a_number_that_is_none_is_null(tmp_path, number, kind):
    file = table_file(tmp_path, nan=[float("nan")], f=[number])
    error = refusal(lambda: converted(file, tmp_path))
    assert error.found == f"{kind} in the field 'f': {number}"
    file = table_file(tmp_path, nan=[float("nan")])
    assert converted(file, tmp_path) == '{"nan":null}'


def test_bytes_are_refused_with_what_keeps_them(tmp_path):
    error = refusal(lambda: converted(table_file(tmp_path, raw=[b"\xff"]), tmp_path))
    assert error.found == r"bytes in the field 'raw': b'\xff'"
    assert error.where == f"{tmp_path / 'a.parquet'}, row 1"
    assert "materialise.format to same" in error.todo


@pytest.mark.parametrize(
    ("line", "expected"),
    [(b'{"texx": "one"}', "a string in the field 'text'"), (b'{"text', "a JSON object")],
)
def test_a_row_that_is_no_document_any_more_is_told_with_its_line(tmp_path, line, expected):
    """Of a file whose bytes are not known, as of one that was never scored."""
    error = refusal(lambda: converted(pool_file(tmp_path, line), tmp_path))
    assert expected in error.expected
    assert error.where == f"{tmp_path / 'part.jsonl'}, line 1"
