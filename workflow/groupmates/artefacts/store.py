"""Reading and writing artefacts: atomic, with schema and provenance, checked when read.

An artefact is written under a temporary name beside its place and renamed when it is complete, so a
file that exists is whole. Provenance holds no time and no host: the same settings, inputs and code
give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel
from safetensors import SafetensorError

from groupmates import __version__
from groupmates.artefacts.atomic import replacing
from groupmates.artefacts.catalogue import ARTEFACTS, target_of
from groupmates.artefacts.vectors import Vectors, VectorWriter
from groupmates.errors import UserError

KEY = b"groupmates"
# In a footer: what is known of the .npy file beside the table.
EMBEDDINGS = b"groupmates.embeddings"
POOL = "pool:"
UNREADABLE = (OSError, EOFError, ValueError, KeyError, SafetensorError)  # ValueError: JSON, Arrow


@dataclass(frozen=True)
class Provenance:
    """Where an artefact comes from; `inputs` maps an input's name to its digest."""

    stage: str
    settings: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: str, settings: BaseModel, **inputs: Path | list[Path] | None) -> Self:
        """What a stage makes with these settings of these files; None stands for no input."""
        return cls(stage, settings.model_dump(mode="json"), digests(**inputs))

    def also(self, **settings: Any) -> Self:
        """With more settings, such as the part of the work."""
        return replace(self, settings=self.settings | settings)

    def record(self, artefact: str) -> dict[str, Any]:
        return {
            "artefact": artefact,
            "version": ARTEFACTS[artefact].version,
            "code": code_revision(),
            **asdict(self),
        }


@cache
def code_revision() -> str:
    """Package version and, in a git checkout, the commit, with `-dirty` for local changes."""
    here, describe = str(Path(__file__).parent), "describe --always --dirty --abbrev=12"
    git = ["git", "-C", here, *describe.split()]
    try:
        described = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{described.stdout.strip()}"


def digest(path: Path) -> str:
    """Fingerprint of an input.

    A Parquet file is known by its footer, so that embeddings of a terabyte need not be read. The footer
    has schema, provenance, and size, offset and statistics of every column chunk. A folder is known by
    the digests of its files, anything else by its bytes.
    """
    path = Path(path)
    if path.is_dir():
        listing = [
            f"{p.relative_to(path)} {digest(p)}" for p in sorted(path.rglob("*")) if p.is_file()
        ]
        return hashlib.sha256("\n".join(listing).encode()).hexdigest()
    if path.suffix == ".parquet":
        with intact(path, "a whole Parquet file"), path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, os.SEEK_END)
            return hashlib.sha256(file.read(length)).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(**inputs: Path | list[Path] | None) -> dict[str, str]:
    """Digests by name; a list is numbered."""
    found: dict[str, str] = {}
    for name, value in inputs.items():
        if isinstance(value, list):
            found |= {f"{name}[{i}]": digest(p) for i, p in enumerate(value)}
        elif value is not None:
            found[name] = digest(value)
    return found


def of_pool(identities: dict[str, str]) -> dict[str, str]:
    """Inputs of a provenance: the pool files that a table is of, and what each is known by."""
    return {f"{POOL}{name}": known for name, known in identities.items()}


def pool_of(paths: Iterable[Path], artefact: str) -> dict[str, str]:
    """The pool files that tables are of, by name, as `of_pool` has recorded them."""
    recorded = (table_record(path, artefact)["inputs"] for path in paths)
    return {
        name.removeprefix(POOL): known
        for inputs in recorded
        for name, known in inputs.items()
        if name.startswith(POOL)
    }


class TableWriter:
    """Writes batches of an artefact's table; used inside `table_writer`."""

    def __init__(
        self, writer: pq.ParquetWriter, schema: pa.Schema, vectors: VectorWriter | None
    ) -> None:
        self._writer, self._schema, self._vectors = writer, schema, vectors

    def write(self, columns: dict[str, Any]) -> None:
        """Append one row group; a column is whatever `pa.array` takes, embeddings a 2-D array."""
        arrays = [_array(columns[f.name], f.type) for f in self._schema]
        if self._vectors is not None:
            self._vectors.write(columns["embedding"])
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode()
    return pa.array(values, type=kind)


