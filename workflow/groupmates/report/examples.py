"""The pool, looked at closely: its map, its clusters, and documents that one can read.

The pool is read four times. The first is a survey without embeddings. Then come the embeddings of
documents that the survey chose, of those near the centroids, and of the nearest selected ones.
Then the pool files are read for texts, within a bound.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groupmates.pool.listing import PoolFile
from groupmates.report import atlas, words
from groupmates.report.data import neighbours, texts
from groupmates.report.data.reading import marks
from groupmates.report.data.survey import Documents, Survey, documents_at, survey
from groupmates.report.data.tally import Tally
from groupmates.report.figures import selection
from groupmates.report.kept import by_size
from groupmates.report.sections import Figures
from groupmates.settings.per_stage import ReportSettings

MAP_SOURCES = 6  # as many colours can be told apart
CARDS = 6  # clusters at each end, by mean influence
TYPICAL = 3  # documents that a cluster is shown by
NEAR_CENTRE = 40  # documents that a cluster's words are taken from
COMPARED = 1000  # documents of each group whose resemblance to the selected is drawn
PAIRS = 6  # of a document that was passed over and what it resembles
CLOSE = 0.95  # cosine from which two documents are called near-duplicates


@dataclass(frozen=True)
class Pool:
    """Where everything about the pool lies; score, cluster and select in the same order.

    Clusters are those of the featured method; `clustered` are the embeddings that they are of,
    `compared` those that it compares documents by. `dropped`: documents that could not be selected, by
    the name of their score file.
    """

    score: list[Path]
    cluster: list[Path]
    select: dict[str, dict[str, Path]]
    centroids: Path
    files: list[PoolFile]
    clustered: list[Path]
    compared: list[Path]
    dropped: dict[str, Path]


@dataclass(frozen=True)
class Closer:
    """The survey, and what the embeddings of its documents add."""

    survey: Survey
    place_P2: np.ndarray  # of the sample, on the map
    variance: float  # that the map shows, of all
    central: dict[int, Documents]  # cluster -> its documents nearest to the centroid
    asked: Documents  # helpful, harmful, passed over, kept
    nearest: neighbours.Nearest  # of those
    explained: list[int]  # rows of those that the page shows: helpful, harmful, passed over
    beside: dict[tuple[int, int], dict[str, Any]]  # (shard, row) -> nearest selected of these
    texts: texts.Texts


def examine(
    pool: Pool, readable: list[PoolFile], settings: ReportSettings, featured: str
) -> tuple[Survey, dict[str, Any], Figures]:
    """The survey, and what the sections on map, clusters, documents and duplicates show.

    `readable`: the pool files that texts are read from.
    """
    names = {file.name for file in readable}
    points = settings.report.map_points
    found = survey(pool.score, pool.cluster, pool.select, featured, names, points, pool.dropped)
    closer = look_closer(pool, found, readable, settings)
    told = telling(closer)
    shown = [_shown(pool, closer, row, told, featured) for row in closer.explained]
    ends = np.cumsum([len(t) for t in (found.helpful, found.harmful, found.passed_over)])
    helpful, extremes, _ = ends.tolist()
    _, _, passed_P, kept_P = np.split(closer.nearest.cosine_P, ends)
    sources = [found.sources[s] for s in by_size(found.tally, found.sources) if found.sources[s]]
    drawn_map = atlas.payload(
        found.sample, closer.place_P2, sources[:MAP_SOURCES], told, closer.texts, featured
    )
    figures = {
        "map": selection.pool_map(
            closer.place_P2,
            found.sample["individual_influence"].to_numpy(),
            drawn_map["middle"],
            drawn_map["reach"],
            found.sample["kept"].to_numpy(),
        )
    }
    groups = {f"kept by {featured}": kept_P, "passed over": passed_P}
    groups = {n: c[np.isfinite(c)] for n, c in groups.items() if np.isfinite(c).any()}
    if groups:
        figures["resemblances"] = selection.resemblances(groups)
    page = {
        "featured": featured,
        "semantic_clusters": pool.clustered != pool.score,
        "semantic_map": pool.compared != pool.score,
        "map": atlas.packed(json.dumps(drawn_map, separators=(",", ":"), sort_keys=True).encode()),
        "map_points": len(found.sample),
        "map_variance": closer.variance,
        "cards": cards(closer, told, list(pool.select)),
        "helpful": shown[:helpful],
        "harmful": shown[helpful:extremes],
        "pairs": shown[extremes:],
        "passed_over": int(found.passed_over_C.sum()),
        "close": CLOSE,
        "passed_over_close": float(np.mean(passed_P >= CLOSE)) if len(passed_P) else 0.0,
        "kept_close": float(np.mean(kept_P >= CLOSE)) if len(kept_P) else 0.0,
        "texts_files": len(readable),
        "pool_files": len(pool.files),
    }
    return found, page, figures


def look_closer(
    pool: Pool, found: Survey, readable: list[PoolFile], settings: ReportSettings
) -> Closer:
    """Read the embeddings three times, then texts from the `readable` files."""
    near_centre = neighbours.typical(
        pool.clustered,
        pool.cluster,
        np.load(pool.centroids),
        telling_clusters(found.tally),
        found.shown_SN,
        NEAR_CENTRE,
    )
    central = {
        c: documents_at(pool.score, pool.cluster, found.kept_SN, places)
        for c, places in near_centre.items()
        if places
    }
    kept = found.sample.filter(found.sample["kept"]).slice(0, COMPARED)
    asked = pa.concat_tables([found.helpful, found.harmful, found.passed_over, kept])
    emb_PD = neighbours.embeddings_of(pool.compared, pa.concat_tables([found.sample, asked]))
    place_P2, variance = atlas.principal(emb_PD[: len(found.sample)])
    nearest = neighbours.nearest_selected(
        pool.compared, pool.cluster, found.kept_SN, asked, emb_PD[len(found.sample) :]
    )
    extremes = range(len(found.helpful) + len(found.harmful))
    explained = [*extremes, *closest(found, nearest, {file.name for file in readable})]
    places = [nearest.place(i) for i in explained if nearest.shard_P[i] >= 0]
    beside = documents_at(pool.score, pool.cluster, found.kept_SN, places)
    to_read = [asked.take(explained), beside, *central.values()]
    to_read.append(found.sample.slice(0, atlas.MOST_EXCERPTS))
    read = texts.read_texts(readable, settings.text_columns, pa.concat_tables(to_read))
    at = dict(zip(places, beside.to_pylist(), strict=True))
    return Closer(found, place_P2, variance, central, asked, nearest, explained, at, read)


def telling_clusters(tally: Tally) -> list[int]:
    """The clusters of lowest and of highest mean influence, lowest first, without very small ones."""
    documents_C = tally.documents_GC[0]
    large = np.flatnonzero(documents_C >= 0.1 * documents_C[documents_C > 0].mean())
    order = large[np.argsort(tally.influence_C[large] / documents_C[large], kind="stable")]
    ends = order if len(order) <= 2 * CARDS else np.concatenate([order[:CARDS], order[-CARDS:]])
    return [int(c) for c in ends]


def closest(found: Survey, nearest: neighbours.Nearest, names: set[str]) -> list[int]:
    """Rows of those passed over that resemble a selected document most, at most one of a cluster.

    Those that can be read come first.
    """
    first = len(found.helpful) + len(found.harmful)
    cosine = nearest.cosine_P[first : first + len(found.passed_over)]
    files = found.passed_over["source_file"].to_pylist()
    unread = np.array([name not in names for name in files], bool)
    order = np.lexsort((-np.round(cosine, 6), unread))
    order = order[np.isfinite(cosine[order])]
    cluster = found.passed_over["cluster"].to_numpy()[order]
    order = order[np.sort(np.unique(cluster, return_index=True)[1])]
    return [first + int(i) for i in order[:PAIRS]]


def telling(closer: Closer) -> dict[int, list[str]]:
    """The words that tell of each cluster of which enough was read."""
    seen = pa.concat_tables([*closer.central.values(), closer.survey.sample])
    keys = zip(seen["source_file"].to_pylist(), seen["source_row"].to_pylist(), strict=True)
    clusters = dict(zip(keys, seen["cluster"].to_pylist(), strict=True))
    read = {key: cluster for key, cluster in clusters.items() if key in closer.texts}
    return texts.telling_words([closer.texts[key] for key in read], list(read.values()))


def cards(closer: Closer, told: dict[int, list[str]], methods: list[str]) -> list[dict[str, Any]]:
    """The clusters that are shown, with their typical documents."""
    tally = closer.survey.tally
    return [
        {
            "cluster": c,
            "words": told.get(c, []),
            "documents": int(tally.documents_GC[0, c]),
            "influence": float(tally.influence_C[c] / tally.documents_GC[0, c]),
            "kept": {
                m: float(tally.documents_GC[1 + i, c] / tally.documents_GC[0, c])
                for i, m in enumerate(methods)
            },
            "passed_over": int(closer.survey.passed_over_C[c]),
            "typical": [
                _document(document, closer.texts)
                for document in closer.central[c].slice(0, TYPICAL).to_pylist()
            ]
            if c in closer.central
            else [],
        }
        for c in telling_clusters(tally)
    ]


def _document(document: dict[str, Any], read: texts.Texts) -> dict[str, Any]:
    place = document["source_file"], document["source_row"]
    return {**document, "text": read.get(place)}


def _shown(
    pool: Pool, closer: Closer, row: int, told: dict[int, list[str]], featured: str
) -> dict[str, Any]:
    """A document that was asked for, its nearest selected one, and why it was kept or not."""
    document = _document(closer.asked.slice(row, 1).to_pylist()[0], closer.texts)
    document["words"] = told.get(document["cluster"], [])
    neighbour = closer.beside.get(closer.nearest.place(row))
    mark = None
    if document["kept"]:
        path = pool.select[featured][pool.score[document["shard"]].name]
        mark = marks(path, document["source_file"], document["source_row"])
    return {
        **document,
        "cosine": float(closer.nearest.cosine_P[row]) if neighbour else None,
        "neighbour": _document(neighbour, closer.texts) if neighbour else None,
        "why": words.why(document, mark, featured),
    }
