"""Quad (arXiv 2409.16986): clusters are the arms of a bandit, probed by influence functions.

The influence of a document is what a step along its gradient does to the reference loss, to first
order: -(gradient of its loss) . (H + damping)^-1 (gradient of the reference loss) on the attention
layers, nats per unit of the step; lower is better. (The paper has the other sign.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.maths.bandit import Bandit, drawn_order, most_probed
from groupmates.maths.conjugate_gradient import conjugate_gradient
from groupmates.maths.packing import length_batches
from groupmates.maths.randomness import priorities
from groupmates.models.checkpoint import broken_base, open_model
from groupmates.models.gradients import AttentionGradients
from groupmates.models.language_model import check_ids, pass_tokens
from groupmates.models.reference import Reference, check_reference, reference_part
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.pool.chosen_rows import chosen_texts
from groupmates.pool.damage import place as pool_place
from groupmates.pool.identity import identified
from groupmates.pool.listing import PoolFile, located
from groupmates.progress import Progress, note
from groupmates.selectors.order import preparing
from groupmates.settings.selectors import Quad

PROBED, CLUSTERS = "probed.parquet", "clusters.parquet"


def prepare(
    settings: Quad.Prepare,
    *,
    base: Path,
    tokenizer: Path,
    reference: Path,
    pool: list[str],
    score: list[Path],
    cluster: list[Path],
    centroids: Path,
    output: Path,
    threads: int = 1,
) -> None:
    """Visit clusters, and write what was measured and what is known of every cluster in the end.

    An iteration reads its texts from the files of the `pool`. Memory: ids and places of
    all documents, and the probed model. A killed job measures no batch of documents twice.
    """
    torch.set_num_threads(threads)
    centre_KD, quad = store.read_centroids(centroids), settings.quad
    cluster_N = np.concatenate(
        [store.read_clusters(s, c) for s, c in zip(score, cluster, strict=True)]
    )
    documents = store.concatenate(score, "score", ["doc_id", "source_file", "source_row"])
    order_N, starts = drawn_order(
        cluster_N, _priorities(settings.seed, score), clusters=len(centre_KD)
    )
    bandit = Bandit(
        centre_KD, np.diff(starts), quad.neighbour_distance, quad.exploration, quad.threshold
    )
    provenance = Provenance.of(
        "probe",
        settings,
        base=base,
        tokenizer=tokenizer,
        reference=reference,
        score=score,
        cluster=cluster,
        centroids=centroids,
    )
    with Kept(output, "prepared", provenance) as kept:
        known = kept.values
        most = most_probed(
            quad.iterations, quad.arms_per_iteration, quad.documents_per_arm, len(documents)
        )
        progress = Progress(f"probe {output.name}", most, "documents", len(known))
        examples = reference_part(reference, "selection", settings.selection_examples)[0]
        files = identified(located(pool), store.pool_of(score, "score"))
        texts = Texts(settings, documents, files, tokenizer)
        influences = Influences(base, examples, quad, texts, known, progress, kept)
        found: list[dict[str, np.ndarray]] = []
        for iteration, (arms, drawn) in enumerate(draws(quad, bandit, order_N, starts), 1):
            chosen = np.concatenate(drawn)
            influence_n = influences.of(chosen)
            bounds = np.cumsum([len(d) for d in drawn])[:-1]
            for arm, measured in zip(arms, np.split(influence_n, bounds), strict=True):
                bandit.visit(int(arm), measured)
            found.append(
                {
                    "iteration": np.full(len(chosen), iteration),
                    "cluster": cluster_N[chosen],
                    "doc_id": documents["doc_id"].take(chosen),
                    "influence": influence_n,
                }
            )
        progress.total = progress.done  # a cluster may have had fewer documents left
        progress.finish()
        visited, better = bandit.probed_K > 0, bandit.reward_K > 0
        note(
            f"probe {output.name}",
            f"{visited.sum():,} of {len(visited):,} clusters were probed; those of positive reward "
            f"hold {bandit.documents_K[better].sum():,} of {len(documents):,} documents",
        )
        with preparing(output, provenance) as folder:
            store.write_table(folder / CLUSTERS, "quad_clusters", provenance, columns_of(bandit))
            with store.table_writer(folder / PROBED, "quad", provenance) as writer:
                for part in found:
                    writer.write(part)
        kept.clear()


def draws(
    quad: Quad, bandit: Bandit, order_N: np.ndarray, starts: np.ndarray
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """The clusters of each iteration, and the documents of each that are probed next."""
    for _ in range(quad.iterations):
        arms = bandit.arms(quad.arms_per_iteration)
        first = starts[arms] + bandit.probed_K[arms]
        last = np.minimum(first + quad.documents_per_arm, starts[arms + 1])
        if not len(arms):
            return
        yield arms, [order_N[a:b] for a, b in zip(first, last, strict=True)]


def columns_of(bandit: Bandit) -> dict[str, np.ndarray]:
    """What is known of every cluster."""
    return {
        "cluster": np.arange(len(bandit.documents_K)),
        "documents": bandit.documents_K,
        "probed": bandit.probed_K,
        "visits": bandit.visits_K,
        "influence": bandit.influence_K,
        "reward": bandit.reward_K,
    }


def order(
    settings: Quad.Order,
    *,
    prepared: Path,
    score: list[Path],
    cluster: list[Path],
    output: Path,
) -> None:
    """Order by the mean reward of a document's cluster, best first; within it as they are drawn.

    So the documents that were probed come first. Memory: about 50 bytes per document.
    """
    clusters = prepared / CLUSTERS
    known = store.read_table(clusters, "quad_clusters")
    parts = [store.read_clusters(s, c) for s, c in zip(score, cluster, strict=True)]
    cluster_N, reward_K = np.concatenate(parts), known["reward"].to_numpy()
    counted_K = np.bincount(cluster_N, minlength=len(known))
    if not np.array_equal(counted_K, known["documents"].to_numpy()):
        expected = f"the {len(known):,} clusters that were probed, of the same sizes"
        raise store.damaged(clusters, expected, f"{len(counted_K):,} clusters, or others")
    progress = Progress(f"order {output.parent.name}", len(cluster_N), "documents")
    order_N, starts = drawn_order(cluster_N, _priorities(settings.seed, score), len(known))
    rank_N = np.empty(len(order_N), np.int32)
    rank_N[order_N] = np.arange(len(order_N)) - np.repeat(starts[:-1], np.diff(starts))
    provenance = Provenance.of("select", settings, clusters=clusters, score=score, cluster=cluster)
    first = 0
    with store.table_writer(output, "order", provenance) as writer:
        for shard, cluster_n in enumerate(parts):
            here = slice(first, first + len(cluster_n))
            writer.write(
                {
                    "shard": np.full(len(cluster_n), shard),
                    "row": np.arange(len(cluster_n)),
                    "rank": rank_N[here],
                    "key": -reward_K[cluster_n],
                    "group_influence": np.full(len(cluster_n), np.nan),
                }
            )
            first = here.stop
            progress.advance(len(cluster_n))
    progress.finish()


def _priorities(seed: int, score: list[Path]) -> np.ndarray:
    """The order in which a cluster's documents are drawn, by a hash of their ids; uint64 [N]."""
    ids = (store.read_table(path, "score", ["doc_id"])["doc_id"].to_pylist() for path in score)
    return np.concatenate([priorities(seed, "quad", shard) for shard in ids])