@contextmanager
def table_writer(
    path: Path, artefact: str, provenance: Provenance, embedding_size: int | None = None
) -> Iterator[TableWriter]:
    """Write a table of `artefact`'s schema, row group by row group, atomically.

    Embeddings, of `embedding_size`, are complete before their table is: its footer knows their hashes.
    """
    schema = ARTEFACTS[artefact].schema()
    record = json.dumps(provenance.record(artefact), sort_keys=True)
    schema = schema.with_metadata({KEY: record.encode()})
    assert (embedding_size is not None) == ARTEFACTS[artefact].embedded
    with ExitStack() as stack:
        temporary, vectors = stack.enter_context(replacing(path)), None
        if embedding_size is not None:
            file = stack.enter_context(replacing(beside(path))).open("wb")
            vectors = VectorWriter(stack.enter_context(file), embedding_size)
        writer = stack.enter_context(
            pq.ParquetWriter(
                temporary, schema, compression="zstd", write_page_checksum=True, store_schema=True
            )
        )
        yield TableWriter(writer, schema, vectors)
        if vectors is not None:
            vectors.finish()
            known = {"size": embedding_size, "hashes": vectors.hashes}
            writer.add_key_value_metadata({EMBEDDINGS: json.dumps(known)})


def beside(path: Path) -> Path:
    """The file with the embeddings of a table."""
    return Path(path).with_suffix(".npy")


def write_table(
    path: Path,
    artefact: str,
    provenance: Provenance,
    columns: dict[str, Any],
    embedding_size: int | None = None,
) -> None:
    """Write a whole table of `artefact`'s schema atomically."""
    with table_writer(path, artefact, provenance, embedding_size) as writer:
        writer.write(columns)


def damaged(path: Path, expected: str, found: str | Exception, hint: str = "") -> UserError:
    """An artefact is missing or broken, or is not of the inputs beside it; snakemake remakes it.

    To delete it would not do: what nothing unfinished asks for stays away.
    """
    redo = (
        "make it anew: your snakemake command, with this in the place of its target: --force "
        f"{target_of(path)}\n          then start it as before, which makes what follows from it"
    )
    if isinstance(found, Exception):
        if not path.exists():
            found, redo = "no file", "run snakemake, which makes it"
        else:
            found = f"a file that cannot be read ({found})"
    return UserError(expected=expected, found=found, where=str(path), todo=redo + hint)


@contextmanager
def intact(path: Path, expected: str = "intact pages") -> Iterator[None]:
    """What fails inside is a missing or damaged artefact at `path`."""
    try:
        yield
    except UNREADABLE as error:
        raise damaged(Path(path), expected, error) from error


def open_table(path: Path, artefact: str) -> pq.ParquetFile:
    """A checked Parquet file: whole, written by us, of this artefact, version and columns."""
    with intact(path, f"a Parquet file with {ARTEFACTS[artefact].meaning}"):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    metadata = (file.schema_arrow.metadata or {}).get(KEY)
    _check_record(json.loads(metadata) if metadata else {}, artefact, path, "file")
    names = set(ARTEFACTS[artefact].schema().names)
    if not names <= set(file.schema_arrow.names):
        raise damaged(path, f"the columns {sorted(names)}", f"{file.schema_arrow.names}")
    return file


def embedded_as(path: Path) -> str:
    """Which artefact with embeddings a table is: `semantic`, or else a `score` file."""
    with intact(path):
        record = json.loads((pq.read_schema(path).metadata or {}).get(KEY, b"{}"))
    return "semantic" if record.get("artefact") == "semantic" else "score"


