"""Individual influence and embedding of every document of a shard, by an influence model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from groupmates.artefacts.store import Provenance, digest
from groupmates.errors import UserError
from groupmates.models.influence import InfluenceModel
from groupmates.models.passes import Passes
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.pool.damage import place
from groupmates.pool.documents import Document, named
from groupmates.pool.listing import PoolFile
from groupmates.settings.per_stage import ScoreSettings
from groupmates.stages.shard_rows import Shard, score_columns, write_rows

FEW = 32  # documents that compiled layers are tried on


def run(
    settings: ScoreSettings,
    *,
    pool: list[str],
    check: Path,
    model: Path,
    compile: int = 0,
    output: Path,
) -> None:
    """Score the documents of the files `pool`, which `check` lists, in pool order.

    `compile`: whether the layers of a fine-tuned encoder are (1) or not (0).
    """
    influence = InfluenceModel.load(model)
    label = "score"
    encoder, passes = influence.encoder, Passes(label, settings.score.batch_tokens)
    tokenizer = load_tokenizer(model / "tokenizer")
    untried = bool(compile)

    def tokenised(file: PoolFile, documents: list[Document]) -> tuple[list[int], Any]:
        texts = [d.text for d in documents]
        tokens = document_tokens(tokenizer, texts)
        windows = [t[: settings.sequence_length + 1] for t in tokens]
        encoder.check_ids(windows, lambda i: named(file, documents[i]), tokenizer)
        return [len(t) for t in tokens], encoder.read(texts, windows)

    def scored(
        file: PoolFile, documents: list[Document], tokens: tuple[list[int], Any]
    ) -> dict[str, Any]:
        nonlocal untried
        n_tokens, read = tokens
        if untried:
            untried = False
            influence.compile_layers(label, read[:FEW])
        individual, embeddings = passes.run(lambda tokens: influence.score_read(read, tokens))
        check_finite(file, documents, individual, embeddings)
        return score_columns(file, documents, n_tokens, individual, embeddings)

    shard = Shard.of(pool, check)
    inputs = shard.inputs | {"model": digest(model)}
    provenance = Provenance("score", settings.model_dump(mode="json"), inputs)
    bad = settings.bad_records
    write_rows(output, provenance, shard, settings.columns, bad, encoder.size, tokenised, scored)


def check_finite(
    file: PoolFile, documents: list[Document], individual_N: np.ndarray, emb_ND: np.ndarray
) -> None:
    wrong = np.flatnonzero(~(np.isfinite(individual_N) & np.isfinite(emb_ND).all(1)))
    if len(wrong):
        raise UserError(
            expected="a finite influence and embedding of every document",
            found=f"nan or inf for {documents[wrong[0]].doc_id!r}, one of {len(wrong):,} such",
            where=place(file.path, documents[wrong[0]].row),
            todo="look at fit/final/metrics.json: the influence model is broken, fit it with a lower "
            "fit.training.learning_rate; where it is this document alone, take it out of the pool",
        )
