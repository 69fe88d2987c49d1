"""A pool with planted copies, to see which selectors notice them.

    python tests/benchmarks/planted.py data/pool/shard_*.jsonl.zst --output data/planted

The first `--documents` of the pool are taken, in the order of their ids' hashes. The first `--planted`
of them are written `--copies` times each, under ids of their own (id and number of the copy), the
others once. With `--edited` each copy but the first is a near-duplicate: a tenth of its sentences are
left out, white space is flattened, a line of its own stands below. Eight files, documents in hash
order: copies are spread over all of them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.maths.randomness import hash64
from groupmates.pool.documents import read_documents
from groupmates.pool.listing import list_files
from groupmates.settings.config import PoolColumns

COLUMNS = PoolColumns(text="text", id="id", source="source")


def key(doc_id: str) -> int:
    return hash64(0, "planted", doc_id)


def edited(text: str, copy_id: str) -> str:
    """A near-duplicate of a text, and another one for every id."""
    sentences = re.split(r"(?<=[.!?])\s+", text)
    kept = [s for n, s in enumerate(sentences) if hash64(0, "edit", f"{copy_id} {n}") % 10]
    return f"{' '.join(' '.join(kept or sentences).split())}\n\nCopied as {copy_id}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--documents", type=int, default=6000)
    parser.add_argument("--planted", type=int, default=600)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--edited", action="store_true")
    arguments = parser.parse_args()
    found = [d for file in list_files(arguments.paths) for d in read_documents(file, COLUMNS)]
    taken = sorted(found, key=lambda d: key(d.doc_id))[: arguments.documents]
    written = []
    for number, document in enumerate(taken):
        for copy in range(arguments.copies if number < arguments.planted else 1):
            copy_id, text = f"{document.doc_id}-{copy}", document.text
            if arguments.edited and copy:
                text = edited(text, copy_id)
            written.append({"id": copy_id, "text": text, "source": document.source})
    written.sort(key=lambda r: key(r["id"]))
    arguments.output.mkdir(parents=True, exist_ok=True)
    for part in range(8):
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in written[part::8])
        path = arguments.output / f"shard_{part}.jsonl.zst"
        path.write_bytes(zstandard.ZstdCompressor(level=9).compress(lines.encode()))
    print(f"{len(written):,} documents, {len(taken):,} of them distinct, in {arguments.output}")


if __name__ == "__main__":
    main()
