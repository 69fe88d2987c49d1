"""The comparison of methods, by numbers that can be followed by hand."""

import json

import numpy as np
import pytest

import tables
from groupmates.artefacts.store import Provenance, write_folder_provenance
from groupmates.report.headline import headline
from groupmates.settings.per_stage import SummarySettings
from groupmates.stages import summarise

FINAL = {"group_mates": [1.0, 1.2, 1.1], "random": [1.5, 1.6, 1.7]}
LABELS = np.array([2, 8])


def written(folder):
    """Curves, example losses, selections and scores of two methods and three seeds."""
    paths = []
    for method, losses in FINAL.items():
        for seed, loss in enumerate(losses):
            curve = folder / f"evaluate/{method}/seed-{seed}.parquet"
            tables.write(curve, "curve", tokens=[0, 400], loss_nats=[2.0, loss])
            examples = folder / f"evaluate/{method}/seed-{seed}.examples.parquet"
            sums = {"loss_sum_nats": loss * LABELS, "label_tokens": LABELS}
            tables.write(examples, "example_losses", example_id=["a", "b"], **sums)
            paths += [curve, examples]
        selection = folder / f"select/{method}/shard-00000.parquet"
        paths.append(tables.selection(selection, [("f", 0), ("f", 3)], n_tokens=[30, 50]))
    score = folder / "score/shard-00000.parquet"
    rows = {"source_row": range(4), "n_tokens": [30, 60, 60, 50]}
    tables.write(score, "score", doc_id=["x", "v", "w", "y"], source_file="f", **rows)
    return [*paths, score]


@pytest.fixture
def summary(tmp_path):
    output = tmp_path / "evaluate/summary.json"
    summarise.run(SummarySettings(seed=0), inputs=written(tmp_path), output=output)
    return json.loads(output.read_text())


def test_the_difference_is_the_mean_over_seeds_of_method_minus_random(summary):
    found = summary["comparisons"]["group_mates"]
    assert found["difference_nats"] == pytest.approx(-0.5)  # mean of -0.5, -0.4, -0.6
    # t of 2 degrees of freedom 4.3027, standard deviation 0.1, three seeds
    half = 4.3027 * 0.1 / np.sqrt(3)
    assert found["interval_by_seed_nats"] == pytest.approx([-0.5 - half, -0.5 + half], abs=1e-4)
    # Every example's loss per token differs by the same 0.5: which ones are drawn changes nothing.
    assert found["interval_by_example_nats"] == pytest.approx([-0.5, -0.5])


def test_tokens_and_epochs_are_those_of_the_selection(summary):
    found = summary["methods"]["group_mates"]
    assert (found["documents"], found["tokens"], found["epochs"]) == (2, 80, 5.0)
    assert (summary["pool_documents"], summary["pool_tokens"]) == (4, 200)
    assert (summary["base_loss_nats"], summary["trained_tokens"]) == (2.0, 400)
    assert "random" not in summary["comparisons"]


def test_the_headline_tells_both_losses_the_difference_and_where_to_look(summary, tmp_path):
    fit = tmp_path / "fit/final"
    fit.mkdir(parents=True)
    write_folder_provenance(fit, "fit", Provenance("test", {}))
    metrics = {
        "spearman": {"full": 0.44, "position_mean": 0.36},
        "spearman_difference_interval": [0.06, 0.1],
    }
    (fit / "metrics.json").write_text(json.dumps(metrics))
    text = headline(tmp_path)
    for part in ("-0.5000 nats", "over 3 seeds", "1.1000", "1.6000", "40.0%", "0.440", "0.360"):
        assert part in text
    for place in ("report.html", "dataset/group_mates", "dataset/random"):
        assert str(tmp_path / place) in text