class Texts:
    """The pool's documents as token sequences, read where they lie."""

    def __init__(
        self, settings: Quad.Prepare, documents: pa.Table, pool: list[PoolFile], folder: Path
    ) -> None:
        self.tokenizer = load_tokenizer(folder)
        self._column, self._limit = settings.text_columns.text, settings.sequence_length + 1
        files = documents["source_file"].combine_chunks()
        self._names, self._file_N = files.dictionary.to_pylist(), files.indices.to_numpy()
        self._row_N, self._doc_ids = documents["source_row"].to_numpy(), documents["doc_id"]
        self._files = {file.name: file for file in pool}

    def named(self, place: int) -> str:
        """A document for an error: its id and where it lies."""
        path = self._files[self._names[self._file_N[place]]].path
        where = pool_place(path, int(self._row_N[place]))
        return f"document {self._doc_ids[place].as_py()!r}, {where}"

    def sequences(self, places_n: np.ndarray) -> list[np.ndarray]:
        """The first tokens of these documents, as of the probe pool."""
        texts = [""] * len(places_n)
        for number in np.unique(self._file_N[places_n]):
            name = self._names[number]
            if name not in self._files:
                raise UserError(
                    expected=f"the pool file {name}, whose documents were scored",
                    found=f"none of that name among {len(self._files):,} pool files",
                    where="pool.paths",
                    todo="name it again, or delete the run's scores and run snakemake again",
                )
            here = np.flatnonzero(self._file_N[places_n] == number)
            here = here[np.argsort(self._row_N[places_n[here]])]
            rows = self._row_N[places_n[here]]
            for i, text in zip(
                here, chosen_texts(self._files[name], rows, self._column), strict=True
            ):
                texts[i] = text
        return document_tokens(self.tokenizer, texts, self._limit)


