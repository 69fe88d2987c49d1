"""How large the inputs of a run are: counted where they are there, from `plan:` where they are not.

Light: no torch. A few hundred documents of a few files are read, whatever the pool's size.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import zstandard
from tokenizers import Tokenizer

from groupmates.artefacts.catalogue import ADAMW_STATE
from groupmates.cost.core_sizes import BYTES_PER_TOKEN, CoreTask, Reader, core_tasks
from groupmates.errors import UserError
from groupmates.maths.flops import Shape, clipped_mean
from groupmates.pool.arrow_tables import Table
from groupmates.pool.damage import reading
from groupmates.pool.documents import read_documents
from groupmates.pool.examples import read_examples
from groupmates.pool.formats import format_of
from groupmates.pool.listing import PoolFile, deal, expand, list_files
from groupmates.pool.opening import exists, opened, size_of
from groupmates.pool.text_lines import ZSTD_WINDOW_BYTES, TextLines
from groupmates.settings.config import Config, PlannedShape

FILES_READ = 8
DOCUMENTS_READ = 200  # of each of these files
PREFIX_BYTES = 1 << 20  # of a file, that the number of its lines is estimated from


@dataclass
class Sizes:
    """Means are per document or reference example. `basis` says where each number comes from."""

    documents: int
    tokens: float
    window_tokens: float  # at most sequence_length + 1: what is probed, and embedded by "lm"
    encoder_tokens: float  # at most chunks x chunk_tokens
    text_bytes: float
    file_bytes: float
    reference_tokens: float
    label_share: float
    selection_examples: int
    evaluation_examples: int
    files: int
    shards: int
    base_steps: int
    lm: Shape
    encoder: Shape | None
    core: list[CoreTask] = field(default_factory=list)
    basis: dict[str, str] = field(default_factory=dict)


def measure(config: Config, root: Path, core: bool = True) -> Sizes:
    """Sizes of the inputs of `config`, whose run lies in the folder `root`.

    `core`: whether CORE's prompts are counted, which takes seconds for each model.
    """
    basis: dict[str, str] = {}
    files, sampled = _pool_files(config, root)
    texts = _texts(config, sampled) if sampled else []
    documents = _documents(config, files, basis)
    text_bytes = _text_bytes(config, texts, files, basis)
    file_bytes = _file_bytes(config, files, sampled, basis)
    counts, source = _token_counts(config, root, texts)
    tokens = config.plan.pool.tokens_per_document
    if tokens is None and len(counts):
        tokens, basis["tokens"] = float(counts.mean()) + 1, f"{len(texts):,} documents, {source}"
    elif tokens is None:
        tokens, basis["tokens"] = text_bytes / BYTES_PER_TOKEN, "assumed: 4 bytes a token"
    encoder = config.fit.encoder
    reference, label_share, basis["reference"] = _reference(config, root)
    lm = model_shape(config)
    readers = _core_readers(config, root, lm) if core else {}
    if unknown := [name for name, reader in readers.items() if reader.tokenizer is None]:
        basis["core"] = f"assumed: 4 bytes a token, no tokenizer of {', '.join(unknown)}"
    return Sizes(
        documents=documents,
        tokens=tokens,
        window_tokens=_at_most(config.sample.sequence_length + 1, counts, tokens),
        encoder_tokens=_at_most(encoder.chunk_tokens * encoder.chunks, counts, tokens),
        text_bytes=text_bytes,
        file_bytes=file_bytes,
        reference_tokens=reference,
        label_share=label_share,
        selection_examples=config.reference.selection_examples,
        evaluation_examples=config.reference.evaluation_examples,
        files=len(files),
        shards=len(deal(files, config.pool.files_per_shard, config.pool.shard_mb)),
        base_steps=base_steps(config),
        lm=lm,
        encoder=None
        if encoder.name == "lm"
        else shape_of(encoder.name, config.plan.encoder, "encoder"),
        core=core_tasks(config.core, readers),
        basis=basis,
    )


def base_steps(config: Config) -> int:
    """Steps until the model can be probed: none from a checkpoint that has AdamW's state."""
    base = config.base
    if base.checkpoint is None:
        return base.training_steps
    return 0 if (Path(base.checkpoint) / ADAMW_STATE).exists() else base.optimizer_warmup_steps


def _pool_files(config: Config, root: Path) -> tuple[list[PoolFile], list[PoolFile]]:
    """The files of the pool, and those that are there to look into."""
    builtin = config.pool.paths == "builtin"
    made = [str(root / f"corpus/shard-{i:05d}.jsonl.zst") for i in range(config.corpus.files)]
    files = list_files(made if builtin else list(config.pool.paths))
    there = [f for f in files if exists(f.path)]
    if builtin and not there:  # what a calibration made; for a pool of files it only stood in
        made_then = sorted((_calibration(root) / "corpus").glob("shard-*.jsonl.zst"))
        there = [PoolFile(str(path), path.name) for path in made_then]
    return files, there


