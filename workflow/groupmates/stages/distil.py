"""Fit a student to the influence model, whose scores of some documents it learns to predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.errors import UserError
from groupmates.maths.randomness import priorities
from groupmates.maths.statistics import spearman
from groupmates.maths.token_ridge import token_ridge
from groupmates.models.encoders import BATCH_TOKENS
from groupmates.models.influence import InfluenceModel
from groupmates.models.student import Student, frequencies
from groupmates.models.tokenizer import largest_id, load_tokenizer, token_lists
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import DistilSettings


def run(
    settings: DistilSettings,
    *,
    model: Path,
    probe_pool: Path,
    training_pool: Path,
    output: Path,
) -> None:
    """Let `model` score documents that were sampled already, and fit a student to most of them.

    A student that predicts the others worse than the floor raises `UserError`.
    """
    distil, window = settings.distil, settings.sequence_length + 1
    sampled = draw(settings, probe_pool, training_pool)
    doc_ids = sampled["doc_id"].to_pylist()
    sequences = [tokens[:window] for tokens in token_lists(sampled)]
    teacher, tokenizer = InfluenceModel.load(model), load_tokenizer(model / "tokenizer")
    teacher.encoder.check_ids(sequences, lambda i: f"document {doc_ids[i]!r}", tokenizer)
    progress = Progress("distil", len(sequences), "documents")
    individual_N, emb_ND = teacher.score(
        sampled["text"].to_pylist(), sequences, BATCH_TOKENS, progress.advance
    )
    progress.finish()
    heldout = min(max(2, round(distil.heldout_share * len(sequences))), len(sequences) - 2)
    progress = Progress("distil fit", 1, "fits")
    vectors = token_ridge(
        frequencies(sequences[heldout:], largest_id(tokenizer) + 1),
        np.column_stack([individual_N, emb_ND])[heldout:],
        distil.penalty,
    )
    progress.advance(1)
    progress.finish()
    student = Student(vectors[:, 0], vectors[:, 1:], window)
    found = student.score(sequences[:heldout])
    metrics: dict[str, Any] = agreement(*found, individual_N[:heldout], emb_ND[:heldout])
    metrics["documents"] = {"training": len(sequences) - heldout, "heldout": heldout}
    report(metrics)
    check_floor(metrics, distil.minimum_spearman)
    inputs = {"model": model, "probe_pool": probe_pool, "training_pool": training_pool}
    with store.replacing(output) as folder:
        folder.mkdir()
        special = not tokenizer.split_special_tokens
        student.save(
            folder, end_of_text=tokenizer.eos_token_id, special_tokens_in_text=bool(special)
        )
        tokenizer.save_pretrained(folder / "tokenizer")
        text = json.dumps(metrics, indent=2, sort_keys=True)
        (folder / "metrics.json").write_text(text + "\n")
        provenance = Provenance.of("distil", settings, **inputs)
        store.write_folder_provenance(folder, "student", provenance)


def draw(settings: DistilSettings, probe_pool: Path, training_pool: Path) -> pa.Table:
    """Documents of both pools in the order of a hash, at most so many; none of them twice."""
    names = ["doc_id", "text", "input_ids"]
    pools = ((probe_pool, "probe_pool"), (training_pool, "training_pool"))
    table = pa.concat_tables([store.read_table(path, kind, names) for path, kind in pools])
    # The two are the same where the whole pool is probed.
    _, first = np.unique(table["doc_id"].to_numpy(), return_index=True)
    table = table.take(pa.array(first))
    order = np.argsort(priorities(settings.seed, "distil", table["doc_id"].to_pylist()))
    return table.take(pa.array(order[: settings.distil.documents])).combine_chunks()


def agreement(
    individual_N: np.ndarray, emb_ND: np.ndarray, teacher_N: np.ndarray, teacher_ND: np.ndarray
) -> dict[str, float]:
    """How a student agrees with its teacher about documents that it has not learned from.

    `quarter_overlap`: share of the teacher's most helpful quarter that is in the student's, too.
    """
    length_N = np.linalg.norm(teacher_ND, axis=1)
    quarter = -(-len(teacher_N) // 4)
    best = [np.argsort(values, kind="stable")[:quarter] for values in (individual_N, teacher_N)]
    return {
        "spearman": spearman(individual_N, teacher_N),
        "cosine": float(((emb_ND * teacher_ND).sum(1) / length_N).mean()),
        "quarter_overlap": len(np.intersect1d(best[0], best[1])) / quarter,
    }


def report(metrics: dict[str, Any]) -> None:
    documents = metrics["documents"]
    note(
        "distil",
        f"held-out Spearman with the influence model {metrics['spearman']:.3f}, mean cosine of "
        f"embeddings {metrics['cosine']:.3f}, overlap of the best quarter "
        f"{metrics['quarter_overlap']:.1%}; {documents['training']:,} documents in training, "
        f"{documents['heldout']:,} held out",
    )


def check_floor(metrics: dict[str, Any], floor: float) -> None:
    if not metrics["spearman"] >= floor:
        raise UserError(
            expected=f"a held-out Spearman of at least {floor} between student and influence model "
            "(distil.minimum_spearman)",
            found=f"{metrics['spearman']:.3f} from {metrics['documents']['training']:,} documents",
            where="the student that distil has fitted",
            todo="sample more documents (sample.training_documents, distil.documents), try another "
            "distil.penalty, or score with score.model: fitted; to go on regardless lower the floor",
        )
