"""`python -m groupmates explain`: why a document was selected, or not; what a text's chances were."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from groupmates.artefacts.catalogue import path
from groupmates.artefacts.store import read_centroids, table_record
from groupmates.errors import UserError
from groupmates.explain.selection import Order, Selection, check_unchanged, clusters_of
from groupmates.maths.greedy import gains
from groupmates.maths.insertion import rank_among, thetas_along
from groupmates.maths.relation import on_grid


@dataclass(frozen=True)
class Neighbour:
    doc_id: str
    rank: int
    similarity: float
    influence: float


@dataclass(frozen=True)
class Standing:
    """How a document or text stands in a method's order; thetas None where the method knows none.

    `rank` counts from 0 in its cluster; None: not in the order. `selected` is None for a text of which
    it cannot be told. `theta` is that at which it was (would be) picked, or where it is not selected,
    that given the selected documents that it competed with. `needed` is what theta had to be below:
    the key of the last document taken, for proportional quotas the theta of the last of its cluster.
    """

    rank: int | None
    selected: bool | None
    theta: float | None = None
    needed: float | None = None


@dataclass(frozen=True)
class Explanation:
    """`share_below`: of the pool, with lower influence; `ranked`: documents in the cluster's order;
    `clusters`: whether `cluster` is one of the semantic or of the influence-aware ones;
    `origin`: influence from which thetas are counted, other than 0 with `sign: ceiling`."""

    method: str
    doc_id: str
    place: str
    influence: float
    share_below: float
    cluster: int
    clusters: str
    size: int
    taken: int
    ranked: int
    standing: Standing
    quota: str | None
    origin: float
    neighbours: list[Neighbour]


def explain(run: Path, doc_id: str, method: str, neighbours: int) -> Explanation:
    """A document of the pool."""
    selection = Selection.of(run, method)
    place = selection.find(doc_id)
    return _explain(selection, selection.document(place), place, neighbours)


def explain_text(run: Path, text: str, method: str, neighbours: int) -> Explanation:
    """A text as if it stood at the end of the pool, all else unchanged."""
    if not text:
        raise UserError(
            expected="a text", found="an empty one", where="--text", todo="give another file"
        )
    selection = Selection.of(run, method)
    return _explain(selection, _scored(selection, text), None, neighbours)


def _scored(selection: Selection, text: str) -> dict[str, Any]:
    """Influence, embedding and cluster of a text, by what scored and clustered the pool."""
    from groupmates.maths.kmeans import Assignment
    from groupmates.models.influence import InfluenceModel
    from groupmates.models.tokenizer import document_tokens, load_tokenizer

    folder = selection.run / path("fit").format(model="final")
    made = table_record(selection.score[0], "score")
    selection.check_model(made, selection.score[0])
    settings = made["settings"]
    (tokens,) = document_tokens(load_tokenizer(folder / "tokenizer"), [text])
    window = tokens[: settings["sequence_length"] + 1]
    batch_tokens = settings["score"]["batch_tokens"]
    individual, compared_1D = InfluenceModel.load(folder).score([text], [window], batch_tokens)
    clustered_1D, centroids = compared_1D, path("centroids")
    if clusters_of(selection.made) == "semantic":
        clustered_1D, centroids = _meaning(selection, window), path("semantic_centroids")
        if selection.embedded != selection.score:
            compared_1D = clustered_1D
    assign = Assignment(read_centroids(selection.run / centroids))
    return {
        "doc_id": "this text",
        "n_tokens": len(tokens),
        "individual_influence": float(individual[0]),
        "embedding": compared_1D[0],
        "cluster": int(assign(clustered_1D)[0]),
    }


def _meaning(selection: Selection, window: np.ndarray) -> np.ndarray:
    """Semantic embedding [1, D] of a text's tokens, by what embedded the pool."""
    from groupmates.models.semantic import SemanticEncoder

    file = selection.run / path("semantic").format(shard="00000")
    made = table_record(file, "semantic")
    parts = {"base": path("base"), "encoder": path("semantic_encoder")}
    now = {name: selection.run / place for name, place in parts.items()}
    check_unchanged({name: made["inputs"][name] for name in now}, now, file)
    batch_tokens = made["settings"]["score"]["batch_tokens"]
    return SemanticEncoder.load(now["base"], now["encoder"])([window], batch_tokens)


def _explain(
    selection: Selection,
    document: dict[str, Any],
    place: tuple[int, int] | None,
    neighbours: int,
) -> Explanation:
    chosen = selection.made["settings"].get("group_mates", {})
    if chosen.get("rounds") == "random":
        raise UserError(
            expected="a method that goes by the final influence model",
            found="one that goes by the initial model (rounds: random)",
            where=str(selection.orders[0]),
            todo="ask about another method: --method NAME",
        )
    selection.check_model(selection.made, selection.orders[0])
    influence, cluster = document["individual_influence"], document["cluster"]
    pool = selection.influences()
    members_N2 = selection.members(cluster)
    order = selection.order(cluster, members_N2, selection.taken(cluster))
    ids, influence_K, emb_KD = selection.read(order.place_N2[: order.taken])
    origin = float(max(p.max() for p in pool)) if chosen.get("sign") == "ceiling" else 0.0
    here = order.rank(place)
    found = Standing(here, None if place is None else here is not None and here < order.taken)
    if chosen:
        mine = gains(np.array([influence]), chosen["sign"], origin)[0]
        theta_K1 = thetas_along(mine, document["embedding"], emb_KD, selection.relation)
        last_key = selection.last_key() if chosen["quota"] == "marginal" else None
        if place is None:
            rest = partial(_beyond, selection, order, emb_KD, mine, document["embedding"])
            found = of_text(order, theta_K1, last_key, len(members_N2), rest)
        else:
            found = of_document(order, here, theta_K1, last_key)
    similarity_K = on_grid(emb_KD) @ on_grid(document["embedding"])
    near = [int(i) for i in np.argsort(-similarity_K, kind="stable") if i != here][:neighbours]
    n_tokens = f"{document['n_tokens']:,} tokens"
    return Explanation(
        method=selection.method,
        doc_id=document["doc_id"],
        place=n_tokens
        if place is None
        else f"row {document['source_row']} of {document['source_file']}, {n_tokens}",
        influence=influence,
        share_below=sum(int((p < influence).sum()) for p in pool) / sum(map(len, pool)),
        cluster=cluster,
        clusters=clusters_of(selection.made),
        size=len(members_N2),
        taken=order.taken,
        ranked=len(order.place_N2),
        standing=found,
        quota=chosen.get("quota"),
        origin=origin,
        neighbours=[
            Neighbour(ids[i], i, float(similarity_K[i]), float(influence_K[i])) for i in near
        ],
    )