def _documents(config: Config, files: list[PoolFile], basis: dict[str, str]) -> int:
    basis["documents"] = "plan.pool"
    documents = config.plan.pool.documents
    if documents is None and config.pool.paths == "builtin":
        documents, basis["documents"] = config.corpus.documents, "corpus.documents"
    if documents is None:
        there = [f for f in files if exists(f.path)]
        documents, basis["documents"] = count_documents(files, there)
    return documents


def _text_bytes(
    config: Config, texts: list[str], files: list[PoolFile], basis: dict[str, str]
) -> float:
    planned = config.plan.pool.text_bytes_per_document
    if planned is not None:
        return planned
    if not texts:
        raise _no_pool("text_bytes_per_document", files)
    basis["text_bytes"] = f"{len(texts):,} documents read"
    return float(np.mean([len(text.encode()) for text in texts]))


def _file_bytes(
    config: Config, files: list[PoolFile], sampled: list[PoolFile], basis: dict[str, str]
) -> float:
    planned = config.plan.pool.file_bytes_per_document
    if planned is not None:
        return planned
    some = sampled[:FILES_READ]
    if not some:
        raise _no_pool("file_bytes_per_document", files)
    basis["file_bytes"] = f"{len(some)} files"
    return sum(size_of(f.path) for f in some) / max(1.0, sum(map(lines_of, some)))


def _at_most(limit: int, counts: np.ndarray, tokens: float) -> float:
    """Mean of the tokens up to a limit; the sample's shape at the mean of all documents."""
    if not len(counts):
        return clipped_mean(tokens, limit)
    return float(np.minimum((counts + 1) * (tokens / (counts.mean() + 1)), limit).mean())


def _calibration(root: Path) -> Path:
    return root.with_name(root.name + "-calibration")


def _no_pool(key: str, files: list[PoolFile]) -> UserError:
    return UserError(
        expected="pool files that sizes are looked up in, or their sizes in the configuration",
        found=f"none of the {len(files):,} files, the first is {files[0].path}",
        where=f"plan.pool.{key}",
        todo="set plan.pool.documents, tokens_per_document, text_bytes_per_document and "
        "file_bytes_per_document; for the built-in corpus run make calibrate first",
    )


