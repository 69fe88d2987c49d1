"""BETR (arXiv 2507.12466): sampled documents are ranked by the reference, and the pool by a regression.

Targets are the examples of the reference's selection half, each by itself. maths/target_ranks.py
says what a score is, and models/ngrams.py what predicts it. Higher scores are better.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.maths.meaning import embedded, whitening
from groupmates.maths.target_ranks import target_scores
from groupmates.models.ngrams import HELD_OUT, NgramRegression
from groupmates.progress import Progress, note
from groupmates.selectors.order import preparing, score_texts, without_groups
from groupmates.selectors.texts import decoded
from groupmates.settings.selectors import Betr

WEIGHTS = "regression.safetensors"
FEWEST_TARGETS = 2
FEWEST_DOCUMENTS = 2 * HELD_OUT  # a rank correlation needs two that are held out
TOGETHER = 256  # texts that are embedded at once, and kept


def prepare(
    settings: Betr.Prepare,
    *,
    base: Path | None = None,
    reference: Path,
    tokenizer: Path,
    probe_pool: Path,
    training_pool: Path,
    output: Path,
) -> None:
    """Score the sampled documents by the targets, and fit the regression on these scores.

    Writes the weights, and a .json with numbers and the held-out figure. A killed job embeds no text
    twice.
    """
    betr = settings.betr
    targets = decoded(reference, tokenizer, settings.selection_examples)
    documents = [
        text
        for path, name in ((probe_pool, "probe_pool"), (training_pool, "training_pool"))
        for text in store.read_column(path, name, "text").to_pylist()
    ]
    check_numbers(targets, documents, reference, f"{probe_pool}, {training_pool}")
    provenance = Provenance.of(
        "prepare",
        settings,
        base=base,
        reference=reference,
        tokenizer=tokenizer,
        probe_pool=probe_pool,
        training_pool=training_pool,
    )
    with Kept(output, "prepared", provenance) as kept:
        emb_ND = vectors(settings, [*targets, *documents], base, tokenizer, kept, output.name)
        target_MD, emb_ND = emb_ND[: len(targets)], emb_ND[len(targets) :]
        if betr.encoder == "lm":
            mean_F, axes_FD, _ = whitening(emb_ND, settings.embedding_size)
            target_MD, emb_ND = (embedded(x, mean_F, axes_FD) for x in (target_MD, emb_ND))
        score_N = target_scores(emb_ND, target_MD, betr.combine)
        regression, correlation = NgramRegression.fit(betr, documents, score_N)
        numbers = f"{len(targets):,} targets, {len(documents):,} documents"
        note(f"prepare {output.name}", f"{numbers}; held-out Spearman {correlation:.3f}")
        body = {
            "targets": len(targets),
            "documents": len(documents),
            "held_out_documents": len(documents) // HELD_OUT,
            "held_out_spearman": correlation,
        }
        with preparing(output, provenance) as folder:
            weights = folder / WEIGHTS
            regression.save(weights, {})
            store.write_json(weights.with_suffix(".json"), "regression", provenance, body)
        kept.clear()


def check_numbers(targets: list[str], documents: list[str], reference: Path, sampled: str) -> None:
    if len(targets) < FEWEST_TARGETS:
        raise UserError(
            expected=f"at least {FEWEST_TARGETS} reference examples that steer the selection",
            found=f"{len(targets)}",
            where=str(reference),
            todo="give more examples in reference.paths, or raise reference.selection_examples",
        )
    if len(documents) < FEWEST_DOCUMENTS:
        raise UserError(
            expected=f"at least {FEWEST_DOCUMENTS} sampled documents to rank",
            found=f"{len(documents)}",
            where=sampled,
            todo="raise sample.probe_documents or sample.training_documents",
        )


def vectors(
    settings: Betr.Prepare,
    texts: list[str],
    base: Path | None,
    tokenizer: Path,
    kept: Kept,
    method: str,
) -> np.ndarray:
    """Vectors float32 [N, F] of the texts, block by block; blocks that were kept are not made again."""
    # Here, so that `order` need not wait for torch.
    from groupmates.selectors.betr_vectors import encoder_of

    found = [np.load(kept.file(name)) for name in kept.files]
    done, unsaved = sum(map(len, found)), len(found)
    progress = Progress(f"prepare {method}", len(texts), "texts", done)
    of_texts = encoder_of(settings, base, tokenizer)
    for start in range(done, len(texts), TOGETHER):
        block = texts[start : start + TOGETHER]
        found.append(of_texts(block))
        check_vectors(found[-1], block, settings.betr.encoder)
        progress.advance(len(block))
        if kept.due():
            write = partial(np.save, arr=np.concatenate(found[unsaved:]))
            kept.save({"texts": start + len(block)}, {f"vectors-{start:012d}.npy": write})
            unsaved = len(found)
    progress.finish()
    return np.concatenate(found)


def check_vectors(emb_ND: np.ndarray, texts: list[str], encoder: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(emb_ND).all(axis=1))
    if len(wrong):
        raise UserError(
            expected="a finite vector of every text",
            found=f"nan or inf for {texts[wrong[0]][:40]!r}, one of {len(wrong):,} such",
            where=f"select.betr.encoder: {encoder}",
            todo="look at the encoder's weights (of lm, base.checkpoint), or choose another one",
        )


def order(
    settings: Betr.Order,
    *,
    pool: list[str],
    score: list[Path],
    prepared: Path,
    partition: int,
    partitions: int,
    output: Path,
) -> None:
    """Order the documents of the `partition`-th score shard, whose files are `pool`."""
    weights = prepared / WEIGHTS
    store.read_artefact_json(weights.with_suffix(".json"), "regression")
    model = NgramRegression.load(settings.betr, weights)
    label = f"order {output.parent.name} {partition + 1}/{partitions}"
    columns, bad = settings.text_columns, settings.bad_records
    score_N = score_texts(label, score[partition], pool, columns, bad, model.score)
    provenance = Provenance.of("select", settings, score=score, regression=weights)
    store.write_table(output, "order", provenance, without_groups(partition, -score_N))
