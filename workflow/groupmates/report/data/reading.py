"""The inputs of the report as small arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from groupmates.artefacts.store import damaged, read_table
from groupmates.records.jobs import Attempt, counted, duration, named_records
from groupmates.settings.lines import FIRST
from groupmates.settings.stages import PARTS, part_of

PAGES = ("report", "frontier", "plan")
Records = dict[str, list[Attempt]]  # name of a job -> its attempts
Curve = tuple[np.ndarray, np.ndarray]  # training tokens, held-out loss in nats


@dataclass(frozen=True)
class StageTime:
    """Sums over a stage's finished jobs."""

    stage: str
    jobs: int
    seconds: float
    longest_seconds: float
    cpu_seconds: float
    peak_megabytes: float


def curves(paths: list[Path]) -> dict[str, list[Curve]]:
    """One curve per seed of each method; the method is the name of a file's folder."""
    found: dict[str, list[Curve]] = {}
    for path in sorted(paths, key=lambda p: (p.parent.name, int(p.stem.removeprefix("seed-")))):
        table = read_table(path, "curve", ["tokens", "loss_nats"])
        curve = table["tokens"].to_numpy(), table["loss_nats"].to_numpy()
        found.setdefault(path.parent.name, []).append(curve)
    return found


def by_method(select: list[Path]) -> dict[str, dict[str, Path]]:
    """method -> shard file name -> path."""
    found: dict[str, dict[str, Path]] = {}
    for path in select:
        found.setdefault(path.parent.name, {})[path.name] = path
    return found


def selected_rows(path: Path, scored: pa.Table) -> np.ndarray:
    """Positions in `scored` of the documents in the select shard `path`, by file and row."""
    chosen = read_table(path, "select", ["source_file", "source_row"])
    file_N, files = codes(scored["source_file"])
    chosen_file, chosen_files = codes(chosen["source_file"])
    known = pc.fill_null(pc.index_in(chosen_files, value_set=files), len(files)).to_numpy()
    row_N, chosen_row = scored["source_row"].to_numpy(), chosen["source_row"].to_numpy()
    span = 1 + max(row_N.max(initial=0), chosen_row.max(initial=0))
    key_N, key = file_N * span + row_N, known[chosen_file].astype(np.int64) * span + chosen_row
    order = np.argsort(key_N, kind="stable")  # linear where rows lie in order, as score writes them
    place = np.searchsorted(key_N, key, sorter=order)
    missing = place == len(key_N)
    rows = order[np.where(missing, 0, place)] if len(order) else np.zeros_like(place)
    if missing.any() or (key_N[rows] != key).any():
        expected = "only documents that the score shard of that number holds"
        raise damaged(path, expected, "a selected document that it does not hold")
    return rows


def marks(path: Path, source_file: str, source_row: int) -> tuple[int, float]:
    """Rank in its cluster and group influence of a document in the select shard `path`."""
    names = ["source_file", "source_row", "rank", "group_influence"]
    table = read_table(path, "select", names)
    same = pc.and_(
        pc.equal(table["source_row"], source_row),
        pc.equal(table["source_file"].cast(pa.string()), source_file),
    )
    row = table.filter(same).to_pylist()[0]
    return row["rank"], row["group_influence"]


def codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A dictionary column as int64 codes and their values."""
    whole = column.unify_dictionaries().combine_chunks()
    return whole.indices.to_numpy(zero_copy_only=False).astype(np.int64), whole.dictionary


def in_files(table: pa.Table, files: set[str]) -> np.ndarray:
    """Which rows of a score or select shard are of one of the pool files `files`."""
    file_N, names = codes(table["source_file"])
    return np.isin(file_N, [i for i, name in enumerate(names.to_pylist()) if name in files])


@dataclass(frozen=True)
class GpuUse:
    """Over a stage's attempts; None where no attempt could tell."""

    peak_megabytes: float | None
    utilisation: float | None


def records(logs: Path) -> Records:
    """The attempts at every job of the pipeline: no plan, and not the pages that are being written.

    Nor those of later stages of pretraining, which the run does not need. Attempts of a version whose
    records did not say which method a job is of are left out.
    """
    return records_by_line(logs).get(FIRST, {})


def records_by_line(logs: Path) -> dict[str, Records]:
    """The same by line: those of later stages of pretraining too."""
    lines: dict[str, Records] = {}
    for name, attempts in named_records(logs).items():
        found = [a for a in attempts if "rule" in a and a["stage"] not in PAGES]
        if found:
            lines.setdefault(found[-1]["wildcards"].get("line", FIRST), {})[name] = found
    return lines


def gpu_use(found: Records) -> dict[str, GpuUse]:
    """Highest memory, and utilisation averaged over time, of the stages that used a GPU."""
    of_stages: dict[str, list[Attempt]] = {}
    for attempt in chain(*found.values()):
        if attempt.get("gpu_peak_bytes") is not None:
            of_stages.setdefault(part_of(attempt["stage"]), []).append(attempt)
    used = {}
    for stage, attempts in of_stages.items():
        measured = [a for a in attempts if a.get("gpu_utilisation") is not None]
        seconds = sum(map(duration, measured))
        busy = sum(a["gpu_utilisation"] * duration(a) for a in measured)
        peak = max(a["gpu_peak_bytes"] for a in attempts) / 1e6
        used[stage] = GpuUse(peak, busy / seconds if seconds else None)
    return used


def stage_times(found: Records) -> list[StageTime]:
    """What the finished jobs took, summed per stage of the cost table."""
    jobs: dict[str, list[list[Attempt]]] = {}
    for attempts in map(counted, found.values()):
        if attempts:
            jobs.setdefault(part_of(attempts[-1]["stage"]), []).append(attempts)
    times = []
    for stage in [*PARTS, *sorted(jobs.keys() - PARTS.keys())]:
        if stage in jobs:
            seconds = [sum(map(duration, attempts)) for attempts in jobs[stage]]
            every = list(chain(*jobs[stage]))
            times.append(
                StageTime(
                    stage=stage,
                    jobs=len(seconds),
                    seconds=sum(seconds),
                    longest_seconds=max(seconds),
                    cpu_seconds=sum(a["cpu_seconds"] for a in every),
                    peak_megabytes=max(a["peak_rss_bytes"] for a in every) / 1e6,
                )
            )
    return times
