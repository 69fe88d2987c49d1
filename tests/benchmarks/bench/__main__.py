"""Every stage against a plain implementation of its algorithm, on the same input: `make bench`.

    PYTHONPATH=workflow:tests python -m benchmarks.bench [STAGE ...] [--repeats 3]

Prints a table and writes it to a file; STAGE is the beginning of a stage's name, all by default. Both
sides run in one process, by turns, on one thread of one core. Costs are medians of CPU seconds.
"""

from __future__ import annotations

import os

# Before anything that starts threads or looks for a GPU is imported.
os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    CUDA_VISIBLE_DEVICES="",
    TOKENIZERS_PARALLELISM="false",
    TQDM_DISABLE="1",
)

import argparse
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import torch

from benchmarks.bench import arrays, models
from benchmarks.bench.measure import Row, growth, measure
from groupmates.records.jobs import processor

COLUMNS = (
    *("stage", "size", "ours", "plain", "ratio", "asked", "growth ours", "growth plain"),
    *("peak ours", "peak plain", "agreement"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE")
    parser.add_argument("--output", type=Path, default=Path("results/bench.md"))
    parser.add_argument("--repeats", type=int, help="of every measurement; by default 5, 3 or 1")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script itself")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = list(table(given.stages, given.small, given.repeats, Path(folder)))
    minutes = (time.monotonic() - start) / 60
    machine = f"{os.cpu_count()} cores of {processor()}"
    lines.append(f"\n{date.today()}, {machine}, torch {torch.__version__}, {minutes:.0f} minutes.")
    print(lines[-1])
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("\n".join(lines) + "\n")


def table(stages: list[str], small: bool, repeats: int | None, folder: Path) -> Iterator[str]:
    """Lines of the table, each printed as soon as it is known."""
    yield shown(COLUMNS)
    yield shown(["---"] * len(COLUMNS))
    told = []
    for number, case in enumerate(arrays.cases(small) + models.cases(small)):
        if stages and not case.stage.startswith(tuple(stages)):
            continue
        rows = measure(case, folder / f"{number}", repeats or case.repeats)
        for row in rows:
            yield shown(cells(row, rows))
        if case.stage == arrays.BEAM_AT_PAPER:
            told.append(whole_beam(rows))
    yield from told


def shown(line: list[str] | tuple[str, ...]) -> str:
    text = f"| {' | '.join(line)} |"
    print(text, flush=True)
    return text


def cells(row: Row, rows: list[Row]) -> list[str]:
    """A row of the table; growth and memory stand at the largest size."""
    asked = row.case.asked.get(row.size)
    own, other = exponents(rows) if row is rows[-1] else (None, None)
    return [
        row.case.stage,
        f"{row.size:,} {row.case.unit}",
        duration(row.ours),
        duration(row.plain),
        "" if row.ratio is None else f"{row.ratio:.1f}",
        "" if asked is None else f"{asked:g}",
        *("" if e is None else f"{e:.2f}" for e in (own, other)),
        *("" if mb is None else f"{mb:,.0f} MB" for mb in (row.peak_ours, row.peak_plain)),
        row.agreement if row.agrees else f"**differs**: {row.agreement}",
    ]


def exponents(rows: list[Row]) -> tuple[float | None, float | None]:
    """Growth of both sides with the size."""
    if len(rows) < 2:
        return None, None
    sizes = [row.size for row in rows]
    plain = [row.plain for row in rows if row.plain is not None]
    return growth(sizes, [row.ours for row in rows]), growth(sizes, plain) if plain else None


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def whole_beam(rows: list[Row]) -> str:
    """Both directions at the paper's size, by the fitted law."""
    exponent = growth([row.size for row in rows], [row.ours for row in rows])
    factor = (arrays.PAPER_DOCUMENTS / rows[-1].size) ** exponent
    minutes = 2 * rows[-1].ours * factor / 60
    line = (
        f"\nBy its law of growth, the paper's beam search (W = {arrays.PAPER_WIDTH:,}, "
        f"N = {arrays.PAPER_DOCUMENTS:,}, both directions) takes {minutes:.1f} minutes of one core."
    )
    print(line)
    return line


if __name__ == "__main__":
    main()
