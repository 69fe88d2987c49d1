"""Write the selected rows of one pool file, unchanged: the dataset to train on."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from groupmates.config import MaterialiseSettings
from groupmates.copying import copy_rows
from groupmates.lines import bytes_of
from groupmates.pool import named
from groupmates.progress import Progress, note
from groupmates.store import read_table, replacing


def run(
    settings: MaterialiseSettings, *, pool: str, root: str, selection: Path, output: Path
) -> None:
    """Copy what `selection` names of the pool file `pool`, which lies below the folder `root`.

    `selection` may hold other files of the same shard too. A file of which nothing was selected
    becomes an empty file of its format.
    """
    file = named(pool, root)
    name, size = file.name, bytes_of(file.path)
    table = read_table(selection, "select", columns=["source_file", "source_row"])
    ours = pc.equal(table["source_file"].cast("string"), name)
    rows = table["source_row"].filter(ours).to_numpy()
    progress = Progress(f"materialise {name}", size, "bytes")
    with replacing(output) as temporary:
        copy_rows(file, rows, temporary)
    progress.advance(size)
    progress.finish()
    note("materialise", f"{name}: {len(rows):,} rows")
