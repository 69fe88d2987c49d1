"""Speed and memory of writing half of a pool file as a dataset, in each format.

    PYTHONPATH=workflow python tests/benchmarks/formats.py POOL.jsonl.zst TOKENIZER_FOLDER

CPU seconds of one thread, so that other processes on the machine hardly matter; every format in a
process of its own, whose peak of memory is shown.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pyarrow as pa

from groupmates.artefacts.store import Provenance, of_pool, write_table
from groupmates.pool.damage import bytes_of
from groupmates.pool.documents import read_documents
from groupmates.pool.identity import identity, sha256_of
from groupmates.pool.listing import PoolFile
from groupmates.settings import config, per_stage
from groupmates.stages import materialise

FORMATS = ("same", "parquet", "open_lm", "megatron")
COLUMNS = config.PoolColumns(text="text", id=None, source=None)


def select_half(pool: Path, output: Path) -> float:
    """Select every second document; megabytes of the pool's text."""
    sizes = [len(d.text.encode()) for d in read_documents(PoolFile(str(pool), pool.name), COLUMNS)]
    rows = np.arange(0, len(sizes), 2)
    columns = {
        "doc_id": [f"{pool.name}#{row}" for row in rows],
        "source_file": [pool.name] * len(rows),
        "source_row": rows,
        **dict.fromkeys(("n_tokens", "cluster", "rank"), rows),
        **dict.fromkeys(("individual_influence", "group_influence"), rows.astype(float)),
    }
    known = of_pool({pool.name: identity(bytes_of(str(pool)), sha256_of(pool))})
    write_table(output, "select", Provenance("benchmark", {}, known), columns)
    return sum(sizes) / 1e6


def write(format: str, pool: Path, tokenizer: Path, selection: Path) -> None:
    """Write one part of the dataset, and print seconds, gigabytes and tokens as JSON."""
    pa.set_cpu_count(1)
    files = [PoolFile(str(pool), pool.name).marked]
    output, tokens = selection.parent / f"{format}.shards/00000.json", 0
    if format in ("same", "parquet"):
        plain = per_stage.MaterialiseSettings(format=format, text_columns=COLUMNS)
        start = time.process_time()
        materialise.run(plain, pool=files, selection=selection, output=output)
    else:
        from groupmates.stages import tokenise  # with torch, which the others do without

        windows = config.OpenLm(window_tokens=2049, windows_per_shard=8192)
        settings = per_stage.TokeniseSettings(
            seed=0,
            format=format,
            text_columns=COLUMNS,
            bad_records="stop",
            special_tokens_in_text=False,
            open_lm=windows if format == "open_lm" else None,
        )
        start = time.process_time()
        tokenise.run(
            settings,
            pool=files,
            selection=[selection],
            tokenizer=tokenizer,
            part="00000",
            output=output,
        )
        tokens = json.loads((output / "part.json").read_text())["tokens"]
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"seconds": seconds, "gigabytes": peak, "tokens": tokens}))


def main(pool: Path, tokenizer: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        selection = Path(folder) / "select.parquet"
        megabytes = select_half(pool, selection)
        print(f"{megabytes:,.0f} MB of text, half of the documents selected")
        for format in FORMATS:
            command = [sys.executable, __file__, format, pool, tokenizer, selection]
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(shown)
            rate = f"{megabytes / found['seconds']:7.1f} MB/s of the pool's text"
            speed = found["tokens"] / found["seconds"] / 1e6
            print(f"{format:9} {rate}, {speed:5.2f} M tokens/s, {found['gigabytes']:.2f} GB")


if __name__ == "__main__":
    if sys.argv[1] in FORMATS:
        write(sys.argv[1], *map(Path, sys.argv[2:]))
    else:
        main(*map(Path, sys.argv[1:]))
