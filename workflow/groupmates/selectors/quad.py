"""Quad (arXiv 2409.16986): clusters are the arms of a bandit, probed by influence functions.

quad_influences.py says what an influence is; lower is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.artefacts.unfinished import Kept
from groupmates.maths.bandit import Bandit, drawn_order, most_probed
from groupmates.maths.randomness import priorities
from groupmates.models.tokenizer import load_tokenizer
from groupmates.pool.identity import identified
from groupmates.pool.listing import located
from groupmates.progress import Progress, note
from groupmates.selectors.order import preparing, without_groups
from groupmates.selectors.texts import Texts
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
) -> None:
    """Visit clusters, and write what was measured and what is known of every cluster in the end.

    An iteration reads its texts from the files of the `pool`. Memory: ids and places of
    all documents, and the probed model. A killed job measures no batch of documents twice.
    """
    # Here, so that `order` need not wait for torch.
    from groupmates.models.reference import reference_part
    from groupmates.selectors.quad_influences import Influences

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
        column, limit = settings.text_columns.text, settings.sequence_length + 1
        files = identified(located(pool), store.pool_of(score, "score"))
        texts = Texts(documents, files, column, load_tokenizer(tokenizer), limit)
        influences = Influences(base, examples, quad, known, progress, kept)

        def measure(chosen_n: np.ndarray) -> np.ndarray:
            sequences = texts.sequences(chosen_n)
            influences.check_ids(sequences, lambda i: texts.named(chosen_n[i]))
            return influences.of(sequences)

        found = list(visits(quad, bandit, order_N, starts, measure))
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
                for iteration, (chosen_n, influence_n) in enumerate(found, 1):
                    writer.write(
                        {
                            "iteration": np.full(len(chosen_n), iteration),
                            "cluster": cluster_N[chosen_n],
                            "doc_id": documents["doc_id"].take(chosen_n),
                            "influence": influence_n,
                        }
                    )
        kept.clear()


def visits(
    quad: Quad,
    bandit: Bandit,
    order_N: np.ndarray,
    starts: np.ndarray,
    measure: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The documents of each iteration, and their influences, which the bandit is told."""
    for _ in range(quad.iterations):
        arms = bandit.arms(quad.arms_per_iteration)
        first = starts[arms] + bandit.probed_K[arms]
        last = np.minimum(first + quad.documents_per_arm, starts[arms + 1])
        if not len(arms):
            return
        drawn = [order_N[a:b] for a, b in zip(first, last, strict=True)]
        chosen_n = np.concatenate(drawn)
        influence_n = measure(chosen_n)
        bounds = np.cumsum([len(d) for d in drawn])[:-1]
        for arm, measured in zip(arms, np.split(influence_n, bounds), strict=True):
            bandit.visit(int(arm), measured)
        yield chosen_n, influence_n


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
    settings: Quad.Order, *, prepared: Path, score: list[Path], cluster: list[Path], output: Path
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
            columns = without_groups(shard, -reward_K[cluster_n])
            writer.write(columns | {"rank": rank_N[here]})
            first = here.stop
            progress.advance(len(cluster_n))
    progress.finish()


def _priorities(seed: int, score: list[Path]) -> np.ndarray:
    """The order in which a cluster's documents are drawn, by a hash of their ids; uint64 [N]."""
    ids = (store.read_column(path, "score", "doc_id").to_pylist() for path in score)
    return np.concatenate([priorities(seed, "quad", shard) for shard in ids])
