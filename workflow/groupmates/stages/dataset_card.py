"""The README of a dataset: what it is, for people and for the Hugging Face hub."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath
from typing import Any

import yaml

from groupmates.pool.listing import compact
from groupmates.settings.per_stage import AssembleSettings

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
LARGER = ((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))
MOST_NAMED = 20
READERS = (".json", ".ndjson", ".parquet", ".arrow")  # .json also begins .jsonl; of datasets
FORMATS = {
    "same": "The records are those of the pool, unchanged, in files of the same names.",
    "parquet": "Each row has `doc_id`, `text`, and the other fields of the record as JSON.",
    "open_lm": "Webdataset shards of token windows; `windows.parquet` in each part names the "
    "documents of every window.",
    "megatron": "`tokens.bin` and `tokens.idx` for Megatron; `documents.parquet` names the documents "
    "in the order of the index.",
}


def card(
    settings: AssembleSettings,
    record: dict[str, Any],
    counts: dict[str, Any],
    names: list[str],
    pool: list[str],
) -> str:
    """The text of README.md, with the YAML header of the hub.

    `record` is the provenance of the selection, `names` are the dataset's files, `pool` those it was
    selected from.
    """
    chosen = record["settings"]
    method = chosen["method"]
    head: dict[str, Any] = {
        "license": settings.license or "unknown",
        "pretty_name": f"{settings.run}, {method}",
        "size_categories": [size_category(counts["documents"])],
        "tags": ["data-selection", "group-mates"],
        "task_categories": ["text-generation"],
    }
    rows_as_they_are = settings.format in ("same", "parquet")
    if rows_as_they_are and (configs := loaded(names)):
        head["configs"] = configs
    else:
        head["viewer"] = False
    pool = compact(pool)
    more = [f"and {len(pool) - MOST_NAMED:,} more"] if len(pool) > MOST_NAMED else []
    budget = {key: value for key, value in chosen["budget"].items() if value is not None}
    rows = [
        ("documents", f"{counts['documents']:,}"),
        ("tokens", f"{counts['tokens']:,}"),
        ("bytes", f"{counts['bytes']:,}"),
        ("format", settings.format),
        ("pool", ", ".join(f"`{name}`" for name in [*pool[:MOST_NAMED], *more])),
        ("method", f"`{method}`"),
        ("budget", ", ".join(f"{key} {value:,}" for key, value in budget.items())),
        ("made by", f"groupmates {record['code']}"),
        ("licence", settings.license or "not stated: that of the pool's documents"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=True, allow_unicode=True)}---\n\n"
        f"# {settings.run}, selected by {method}\n\n"
        "A part of a text pool for pretraining, selected by Group-MATES. "
        f"{FORMATS[settings.format]}\n\n"
        f"| | |\n|---|---|\n{table}\n"
    )


def size_category(documents: int) -> str:
    """The hub's word for a number of rows."""
    return next((name for most, name in (*SIZES, *LARGER) if documents < most), "n>1B")


def loaded(names: list[str]) -> list[dict[str, Any]]:
    """What `datasets.load_dataset` reads: it has one reader for a folder, here that of most files."""
    ends = Counter(end for name in names if (end := end_of(name)))
    files = {kind: sum(ends[end] for end in ends if end.startswith(kind)) for kind in READERS}
    kind = max(READERS, key=lambda kind: files[kind])
    patterns = [f"**/*{end}" for end in sorted(ends) if end.startswith(kind)]
    return [{"config_name": "default", "data_files": patterns}] if patterns else []


def end_of(name: str) -> str:
    """The end of a name that says how a file is read, such as .jsonl.zst; '' of another."""
    suffixes = PurePath(name).suffixes
    at = [n for n, suffix in enumerate(suffixes) if suffix.startswith(READERS)]
    return "".join(suffixes[at[-1] :]) if at else ""
