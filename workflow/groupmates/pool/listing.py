"""Which files the pool consists of, and how they are dealt to jobs. Light: runs at every parse."""

from __future__ import annotations

import glob
import json
import os
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
TASKS = "tasks.yaml"  # what a folder of evaluation tasks has
_LAST_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
_RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")


@dataclass(frozen=True)
class PoolFile:
    """One file of the pool.

    `path` may be a URL. `name` is the `source_file` of every artefact, and part of generated document
    ids. It begins with the first folder that stands for several in the file's entry of pool.paths, or
    with the file's folder. So it depends neither on other entries nor on where the pool lies. That of
    a URL is all behind `://`, as only bucket or repository may tell two files apart. The file's
    selected rows lie under it in `dataset/{method}/`, less the folder that all names share.
    `identity`, where it is known, is what the file's bytes must be.
    """

    path: str
    name: str
    identity: str | None = None

    @property
    def marked(self) -> str:
        """The path for a command line, with `/./` before the name, as of rsync's --relative."""
        return f"{self.path.removesuffix(self.name) or './'}./{self.name}"


def expand_range(pattern: str, setting: str = "pool.paths") -> list[str]:
    """`a-{00..02}.x` is `a-00.x`, `a-01.x`, `a-02.x`; a path without a range is itself.

    Raises `UserError` that names `setting`.
    """
    numbers = _RANGE.search(pattern)
    if numbers is None:
        return [pattern]
    before, after = pattern[: numbers.start()], pattern[numbers.end() :]
    first, last = numbers.groups()
    if int(first) > int(last):
        raise UserError(
            expected="a range from the smaller to the larger number",
            found=repr(pattern),
            where=setting,
            todo="swap the two numbers",
        )
    return [f"{before}{i:0{len(first)}d}{after}" for i in range(int(first), int(last) + 1)]


def expand(patterns: list[str], setting: str = "pool.paths") -> list[str]:
    """Paths that `patterns` stand for, in pool order: sorted within a pattern, patterns as given.

    A pattern is a path, a URL, a glob of either, a folder of `save_to_disk` or a dataset of the hub.
    It may also be a path with one numeric range: `part-{0000..0278}.jsonl.zst` stands for 279 files,
    whether they exist or not. So a plan can be made before they arrive. A glob may have a range too.
    A path that exists stands for itself. A glob that matches nothing, a file named twice or a brace
    raises `UserError` that names `setting`.
    """
    paths = [path for pattern in patterns for path in _matched(pattern, setting)]
    check_paths(paths, setting)
    return paths


def expand_tasks(patterns: list[str], setting: str = "decontaminate.examples") -> list[str]:
    """Paths as of `expand`; a folder of evaluation tasks stands for itself."""
    paths = [
        path
        for pattern in patterns
        for path in (
            [pattern] if lying.exists(f"{pattern}/{TASKS}") else _matched(pattern, setting)
        )
    ]
    check_paths(paths, setting)
    return paths


def check_paths(paths: list[str], setting: str) -> None:
    """A file that is named twice, or by what is no name, raises `UserError`."""
    seen: set[str] = set()
    for path in paths:
        if _absolute(path) in seen:
            raise UserError(
                expected="every file once",
                found=f"{path!r} twice",
                where=setting,
                todo="remove the overlap between the patterns",
            )
        _check_name(path, setting)
        seen.add(_absolute(path))


def _matched(pattern: str, setting: str) -> list[str]:
    """The paths of one pattern."""
    there = there_of(pattern)
    rest = pattern.removeprefix(there)
    if _RANGE.search(rest):
        paths = [there + end for end in expand_range(rest, setting)]
        if not glob.has_magic(rest):
            return paths
        return [found for path in paths for found in _matched(path, setting)]
    if not glob.has_magic(rest):
        return files_of(pattern, setting)
    found = lying.matching(glob.escape(there) + rest)
    if not found:
        raise UserError(
            expected="at least one file",
            found=f"no file that matches {pattern!r}",
            where=f"{setting}, read from {os.getcwd()}",
            todo="correct the glob; relative paths start where snakemake is started",
        )
    return [path for entry in found for path in files_of(entry, setting)]


def _check_name(path: str, setting: str) -> None:
    if "{" in path or "}" in path:
        raise UserError(
            expected="file names without braces: to snakemake they are wildcards",
            found=repr(path),
            where=setting,
            todo="rename the file, or correct the range, such as a-{000..278}.jsonl.zst",
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            expected="file names in UTF-8",
            found=repr(os.fsencode(path)),
            where=setting,
            todo="rename the file",
        ) from None


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
            todo="name the files in it, such as "
            f"{os.path.join(path, '*.jsonl.zst')} or {os.path.join(path, '**/*.parquet')}",
        )
    return hub_files(path, setting) if _is_hub_name(path) else [path]


def _is_hub_name(path: str) -> bool:
    return _HUB_NAME.fullmatch(path) is not None and not os.path.exists(path)


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
    """The pool in its order; two files of one name raise `UserError`."""
    found = {pattern: _matched(pattern, "pool.paths") for pattern in patterns}
    paths = [path for pattern in patterns for path in found[pattern]]
    check_paths(paths, "pool.paths")
    files = [
        _named(path, root)
        for pattern in patterns
        for root in [root_of(pattern, found[pattern])]
        for path in found[pattern]
    ]
    first: dict[str, str] = {}
    for file in files:
        if (other := first.setdefault(file.name, file.path)) != file.path:
            raise UserError(
                expected="files whose names differ, or those of their folders",
                found=f"{other} and {file.path}, which are both {file.name!r}",
                where="pool.paths",
                todo="name both by one glob that begins above them, such as data/*/web/*.jsonl.zst: "
                "names then begin at its first star",
            )
    return files


def root_of(pattern: str, paths: list[str]) -> str:
    """The absolute folder below which the files of a pattern, where they are no URLs, are named.

    A name begins with the first folder that stands for several, or with the file's own folder.
    """
    there = there_of(pattern)
    several = _stands_for_several(pattern.removeprefix(there))
    if not several and not pattern.endswith((*LINES, *TABLES)) and paths != [pattern]:
        return _absolute(pattern).rpartition("/")[0]  # of save_to_disk: the folder begins the name
    parts = _absolute(pattern).split("/")
    known = len(_absolute(there).split("/")) if there else 0
    magic = (n for n, part in enumerate(parts) if n >= known and _stands_for_several(part))
    return "/".join(parts[: min(next(magic, len(parts)), len(parts) - 2)])


def _stands_for_several(part: str) -> bool:
    return glob.has_magic(part) or _RANGE.search(part) is not None


def _named(path: str, root: str) -> PoolFile:
    if lying.is_url(path):
        return PoolFile(path, path.partition("://")[2].lstrip("/"))
    name = _absolute(path).removeprefix(root).lstrip("/")
    return PoolFile(path if path.endswith(name) else _absolute(path), name)


def shared_folder(files: list[PoolFile]) -> str:
    """The folder that all names begin with; '.' where they share none."""
    return os.path.commonpath([os.path.dirname(file.name) for file in files]) or "."


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


def located(paths: Iterable[str | Path]) -> list[PoolFile]:
    """The pool files that a command line names; a path may hold one range.

    What follows `/./` is a file's name. Without it, that is as of a path in pool.paths.
    """
    return [_located(path) for pattern in paths for path in expand_range(str(pattern))]


def _located(path: str) -> PoolFile:
    folder, marked, name = path.rpartition("/./")
    if marked:
        return PoolFile(name if folder == "." else f"{folder}/{name}", name)
    return _named(path, root_of(path, [path]))


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
