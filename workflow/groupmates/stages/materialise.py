"""Write the selected rows of one pool file, unchanged: the dataset to train on."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.compute as pc

from groupmates.config import MaterialiseSettings
from groupmates.copying import copy_rows
from groupmates.pool import PoolFile
from groupmates.progress import Progress, note
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
    progress = Progress(f"materialise {name}", pool.stat().st_size, "bytes")
    with replacing(output) as temporary:
        copy_rows(PoolFile(str(pool), name), rows, temporary)
    progress.advance(pool.stat().st_size)
    progress.finish()
    note("materialise", f"{name}: {len(rows):,} rows")
