"""The inputs of the report as small arrays."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.artefacts.store import KEY, concatenate, open_table, read_table
from groupmates.errors import UserError
from groupmates.records.jobs import named_records

Records = dict[str, list[dict[str, Any]]]  # name of a job -> its attempts
Curve = tuple[np.ndarray, np.ndarray]  # training tokens, held-out loss in nats


@dataclass(frozen=True)
class Labels:
    """The oracle influences of one round of rollouts, in nats; step counts from 1."""

    step: np.ndarray
    influence_nats: np.ndarray
    rollouts: int


@dataclass(frozen=True)
class Heldout:
    rollout: np.ndarray
    step: np.ndarray
    predicted_nats: np.ndarray
    oracle_nats: np.ndarray


@dataclass(frozen=True)
class StageTime:
    """Sums over a stage's jobs; None where no job's benchmark knows the value."""

    stage: str
    jobs: int
    seconds: float
    longest_seconds: float
    cpu_seconds: float | None
    peak_megabytes: float | None


def labels(parts: list[Path]) -> Labels:
    table = concatenate(parts, "probe", ["rollout", "step", "influence_nats"])
    rollouts = len(pc.unique(table["rollout"]))
    return Labels(table["step"].to_numpy(), table["influence_nats"].to_numpy(), rollouts)


def heldout(fit: Path) -> Heldout:
    names = ["rollout", "step", "predicted_nats", "influence_nats"]
    table = read_table(fit / "heldout.parquet", "heldout", names)
    return Heldout(*(table[name].to_numpy() for name in names))


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
        raise UserError(
            expected="only documents that the score shard of that number holds",
            found="a selected document that it does not hold",
            where=str(path),
            todo="delete the file and run snakemake again",
        )
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


@dataclass(frozen=True)
class GpuUse:
    """Over a stage's attempts; None where no attempt could tell."""

    peak_megabytes: float | None
    utilisation: float | None


# The stages that a stage of the cost table is made of have the folder of their benchmarks in common.
PART_OF = {
    "check-pool": "check",
    "reference": "sample",
    "plan-random": "probe",
    "plan-bootstrap": "probe",
    "plan-one-step": "probe",
    "accept": "fit",
    "plan-groups": "groups",
    "probe-groups": "groups",
    "fit-semantic": "score",
    "embed": "score",
    "centroids": "cluster",
    "order-group-mates": "select",
    "order-random": "select",
    "order-mates": "select",
    "order-semdedup": "select",
    "check-oracle-greedy": "check",
    "order-oracle-greedy": "select",
    "order-quality": "select",
    "probe-quad": "probe",
    "order-quad": "select",
    "fit-quality": "fit",
    "take": "select",
    "tokenise": "materialise",
    "assemble": "materialise",
    "summarise": "evaluate",
}


def records(logs: Path) -> Records:
    """The attempts at every job of the pipeline: no plan, and not the report that is being written."""
    found = named_records(logs)
    of_itself = ("report", "plan")
    return {n: a for n, a in found.items() if all(x["stage"] not in of_itself for x in a)}


def gpu_use(found: Records) -> dict[str, GpuUse]:
    """Highest memory, and utilisation averaged over time, of the stages that used a GPU."""
    of_stages: dict[str, list[dict[str, Any]]] = {}
    for attempts in found.values():
        for attempt in attempts:
            if attempt.get("gpu_peak_bytes") is not None:
                stage: str = attempt["stage"]
                of_stages.setdefault(PART_OF.get(stage, stage), []).append(attempt)
    return {stage: _gpu_use(attempts) for stage, attempts in of_stages.items()}


def _gpu_use(attempts: list[dict[str, Any]]) -> GpuUse:
    measured = [
        (a["gpu_utilisation"], (a["ended"] or a["heard"]) - a["started"])
        for a in attempts
        if a.get("gpu_utilisation") is not None
    ]
    seconds = sum(s for _, s in measured)
    return GpuUse(
        max(a["gpu_peak_bytes"] for a in attempts) / 1e6,
        sum(share * s for share, s in measured) / seconds if seconds else None,
    )


def benchmark_seconds(benchmarks: Path, patterns: list[str]) -> float:
    """Seconds of the jobs whose benchmark file, below the folder, matches one of these."""
    total = 0.0
    for path in sorted(benchmarks.rglob("*.tsv")):
        name = path.relative_to(benchmarks).as_posix()
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            with path.open(newline="") as lines:
                total += sum(float(row["s"]) for row in csv.DictReader(lines, delimiter="\t"))
    return total


def stage_times(benchmarks: Path) -> list[StageTime]:
    """Snakemake's benchmark files, summed per stage (the first part of a file's path here)."""
    jobs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        stage = path.relative_to(benchmarks).with_suffix("").parts[0]
        jobs.setdefault(stage, []).extend(rows)
    flow = list(dict.fromkeys(a.path.split("/")[0] for a in ARTEFACTS.values()))
    flow.insert(flow.index("select") + 1, "materialise")

    def place(stage: str) -> tuple[int, str]:
        return (flow.index(stage) if stage in flow else len(flow), stage)

    return [_stage_time(stage, jobs[stage]) for stage in sorted(jobs, key=place)]


def _stage_time(stage: str, rows: list[dict[str, Any]]) -> StageTime:
    def numbers(column: str) -> list[float]:
        found = []
        for row in rows:
            try:
                found.append(float(row.get(column) or "NA"))
            except ValueError:  # "-" and "NA": the job was too short, or the platform cannot tell
                continue
        return [x for x in found if np.isfinite(x)]

    seconds, cpu, memory = numbers("s"), numbers("cpu_time"), numbers("max_rss")
    return StageTime(
        stage=stage,
        jobs=len(rows),
        seconds=sum(seconds),
        longest_seconds=max(seconds, default=0.0),
        cpu_seconds=sum(cpu) if cpu else None,
        peak_megabytes=max(memory, default=None),
    )


def table_records(paths: list[Path], artefact: str) -> list[dict[str, Any]]:
    """The provenance of each table."""
    return [json.loads(open_table(p, artefact).schema_arrow.metadata[KEY]) for p in paths]
