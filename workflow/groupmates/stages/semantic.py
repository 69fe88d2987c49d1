"""Embeddings of meaning, which no influence has shaped: of the probed model, whatever fit.encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from groupmates.artefacts.store import Provenance, digests, read_table, replacing, write_json
from groupmates.errors import UserError
from groupmates.models.passes import Passes
from groupmates.models.semantic import SemanticEncoder
from groupmates.models.tokenizer import document_tokens, load_tokenizer, token_lists
from groupmates.pool.damage import place
from groupmates.pool.documents import Document, named
from groupmates.pool.listing import PoolFile
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import EmbedSettings, SemanticFitSettings
from groupmates.stages.shard_rows import Shard, write_rows


def run_fit(
    settings: SemanticFitSettings,
    *,
    base: Path,
    probe_pool: Path,
    output: Path,
) -> None:
    """Whiten the hidden states of `base` on the probe pool, along its leading directions."""
    pool = read_table(probe_pool, "probe_pool", ["doc_id", "input_ids"])
    sequences, doc_ids = token_lists(pool), pool["doc_id"].to_pylist()
    progress = Progress("semantic fit", len(sequences), "documents")
    size = settings.semantic.embedding_size
    encoder, share = SemanticEncoder.fit(base, sequences, doc_ids, size, progress.advance)
    progress.finish()
    directions = f"{encoder.size} of {len(encoder.mean_F)} directions"
    note("semantic", f"{directions}, {share:.2%} of the variance")
    with replacing(output) as temporary:
        encoder.save(temporary)
    provenance = Provenance.of("semantic", settings, base=base, probe_pool=probe_pool)
    body = {"directions": encoder.size, "hidden_size": len(encoder.mean_F), "variance": share}
    write_json(output.with_suffix(".json"), "semantic_encoder", provenance, body)


def run_embed(
    settings: EmbedSettings,
    *,
    pool: list[str],
    check: Path,
    base: Path,
    tokenizer: Path,
    encoder: Path,
    output: Path,
) -> None:
    """Embed the documents of the files `pool`, which `check` lists: rows as `score` has."""
    meaning, of_text = SemanticEncoder.load(base, encoder), load_tokenizer(tokenizer)
    passes = Passes("embed", settings.score.batch_tokens)

    def tokenised(file: PoolFile, documents: list[Document]) -> list[np.ndarray]:
        texts = [d.text for d in documents]
        windows = [t[: settings.sequence_length + 1] for t in document_tokens(of_text, texts)]
        meaning.check_ids(windows, lambda i: named(file, documents[i]), of_text)
        return windows

    def embedded(
        file: PoolFile, documents: list[Document], windows: list[np.ndarray]
    ) -> dict[str, Any]:
        emb_ND = passes.run(lambda tokens: meaning(windows, tokens))
        check_lengths(file, documents, emb_ND)
        return {"doc_id": [d.doc_id for d in documents], "embedding": emb_ND}

    shard = Shard.of(pool, check)
    inputs = digests(base=base, tokenizer=tokenizer, encoder=encoder)
    provenance = Provenance("embed", settings.model_dump(mode="json"), shard.inputs | inputs)
    columns, bad = settings.text_columns, settings.bad_records
    size = meaning.size
    write_rows(output, provenance, shard, columns, bad, size, tokenised, embedded, "semantic")


def check_lengths(file: PoolFile, documents: list[Document], emb_ND: np.ndarray) -> None:
    wrong = np.flatnonzero(~(np.linalg.norm(emb_ND, axis=1) > 0.5))  # 1, but for rounding
    if len(wrong):
        raise UserError(
            expected="hidden states of every document that are finite and not the probe pool's mean",
            found=f"others for {documents[wrong[0]].doc_id!r}, one of {len(wrong):,} such",
            where=place(file.path, documents[wrong[0]].row),
            todo="look at base.checkpoint: its hidden states overflow, or are the same for any text; "
            "or do without clusters: semantic",
        )
