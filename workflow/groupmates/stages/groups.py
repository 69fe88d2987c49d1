"""Predicted against true group influence of sets of documents, with the relation and without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from groupmates.maths.groups import agreement, group_influence, nearest_earlier
from groupmates.maths.labels import LabelScale
from groupmates.maths.randomness import generator
from groupmates.maths.relation import Relation
from groupmates.progress import note
from groupmates.stage_settings import GroupsSettings
from groupmates.store import (
    Provenance,
    concatenate,
    digests,
    embeddings,
    read_folder_json,
    read_table,
    write_json,
)

RELATIONS = ("fitted", "unit")  # against none: individual influence alone


def run(
    settings: GroupsSettings, *, sets: Path, probed: list[Path], model: Path, output: Path
) -> None:
    """Rank correlations over sets, by kind and size, with 95 % intervals over sets.

    `fitted`: alpha, beta and sharpness as the model has them; `unit`: alpha = beta = 1 at the
    selection's sharpness; `none`: individual influence alone.
    """
    plan = read_table(sets, "group_sets").sort_by([("set", "ascending"), ("step", "ascending")])
    truth = concatenate(probed, "group_probe", ["set", "size", "influence_nats"])
    truth = truth.sort_by([("set", "ascending"), ("size", "ascending")])
    record = read_folder_json(model, "fit", "relation.json")
    relation = Relation.from_json(record)
    used = {
        "fitted": relation.used_as("fitted"),
        "unit": relation.used_as("unit", settings.sharpness),
        "none": relation.used_as("none"),
    }
    scale = LabelScale(np.array(record["label_mean_nats"]), np.array(record["label_std_nats"]))
    sizes = np.unique(plan["size"].to_numpy())
    shape = (-1, int(sizes[-1]))
    kind_S = plan["kind"].to_numpy().reshape(shape)[:, 0]
    individual_SL = plan["individual_influence"].to_numpy().reshape(shape).astype(np.float64)
    emb_SLD = embeddings(plan).reshape(*individual_SL.shape, -1)
    truth_SZ = truth["influence_nats"].to_numpy().reshape(-1, len(sizes))
    predicted_PSL = np.array(
        [
            [
                group_influence(r, *of_set, scale)
                for of_set in zip(individual_SL, emb_SLD, strict=True)
            ]
            for r in used.values()
        ]
    )
    found = []
    for kind in ("random", "near"):
        of_kind = np.flatnonzero(kind_S == kind)
        for z, size in enumerate(sizes.tolist()):
            values = compare(
                truth_SZ[of_kind, z],
                dict(zip(used, predicted_PSL[:, of_kind, size - 1], strict=True)),
                generator(settings.seed, "group interval", f"{kind} {size}"),
            )
            near = [nearest_earlier(emb_SLD[s, :size]) for s in of_kind] if size > 1 else []
            nearest = float(np.mean(near)) if near else None
            found.append({"kind": kind, "size": size, "nearest_cosine": nearest, **values})
            note("groups", told(found[-1]))
    doc_id, seen = plan["doc_id"].to_numpy(), plan["seen"].to_numpy(zero_copy_only=False)
    body = {
        "agreement": found,
        "documents": {
            "drawn_from": "all documents of the probe pool"
            if seen.any()
            else "documents that the fit has not seen",
            "distinct": len(np.unique(doc_id)),
            "seen_by_the_fit": len(np.unique(doc_id[seen])),
        },
        "relations": {name: vars(used[name]) for name in RELATIONS},
    }
    inputs = digests(sets=sets, probed=probed, model=model)
    write_json(
        output, "groups", Provenance("groups", settings.model_dump(mode="json"), inputs), body
    )


def compare(
    truth_S: np.ndarray, predicted: dict[str, np.ndarray], random: np.random.Generator
) -> dict[str, Any]:
    """Correlations of each predictor, and what each relation adds to none, with intervals."""
    spearman_P, drawn_BP = agreement(truth_S, np.array(list(predicted.values())), random)
    place = {name: p for p, name in enumerate(predicted)}
    none = place["none"]
    return {
        "sets": len(truth_S),
        "mean_nats": float(truth_S.mean()),
        "deviation_nats": float(truth_S.std()),
        "spearman": {n: _with_interval(spearman_P[p], drawn_BP[:, p]) for n, p in place.items()},
        "minus_none": {
            name: _with_interval(
                spearman_P[place[name]] - spearman_P[none],
                drawn_BP[:, place[name]] - drawn_BP[:, none],
            )
            for name in RELATIONS
        },
    }


def _with_interval(value: float, drawn_B: np.ndarray) -> dict[str, Any]:
    """A value and the central 95 % of what sets drawn anew give."""
    return {"value": float(value), "interval": np.quantile(drawn_B, [0.025, 0.975]).tolist()}


def told(row: dict[str, Any]) -> str:
    """One line of the log."""
    parts = []
    for name, found in row["spearman"].items():
        low, high = found["interval"]
        parts.append(f"{name} {found['value']:.3f} [{low:.3f}, {high:.3f}]")
    return f"{row['sets']:,} {row['kind']} sets of {row['size']:,}: Spearman {', '.join(parts)}"
