"""Write the selected rows of one pool file, unchanged: the dataset to train on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow.compute as pc

from groupmates.config import MaterialiseSettings
from groupmates.copying import copy_rows
from groupmates.pool import PoolFile
from groupmates.progress import note
from groupmates.store import read_table, replacing


def run(
    settings: MaterialiseSettings, *, pool: Path, root: Path, selection: Path, output: Path
) -> None:
    """Copy what `selection` names of the pool file `pool`, which lies below the folder `root`.

    `selection` may hold other files of the same shard too. A file of which nothing was selected
    becomes an empty file of its format.
    """
    name = Path(os.path.abspath(pool)).relative_to(os.path.abspath(root)).as_posix()
    table = read_table(selection, "select", columns=["source_file", "source_row"])
    ours = pc.equal(table["source_file"].cast("string"), name)
    rows = table["source_row"].filter(ours).to_numpy()
    start = time.monotonic()
    with replacing(output) as temporary:
        copy_rows(PoolFile(str(pool), name), rows, temporary)
    rate = pool.stat().st_size / 1e6 / (time.monotonic() - start)
    note("materialise", f"{name}: {len(rows):,} rows, {rate:,.1f} MB/s of the pool file")
