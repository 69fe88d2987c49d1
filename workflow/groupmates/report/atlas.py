"""The map of the pool: a sample of its embeddings in two dimensions, and what the page draws of it."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

import numpy as np

from groupmates.report.data.survey import Documents
from groupmates.report.data.texts import Texts

MOST_EXCERPTS = 10_000  # points whose text is shown when they are pointed at: a few MB
EXCERPT_LETTERS = 90
GRID = 65_535  # steps of a coordinate: finer than a screen


def principal(emb_PD: np.ndarray) -> tuple[np.ndarray, float]:
    """The first two principal components [P, 2], and the share of the variance that they hold.

    The sign of a component is that which makes its largest loading positive.
    """
    centred_PD = emb_PD.astype(np.float64) - emb_PD.mean(0, dtype=np.float64)
    variances, axes_DD = np.linalg.eigh(centred_PD.T @ centred_PD)
    axes_D2 = axes_DD[:, ::-1][:, :2]
    largest = axes_D2[np.abs(axes_D2).argmax(0), np.arange(axes_D2.shape[1])]
    total = variances.sum()
    share = float(variances[::-1][:2].sum() / total) if total > 0 else 1.0
    return centred_PD @ (axes_D2 * np.where(largest < 0, -1.0, 1.0)), share


def payload(
    documents: Documents,
    place_P2: np.ndarray,
    sources: list[str],
    words: dict[int, list[str]],
    texts: Texts,
    featured: str,
) -> dict[str, Any]:
    """Columns of the map's points; coordinates are whole numbers, x and y on the same scale."""
    low = place_P2.min(0)
    grid_P2 = np.rint((place_P2 - low) / max(float(np.ptp(place_P2, 0).max()), 1e-12) * GRID)
    influence = documents["individual_influence"].to_numpy()
    middle = float(np.median(influence))
    reach = float(np.abs(np.percentile(influence, [2, 98]) - middle).max()) or 1.0
    code = {name: i for i, name in enumerate(sources)}
    files_rows = zip(
        documents["source_file"].to_pylist(), documents["source_row"].to_pylist(), strict=True
    )
    shown = [texts.get(place, "") for place in islice(files_rows, MOST_EXCERPTS)]
    return {
        "x": grid_P2[:, 0].astype(int).tolist(),
        "y": grid_P2[:, 1].astype(int).tolist(),
        "influence": [round(v, 3) for v in influence.tolist()],
        "middle": round(middle, 3),
        "reach": round(reach, 3),
        "cluster": documents["cluster"].to_pylist(),
        "source": [code.get(s, len(sources)) for s in documents["source"].to_pylist()],
        "sources": [*sources, "other"],
        "kept": documents["kept"].cast("int8").to_pylist(),
        "tokens": documents["n_tokens"].to_pylist(),
        "ids": documents["doc_id"].to_pylist(),
        "texts": [" ".join(t.split())[:EXCERPT_LETTERS] for t in shown],
        "words": {str(c): ", ".join(w) for c, w in sorted(words.items())},
        "featured": featured,
    }


def packed(content: bytes) -> str:
    """Content for a page to unpack: gzip in base64, the same bytes for the same content."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


@cache
def plotly() -> str:
    """The library that draws the map, packed."""
    return packed(files("plotly").joinpath("package_data/plotly.min.js").read_bytes())
