"""Individual influence and embedding of every document of a shard, by a student, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from groupmates.artefacts.store import Provenance, digest
from groupmates.models.student import Student
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.pool.documents import Document
from groupmates.pool.listing import PoolFile
from groupmates.settings.per_stage import StudentScoreSettings
from groupmates.stages.shard_rows import Shard, score_columns, write_rows


def run(
    settings: StudentScoreSettings,
    *,
    pool: list[str],
    check: Path,
    student: Path,
    output: Path,
) -> None:
    """Score the documents of the files `pool`, which `check` lists, in pool order."""
    model, tokenizer = Student.load(student), load_tokenizer(student / "tokenizer")

    def tokenised(file: PoolFile, documents: list[Document]) -> list[np.ndarray]:
        return document_tokens(tokenizer, [d.text for d in documents])

    def scored(
        file: PoolFile, documents: list[Document], tokens: list[np.ndarray]
    ) -> dict[str, Any]:
        return score_columns(file, documents, map(len, tokens), *model.score(tokens))

    shard = Shard.of(pool, check)
    inputs = shard.inputs | {"student": digest(student)}
    provenance = Provenance("score", settings.model_dump(mode="json"), inputs)
    bad = settings.bad_records
    write_rows(output, provenance, shard, settings.columns, bad, model.size, tokenised, scored)