class Influences:
    """Influences of documents, one batch after the other; those known from before come first."""

    def __init__(
        self,
        base: Path,
        reference: Reference,
        settings: Quad,
        texts: Texts,
        known: list[float],
        progress: Progress,
        kept: Kept,
    ) -> None:
        model, hyper = open_model(base)
        check_reference(model, reference, base, "selection")
        self._model = model
        self._gradients = AttentionGradients(model, hyper.z_loss, str(base))
        self._batch_tokens = pass_tokens(model)
        self._base, self._texts, self._progress, self._kept = base, texts, progress, kept
        self._known, self._done = known, 0  # of all documents so far, in the order of batches
        self._direction_P = self._solve(reference, settings)

    def _solve(self, reference: Reference, settings: Quad) -> torch.Tensor:
        """(H + damping)^-1 g, g the gradient of the reference loss; g itself without a Hessian."""
        gradient_P = self._gradients.of_reference(reference)
        if not gradient_P.isfinite().all():
            raise broken_base("a finite gradient of the reference loss", "nan or inf", self._base)
        if settings.hessian == "none":
            return gradient_P
        products = Progress("curvature", settings.cg_iterations, "products")

        def multiply(vector_P: torch.Tensor) -> torch.Tensor:
            curved_P = self._gradients.gauss_newton(reference, vector_P)
            products.advance()
            return curved_P + settings.damping * vector_P

        direction_P, residual = conjugate_gradient(
            multiply, gradient_P, settings.cg_iterations, settings.cg_tolerance
        )
        products.total = products.done
        products.finish()
        note("curvature", f"relative residual {residual:.2g}")
        return direction_P

    def of(self, places_n: np.ndarray) -> np.ndarray:
        """Influences of these documents, float64 [n]; lower is better."""
        influence_n = np.empty(len(places_n))
        sequences = self._texts.sequences(places_n)
        names = self._texts.named
        check_ids(self._model, sequences, lambda i: names(places_n[i]), self._texts.tokenizer)
        for rows in self._batches(sequences):
            if self._done + len(rows) > len(self._known):
                self._measure([sequences[i] for i in rows])
            influence_n[rows] = self._known[self._done : self._done + len(rows)]
            self._done += len(rows)
        return influence_n

    def _batches(self, sequences: list[np.ndarray]) -> Iterator[np.ndarray]:
        return length_batches(np.array([len(s) for s in sequences]), self._batch_tokens)

    def _measure(self, sequences: list[np.ndarray]) -> None:
        found_n = -self._gradients.dots(sequences, self._direction_P)
        if not np.isfinite(found_n).all():
            raise UserError(
                expected="finite influences",
                found="nan or inf",
                where=str(self._base),
                todo="look at the checkpoint's weights, and at select.quad.damping",
            )
        self._known += found_n.tolist()
        self._progress.advance(len(found_n))
        self._kept.measured(self._known)