def embedding_size(path: Path) -> int:
    """Size of the embeddings of such a table."""
    return int(_known_embeddings(open_table(path, embedded_as(path)), path)["size"])


def read_table(path: Path, artefact: str, columns: list[str] | None = None) -> pa.Table:
    """A checked table; see `open_table`. Damaged pages raise `UserError` too."""
    file = open_table(path, artefact)
    with intact(path):
        return file.read(columns=columns)


def read_column(path: Path, artefact: str, column: str) -> pa.ChunkedArray:
    """A column of a checked table."""
    return read_table(path, artefact, [column])[column]


def read_where(
    path: Path, artefact: str, columns: list[str], filters: list[tuple[str, str, Any]]
) -> pa.Table:
    """Rows of a checked table; row groups whose statistics exclude them are not read."""
    open_table(path, artefact)
    with intact(path):
        return pq.read_table(
            path, columns=columns, filters=filters, page_checksum_verification=True
        )


def table_record(path: Path, artefact: str) -> dict[str, Any]:
    """The provenance of a checked table."""
    return json.loads(open_table(path, artefact).schema_arrow.metadata[KEY])


def row_groups(path: Path, artefact: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A checked table in pieces, row group by row group, for what must not be in memory as one."""
    file = open_table(path, artefact)
    for group in range(file.num_row_groups):
        with intact(path):
            table = file.read_row_group(group, columns)
        yield table


def embeddings(
    path: Path, artefact: str, groups: Iterable[int] | None = None
) -> Iterator[np.ndarray]:
    """The embeddings of a table, or of some row groups: float32 [rows, embedding_size], read-only.

    They come row group by row group, mapped into memory. A damaged one raises `UserError`.
    """
    file = open_table(path, artefact)
    known, count = _known_embeddings(file, path), file.num_row_groups
    rows_G = [file.metadata.row_group(g).num_rows for g in range(count)]
    first_G = np.cumsum([0, *rows_G]).tolist()
    with intact(beside(path), "the embeddings of the table beside it"):
        vectors = Vectors(beside(path), first_G[-1], known["size"])
    for group in range(count) if groups is None else groups:
        with intact(beside(path), "the embeddings of the table beside it"):
            block = vectors.block(first_G[group], rows_G[group], known["hashes"][group])
        yield block


def _known_embeddings(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    """Size of the embeddings beside a table, and the hash of each row group's."""
    with intact(path, "a table with embeddings beside it"):
        return json.loads(file.metadata.metadata[EMBEDDINGS])


def write_json(path: Path, artefact: str, provenance: Provenance, body: dict[str, Any]) -> None:
    """Write `body` and its provenance as JSON with sorted keys, atomically."""
    content = {**body, "provenance": provenance.record(artefact)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON artefact, with a `UserError` where it is missing or damaged."""
    with intact(path, "a JSON artefact"):
        return json.loads(Path(path).read_text())


def write_folder_provenance(folder: Path, artefact: str, provenance: Provenance) -> None:
    """Mark a folder artefact; call it inside `replacing`, with the temporary folder."""
    content = json.dumps(provenance.record(artefact), indent=2, sort_keys=True)
    (folder / "provenance.json").write_text(content + "\n")


def checkpoint_kind(folder: Path) -> str:
    """Which artefact the folder of a model is: `pretrained`, or else `base`."""
    record = read_json(folder / "provenance.json")
    return "pretrained" if record.get("artefact") == "pretrained" else "base"


def made_here(folder: Path) -> bool:
    """Whether a folder is an artefact, or lies in one, and is not the user's."""
    return any((place / "provenance.json").exists() for place in (folder, folder.parent))


def read_folder_json(folder: Path, artefact: str, name: str) -> dict[str, Any]:
    """A JSON file of a folder artefact, after checking the folder's artefact and version."""
    _check_record(read_json(folder / "provenance.json"), artefact, folder, "folder")
    return read_json(folder / name)


def read_artefact_json(path: Path, artefact: str) -> dict[str, Any]:
    """What `write_json` wrote, after checking its artefact and version."""
    body = read_json(path)
    _check_record(body.get("provenance", {}), artefact, path, "JSON file")
    return body


def read_centroids(path: Path) -> np.ndarray:
    """The centroids [K, D], which must be those that the record beside them describes."""
    with intact(path, "the centroids of the clusters"):
        centroids_KD = np.load(path)
        if read_artefact_json(path.with_suffix(".json"), "centroids").get("sha256") != digest(path):
            raise ValueError("its sha256 is not the one in the .json beside it")
    return centroids_KD


def _check_record(record: dict[str, Any], artefact: str, path: Path, kind: str) -> None:
    version = ARTEFACTS[artefact].version
    expected = {"artefact": artefact, "version": version}
    found = {key: record.get(key) for key in expected}
    if found != expected:
        newer = found["artefact"] == artefact and (found["version"] or 0) > version
        raise damaged(
            path,
            f"a {kind} of the artefact {expected}",
            f"{found}, written by {record.get('code', 'something else')}",
            "; or use the code that wrote it, which is newer than this" if newer else "",
        )


def concatenate(paths: Iterable[Path], artefact: str, columns: list[str] | None = None) -> pa.Table:
    """Tables of one artefact below each other, in the order of `paths`."""
    return pa.concat_tables([read_table(p, artefact, columns) for p in paths]).unify_dictionaries()


def by_pool_file(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each `source_file` of a table in pool order, as views; files without rows lack."""
    if not len(table):
        return {}
    names = table["source_file"].combine_chunks()
    if not pa.types.is_dictionary(names.type):
        names = names.dictionary_encode()
    code_N = names.indices.to_numpy()
    starts = np.flatnonzero(np.diff(code_N, prepend=-1))
    ends = [*starts[1:], len(code_N)]
    listed = names.dictionary.to_pylist()
    return {listed[code_N[a]]: table.slice(a, b - a) for a, b in zip(starts, ends, strict=True)}


def rows_by_file(listed: pa.Table) -> dict[str, np.ndarray]:
    """The `source_row`s of a table's documents by `source_file`, in any order; int64."""
    if not len(listed):
        return {}
    names = listed["source_file"].combine_chunks()
    if not pa.types.is_dictionary(names.type):
        names = names.dictionary_encode()
    code_N, row_N = names.indices.to_numpy(), listed["source_row"].to_numpy()
    by_file = np.argsort(code_N, kind="stable")
    codes, starts = np.unique(code_N[by_file], return_index=True)
    known = names.dictionary.to_pylist()
    parts = np.split(row_N[by_file], starts[1:])
    return {known[code]: part for code, part in zip(codes, parts, strict=True)}


def listed_rows(score: Path, listed: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of a score file whose documents are listed, as by `rows_by_file`; ascending, int64."""
    scored = read_table(score, "score", ["source_file", "source_row"]) if listed else pa.table({})
    found, first = [np.empty(0, np.int64)], 0
    for name, part in by_pool_file(scored).items():
        if name in listed:
            here = np.isin(part["source_row"].to_numpy(), listed[name])
            found.append(first + np.flatnonzero(here))
        first += len(part)
    return np.concatenate(found)


def rows_of(score: Path) -> int:
    return open_table(score, "score").metadata.num_rows


def other_rows(path: Path, rows: int, score: Path, documents: int) -> UserError:
    """A table is not of the documents of a score file, row by row."""
    expected = f"the {documents:,} documents of {score}, row by row"
    return damaged(path, expected, f"{rows:,} rows of other documents or in another order")


def read_clusters(score: Path, cluster: Path) -> np.ndarray:
    """Cluster of every document of a shard, int32 [rows], after comparing the documents' ids."""
    ids = read_column(score, "score", "doc_id")
    table = read_table(cluster, "cluster")
    if not ids.equals(table["doc_id"]):
        raise other_rows(cluster, len(table), score, len(ids))
    return table["cluster"].to_numpy()
