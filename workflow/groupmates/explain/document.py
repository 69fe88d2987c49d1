"""`python -m groupmates explain`: why a document was selected, or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groupmates.errors import UserError
from groupmates.explain.selection import Order, Selection, clusters_of
from groupmates.maths.greedy import gains
from groupmates.maths.insertion import thetas_along
from groupmates.maths.relation import on_grid


@dataclass(frozen=True)
class Neighbour:
    doc_id: str
    rank: int
    similarity: float
    influence: float


@dataclass(frozen=True)
class Standing:
    """How a document stands in a method's order; thetas None where the method knows none.

    `rank` counts from 0 in its cluster; None: not in the order. `theta` is that at which it was
    picked, or where it is not selected, that given the selected documents that it competed with.
    `needed` is what theta had to be below: the key of the last document taken, for proportional
    quotas the theta of the last of its cluster.
    """

    rank: int | None
    selected: bool
    theta: float | None = None
    needed: float | None = None


@dataclass(frozen=True)
class Explanation:
    """`share_below`: of the pool, with lower influence; `ranked`: documents in the cluster's order;
    `clusters`: whether `cluster` is one of the semantic or of the influence-aware ones;
    `origin`: influence from which thetas are counted, other than 0 with `sign: ceiling`.

    `overlap`: what the document shares with an evaluation example, where it was left out for that.
    `trained_in`: the stage of pretraining that was trained on it, where it was left out for that."""

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
    overlap: dict[str, Any] | None
    trained_in: int | None


def explain(run: Path, doc_id: str, method: str, neighbours: int) -> Explanation:
    """A document of the pool; at most so many neighbours."""
    selection = Selection.of(run, method)
    place = selection.find(doc_id)
    document = selection.document(place)
    chosen = selection.made["settings"].get("group_mates", {})
    if chosen.get("rounds") == "random":
        raise UserError(
            expected="a method that goes by the final influence model",
            found="one that goes by the initial model (rounds: random)",
            where=str(selection.orders[0]),
            todo="ask about another method: --method NAME",
        )
    selection.check_model()
    influence, cluster = document["individual_influence"], document["cluster"]
    pool = selection.influences()
    members_N2 = selection.members(cluster)
    order = selection.order(cluster, members_N2, selection.taken(cluster))
    ids, influence_K, emb_KD = selection.read(order.place_N2[: order.taken])
    origin = float(max(p.max() for p in pool)) if chosen.get("sign") == "ceiling" else 0.0
    here = order.rank(place)
    found = Standing(here, here is not None and here < order.taken)
    if chosen:
        mine = gains(np.array([influence]), chosen["sign"], origin)[0]
        theta_K1 = thetas_along(mine, document["embedding"], emb_KD, selection.relation)
        last_key = selection.last_key() if chosen["quota"] == "marginal" else None
        found = of_document(order, here, theta_K1, last_key)
    similarity_K = on_grid(emb_KD) @ on_grid(document["embedding"])
    near = [int(i) for i in np.argsort(-similarity_K, kind="stable") if i != here][:neighbours]
    return Explanation(
        method=selection.method,
        doc_id=document["doc_id"],
        place=f"row {document['source_row']} of {document['source_file']}, "
        f"{document['n_tokens']:,} tokens",
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
        overlap=selection.overlap(place),
        trained_in=selection.trained_in(place),
    )


def of_document(
    order: Order, rank: int | None, theta_K1: np.ndarray, last_key: float | None
) -> Standing:
    """A document of the pool; `theta_K1` given the first 0, 1, … of the documents that are taken.

    `last_key` is None for proportional quotas: then it competes within its cluster alone.
    """
    last = float(order.theta_N[order.taken - 1]) if order.taken else None
    needed = last if last_key is None else last_key
    if rank is not None and rank < order.taken:
        return Standing(rank, True, float(order.theta_N[rank]), needed)
    # How many of the cluster were taken when it had its last chance.
    step = order.taken if last_key is not None else max(order.taken - 1, 0)
    return Standing(rank, False, float(theta_K1[step]), needed)


def told(found: Explanation) -> str:
    """The explanation, a line per question."""
    here = found.standing
    cluster = f"{found.cluster}{' of the semantic ones' if found.clusters == 'semantic' else ''}"
    rank = f"none: not among the first {found.ranked:,} of its cluster"
    if here.rank is not None:
        rank = f"{here.rank}, counted from 0 in its cluster"
    lines = [
        ("document", f"{found.doc_id}: {found.place}"),
        (
            "influence",
            f"{found.influence:+.4g} label standard deviations, lower is better; "
            f"{found.share_below:.1%} of the pool have lower",
        ),
        ("cluster", f"{cluster}: {found.size:,} documents, {found.taken:,} selected"),
        ("rank", rank),
        (found.method, "selected" if here.selected else "not selected"),
    ]
    if found.overlap is not None:
        shared = found.overlap
        where = f"example {shared['example']} of {shared['task']}"
        lines.append(("left out", f"shares words with {where}, counted from 0: {shared['words']}"))
    if found.trained_in is not None:
        lines.append(("left out", f"stage {found.trained_in} of pretraining was trained on it"))
    if here.theta is not None:
        lines.append(("theta", _theta(found)))
    lines.append(("nearest", "selected documents of its cluster, by cosine"))
    lines += [
        ("", f"{n.similarity:.3f}  rank {n.rank}, influence {n.influence:+.4g}  {n.doc_id}")
        for n in found.neighbours
    ] or [("", "there is none")]
    return "\n".join(f"{name:<14}{text}" for name, text in lines)


def _theta(found: Explanation) -> str:
    here = found.standing
    given = "when picked" if here.selected else "given what is selected of its cluster"
    text = f"{here.theta:+.6g} {given}"
    if here.needed is None:
        return f"{text}; no document of its cluster is selected, whatever its theta"
    last = "the last document taken" if found.quota == "marginal" else "the last of its cluster"
    bound = f"{last} had" if here.selected else "needed: below"
    text += f"; {bound} {here.needed:+.6g}"
    if found.origin:
        text += f" (influences counted from the pool's worst, {found.origin:+.4g})"
    return text
