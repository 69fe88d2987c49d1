"""Fitting: what is held out stays held out, a planted signal is found, and noise stops the run."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats

import tables
from groupmates.artefacts.store import Provenance, read_table
from groupmates.errors import UserError
from groupmates.maths.labels import LabelScale
from groupmates.models.influence import InfluenceModel, make_encoder
from groupmates.models.resumable import Training
from groupmates.models.tokenizer import token_lists
from groupmates.settings import config, per_stage
from groupmates.settings.config import Accept
from groupmates.settings.per_stage import AcceptSettings
from groupmates.stages import accept, draw_rollouts, fit
from small import bert_folder, fit_settings

STEPS, ROLLOUTS = 3, 60
TREND = np.array([0.0, -5e-3, 4e-3])  # what a position does to every document


def settings(**changed: object) -> per_stage.FitSettings:
    return per_stage.FitSettings(seed=0, fit=fit_settings("lm", **changed))


@pytest.fixture(scope="module")
def planted(small_run, tmp_path_factory) -> dict[str, Path]:
    """Probe artefacts: influences linear in the documents' features, and pure noise."""
    folder, rng = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    pool = read_table(small_run.probe_pool, "probe_pool")
    fitted = fit_settings("lm")
    encoder = fit.make_encoder(fitted, small_run.base)
    features = encoder.prepare([""] * len(pool), token_lists(pool), 512)
    encoder.calibrate(features)
    embeddings = encoder(features, np.arange(len(pool))).detach().numpy()
    signal = 1e-3 * embeddings @ rng.normal(size=embeddings.shape[1])
    ids = pool["doc_id"].to_numpy()
    rows = np.stack([rng.choice(len(pool), STEPS, replace=False) for _ in range(ROLLOUTS)])
    return {
        "signal": tables.probe(folder / "signal.parquet", ids[rows], signal[rows] + TREND),
        "noise": tables.probe(folder / "noise.parquet", ids[rows], rng.normal(size=rows.shape)),
        "bootstrap": tables.probe(
            folder / "bootstrap.parquet", ids[rows[:10, ::-1]], signal[rows[:10, ::-1]] + TREND
        ),
    }


def fitted(run, output: Path, random: Path, bootstrap: Path | None = None, **changed) -> Path:
    fit.run(
        settings(**changed),
        base=run.base,
        tokenizer=run.tokenizer,
        probe_pool=run.probe_pool,
        probes=[random],
        bootstrap=[bootstrap] if bootstrap else [],
        output=output,
    )
    return output


@pytest.fixture(scope="module")
def model(small_run, planted, tmp_path_factory) -> Path:
    return fitted(small_run, tmp_path_factory.mktemp("fit") / "initial", planted["signal"])


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def columns(table: pa.Table, *names: str) -> list[np.ndarray]:
    return [table[name].to_numpy() for name in names]


# What is found


def test_a_planted_linear_signal_is_recovered_from_rollouts_that_were_held_out(model):
    found = metrics(model)
    assert found["spearman_within_position"]["full"] > 0.8
    low, high = found["spearman_within_position_interval_full"]
    assert 0.5 < low < found["spearman_within_position"]["full"] < high <= 1.0


def test_scores_of_the_pool_have_the_sign_of_the_influence(small_run, planted, model):
    pool = read_table(small_run.probe_pool, "probe_pool")
    individual, _ = InfluenceModel.load(model).score(
        pool["text"].to_pylist(), token_lists(pool), 512
    )
    place = {d: i for i, d in enumerate(pool["doc_id"].to_pylist())}
    table = read_table(planted["signal"], "probe")
    first = table.filter(pa.array(table["step"].to_numpy() == 1))
    rows = [place[d] for d in first["doc_id"].to_pylist()]
    assert stats.spearmanr(individual[rows], first["influence_nats"].to_numpy()).statistic > 0.8


def test_predictions_are_in_nats_with_the_position_put_back(model):
    step, oracle, predicted = columns(
        read_table(model / "heldout.parquet", "heldout"), "step", "influence_nats", "predicted_nats"
    )
    for number in (1, 2, 3):
        at = step == number
        assert predicted[at].mean() == pytest.approx(oracle[at].mean(), abs=1e-3)
    assert np.corrcoef(oracle, predicted)[0, 1] > 0.9


def test_the_heldout_table_has_the_oracle_influences_of_the_probe(planted, model):
    heldout = read_table(model / "heldout.parquet", "heldout")
    key = ("rollout", "step", "doc_id")
    oracle = {
        tuple(r[k] for k in key): r["influence_nats"]
        for r in read_table(planted["signal"], "probe").to_pylist()
    }
    rows = heldout.to_pylist()
    assert len(rows) == 8 * STEPS
    assert all(oracle[tuple(r[k] for k in key)] == r["influence_nats"] for r in rows)
    assert set(heldout["round"].to_pylist()) == {"random"}


