"""oracle_greedy against brute force written otherwise, through kills, budgets and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import killed
import small
import tables
from groupmates.artefacts.store import Provenance, concatenate, read_json, read_table, write_json
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.reference import Reference, reference_part
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.selectors import oracle_greedy
from groupmates.settings.config import Budget
from groupmates.settings.selectors import OracleGreedy
from small import documents

POOL = documents(14)
EXAMPLES = 6


def write_pool(run: small.Run, folder: Path, shards: int) -> tuple[list[str], list[Path]]:
    """The pool in files of one shard each, and their scores: tokens that `n_tokens` has."""
    tokens = document_tokens(load_tokenizer(run.tokenizer), [d["text"] for d in POOL])
    return tables.scored_pool(folder, POOL, shards, [len(t) for t in tokens])


def write_allowed(folder: Path, budget: Budget, score: list[Path]) -> Path:
    """What `prepare` would have allowed; how many evaluations is told to the progress alone."""
    n_tokens_N = concatenate(score, "score", ["n_tokens"])["n_tokens"].to_numpy()
    body = {
        "documents": len(POOL),
        "picks": oracle_greedy.picks_at_most(budget, len(POOL), n_tokens_N),
        "evaluations": len(POOL) ** 2,
    }
    write_json(folder / oracle_greedy.ALLOWED, "brute_force", Provenance("test", {}), body)
    return folder


def ordered(
    run: small.Run,
    folder: Path,
    budget: Budget,
    candidates: int | None = None,
    shards: int = 2,
    seed: int = 0,
    base: Path | None = None,
    meanwhile: Callable[[list[str]], object] = list,
) -> list[str]:
    """All documents in the order that was written; `meanwhile` comes between scores and order."""
    files, score = write_pool(run, folder, shards)
    meanwhile(files)
    output = folder / "order/oracle_greedy/part-00000.parquet"
    oracle_greedy.order(
        OracleGreedy.Order(
            seed=seed,
            text_columns=small.COLUMNS,
            selection_examples=EXAMPLES,
            learning_rate=small.RATE,
            sequence_length=small.SEQUENCE,
            budget=budget,
            candidates=candidates,
        ),
        prepared=write_allowed(folder / "prepare/oracle_greedy", budget, score),
        base=base or run.base,
        tokenizer=run.tokenizer,
        reference=run.reference,
        pool=files,
        score=score,
        output=output,
    )
    table = read_table(output, "order").sort_by([("key", "ascending")]).to_pylist()
    starts = np.cumsum([0] + [len(a) for a in np.array_split(np.arange(len(POOL)), shards)])
    assert len(table) == len(POOL)
    assert np.isnan([row["group_influence"] for row in table]).all()
    return [POOL[starts[row["shard"]] + row["row"]]["id"] for row in table]


def picks(number: int) -> Budget:
    return Budget(ratio=number / len(POOL), tokens=None)


def by_hand(run: small.Run, number: int) -> tuple[list[str], dict[str, float]]:
    """The same picks with models that are copied instead of restored; the last measured losses."""
    tokenizer = load_tokenizer(run.tokenizer)
    model = lm.load_lm(run.base).train()
    optimizer = lm.make_optimizer(model, small.ADAMW)
    lm.load_optimizer(optimizer, model, run.base / "optimizer.safetensors")
    reference = reference_part(run.reference, "selection", EXAMPLES)[0]
    chosen: list[str] = []
    last: dict[str, float] = {}
    for _ in range(number):
        tried = {}
        for document in POOL:
            if document["id"] not in chosen:
                # One deep copy of both, so that the copied optimiser owns the copied weights.
                m, o = copy.deepcopy((model, optimizer))
                ids = document_tokens(tokenizer, [document["text"]], small.SEQUENCE + 1)[0]
                lm.train_step(m, o, torch.tensor(ids[None].astype(np.int64)), 1.0, 1e-4)
                tried[document["id"]] = (reference.loss(m), m, o)
        best = min(tried, key=lambda i: tried[i][0])
        _, model, optimizer = tried[best]
        chosen.append(best)
        last |= {i: loss for i, (loss, *_) in tried.items()}
    return chosen, last


def test_the_picks_are_those_of_brute_force_with_copied_models(small_run, tmp_path):
    chosen, last = by_hand(small_run, 4)
    rest = sorted((d["id"] for d in POOL if d["id"] not in chosen), key=last.__getitem__)
    assert ordered(small_run, tmp_path, picks(4)) == chosen + rest
    individual = sorted(by_hand(small_run, 1)[1].items(), key=lambda item: item[1])
    assert chosen != [i for i, _ in individual[:4]]  # else the group would not have mattered


def test_shards_and_a_second_run_change_nothing(small_run, tmp_path):
    found = [
        ordered(small_run, tmp_path / str(shards), picks(3), candidates, shards)
        for candidates in (None, 5)
        for shards in (1, 2, 7)
    ]
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4] == found[5]
    assert found[0] != found[3]


def test_the_seed_draws_the_candidates(small_run, tmp_path):
    found = {
        tuple(ordered(small_run, tmp_path / str(seed), picks(3), 2, seed=seed)[:3])
        for seed in range(4)
    }
    assert len(found) > 1


@pytest.mark.parametrize("spare", [0, 1])
def test_a_budget_in_tokens_is_filled_and_no_more_is_measured(small_run, tmp_path, spare):
    greedily = ordered(small_run, tmp_path / "documents", picks(5))
    tokenizer = load_tokenizer(small_run.tokenizer)
    length = {d["id"]: len(document_tokens(tokenizer, [d["text"]])[0]) for d in POOL}
    tokens = sum(length[i] for i in greedily[:3]) + spare
    found = ordered(small_run, tmp_path / "tokens", Budget(ratio=None, tokens=tokens))
    chosen, last = by_hand(small_run, 3 + spare)  # the document that is too many is a pick, too
    rest = sorted((d["id"] for d in POOL if d["id"] not in chosen), key=last.__getitem__)
    assert found == chosen + rest


def test_a_killed_job_measures_no_document_twice_and_writes_the_same_bytes(
    small_run, tmp_path, monkeypatch
):
    """It dies at every ninth evaluation, in the middle of a pick."""

    def make(folder: Path) -> Path:
        ordered(small_run, folder, picks(4))
        return folder / "order/oracle_greedy/part-00000.parquet"

    attempts, evaluated = killed.survives(monkeypatch, tmp_path, Reference, "loss", 9, make)
    assert attempts > 4
    # 14 + 13 + 12 + 11 candidates; the checkpoint, and the one it dies at, of every attempt.
    assert len(evaluated) == 50 + attempts + (attempts - 1)


def test_a_loss_that_is_no_number_names_pick_and_document(small_run, tmp_path):
    broken = tmp_path / "base"
    broken.mkdir()
    for file in small_run.base.iterdir():
        text = file.read_bytes()
        if file.name == "training.json":
            text = text.replace(str(small.ADAMW.learning_rate).encode(), b"1e38")
        (broken / file.name).write_bytes(text)
    with pytest.raises(UserError, match="finite reference loss") as caught:
        ordered(small_run, tmp_path, picks(2), base=broken)
    assert caught.value.found.startswith("nan after training on document 'doc-00")
    assert caught.value.where in ("pick 1", "pick 2")


def test_a_pool_file_that_was_replaced_since_it_was_scored_is_refused(small_run, tmp_path):
    with pytest.raises(UserError, match="bytes, sha256") as caught:
        ordered(
            small_run,
            tmp_path,
            picks(2),
            meanwhile=lambda files: small.write_lines(Path(files[0]), POOL),
        )
    assert caught.value.where == str(tmp_path / "pool/f0.jsonl")


# What is too much


def check(
    folder: Path, budget: Budget, maximum: int, candidates: int | None = None
) -> dict[str, object]:
    """Of a pool of two files with 60 and 40 documents, of 1, 2, …, 100 tokens."""
    files = folder / "files.parquet"
    tables.write(files, "files", source_file=["a", "b"], documents=[60, 40], rejected=[0, 3])
    score = folder / "score.parquet"
    identity = [str(i) for i in range(100)]
    n_tokens = np.arange(100)[::-1] + 1
    tables.write(
        score, "score", doc_id=identity, source_file="a", source_row=range(100), n_tokens=n_tokens
    )
    oracle_greedy.prepare(
        OracleGreedy.Prepare(budget=budget, candidates=candidates),
        max_evaluations=maximum,
        files=files,
        score=[] if budget.tokens is None else [score],
        output=folder / "brute",
    )
    return read_json(folder / "brute" / oracle_greedy.ALLOWED)


TENTH = Budget(ratio=0.1, tokens=None)


def test_as_many_evaluations_as_are_allowed_are_not_refused(tmp_path):
    needed = sum(range(91, 101))
    assert check(tmp_path, TENTH, needed)["evaluations"] == needed
    with pytest.raises(UserError):
        check(tmp_path / "more", TENTH, needed - 1)
    assert not (tmp_path / "more/brute").exists()


def test_a_pool_that_is_too_large_is_refused_with_the_count_and_what_would_do(tmp_path):
    with pytest.raises(UserError) as caught:
        check(tmp_path, TENTH, 500)
    error = caught.value
    assert error.expected == "at most 500 evaluations of the reference loss"
    assert error.found == "955, for 10 picks among 100 documents"
    assert error.where == "select.methods: brute"
    for part in ("select.budget", "smaller pool", "candidates to 50", "max_evaluations", "plan"):
        assert part in error.todo
    assert check(tmp_path, TENTH, 500, candidates=50)["evaluations"] == 500
    with pytest.raises(UserError, match="10 picks among 100 documents, 51 candidates at a time"):
        check(tmp_path, TENTH, 500, candidates=51)


def test_where_not_even_one_candidate_each_is_allowed_candidates_are_no_advice(tmp_path):
    with pytest.raises(UserError) as caught:
        check(tmp_path, TENTH, 9)
    assert "candidates" not in caught.value.todo


def test_a_budget_in_tokens_counts_the_shortest_documents(tmp_path):
    # 1 + 2 + … + 10 = 55 tokens are reached by ten documents.
    assert check(tmp_path, Budget(ratio=None, tokens=55), 955)["picks"] == 10
    with pytest.raises(UserError, match="11 picks"):
        check(tmp_path, Budget(ratio=None, tokens=56), 955)
