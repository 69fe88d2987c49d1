"""Which files the pool consists of, and how they are dealt to jobs. Light: runs at every parse."""

from __future__ import annotations

import glob
import json
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from groupmates.errors import UserError
from groupmates.pool import opening as lying

TABLES = (".parquet", ".arrow")
LINES = tuple(
    f".{kind}{end}" for kind in ("jsonl", "ndjson", "json") for end in ("", ".gz", ".zst", ".zstd")
)
_LAST_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")


@dataclass(frozen=True)
class PoolFile:
    """One file of the pool.

    `path` may be a URL. `name` is the path below the folder that all pool files share, so that
    moving a pool as a whole changes nothing. It is the `source_file` of every artefact, and part of
    generated document ids. The file's selected rows lie under it in `dataset/{method}/`. `identity`,
    where it is known, is what the file's bytes must be.
    """

    path: str
    name: str
    identity: str | None = None


def expand_range(pattern: str) -> list[str]:
    """`a-{00..02}.x` is `a-00.x`, `a-01.x`, `a-02.x`; a path without a range is itself."""
    numbers = _RANGE.search(pattern)
    if numbers is None:
        return [pattern]
    before, after = pattern[: numbers.start()], pattern[numbers.end() :]
    first, last = numbers.groups()
    if int(first) > int(last):
        raise UserError(
            expected="a range from the smaller to the larger number",
            found=repr(pattern),
            where="pool.paths",
            todo="swap the two numbers",
        )
    return [f"{before}{i:0{len(first)}d}{after}" for i in range(int(first), int(last) + 1)]


def expand(patterns: list[str], setting: str = "pool.paths") -> list[str]:
    """Paths that `patterns` stand for, in pool order: sorted within a pattern, patterns as given.

    A pattern is a path, a URL, a glob of either, a folder of `save_to_disk` or a dataset of the hub.
    It may also be a path with one numeric range: `part-{0000..0278}.jsonl.zst` stands for 279 files,
    whether they exist or not. So a plan can be made before they arrive. A glob that matches nothing, a
    file named twice or a brace raises `UserError` that names `setting`.
    """
    paths: list[str] = []
    for pattern in patterns:
        there = there_of(pattern)
        if _RANGE.search(pattern):
            paths += expand_range(pattern)
        elif glob.has_magic(pattern.removeprefix(there)):
            found = lying.matching(glob.escape(there) + pattern.removeprefix(there))
            if not found:
                raise UserError(
                    expected="at least one file",
                    found=f"no file that matches {pattern!r}",
                    where=f"{setting}, read from {os.getcwd()}",
                    todo="correct the glob; relative paths start where snakemake is started",
                )
            paths += [path for entry in found for path in files_of(entry, setting)]
        else:
            paths += files_of(pattern, setting)
    seen: set[str] = set()
    for path in paths:
        if _absolute(path) in seen:
            raise UserError(
                expected="every file once",
                found=f"{path!r} twice",
                where=setting,
                todo="remove the overlap between the patterns",
            )
        if "{" in path or "}" in path:
            raise UserError(
                expected="file names without braces: to snakemake they are wildcards",
                found=repr(path),
                where=setting,
                todo="rename the file, or correct the range, such as a-{000..278}.jsonl.zst",
            )
        seen.add(_absolute(path))
    return paths


def there_of(pattern: str) -> str:
    """The longest beginning of a pattern that exists as it is named: in it, nothing is a pattern."""
    if lying.is_url(pattern):
        return ""
    parts = pattern.split("/")
    beginnings = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((path for path in beginnings if path and os.path.exists(path)), "")


def files_of(path: str, setting: str) -> list[str]:
    """The files of a folder of `save_to_disk`, or of a dataset of the hub; any other path itself."""
    if path.endswith((*LINES, *TABLES)):
        return [path]
    if lying.exists(f"{path}/state.json"):
        names = [entry["filename"] for entry in _json(f"{path}/state.json")["_data_files"]]
        return [f"{path}/{name}" for name in names]
    if lying.exists(f"{path}/dataset_dict.json"):
        splits = _json(f"{path}/dataset_dict.json")["splits"]
        if len(splits) == 1:
            return files_of(f"{path}/{splits[0]}", setting)
        raise UserError(
            expected="one split of the saved datasets",
            found=f"the splits {', '.join(splits)}",
            where=f"{setting}, {path}",
            todo=f"name those that are meant, such as {path}/{splits[0]}",
        )
    if os.path.isdir(path):
        raise UserError(
            expected="files, or a folder of save_to_disk, with state.json or dataset_dict.json",
            found="a folder without them",
            where=f"{setting}, {path}",
            todo=f"name the files in it, such as {path}/*.jsonl.zst or {path}/**/*.parquet",
        )
    return hub_files(path, setting) if _HUB_NAME.fullmatch(path) else [path]


def hub_files(name: str, setting: str) -> list[str]:
    """URLs of the training split of a dataset of the hub, `owner/name` or `owner/name:configuration`.

    They name the commit that is the newest now.
    """
    repository, _, configuration = name.partition(":")
    try:
        from datasets import load_dataset_builder  # seconds, where a name of the hub is given

        splits = load_dataset_builder(repository, configuration or None).config.data_files or {}
    except Exception as error:  # of the network, of the hub, of what stands in the repository
        raise UserError(
            expected="a file, a folder of save_to_disk, or a dataset of the hub, owner/name",
            found=f"no such file or folder, and of the hub {type(error).__name__}: {error}"[:600],
            where=f"{setting}, {name}",
            todo="correct the path; or, where the hub is out of reach, download on a node that reaches "
            f"it (hf download --repo-type dataset {repository} --local-dir DIR) and name its files",
        ) from error
    if "train" not in splits:
        raise UserError(
            expected="a dataset of the hub with files of a split 'train'",
            found=f"the splits {sorted(map(str, splits))}",
            where=f"{setting}, {name}",
            todo=f"name the files: hf://datasets/{repository}/PATH, which may be a glob",
        )
    return list(splits["train"])


