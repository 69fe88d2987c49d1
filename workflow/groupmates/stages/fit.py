"""Fit the relational data influence model to oracle influences (method section 3)."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.errors import UserError
from groupmates.maths.labels import LabelScale, label_scale
from groupmates.maths.randomness import generator, hash64
from groupmates.maths.statistics import pearson, reliability, rollout_bootstrap, spearman
from groupmates.models.encoders import BATCH_TOKENS
from groupmates.models.influence import InfluenceModel, Uncopied, make_encoder
from groupmates.models.resumable import Training, warm_up_then_decay
from groupmates.models.tokenizer import load_tokenizer, token_lists
from groupmates.progress import Progress, note
from groupmates.settings.config import Fit
from groupmates.settings.per_stage import FitSettings


@dataclass(frozen=True)
class Rollouts:
    """Rollouts of one round: document rows of the probe pool and influences in nats, both [R, T]."""

    round: str
    number: np.ndarray
    document: np.ndarray
    influence: np.ndarray

    def take(self, rows: np.ndarray) -> Rollouts:
        return Rollouts(self.round, self.number[rows], self.document[rows], self.influence[rows])


def run(
    settings: FitSettings,
    *,
    base: Path,
    tokenizer: Path,
    probe_pool: Path,
    probes: list[Path],
    bootstrap: list[Path] | None = None,
    first_order: list[Path] | None = None,
    output: Path,
) -> None:
    """Fit on rollouts drawn at random, of many steps or of one, and on bootstrapped ones.

    Or on `first_order` labels of single documents. Reported figures come from held-out random rollouts.
    Neither training nor early stopping sees them.
    """
    fit = settings.fit
    pool = store.read_table(probe_pool, "probe_pool", ["doc_id", "text", "input_ids"])
    doc_ids = pool["doc_id"].to_pylist()
    rounds = [read_rollouts("random", probes, doc_ids)]
    if bootstrap:
        rounds.append(read_rollouts("bootstrap", bootstrap, doc_ids))
    if first_order:
        labelled = read_first_order(first_order, doc_ids)
        training, validation, heldout = split_labels(settings, labelled, rounds[0])
        rounds.append(labelled)
    else:
        training, validation, heldout = split(settings, rounds)
    scale = label_scale(
        np.concatenate([r.influence for r in training]), fit.standardise == "per_position"
    )
    torch.manual_seed(hash64(settings.seed, "fit", output.name) % 2**63)
    model = InfluenceModel(fit, make_encoder(fit, base))
    progress = Progress(f"fit {output.name} embeddings", len(pool), "documents")
    prepared = model.encoder.prepare(
        pool["text"].to_pylist(), token_lists(pool), BATCH_TOKENS, progress.advance
    )
    model.encoder.calibrate(prepared)
    progress.finish()
    provenance = Provenance.of(
        "fit",
        settings,
        base=base,
        probe_pool=probe_pool,
        probes=probes,
        bootstrap=bootstrap,
        first_order=first_order,
    )
    optimizer = make_optimizer(model, fit)
    seed = hash64(settings.seed, "fit steps", output.name)
    todo = "lower fit.training.learning_rate"
    with Training(output, "fit", provenance, model, optimizer, seed, todo=todo) as under_way:
        train(settings, under_way, model, optimizer, prepared, training, validation, scale)
        if not under_way.processes.first:
            return
        check_beta(model, output)
        progress = Progress(f"fit {output.name} figures", heldout.influence.size, "labels")
        metrics, predicted = evaluate(settings, model, prepared, training, heldout, scale)
        progress.advance(heldout.influence.size)
        progress.finish()
        metrics["coverage"] = {r.round: coverage(r) for r in rounds}
        metrics["label_reliability"] = label_reliability(rounds[0])
        if first_order:
            metrics["first_order"] = first_order_agreement(labelled, heldout)
        report(output.name, metrics)
        with store.replacing(output) as folder:
            model.save(folder)
            load_tokenizer(tokenizer).save_pretrained(folder / "tokenizer")
            for name, body in (("relation", model.relation_record(scale)), ("metrics", metrics)):
                text = json.dumps(body, indent=2, sort_keys=True)
                (folder / f"{name}.json").write_text(text + "\n")
            columns = heldout_columns(heldout, predicted, pool["doc_id"].to_numpy())
            store.write_table(folder / "heldout.parquet", "heldout", provenance, columns)
            store.write_folder_provenance(folder, "fit", provenance)
        under_way.clear()


def heldout_columns(
    heldout: Rollouts, predicted: np.ndarray, doc_ids: np.ndarray
) -> dict[str, Any]:
    rollouts, steps = heldout.influence.shape
    return {
        "round": [heldout.round] * (rollouts * steps),
        "rollout": np.repeat(heldout.number, steps),
        "step": np.tile(np.arange(1, steps + 1), rollouts),
        "doc_id": doc_ids[heldout.document.ravel()],
        "influence_nats": heldout.influence.ravel(),
        "predicted_nats": predicted.ravel(),
    }


def read_rollouts(round_name: str, paths: list[Path], doc_ids: list[str]) -> Rollouts:
    """All parts of a round, rollouts and steps in order."""
    table = store.concatenate(paths, "probe", ["rollout", "step", "doc_id", "influence_nats"])
    table = table.sort_by([("rollout", "ascending"), ("step", "ascending")])
    place = {doc_id: i for i, doc_id in enumerate(doc_ids)}
    steps = int(table["step"].to_numpy().max())
    shape = (-1, steps)
    rows = np.array([place[d] for d in table["doc_id"].to_pylist()])
    return Rollouts(
        round_name,
        table["rollout"].to_numpy().reshape(shape)[:, 0],
        rows.reshape(shape),
        table["influence_nats"].to_numpy().reshape(shape),
    )


def split(
    settings: FitSettings, rounds: list[Rollouts]
) -> tuple[list[Rollouts], Rollouts, Rollouts]:
    """Training rollouts of all rounds; validation and held-out rollouts, random ones only.

    The same random rollouts are held out from the initial and the final model.
    """
    drawn = rounds[0]
    order = generator(settings.seed, "fit split").permutation(len(drawn.number))
    held, validated = settings.fit.heldout_rollouts, settings.fit.validation_rollouts
    heldout, validation, training = np.split(order, [held, held + validated])
    return [drawn.take(np.sort(training)), *rounds[1:]], drawn.take(validation), drawn.take(heldout)


def read_first_order(paths: list[Path], doc_ids: list[str]) -> Rollouts:
    """First-order labels as rollouts of one step, in the order of the probe pool."""
    table = store.concatenate(paths, "first_order", ["doc_id", "influence_nats"])
    found = dict(zip(table["doc_id"].to_pylist(), table["influence_nats"].to_pylist(), strict=True))
    document = np.arange(len(doc_ids))
    influence = np.array([found[doc_id] for doc_id in doc_ids])
    return Rollouts("first_order", document, document[:, None], influence[:, None])


def split_labels(
    settings: FitSettings, labelled: Rollouts, heldout: Rollouts
) -> tuple[list[Rollouts], Rollouts, Rollouts]:
    """Training and validation labels, of documents that are in no held-out rollout."""
    free = np.setdiff1d(labelled.number, heldout.document)
    order = generator(settings.seed, "fit split").permutation(free)
    validation, training = np.split(order, [settings.fit.validation_rollouts])
    return [labelled.take(np.sort(training))], labelled.take(validation), heldout


def first_order_agreement(labelled: Rollouts, exact: Rollouts) -> dict[str, float]:
    """Rank correlation of first-order labels with measured influences of the same documents.

    `first_step`: with those of the rollouts' first steps, which begin at the checkpoint as the labels
    do. `within_position`: with those of all steps, positions apart.
    """
    label_RT = labelled.influence[exact.document, 0]
    within = label_scale(exact.influence, per_position=True).standardise(exact.influence)
    return {
        "first_step": spearman(label_RT[:, 0], exact.influence[:, 0]),
        "within_position": spearman(label_RT, within),
    }


def make_optimizer(model: InfluenceModel, fit: Fit) -> torch.optim.AdamW:
    """AdamW whose groups have their highest rate as `peak`: a pretrained encoder has its own."""
    hyper, pretrained = fit.training, "encoder.encoder."
    named = dict(model.named_parameters())
    scalars = [model.alpha, model.beta]  # decay would pull them to 0, and they begin at 1
    weights = {n: p for n, p in named.items() if all(p is not s for s in scalars)}
    own = [p for n, p in weights.items() if n.startswith(pretrained)]
    rest = [p for n, p in weights.items() if not n.startswith(pretrained)]
    groups = [
        {"params": rest, "weight_decay": hyper.weight_decay, "peak": hyper.learning_rate},
        {"params": own, "weight_decay": hyper.weight_decay, "peak": fit.encoder.learning_rate},
        {"params": scalars, "weight_decay": 0.0, "peak": hyper.learning_rate},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=hyper.learning_rate)


def train(
    settings: FitSettings,
    under_way: Training,
    model: InfluenceModel,
    optimizer: torch.optim.AdamW,
    prepared: Any,
    training: list[Rollouts],
    validation: Rollouts,
    scale: LabelScale,
) -> None:
    """Minimise the squared error of standardised labels; keep the epoch of best validation Spearman.

    Only the first process looks at the validation rollouts and has the best epoch's weights.
    """
    hyper, processes = settings.fit.training, under_way.processes
    name = under_way.label
    documents = np.concatenate([r.document for r in training])
    influence = np.concatenate([r.influence for r in training])
    labels = torch.from_numpy(scale.standardise(influence)).to(next(model.parameters()))
    per_epoch = -(-len(documents) // hyper.batch_rollouts)
    steps = hyper.epochs * per_epoch
    if not under_way.done:
        keep_best(under_way, model, -np.inf)
    for step in under_way.steps(steps, f"fit {name}"):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            under_way.tensors["loss"] = torch.zeros((), device=labels.device)
        model.train()
        share = warm_up_then_decay(step, hyper.warmup_steps, steps)
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]
        order = generator(settings.seed, "fit epoch", epoch).permutation(len(documents))
        batch = order[place * hyper.batch_rollouts :][: hyper.batch_rollouts]
        own, weight = processes.share(len(batch))
        rows = batch[own]
        predicted = under_way.joined(Uncopied(prepared), documents[rows])
        loss = weight * mse_loss(predicted, labels[torch.from_numpy(rows)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        under_way.tensors["loss"] += loss.detach()
        if place < per_epoch - 1:
            continue
        # Once an epoch, because a look at the loss waits for the GPU; no sum mends nan or inf.
        mean = float(processes.mean(under_way.tensors["loss"])) / per_epoch
        if not np.isfinite(mean):
            raise UserError(
                expected="a finite loss throughout the fit",
                found=f"{mean}, the epoch's mean",
                where=f"the {name} model, epoch {epoch + 1} of {hyper.epochs}",
                todo="lower fit.training.learning_rate",
            )
        if processes.first:
            truth = scale.standardise(validation.influence)
            correlation = spearman(predict(model, prepared, validation.document), truth)
            if correlation > under_way.state["best"]:
                keep_best(under_way, model, correlation)
    kept = under_way.tensors.items()
    model.load_state_dict({n.removeprefix(BEST): t for n, t in kept if n.startswith(BEST)})


BEST = "best."


def keep_best(under_way: Training, model: InfluenceModel, correlation: float) -> None:
    """Remember the weights as the best so far."""
    under_way.state["best"] = correlation
    under_way.tensors |= {BEST + n: t.clone() for n, t in model.state_dict().items()}


@torch.no_grad()
def predict(model: InfluenceModel, prepared: Any, documents: np.ndarray) -> np.ndarray:
    """Standardised theta [R, T]."""
    model.eval()
    blocks = [documents[i : i + 64] for i in range(0, len(documents), 64)]
    return np.concatenate([model(prepared, b).double().cpu().numpy() for b in blocks])


@torch.no_grad()
def predict_individual(model: InfluenceModel, prepared: Any, documents: np.ndarray) -> np.ndarray:
    """Standardised w . h + b [R, T]: the same model without its relationship term."""
    model.eval()
    unique, inverse = np.unique(documents, return_inverse=True)
    blocks = [unique[i : i + 1024] for i in range(0, len(unique), 1024)]
    found = [model.individual(model.encoder(prepared, b)) for b in blocks]
    individual = [values.double().cpu().numpy() for values in found]
    return np.concatenate(individual)[inverse.reshape(documents.shape)]


def evaluate(
    settings: FitSettings,
    model: InfluenceModel,
    prepared: Any,
    training: list[Rollouts],
    heldout: Rollouts,
    scale: LabelScale,
) -> tuple[dict[str, Any], np.ndarray]:
    """metrics.json, and predicted influences of the held-out rollouts in nats [R, T].

    Correlations are in nats over all held-out steps; `within_position` ones compare standardised
    values, so that the position explains nothing. `unseen` counts only documents without a training
    label. A model of single documents takes the position's mean and deviation from the held-out
    rollouts. Intervals: 95 %, rollouts drawn anew.
    """
    truth = heldout.influence
    steps, trained = truth.shape[1], np.concatenate([r.influence for r in training])
    if trained.shape[1] == steps:
        position = label_scale(trained, per_position=True)
    else:  # labels of single documents know nothing of positions
        position = scale = label_scale(truth, per_position=True)
    nats = {
        "full": scale.to_nats(predict(model, prepared, heldout.document)),
        "no_relation": scale.to_nats(predict_individual(model, prepared, heldout.document)),
        "position_mean": np.broadcast_to(position.mean, truth.shape),
    }
    within = {name: position.standardise(value) for name, value in nats.items()}
    labels = position.standardise(truth)
    seen = np.unique(np.concatenate([r.document.ravel() for r in training]))
    unseen = ~np.isin(heldout.document, seen)

    def difference(a: np.ndarray, b: np.ndarray, truth: np.ndarray) -> float:
        return spearman(a, truth) - spearman(b, truth)

    def interval(statistic: Any, *arrays: np.ndarray) -> list[float]:
        draws = generator(settings.seed, "fit interval")
        return list(rollout_bootstrap(statistic, *arrays, seed=draws))

    both = ("full", "no_relation")
    counts = {"training": sum(len(r.number) for r in training), "heldout": len(heldout.number)}
    metrics = {
        "spearman": {name: spearman(value, truth) for name, value in nats.items()},
        "pearson": {name: pearson(value, truth) for name, value in nats.items()},
        "spearman_interval_full": interval(spearman, nats["full"], truth),
        "spearman_difference_interval": interval(
            difference, nats["full"], nats["position_mean"], truth
        ),
        "spearman_within_position": {name: spearman(within[name], labels) for name in both},
        "spearman_within_position_interval_full": interval(spearman, within["full"], labels),
        "spearman_unseen_within_position": {
            name: spearman(within[name][unseen], labels[unseen]) if unseen.any() else None
            for name in both
        },
        "spearman_relation_gain_interval": interval(
            difference, within["full"], within["no_relation"], labels
        ),
        "alpha": float(model.alpha.detach()),
        "beta": float(model.beta.detach()),
        "rollouts": counts,
        "documents": len(seen),
        "unseen_labels": int(unseen.sum()),
        "labels": sum(r.influence.size for r in training),
    }
    return metrics, nats["full"]


def coverage(rollouts: Rollouts) -> dict[str, int]:
    """How widely a round's rollouts cover the pool."""
    appearances = Counter(rollouts.document.ravel().tolist())
    return {
        "rollouts": len(rollouts.number),
        "sets": len({tuple(sorted(r)) for r in rollouts.document.tolist()}),
        "documents": len(appearances),
        "max_appearances": max(appearances.values()),
    }


