"""Selection by quality: a classifier of user-given positives against the pool, top by score."""

from __future__ import annotations

from pathlib import Path

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.errors import UserError
from groupmates.models.ngrams import HELD_OUT
from groupmates.models.quality import QualityClassifier
from groupmates.pool.examples import read_examples
from groupmates.progress import note
from groupmates.selectors.order import preparing, score_texts, without_groups
from groupmates.selectors.texts import decoded
from groupmates.settings.selectors import Quality

WEIGHTS = "classifier.safetensors"


def prepare(
    settings: Quality.Prepare,
    *,
    positives: list[Path] | None = None,
    reference: Path,
    tokenizer: Path,
    probe_pool: Path,
    training_pool: Path,
    output: Path,
) -> None:
    """Fit on the positives, or the selection half of the reference, against the sampled documents.

    Writes the weights, and a .json with numbers and the held-out figure.
    """
    quality = settings.quality
    if quality.positives == "reference":
        good, where = decoded(reference, tokenizer, settings.selection_examples), str(reference)
    else:
        files = positives or []
        examples = (e for path in files for e in read_examples(str(path)))
        good = ["".join(e.joined(settings.delimiter)[:2]) for e in examples]
        where = ", ".join(map(str, files))
    bad = [
        text
        for path, name in ((probe_pool, "probe_pool"), (training_pool, "training_pool"))
        for text in store.read_column(path, name, "text").to_pylist()
    ]
    for texts, source in ((good, where), (bad, f"{probe_pool}, {training_pool}")):
        if len(texts) < HELD_OUT:
            raise UserError(
                expected=f"at least {HELD_OUT} texts of either kind",
                found=f"{len(texts)}",
                where=source,
                todo="give more examples in select.quality.positives, or sample more documents",
            )
    classifier, area = QualityClassifier.fit(quality, good, bad)
    note("quality", f"{len(good):,} positives, {len(bad):,} of the pool; held-out AUC {area:.3f}")
    provenance = Provenance.of(
        "quality",
        settings,
        positives=positives,
        reference=reference,
        probe_pool=probe_pool,
        training_pool=training_pool,
    )
    body = {"positives": len(good), "negatives": len(bad), "held_out_auc": area}
    with preparing(output, provenance) as folder:
        weights = folder / WEIGHTS
        classifier.save(weights, {})
        store.write_json(weights.with_suffix(".json"), "classifier", provenance, body)


def order(
    settings: Quality.Order,
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
    store.read_artefact_json(weights.with_suffix(".json"), "classifier")
    model = QualityClassifier.load(settings.quality, weights)
    label = f"order {output.parent.name} {partition + 1}/{partitions}"
    columns, bad = settings.columns, settings.bad_records
    score_N = score_texts(label, score[partition], pool, columns, bad, model.score)
    provenance = Provenance.of("select", settings, score=score, classifier=weights)
    store.write_table(output, "order", provenance, without_groups(partition, -score_N))