def _json(path: str) -> dict:
    try:
        return json.loads(lying.content(path))
    except (OSError, ValueError) as error:
        raise UserError(
            expected="the JSON file of a folder of save_to_disk",
            found=f"{type(error).__name__}: {error}",
            where=path,
            todo="save the dataset again, or name its files in pool.paths",
        ) from error


def _absolute(path: str) -> str:
    return path if lying.is_url(path) else os.path.abspath(path)


def compact(paths: list[str]) -> list[str]:
    """The inverse of `expand` for paths that count up in their last number, in their order.

    `a-00.x`, `a-01.x`, `a-02.x` become `a-{00..02}.x`: a command line of 10,000 shards stays below
    the system's limit that way.
    """
    numbers = [_LAST_NUMBER.fullmatch(path) for path in paths]

    def run(i: int) -> tuple[object, ...]:
        """The same for paths that count up."""
        number = numbers[i]
        return (number[1], number[3], len(number[2]), int(number[2]) - i) if number else (i,)

    patterns: list[str] = []
    for _, group in groupby(range(len(paths)), run):
        places = list(group)
        first, last = numbers[places[0]], numbers[places[-1]]
        if first and last and first is not last:
            patterns.append(f"{first[1]}{{{first[2]}..{last[2]}}}{first[3]}")
        else:
            patterns.append(paths[places[0]])
    return patterns


def list_files(patterns: list[str]) -> list[PoolFile]:
    """The pool in its order."""
    paths = expand(patterns, "pool.paths")
    root = common_root(paths)
    return [named(path, root) for path in paths]


def chosen(files: list[PoolFile], patterns: list[str] | None) -> list[PoolFile]:
    """The files of the pool that `patterns` stand for, in pool order; all of them for None.

    A file that is not in the pool raises `UserError`.
    """
    if patterns is None:
        return files
    wanted = {_absolute(path): path for path in expand(patterns, "sample.paths")}
    foreign = wanted.keys() - {_absolute(file.path) for file in files}
    if foreign:
        raise UserError(
            expected="files of the pool: what is probed can be selected",
            found=f"{wanted[min(foreign)]!r}, one of {len(foreign):,} files that pool.paths lacks",
            where="sample.paths",
            todo="add it to pool.paths, or correct the pattern",
        )
    return [file for file in files if _absolute(file.path) in wanted]


def common_root(paths: list[str]) -> str:
    """The folder that all files share; relative to this one where all paths are relative.

    URLs count where there is nothing else; those of several schemes share no folder, ''.
    """
    local = [path for path in paths if not lying.is_url(path)]
    if local:
        root = os.path.commonpath({os.path.dirname(os.path.abspath(path)) for path in local})
        return root if any(map(os.path.isabs, local)) else os.path.relpath(root)
    schemes, below = zip(*(path.split("://", 1) for path in paths), strict=True)
    if len(set(schemes)) > 1:
        return ""
    return f"{schemes[0]}://{posixpath.commonpath({posixpath.dirname(path) for path in below})}"


def named(path: str | Path, root: str | Path) -> PoolFile:
    """The pool file at `path`, named by its path below `root`; a URL elsewhere by all of it."""
    path, root = str(path), str(root)
    if not lying.is_url(path):
        below = Path(os.path.abspath(path)).relative_to(os.path.abspath(root))
        return PoolFile(path, below.as_posix())
    if lying.is_url(root) and path.startswith(folder := root.rstrip("/") + "/"):
        return PoolFile(path, path.removeprefix(folder).lstrip("/"))
    scheme, _, rest = path.partition("://")
    return PoolFile(path, f"{scheme}/{rest.lstrip('/')}")


def path_of(name: str, root: str) -> str:
    """The path or URL of the pool file `name`: the inverse of `named`."""
    path = f"{root}{name}" if root.endswith("/") else f"{root}/{name}"
    if lying.is_url(root) or (root and os.path.exists(path)):
        return path
    scheme, _, rest = name.partition("/")
    return f"{scheme}://{rest}"


def located(paths: Iterable[str | Path], root: str | Path) -> list[PoolFile]:
    """The pool files below `root` that a command line names; a path may hold one range."""
    return [named(path, root) for pattern in paths for path in expand_range(str(pattern))]


def deal(
    files: list[PoolFile], files_per_shard: int | None, shard_mb: float | None = None
) -> dict[str, list[PoolFile]]:
    """Shard name -> its consecutive files, in pool order; names sort in that order.

    A shard ends where the next file would be one too many, or exceed `shard_mb` as the files lie
    there; a larger file is a shard of its own. What a shard holds depends on the files before its end
    alone, so that files that are added behind leave all but the last as they are.
    """
    shards: list[list[PoolFile]] = []
    taken = 0.0
    for file in files:
        size = 0.0 if shard_mb is None else _megabytes(file)
        full = not shards or len(shards[-1]) == files_per_shard
        if full or (shard_mb is not None and taken + size > shard_mb):
            shards.append([])
            taken = 0.0
        shards[-1].append(file)
        taken += size
    return {f"{i:05d}": part for i, part in enumerate(shards)}


def _megabytes(file: PoolFile) -> float:
    try:
        return lying.size_of(file.path) / 1e6
    except OSError as error:
        raise UserError(
            expected="files of known size, which pool.shard_mb deals out",
            found=f"{type(error).__name__}: {error.strerror}",
            where=file.path,
            todo="correct the path, or set pool.files_per_shard instead: it plans without the files",
        ) from None