def _texts(config: Config, files: list[PoolFile]) -> list[str]:
    """The first documents of some files; files evenly spread over the pool."""
    step = max(1, len(files) // FILES_READ)
    columns = config.pool.columns.model_copy(update={"source": None})
    found: list[str] = []
    for file in files[::step][:FILES_READ]:
        found += [d.text for d in islice(read_documents(file, columns, []), DOCUMENTS_READ)]
    return found


def count_documents(files: list[PoolFile], there: list[PoolFile]) -> tuple[int, str]:
    """Documents of the pool: rows of Parquet files, an estimate of the lines of others."""
    if not there:
        raise _no_pool("documents", files)
    step = max(1, len(there) // FILES_READ)
    some = there[::step][:FILES_READ]
    read, whole = (sum(size_of(f.path) for f in part) for part in (some, there))
    share = max(1, read) / max(1, whole)  # files without a byte have no documents
    estimate = sum(map(lines_of, some)) / share * len(files) / len(there)
    return round(estimate), f"estimated from {len(some)} of {len(files):,} files"


def lines_of(file: PoolFile) -> float:
    """Rows of a pool file: exact for a table, else by the lines in its first megabyte."""
    lines = format_of(file.path)
    if isinstance(lines, Table):
        return float(lines.number_of_rows())
    assert isinstance(lines, TextLines)
    size = size_of(file.path)
    with reading(file.path):
        with opened(file.path) as stream:
            prefix = stream.read(PREFIX_BYTES)
        text, rest = b"", prefix
        while rest and lines.compression != "none":  # frame after frame
            decoder: Any = zlib.decompressobj(wbits=31)
            if lines.compression == "zstd":
                zstd = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
                decoder = zstd.decompressobj()
            text += decoder.decompress(rest)
            rest = decoder.unused_data.lstrip(b"\0")  # a gzip file may be padded
    text = text or prefix
    return text.count(b"\n") * size / max(1, len(prefix))


def _tokenizer(config: Config, root: Path) -> Path | None:
    """The file of the language model's tokenizer, where it is there already."""
    folders: list[str | Path | None] = [
        config.sample.tokenizer,
        config.base.checkpoint,
        root / "sample/tokenizer",
    ]
    if config.sample.tokenizer is None and config.base.checkpoint is None:
        folders.append(_calibration(root) / "sample/tokenizer")  # trained, as the run's will be
    paths = [Path(folder) / "tokenizer.json" for folder in folders if folder is not None]
    return next((path for path in paths if path.exists()), None)


def _token_counts(config: Config, root: Path, texts: list[str]) -> tuple[np.ndarray, str]:
    """Tokens of each text by the language model's tokenizer, where it is there already."""
    path = _tokenizer(config, root)
    if path is None or not texts:
        return np.empty(0), "no tokenizer"
    encoded = Tokenizer.from_file(str(path)).encode_batch(texts, add_special_tokens=False)
    return np.array([len(e.ids) for e in encoded], float), f"tokenizer in {path.parent}"


def _core_readers(config: Config, root: Path, lm: Shape) -> dict[str, Reader]:
    """The models that CORE is asked of: given ones, and those that the run trains."""
    found = {}
    for name, folder in config.core.models.items():
        tokenizer = Path(folder) / "tokenizer.json"
        shape = shape_of(folder, config.plan.checkpoint, "checkpoint")
        known = tokenizer if tokenizer.exists() else None
        found[name] = Reader(shape, _positions(folder), known)
    if config.core.pretrained:
        made = config.pretrain.architecture
        positions: int | None = config.sample.sequence_length + 1
        if config.pretrain.start == "scratch":
            lm = Shape(made.hidden_size, made.layers, lm.vocabulary)
        elif config.base.checkpoint is not None:
            positions = _positions(config.base.checkpoint)
        reader = Reader(lm, positions, _tokenizer(config, root))
        found |= dict.fromkeys(config.pretrain.names, reader)
    return found


def _positions(folder: str) -> int | None:
    path = Path(folder) / "config.json"
    body = json.loads(path.read_text()) if path.exists() else {}
    return body.get("max_position_embeddings")


def _reference(config: Config, root: Path) -> tuple[float, float, str]:
    """Mean tokens of a reference example, share of them that are labels, and how they are known."""
    most = config.reference.split.max_tokens
    planned, builtin = config.plan.reference_tokens, config.reference.paths == "builtin"
    known = [root / "sample/reference.parquet"]
    if builtin and planned is None:
        known.append(_calibration(root) / "sample/reference.parquet")
    for path in known:
        if path.exists():
            table = pq.read_table(path, columns=["input_ids", "label_start"])
            tokens = np.array([len(ids) for ids in table["input_ids"]])
            labels = tokens - table["label_start"].to_numpy()
            return float(tokens.mean()), float(labels.sum() / tokens.sum()), str(path)
    if planned is not None:
        return min(planned, most), 1.0, "plan.reference_tokens"
    if config.reference.paths != "builtin":
        paths = expand(list(config.reference.paths), "reference.paths")
        if exists(paths[0]):
            some = islice(read_examples(paths[0]), 200)
            lengths = [len((e.context + e.labelled).encode()) for e in some]
            mean = float(np.minimum(np.array(lengths) / BYTES_PER_TOKEN, most).mean())
            return mean, 1.0, f"{paths[0]}, assumed: 4 bytes a token"
    return float(most), 1.0, "assumed: as long as reference.split.max_tokens allows"


def model_shape(config: Config) -> Shape:
    """Of the probed model: base.checkpoint's config.json, plan.checkpoint, or base.architecture."""
    if config.base.checkpoint is None:
        made, tokens = config.base.architecture, config.sample.vocabulary_size
        given = Path(config.sample.tokenizer or "") / "tokenizer.json"
        if config.sample.tokenizer and given.exists():
            tokens = max(Tokenizer.from_file(str(given)).get_vocab().values()) + 1
        return Shape(made.hidden_size, made.layers, tokens)
    return shape_of(config.base.checkpoint, config.plan.checkpoint, "checkpoint")


def shape_of(folder: str, planned: PlannedShape | None, key: str) -> Shape:
    """Of the model in a folder: its config.json, or `planned`, which stands at plan.`key`."""
    path = Path(folder) / "config.json"
    if path.exists():
        body = json.loads(path.read_text())
        try:
            return Shape(body["hidden_size"], body["num_hidden_layers"], body["vocab_size"])
        except KeyError:
            pass  # some architectures name them otherwise
    if planned is None:
        raise UserError(
            expected="the shape of a model that is not there yet",
            found=f"no config.json with hidden_size, num_hidden_layers and vocab_size in {folder}",
            where=f"plan.{key}",
            todo=f"set plan.{key}: {{hidden_size, layers, vocabulary_size}}, or put the model there",
        )
    return Shape(planned.hidden_size, planned.layers, planned.vocabulary_size)
