"""Predicted against true group influence of sets of documents, with the relation and without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.maths.document_sets import agreement, group_influence, nearest_earlier
from groupmates.maths.labels import LabelScale
from groupmates.maths.randomness import generator
from groupmates.maths.relation import Relation
from groupmates.progress import note
from groupmates.settings.per_stage import GroupsSettings


def run(
    settings: GroupsSettings, *, sets: Path, probed: list[Path], model: Path, output: Path
) -> None:
    """Rank correlations over sets, by kind and size, with 95 % intervals over sets.

    `fitted`: alpha, beta and sharpness as the model has them, if it learned any; `unit`: alpha = beta
    = 1 at the selection's sharpness; `none`: individual influence alone.
    """
    known = read_sets(sets, probed)
    record = store.read_folder_json(model, "fit", "relation.json")
    used = relations(record, settings.sharpness)
    predicted_PSL = np.array([known.predicted(r, record) for r in used.values()])
    found = []
    for kind in ("random", "near"):
        of_kind = np.flatnonzero(known.kind_S == kind)
        for z, size in enumerate(known.size_Z.tolist()):
            values = compare(
                known.truth_SZ[of_kind, z],
                dict(zip(used, predicted_PSL[:, of_kind, size - 1], strict=True)),
                generator(settings.seed, "group interval", f"{kind} {size}"),
            )
            near = [nearest_earlier(known.emb_SLD[s, :size]) for s in of_kind] if size > 1 else []
            nearest = float(np.mean(near)) if near else None
            found.append({"kind": kind, "size": size, "nearest_cosine": nearest, **values})
            note("groups", told(found[-1]))
    doc_id = known.plan["doc_id"].to_numpy()
    seen = known.plan["seen"].to_numpy(zero_copy_only=False)
    body = {
        "agreement": found,
        "documents": {
            "drawn_from": "all documents of the probe pool"
            if seen.any()
            else "documents that the fit has not seen",
            "distinct": len(np.unique(doc_id)),
            "seen_by_the_fit": len(np.unique(doc_id[seen])),
        },
        "relations": {name: vars(relation) for name, relation in used.items() if name != "none"},
    }
    provenance = Provenance.of("groups", settings, sets=sets, probed=probed, model=model)
    store.write_json(output, "groups", provenance, body)


@dataclass(frozen=True)
class Sets:
    """S probed sets of L documents each, whose influence is known at Z sizes; `plan`: their rows."""

    plan: pa.Table
    kind_S: np.ndarray
    size_Z: np.ndarray
    truth_SZ: np.ndarray  # nats
    individual_SL: np.ndarray
    emb_SLD: np.ndarray

    def predicted(self, relation: Relation, record: dict[str, Any]) -> list[np.ndarray]:
        """Influence of the first 1 ... L documents of each set, nats; `record`: the fit's."""
        scale = LabelScale(np.array(record["label_mean_nats"]), np.array(record["label_std_nats"]))
        sets = zip(self.individual_SL, self.emb_SLD, strict=True)
        return [group_influence(relation, *of_set, scale) for of_set in sets]


def read_sets(sets: Path, probed: list[Path]) -> Sets:
    plan = store.read_table(sets, "group_sets")
    emb_ND = np.concatenate(list(store.embeddings(sets, "group_sets")))
    by_set = pc.sort_indices(plan, [("set", "ascending"), ("step", "ascending")])
    plan, emb_ND = plan.take(by_set), emb_ND[by_set]
    truth = store.concatenate(probed, "group_probe", ["set", "size", "influence_nats"])
    truth = truth.sort_by([("set", "ascending"), ("size", "ascending")])
    size_Z = np.unique(plan["size"].to_numpy())
    shape = (-1, int(size_Z[-1]))
    individual_SL = plan["individual_influence"].to_numpy().reshape(shape).astype(np.float64)
    return Sets(
        plan,
        plan["kind"].to_numpy().reshape(shape)[:, 0],
        size_Z,
        truth["influence_nats"].to_numpy().reshape(-1, len(size_Z)),
        individual_SL,
        emb_ND.reshape(*individual_SL.shape, -1),
    )


def relations(record: dict[str, Any], sharpness: float | None) -> dict[str, Relation]:
    """The fitted relation, that of the selection, and none.

    Without the first where the fit saw labels of single documents: alpha and beta are then what they
    began as.
    """
    relation = Relation.from_json(record)
    learned = (relation.alpha, relation.beta) != (1.0, 1.0)
    fitted = {"fitted": relation} if learned else {}
    return fitted | {
        "unit": relation.used_as("unit", sharpness),
        "none": relation.used_as("none"),
    }


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
            for name in predicted
            if name != "none"
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
