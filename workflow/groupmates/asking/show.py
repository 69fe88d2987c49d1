"""`python -m groupmates show`: what an artefact is, where it comes from, and whether it is stale."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groupmates.artefacts import ARTEFACTS
from groupmates.asking import stale
from groupmates.errors import UserError
from groupmates.store import intact, read_json

MOST = 72  # characters of a value that are shown
MOST_INPUTS = 6


def show(path: Path, configfiles: list[str], rows: int) -> None:
    """Print everything about an artefact; what is stale last, as snakemake takes seconds to answer."""
    path = Path(os.path.relpath(path))
    if not path.exists():
        raise UserError(
            expected="a Parquet file, JSON file or folder of a run",
            found="nothing",
            where=str(path),
            todo="correct the path, or let snakemake make it",
        )
    for line in told(path, rows):
        print(line)
    for line in staleness(path, configfiles):
        print(line, flush=True)


def told(path: Path, rows: int) -> Iterator[str]:
    """Meaning, schema, provenance, head and summary."""
    if path.is_dir():
        contents = _folder(path)
    elif path.suffix == ".parquet":
        contents = _table(path, rows)
    elif path.suffix == ".json":
        contents = _json(path)
    else:
        raise UserError(
            expected="a Parquet file, JSON file or folder of a run",
            found=f"a {path.suffix} file",
            where=str(path),
            todo="show its folder, or read it with the tool for such files",
        )
    record = stale.provenance(path)
    yield f"{path}: {ARTEFACTS[record['artefact']].meaning if record else 'no provenance of its own'}"
    if record:
        yield from _provenance(record)
    yield from contents


def _provenance(record: dict[str, Any]) -> Iterator[str]:
    yield f"\nprovenance: {record['artefact']} version {record['version']}"
    yield f"  stage     {record['stage']}, code {record['code']}"
    for name, value in stale.leaves(record["settings"]).items():
        yield f"  setting   {name}: {json.dumps(value)}"
    inputs = list(record["inputs"].items())
    for name, digest in inputs[:MOST_INPUTS]:
        yield f"  input     {name}: {digest[:16]}"
    if len(inputs) > MOST_INPUTS:
        yield f"  input     and {len(inputs) - MOST_INPUTS:,} more"


def _table(path: Path, rows: int) -> Iterator[str]:
    """Memory: a row group. The head is read from the first one alone."""
    with intact(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    known = file.metadata
    yield (
        f"\nschema: {known.num_rows:,} rows in {known.num_row_groups:,} row groups, "
        f"{path.stat().st_size:,} bytes"
    )
    width = max(map(len, file.schema_arrow.names))
    for field in file.schema_arrow:
        yield f"  {field.name:<{width}}  {field.type}"
    yield "\nhead"
    with intact(path):
        head = next(file.iter_batches(batch_size=max(rows, 1)), None)
    for row in head.slice(0, rows).to_pylist() if head is not None else []:
        yield "  " + ", ".join(f"{name}={_short(value)}" for name, value in row.items())
    yield "\nsummary"
    columns = {field.name: Column(field.type) for field in file.schema_arrow}
    for group in range(known.num_row_groups):
        for name, column in columns.items():  # one by one: embeddings are most of a file
            with intact(path):
                if column.counts:
                    column.add(file.read_row_group(group, [name])[name])
    for name, column in columns.items():
        yield f"  {name:<{width}}  {column}"


class Column:
    """What is told of a column, added up row group by row group."""

    def __init__(self, kind: pa.DataType) -> None:
        self._number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        self._words = pa.types.is_dictionary(kind)
        self._text = pa.types.is_string(kind)
        self.counts = self._number or self._words or self._text
        self._n = self._missing = 0
        self._sum, self._low, self._high = 0.0, math.inf, -math.inf
        self._seen: set[str] = set()

    def add(self, values: pa.ChunkedArray) -> None:
        if self._words:
            self._seen.update(values.unique().to_pylist())
            return
        numbers = (pc.utf8_length(values) if self._text else values).to_numpy()
        finite = numbers[np.isfinite(numbers)]
        self._missing += len(numbers) - len(finite)
        if len(finite):
            self._n += len(finite)
            self._sum += float(finite.sum(dtype=np.float64))
            self._low = min(self._low, finite.min().item())
            self._high = max(self._high, finite.max().item())

    def __str__(self) -> str:
        if not self.counts:
            return "(lists)"
        if self._words:
            return f"{len(self._seen):,} different: {_short(sorted(self._seen))}"
        if not self._n:
            return "no number"
        unit = " characters" if self._text else ""
        text = f"{self._low:.6g} to {self._high:.6g}{unit}, mean {self._sum / self._n:.6g}"
        return text + (f"; {self._missing:,} are no numbers" if self._missing else "")


def _json(path: Path) -> Iterator[str]:
    body = read_json(path)
    fields = {k: v for k, v in body.items() if k != "provenance"}
    yield f"\nschema: {path.stat().st_size:,} bytes"
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        yield f"  {name:<{width}}  {_kind(value)}"
    yield "\nhead"
    for name, value in fields.items():
        yield f"  {name:<{width}}  {_short(value)}"
    numbers = [v for v in stale.leaves(fields).values() if _kind(v) == "number"]
    yield f"\nsummary: {len(fields):,} fields, {len(numbers):,} numbers beside those in lists"


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"list of {len(value):,}"
    if isinstance(value, dict):
        return f"object of {', '.join(value)}"[:MOST]
    kinds = {bool: "yes or no", int: "number", float: "number", str: "text"}
    return kinds.get(type(value), "null")


def _folder(path: Path) -> Iterator[str]:
    files = sorted(p for p in path.rglob("*") if p.is_file())
    sizes = [file.stat().st_size for file in files]
    yield f"\nschema: {len(files):,} files"
    for file, size in zip(files, sizes, strict=True):
        yield f"  {size:>15,}  {file.relative_to(path)}"
    yield "\nhead"
    for file in files:
        if file.suffix == ".json" and file.parent == path and file.name != "provenance.json":
            yield f"  {file.name}: {_short(read_json(file))}"
    yield f"\nsummary: {sum(sizes):,} bytes"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"[{', '.join(map(_short, value[:3]))}, … {len(value):,}]"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = json.dumps(text, ensure_ascii=False)[1:-1] if isinstance(value, str) else text
    return text if len(text) <= MOST else text[: MOST - 1] + "…"


def staleness(path: Path, configfiles: list[str]) -> Iterator[str]:
    """Whether it is what the configuration would give now, by its provenance and by snakemake."""
    # A file of a folder that is made as one.
    target = next((p for p in path.parents if (p / "provenance.json").exists()), path)
    try:
        jobs = stale.graph(str(target), configfiles)
    except UserError as error:
        yield f"\nstale: not known\n{error}"
        return
    (job,) = [j for j in jobs if target in j.outputs]
    comparison = stale.Comparison()
    different = comparison.stale(job)
    yield f"\nstale: {'yes' if different else 'no, it is what the configuration gives'}"
    for other in different:
        own = comparison.differences(other)
        prefix = "" if other is job else f"made from {_names(other)}: "
        yield from (f"  {prefix}{text}" for text in own[: stale.SHOWN])
        if len(own) > stale.SHOWN:
            yield f"  {prefix}and {len(own) - stale.SHOWN:,} more differences"
    yield f"snakemake: {_verdict(job)}"
    if job.needed and not different:
        yield (
            "  Its content is as recorded; snakemake goes by the times of files and by what it "
            "remembers (snakemake --touch makes it trust the files)."
        )
    elif different and not job.needed:
        yield (
            "  snakemake sees no newer file and no changed parameter: the file was put there, or "
            "changed, by something else. Delete it and run snakemake."
        )


def _names(job: stale.Job) -> str:
    more = f" and {len(job.outputs) - 1:,} more" if len(job.outputs) > 1 else ""
    return f"{job.outputs[0]}{more}"


def _verdict(job: stale.Job) -> str:
    if not job.needed:
        return "would leave it as it is"
    return f"would make it again: {' '.join(job.reason.split())[:200]}"