def test_figures_of_the_whole_follow_from_the_heldout_table(model):
    oracle, predicted = columns(
        read_table(model / "heldout.parquet", "heldout"), "influence_nats", "predicted_nats"
    )
    found = metrics(model)
    assert found["spearman"]["full"] == pytest.approx(stats.spearmanr(oracle, predicted).statistic)
    assert found["pearson"]["full"] == pytest.approx(stats.pearsonr(oracle, predicted).statistic)


def test_the_position_alone_explains_nothing_within_positions(model):
    found = metrics(model)
    assert found["spearman"]["position_mean"] > 0.5
    assert set(found["spearman_within_position"]) == {"full", "no_relation"}


def test_how_far_labels_agree_is_told_of_all_random_rollouts(model, planted):
    table = read_table(planted["signal"], "probe")
    found = metrics(model)["label_reliability"]
    appearances = Counter(table["doc_id"].to_pylist()).values()
    assert found["pairs"] == sum(n * (n - 1) // 2 for n in appearances) > 0
    assert found["ceiling"] == pytest.approx(found["correlation"] ** 0.5)
    assert found["correlation"] > 0.9  # the planted signal has no noise


# What is held out


def test_initial_and_final_model_hold_out_the_same_random_rollouts(
    small_run, planted, model, tmp_path
):
    final = fitted(small_run, tmp_path / "final", planted["signal"], planted["bootstrap"])
    held = [
        set(read_table(f / "heldout.parquet", "heldout")["rollout"].to_pylist())
        for f in (model, final)
    ]
    assert held[0] == held[1]
    assert metrics(final)["rollouts"] == {"training": ROLLOUTS - 12 + 10, "heldout": 8}
    assert metrics(model)["rollouts"] == {"training": ROLLOUTS - 12, "heldout": 8}
    assert set(metrics(final)["coverage"]) == {"random", "bootstrap"}


def test_training_validation_and_heldout_rollouts_are_apart(planted):
    ids = sorted(set(read_table(planted["signal"], "probe")["doc_id"].to_pylist()))
    rounds = [
        fit.read_rollouts(name, [planted[path]], ids)
        for name, path in (("random", "signal"), ("bootstrap", "bootstrap"))
    ]
    training, validation, heldout = fit.split(settings(), rounds)
    parts = [r.number.tolist() for r in (training[0], validation, heldout)]
    assert [len(p) for p in parts] == [48, 4, 8]
    assert sorted(number for part in parts for number in part) == list(range(ROLLOUTS))
    assert training[1] is rounds[1]
    assert {r.round for r in (validation, heldout)} == {"random"}


@pytest.fixture(scope="module")
def of_first_order(small_run, planted, tmp_path_factory) -> Path:
    """A fit to labels of single documents: the planted signal by itself, of the whole probe pool."""
    folder = tmp_path_factory.mktemp("first_order")
    table = read_table(planted["signal"], "probe")
    own = table["influence_nats"].to_numpy() - np.tile(TREND, ROLLOUTS)
    signal = dict(zip(table["doc_id"].to_pylist(), own.tolist(), strict=True))
    ids = sorted(signal)
    labels = [
        tables.write(
            folder / f"part-{i}.parquet",
            "first_order",
            doc_id=ids[i::2],
            influence_nats=[signal[d] for d in ids[i::2]],
        )
        for i in range(2)
    ]
    rows = table.filter(np.isin(table["rollout"].to_numpy(), range(3))).to_pydict()
    random = tables.probe(
        folder / "random.parquet",
        np.array(rows["doc_id"]).reshape(-1, STEPS),
        np.array(rows["influence_nats"]).reshape(-1, STEPS),
    )
    training = fit_settings("lm").training.model_copy(update={"epochs": 60})
    fit.run(
        settings(validation_rollouts=3, training=training),
        base=small_run.base,
        tokenizer=small_run.tokenizer,
        probe_pool=small_run.probe_pool,
        probes=[random],
        first_order=labels,
        output=folder / "final",
    )
    return folder / "final"


def test_a_fit_to_first_order_labels_is_judged_by_rollouts_of_other_documents(of_first_order):
    found = metrics(of_first_order)
    held = read_table(of_first_order / "heldout.parquet", "heldout")
    documents = len(set(held["doc_id"].to_pylist()))
    assert set(held["rollout"].to_pylist()) == {0, 1, 2}  # all that there are
    assert found["rollouts"] == {"training": 24 - documents - 3, "heldout": 3}
    assert found["unseen_labels"] == 3 * STEPS
    assert (found["alpha"], found["beta"]) == (1.0, 1.0)  # single documents tell nothing of it
    # What the position does to all alike is in both, so that only documents make the difference.
    predicted, oracle = held["predicted_nats"].to_numpy(), held["influence_nats"].to_numpy()
    means = [values.reshape(-1, STEPS).mean(0) for values in (predicted, oracle)]
    assert np.ptp(means[1]) > 5e-3
    assert means[0] == pytest.approx(means[1], abs=2e-3)


def test_first_order_labels_are_what_the_model_learns(small_run, planted, of_first_order):
    pool = read_table(small_run.probe_pool, "probe_pool")
    predicted, _ = InfluenceModel.load(of_first_order).score(
        pool["text"].to_pylist(), token_lists(pool), 512
    )
    table = read_table(planted["signal"], "probe")
    own = table["influence_nats"].to_numpy() - np.tile(TREND, ROLLOUTS)
    signal = dict(zip(table["doc_id"].to_pylist(), own.tolist(), strict=True))
    assert stats.spearmanr(predicted, [signal[d] for d in pool["doc_id"].to_pylist()])[0] > 0.6


def test_how_far_first_order_labels_can_be_trusted_is_told(of_first_order):
    # The planted influences are those labels, but for what the position adds to all alike.
    found = metrics(of_first_order)["first_order"]
    assert found["first_step"] == pytest.approx(1.0)
    assert 0.3 < found["within_position"] < 1  # three rollouts: a position's mean is little known


def test_labels_are_scaled_by_training_rollouts_alone(small_run, planted, model, tmp_path):
    """Other influences of the held-out rollouts change no label scale."""
    table = read_table(planted["signal"], "probe")
    held = read_table(model / "heldout.parquet", "heldout")["rollout"].to_pylist()
    ids = table["doc_id"].to_numpy().reshape(-1, STEPS)
    influence = table["influence_nats"].to_numpy().reshape(-1, STEPS).copy()
    influence[sorted(set(held))] += 100.0
    moved = tables.probe(tmp_path / "moved.parquet", ids, influence)
    other = fitted(small_run, tmp_path / "initial", moved)
    one, two = (json.loads((f / "relation.json").read_text()) for f in (model, other))
    assert one["label_mean_nats"] == two["label_mean_nats"]
    assert (one["alpha"], one["head_bias"]) == (two["alpha"], two["head_bias"])


def test_rollouts_are_read_the_same_from_any_number_of_shards(planted, tmp_path):
    table = read_table(planted["signal"], "probe")
    ids = sorted(set(table["doc_id"].to_pylist()))
    whole = fit.read_rollouts("random", [planted["signal"]], ids)
    paths = [tmp_path / f"{i}.parquet" for i in range(3)]
    for i, path in enumerate(paths):
        part = table.slice(i * 60, 60)
        tables.write(path, "probe", **{n: part[n] for n in part.column_names})
    for order in (paths, paths[::-1]):
        found = fit.read_rollouts("random", order, ids)
        for name in ("number", "document", "influence"):
            assert np.array_equal(getattr(found, name), getattr(whole, name))
    assert [ids[i] for i in whole.document[0]] == table["doc_id"].to_pylist()[:STEPS]


# What is written


def test_what_was_learned_is_in_the_artefact(model):
    record, found = json.loads((model / "relation.json").read_text()), metrics(model)
    assert (record["alpha"], record["beta"]) == (found["alpha"], found["beta"])
    assert record["alpha"] != 1.0
    assert record["label_mean_nats"] == pytest.approx(TREND, abs=2e-3)
    assert len(record["label_std_nats"]) == STEPS


@pytest.mark.parametrize("standardise", ["per_position", "global"])
def test_labels_are_standardised_as_the_setting_says(small_run, planted, tmp_path, standardise):
    folder = fitted(small_run, tmp_path / "initial", planted["signal"], standardise=standardise)
    mean = json.loads((folder / "relation.json").read_text())["label_mean_nats"]
    assert (len(set(mean)) == 1) == (standardise == "global")


def test_a_model_that_predicts_nothing_stops_the_run_and_is_kept(small_run, planted, tmp_path):
    model = fitted(small_run, tmp_path / "initial", planted["noise"])
    output = tmp_path / "accept/initial.json"

    def asked(floor: float) -> AcceptSettings:
        return AcceptSettings(accept=Accept(minimum_spearman=floor))

    with pytest.raises(UserError, match=r"accept\.minimum_spearman") as caught:
        accept.run(asked(0.7), model=model, output=output)
    assert "144 labels" in caught.value.found
    assert "probe.random.rollouts" in caught.value.todo
    assert model.exists()
    assert not output.exists()
    accept.run(asked(-1.0), model=model, output=output)
    assert output.exists()


def test_a_model_of_first_order_labels_that_predicts_nothing_wants_more_documents(
    of_first_order, tmp_path
):
    asked = AcceptSettings(accept=Accept(minimum_spearman=1.0))
    with pytest.raises(UserError, match=r"accept\.minimum_spearman") as caught:
        accept.run(asked, model=of_first_order, output=tmp_path / "final.json")
    assert "sample.probe_documents" in caught.value.todo


def test_the_best_epoch_of_the_validation_rollouts_is_kept(
    small_run, planted, tmp_path, monkeypatch
):
    """Validation correlations 0.1, 0.9, 0.3: the weights after the second of three epochs."""
    pool = read_table(small_run.probe_pool, "probe_pool")
    wanted = settings()
    short = wanted.fit.training.model_copy(update={"epochs": 3})
    wanted = wanted.model_copy(update={"fit": wanted.fit.model_copy(update={"training": short})})
    model = InfluenceModel(wanted.fit, fit.make_encoder(wanted.fit, small_run.base))
    prepared = model.encoder.prepare([""] * len(pool), token_lists(pool), 512)
    model.encoder.calibrate(prepared)
    drawn = fit.read_rollouts("random", [planted["signal"]], pool["doc_id"].to_pylist())
    training, validation, _ = fit.split(wanted, [drawn])
    scale, after_epoch, answers = LabelScale(np.zeros(3), np.ones(3)), [], iter([0.1, 0.9, 0.3])

    def told(predicted: np.ndarray, truth: np.ndarray) -> float:
        after_epoch.append({n: t.clone() for n, t in model.state_dict().items()})
        return next(answers)

    monkeypatch.setattr(fit, "spearman", told)
    optimizer = fit.make_optimizer(model, wanted.fit)
    with Training(tmp_path / "initial", "fit", Provenance("fit", {}), model, optimizer, 0) as steps:
        fit.train(wanted, steps, model, optimizer, prepared, training, validation, scale)
    kept = model.state_dict()
    assert all(torch.equal(kept[n], after_epoch[1][n]) for n in kept)
    assert not torch.equal(kept["head.weight"], after_epoch[2]["head.weight"])


def test_a_pretrained_encoder_moves_at_a_rate_of_its_own(tmp_path):
    """At the head's rate its weights were ruined; at its rate the head stayed near 0."""
    wanted = fit_settings(str(bert_folder(tmp_path)))
    model = InfluenceModel(wanted, make_encoder(wanted, tmp_path))
    rates = {
        id(weight): group["peak"]
        for group in fit.make_optimizer(model, wanted).param_groups
        for weight in group["params"]
    }
    assert len(rates) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        section = wanted.encoder if name.startswith("encoder.") else wanted.training
        assert rates[id(weight)] == section.learning_rate, name


def test_a_fit_that_diverges_is_told_with_model_and_epoch(small_run, planted, tmp_path):
    hot = fit_settings("lm").training.model_dump() | {"learning_rate": 1e30}
    with pytest.raises(UserError, match=r"fit\.training\.learning_rate") as caught:
        fitted(small_run, tmp_path / "initial", planted["signal"], training=hot)
    assert caught.value.expected.startswith("a finite loss")
    assert caught.value.where == "the initial model, epoch 1 of 20"
    assert not (tmp_path / "initial").exists()


# The second round


def test_bootstrapped_rollouts_hold_both_tails_under_the_cap(small_run, model, tmp_path):
    plan = per_stage.BootstrapPlanSettings(
        seed=0,
        rollout_length=STEPS,
        bootstrap=config.BootstrapRound(rollouts=9, beam_width=12, expansion=4, max_appearances=2),
    )
    output = tmp_path / "plan.parquet"
    draw_rollouts.run_bootstrap(plan, probe_pool=small_run.probe_pool, model=model, output=output)
    table = read_table(output, "rollouts")
    documents = table["doc_id"].to_numpy().reshape(-1, STEPS)
    assert len(documents) == len({tuple(sorted(d)) for d in documents.tolist()}) == 9
    assert np.unique(documents, return_counts=True)[1].max() <= 2
    pool = read_table(small_run.probe_pool, "probe_pool")
    score = InfluenceModel.load(model).score(pool["text"].to_pylist(), token_lists(pool), 512)[0]
    of = dict(zip(pool["doc_id"].to_pylist(), score.tolist(), strict=True))
    first = [of[d] for d in documents[:, 0]]
    assert max(first[:5]) < min(first[5:])  # five helpful, then four harmful


def test_a_cap_that_leaves_too_few_sets_is_told(small_run, model, tmp_path):
    plan = per_stage.BootstrapPlanSettings(
        seed=0,
        rollout_length=STEPS,
        bootstrap=config.BootstrapRound(rollouts=20, beam_width=10, expansion=4, max_appearances=1),
    )
    with pytest.raises(UserError, match="max_appearances") as caught:
        draw_rollouts.run_bootstrap(
            plan, probe_pool=small_run.probe_pool, model=model, output=tmp_path / "plan.parquet"
        )
    assert "10 distinct sets" in caught.value.expected
