"""A student of the tiny influence model: what it learns from, what it says, when it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.models.student import Student
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.settings import config, per_stage
from groupmates.stages import distil, score_student
from tables import embedded


def settings(documents: int = 40, floor: float = -1.0) -> per_stage.DistilSettings:
    fields = {"documents": documents, "heldout_share": 0.25, "penalty": 0.1}
    return per_stage.DistilSettings(
        seed=0,
        sequence_length=small.SEQUENCE,
        distil=config.Distil(**fields, minimum_spearman=floor),
    )


@pytest.fixture(scope="module")
def model(small_run, tmp_path_factory) -> Path:
    return small.influence_model(small_run, tmp_path_factory.mktemp("fit") / "final")


def distilled(run: small.Run, model: Path, output: Path, **changed) -> Path:
    pools = {"probe_pool": run.probe_pool, "training_pool": run.training_pool}
    distil.run(settings(**changed), model=model, **pools, output=output)
    return output


def test_documents_of_both_pools_are_drawn_once_and_fewer_are_the_first_of_more(small_run):
    pools = (small_run.probe_pool, small_run.training_pool)
    whole = distil.draw(settings(), *pools)["doc_id"].to_pylist()
    assert sorted(whole) == [d["id"] for d in small.documents(40)]
    assert distil.draw(settings(7), *pools)["doc_id"].to_pylist() == whole[:7]


def test_the_agreement_of_two_models_by_hand():
    teacher = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    student = np.array([2.0, 9.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    emb = np.eye(2)[[0, 1] * 4]
    found = distil.agreement(student, emb, teacher, 0.5 * emb[::-1])
    assert found == pytest.approx({"spearman": 0.5, "cosine": 0.0, "quarter_overlap": 0.5})


def test_a_student_learns_its_teacher_and_scores_whatever_the_files(small_run, model, tmp_path):
    folder = distilled(small_run, model, tmp_path / "distil")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["documents"] == {"training": 30, "heldout": 10}
    assert metrics["spearman"] > 0.5
    rows, found, found_emb = small.documents(40), [], []
    for pieces in (1, 3):
        paths = [
            small.write_lines(tmp_path / f"{pieces}/{i}.jsonl", rows[i::pieces])
            for i in range(pieces)
        ]
        pool = small.marked(tmp_path / f"{pieces}", paths)
        (check,) = small.check_pool([pool], tmp_path / f"{pieces}/check")
        columns = config.PoolColumns(text="text", id="id", source=None)
        asked = per_stage.StudentScoreSettings(columns=columns, bad_records="stop")
        output = tmp_path / f"{pieces}/score.parquet"
        score_student.run(asked, pool=pool, check=check, student=folder, output=output)
        table = read_table(output, "score", ["doc_id", "n_tokens", "individual_influence"])
        found.append(table.sort_by("doc_id"))
        found_emb.append(embedded(output, "score")[np.argsort(table["doc_id"].to_numpy())])
    assert found[0].equals(found[1])
    np.testing.assert_array_equal(*found_emb)
    tokens = document_tokens(load_tokenizer(small_run.tokenizer), [d["text"] for d in rows])
    influence, emb = Student.load(folder).score(tokens)
    np.testing.assert_array_equal(found[0]["individual_influence"].to_numpy(), influence)
    np.testing.assert_array_equal(found_emb[0], emb)
    assert found[0]["n_tokens"].to_pylist() == [len(t) for t in tokens]


def test_a_student_below_the_floor_says_what_it_reached_and_leaves_nothing(
    small_run, model, tmp_path
):
    with pytest.raises(UserError, match=r"distil\.minimum_spearman") as caught:
        distilled(small_run, model, tmp_path / "distil", floor=0.9999)
    assert "from 30 documents" in caught.value.found
    assert not list(tmp_path.iterdir())
