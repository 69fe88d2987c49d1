"""Which part of the pool each method kept: by source, length and cluster."""

from __future__ import annotations

from typing import Any

import numpy as np

from groupmates.report.data.tally import LENGTH_EDGES, Tally
from groupmates.report.figures import canvas, selection
from groupmates.report.sections import Figures

MOST_SOURCES = 20  # more than a reader compares; the rest is one row


def shares(
    tally: Tally, sources: list[str], methods: list[str], colours: dict[str, str]
) -> tuple[dict[str, Any], Figures]:
    """What was kept by source, length and cluster, and in common between methods."""
    groups = ["pool", *methods]
    colours = {**colours, "pool": canvas.POOL_GREY}
    documents = tally.documents_GB.sum(1)
    filled = np.flatnonzero(tally.documents_GB[0])
    bins = slice(filled[0], filled[-1] + 1)
    length_GB = tally.documents_GB[:, bins] / np.maximum(documents, 1)[:, None]
    in_cluster = tally.documents_GC[0]
    there = np.flatnonzero(in_cluster)
    kept_MC = tally.documents_GC[1:, there] / in_cluster[there]
    cluster_influence = tally.influence_C[there] / in_cluster[there]
    named, tokens_GS, documents_GS = largest_sources(tally, sources)
    share_GS = tokens_GS / np.maximum(tokens_GS.sum(1), 1)[:, None]
    drawn = {
        "lengths": selection.length_shares(
            LENGTH_EDGES[bins.start : bins.stop + 1],
            dict(zip(groups, length_GB, strict=True)),
            colours,
        ),
        "clusters": selection.cluster_shares(
            cluster_influence, dict(zip(methods, kept_MC, strict=True)), colours
        ),
    }
    if any(sources):
        drawn["sources"] = selection.source_shares(
            named, dict(zip(groups, share_GS, strict=True)), colours
        )
    return {
        "selected": methods,
        "pool_documents": int(documents[0]),
        "kept_share": {m: documents[1 + i] / documents[0] for i, m in enumerate(methods)},
        "clusters": len(there),
        "clusters_grouped": len(there) > selection.MOST_SINGLE_CLUSTERS,
        "clusters_without": {m: int((kept_MC[i] == 0).sum()) for i, m in enumerate(methods)},
        "sources_known": any(sources),
        "sources": [
            {
                "name": name,
                "documents": int(documents_GS[0, s]),
                "kept": [documents_GS[1 + i, s] / documents_GS[0, s] for i in range(len(methods))],
                "tokens": share_GS[:, s].tolist(),
            }
            for s, name in enumerate(named)
        ],
        "shared": tally.shared_MM.tolist(),
    }, drawn


def by_size(tally: Tally, sources: list[str]) -> np.ndarray:
    """Codes of the sources, the one of most tokens first."""
    return np.lexsort((sources, -tally.tokens_GS[0]))


def largest_sources(tally: Tally, sources: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, tokens [G, S] and documents [G, S] of the largest sources, then of all others."""
    order = by_size(tally, sources)
    shown, rest = order[:MOST_SOURCES], order[MOST_SOURCES:]
    named = [sources[s] or "(no source)" for s in shown]
    tokens, documents = tally.tokens_GS[:, shown], tally.documents_GS[:, shown]
    if len(rest):
        named.append(f"other ({len(rest):,} sources)")
        tokens = np.column_stack([tokens, tally.tokens_GS[:, rest].sum(1)])
        documents = np.column_stack([documents, tally.documents_GS[:, rest].sum(1)])
    return named, tokens, documents
