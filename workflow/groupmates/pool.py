"""Which files the pool consists of, and how they are dealt to jobs. Light: runs at every parse."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

from groupmates.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.zst", ".parquet")
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class PoolFile:
    """One file of the pool.

    `name` is the path below the folder that all pool files share; it is the `source_file` of every
    artefact, the path of the file's selected rows under `dataset/{method}/`, and part of generated
    document ids, so that moving a pool as a whole changes none of them.
    """

    path: str
    name: str

    @property
    def suffix(self) -> str:
        return suffix_of(self.path)


def suffix_of(path: str) -> str:
    """`.jsonl`, `.jsonl.zst` or `.parquet`; a `UserError` for anything else."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.endswith(suffix):
            return suffix
    raise UserError(
        expected="a pool file that ends in " + ", ".join(SUFFIXES),
        found=f"{os.path.basename(path)!r}",
        where="pool.paths",
        todo="convert the file, or narrow the glob in pool.paths",
    )


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

    A pattern is a path, a glob, or a path with one numeric range: `part-{0000..0278}.jsonl.zst`
    stands for 279 files whether they exist or not, so that a plan can be made before they arrive.
    A glob that matches nothing, a file named twice or a brace raises `UserError` that names `setting`.
    """
    paths: list[str] = []
    for pattern in patterns:
        if _RANGE.search(pattern):
            paths += expand_range(pattern)
        elif glob.has_magic(pattern):
            found = sorted(glob.glob(pattern, recursive=True))
            if not found:
                raise UserError(
                    expected="at least one file",
                    found=f"no file that matches {pattern!r}",
                    where=f"{setting}, read from {os.getcwd()}",
                    todo="correct the glob; relative paths start where snakemake is started",
                )
            paths += found
        else:
            paths.append(pattern)
    seen: set[str] = set()
    for path in paths:
        if os.path.abspath(path) in seen:
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
        seen.add(os.path.abspath(path))
    return paths


def compact(paths: list[str]) -> list[str]:
    """The inverse of `expand` for paths that count up in their last number, in their order.

    `a-00.x`, `a-01.x`, `a-02.x` become `a-{00..02}.x`: a command line of 10,000 shards stays below
    the system's limit that way.
    """
    patterns: list[str] = []
    run: list[re.Match[str]] = []
    for path in [*paths, None]:
        number = _LAST_NUMBER.fullmatch(path) if path is not None else None
        if run and number and _follows(run[-1], number):
            run.append(number)
            continue
        if len(run) > 1:
            before, first, after = run[0].groups()
            patterns.append(f"{before}{{{first}..{run[-1][2]}}}{after}")
        elif run:
            patterns.append(run[0].string)
        run = [number] if number else []
        if path is not None and not number:
            patterns.append(path)
    return patterns


def _follows(one: re.Match[str], other: re.Match[str]) -> bool:
    same = (one[1], one[3], len(one[2])) == (other[1], other[3], len(other[2]))
    return same and int(other[2]) == int(one[2]) + 1


def list_files(patterns: list[str]) -> list[PoolFile]:
    """The pool in its order. Raises `UserError` for an unknown kind of file."""
    paths = expand(patterns, "pool.paths")
    root = common_root(paths)
    files = [named(path, root) for path in paths]
    for file in files:
        suffix_of(file.path)
    return files


def chosen(files: list[PoolFile], patterns: list[str] | None) -> list[PoolFile]:
    """The files of the pool that `patterns` stand for, in pool order; all of them for None.

    A file that is not in the pool raises `UserError`.
    """
    if patterns is None:
        return files
    wanted = {os.path.abspath(path): path for path in expand(patterns, "sample.paths")}
    foreign = wanted.keys() - {os.path.abspath(file.path) for file in files}
    if foreign:
        raise UserError(
            expected="files of the pool: what is probed can be selected",
            found=f"{wanted[min(foreign)]!r}, one of {len(foreign):,} files that pool.paths lacks",
            where="sample.paths",
            todo="add it to pool.paths, or correct the pattern",
        )
    return [file for file in files if os.path.abspath(file.path) in wanted]


def common_root(paths: list[str]) -> str:
    """The folder that all files share; relative to this one where all paths are relative."""
    root = os.path.commonpath({os.path.dirname(os.path.abspath(path)) for path in paths})
    return root if any(map(os.path.isabs, paths)) else os.path.relpath(root)


def named(path: str | Path, root: str | Path) -> PoolFile:
    """The pool file at `path`, named by its path below `root`."""
    below = Path(os.path.abspath(path)).relative_to(os.path.abspath(root))
    return PoolFile(str(path), below.as_posix())


def deal(files: list[PoolFile], files_per_shard: int) -> dict[str, list[PoolFile]]:
    """Shard name -> its consecutive files, in pool order; names sort in that order."""
    starts = range(0, len(files), files_per_shard)
    return {f"{i:05d}": files[start : start + files_per_shard] for i, start in enumerate(starts)}