def label_reliability(rollouts: Rollouts) -> dict[str, float | int | None]:
    """How far two labels of one document agree, positions apart.

    `ceiling`: what its own influence, known exactly, would correlate with the labels at.
    """
    within = label_scale(rollouts.influence, per_position=True).standardise(rollouts.influence)
    value, pairs = reliability(rollouts.document, within)
    known = math.isfinite(value)
    return {
        "correlation": value if known else None,
        "pairs": pairs,
        "ceiling": math.sqrt(max(value, 0.0)) if known else None,
    }


def report(name: str, metrics: dict[str, Any]) -> None:
    within, raw = metrics["spearman_within_position"], metrics["spearman"]
    low, high = metrics["spearman_within_position_interval_full"]
    note(
        f"fit {name}",
        f"held-out Spearman {raw['full']:.3f} (position mean alone {raw['position_mean']:.3f}); "
        f"within positions {within['full']:.3f} [{low:.3f}, {high:.3f}], without relation "
        f"{within['no_relation']:.3f}; alpha {metrics['alpha']:.3f}, beta {metrics['beta']:.3f}",
    )


def check_beta(model: InfluenceModel, output: Path) -> None:
    """The relation is divided by beta: near 0, or below, it is no discount any more."""
    if model.beta.item() < 0.05:
        raise UserError(
            expected="a learned beta of at least 0.05",
            found=f"{model.beta.item():.3g}",
            where=str(output),
            todo="lower fit.training.learning_rate, or probe more rollouts",
        )
