"""The bootstrapped beam search at the paper's size, both directions: 10,000 beams, 81,920 documents.

    PYTHONPATH=workflow:tests python -m benchmarks.whole_beam

Documents and cap are those of the row `bootstrap beam, the paper's shape` of `make bench`. One thread.
Prints wall and CPU seconds of each direction, and the peak of the process (ru_maxrss).
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import resource
import time

import numpy as np

from benchmarks.bench import arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=arrays.PAPER_DOCUMENTS)
    parser.add_argument("--size", type=int, default=768, help="of an embedding")
    arguments = parser.parse_args()
    influence, emb = arrays.cluster(arguments.documents, arguments.size)
    width = arguments.documents * arrays.PAPER_WIDTH // arrays.PAPER_DOCUMENTS
    capacity = np.full(arguments.documents, arrays.PAPER_CAP)
    for sign, direction in ((1, "helpful"), (-1, "harmful")):
        wall, cpu = time.perf_counter(), time.process_time()
        found = arrays.search(sign * influence, emb, width, capacity)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{direction}: {len(found):,} sets of {found.shape[1]} in {wall:.0f} s, "
            f"{cpu:.0f} s of the CPU; peak {peak:,.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