def of_document(
    order: Order, rank: int | None, theta_K1: np.ndarray, last_key: float | None
) -> Standing:
    """A document of the pool; `theta_K1` given the first 0, 1, … of the documents that are taken.

    `last_key` is None for proportional quotas: then it competes within its cluster alone.
    """
    needed = last_key if last_key is not None else _last_theta(order)
    if rank is not None and rank < order.taken:
        return Standing(rank, True, float(order.theta_N[rank]), needed)
    return Standing(rank, False, float(theta_K1[_last_step(order, last_key)]), needed)


def of_text(
    order: Order,
    theta_K1: np.ndarray,
    last_key: float | None,
    size: int,
    beyond: Callable[[], np.ndarray],
) -> Standing:
    """A text; `beyond()` are its thetas along the whole order, the documents not taken included."""
    needed = last_key if last_key is not None else _last_theta(order)
    rank = rank_among(theta_K1, order.theta_N[: order.taken])
    if rank < order.taken:
        return Standing(rank, True, float(theta_K1[rank]), needed)
    theta = float(theta_K1[_last_step(order, last_key)])
    if last_key is not None and theta < last_key:
        return Standing(rank, True, theta, needed)
    rank = rank_among(beyond(), order.theta_N)
    unknown = rank == len(order.theta_N) < size
    return Standing(None if unknown else rank, False, theta, needed)


def _last_step(order: Order, last_key: float | None) -> int:
    """How many of the cluster were taken when a document that is not had its last chance."""
    return order.taken if last_key is not None else max(order.taken - 1, 0)


def _last_theta(order: Order) -> float | None:
    return float(order.theta_N[order.taken - 1]) if order.taken else None


def _beyond(
    selection: Selection, order: Order, emb_KD: np.ndarray, mine: float, emb_D: np.ndarray
) -> np.ndarray:
    rest_RD = selection.read(order.place_N2[order.taken :])[2]
    return thetas_along(mine, emb_D, np.concatenate([emb_KD, rest_RD]), selection.relation)


def text_of(source: str) -> str:
    """The text of a file, of standard input for `-`."""
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            expected="a UTF-8 text file, or - for standard input",
            found=f"what cannot be read ({error})",
            where=f"--text {source}",
            todo="correct the path",
        ) from error


def told(found: Explanation) -> str:
    """The explanation, a line per question."""
    lines = [
        ("document", f"{found.doc_id}: {found.place}"),
        (
            "influence",
            f"{found.influence:+.4g} label standard deviations, lower is better; "
            f"{found.share_below:.1%} of the pool have lower",
        ),
        ("cluster", _cluster(found)),
        ("rank", _rank(found)),
        (found.method, _verdict(found)),
    ]
    if found.standing.theta is not None:
        lines.append(("theta", _theta(found)))
    lines.append(("nearest", "selected documents of its cluster, by cosine"))
    lines += [
        ("", f"{n.similarity:.3f}  rank {n.rank}, influence {n.influence:+.4g}  {n.doc_id}")
        for n in found.neighbours
    ] or [("", "there is none")]
    return "\n".join(f"{name:<14}{text}" for name, text in lines)


def _cluster(found: Explanation) -> str:
    kind = " of the semantic ones" if found.clusters == "semantic" else ""
    return f"{found.cluster}{kind}: {found.size:,} documents, {found.taken:,} selected"


def _rank(found: Explanation) -> str:
    rank = found.standing.rank
    if rank is not None:
        return f"{rank}, counted from 0 in its cluster"
    if found.standing.selected is None:
        return "none: this method draws by a document's id"
    return f"none: not among the first {found.ranked:,} of its cluster"


def _verdict(found: Explanation) -> str:
    if found.standing.selected is None:
        return "not to be told"
    return "selected" if found.standing.selected else "not selected"


def _theta(found: Explanation) -> str:
    here = found.standing
    given = "when picked" if here.selected else "given what is selected of its cluster"
    text = f"{here.theta:+.6g} {given}"
    if here.needed is None:
        return f"{text}; no document of its cluster is selected, whatever its theta"
    last = "the last document taken" if found.quota == "marginal" else "the last of its cluster"
    text += (
        f"; {last} had {here.needed:+.6g}"
        if here.selected
        else f"; needed: below {here.needed:+.6g}"
    )
    if found.origin:
        text += f" (influences counted from the pool's worst, {found.origin:+.4g})"
    return text
