"""CORE's predictions and speed beside karpathy/nanochat's `core_eval.py` and a padded batch loop.

    PYTHONPATH=workflow:tests .venv/bin/python tests/benchmarks/core.py MODEL DATA NANOCHAT TASK=N …

MODEL is a Hugging Face folder, DATA that of the tasks, NANOCHAT a checkout of nanochat. The first N
questions of each task are asked, of at least 50 that `core.examples` leaves. One thread; CPU seconds,
by turns. The padded loop reads 16 rows at a time as they come, with logits at every position. Prints
a row per task: questions with another prediction, largest difference of an option's loss, seconds.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from groupmates.maths.in_context import Question, Verdict, order_of, verdict
from groupmates.maths.packing import pad_right
from groupmates.models.in_context import read
from groupmates.models.language_model import load_lm
from groupmates.models.tokenizer import load_tokenizer
from groupmates.pool.core_questions import read_questions
from groupmates.pool.core_tasks import chosen_tasks
from groupmates.stages.core import tokenised

BATCH_TOKENS, PADDED_ROWS = 4096, 16
LEFT = 50  # questions that the examples are drawn from, at least


class Nanochat:
    """Its harness on our model: what it decides, and each option's mean loss by its own spans."""

    def __init__(self, folder: Path, model: Any, tokenizer: Any) -> None:
        path = folder / "nanochat/core_eval.py"
        spec = importlib.util.spec_from_file_location("core_eval", path)
        assert spec and spec.loader, path
        self._harness = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._harness)
        self._spans: list[tuple[int, int]] = []
        self._losses = torch.empty(0)
        for name in ("batch_sequences_mc", "batch_sequences_schema", "batch_sequences_lm"):
            self._listen_to_spans(name)
        forward = self._harness.forward_model

        def heard(*arguments: Any) -> Any:
            self._losses, predictions = forward(*arguments)
            return self._losses, predictions

        self._harness.forward_model = heard
        self._model = lambda ids: model(input_ids=ids, use_cache=False).logits
        start = tokenizer.bos_token_id
        start = tokenizer.eos_token_id if start is None else start

        def tokens(texts: list[str], prepend: int) -> list[list[int]]:
            found = tokenizer(texts, add_special_tokens=False)["input_ids"]
            return [[prepend, *ids] for ids in found]

        self._tokenizer = type("T", (), {"__call__": staticmethod(tokens)})()
        self._tokenizer.get_bos_token_id = lambda: start

    def _listen_to_spans(self, name: str) -> None:
        inner = getattr(self._harness, name)

        def heard(*arguments: Any) -> Any:
            found = inner(*arguments)
            self._spans = list(zip(found[1], found[2], strict=True))
            return found

        setattr(self._harness, name, heard)

    def __call__(
        self, task: Any, data: list[dict[str, Any]], number: int
    ) -> tuple[bool, list[float]]:
        meta = {
            "task_type": task.type,
            "num_fewshot": task.num_fewshot,
            "continuation_delimiter": task.continuation_delimiter,
        }
        right = self._harness.evaluate_example(
            number, self._model, self._tokenizer, data, "cpu", meta
        )
        means = [
            float(self._losses[i, s - 1 : e - 1].mean()) for i, (s, e) in enumerate(self._spans)
        ]
        return bool(right), means


def ours(model: Any, questions: list[Question]) -> list[Verdict]:
    found: dict[int, Verdict] = {}
    for number, losses, likeliest in read(model, questions, BATCH_TOKENS):
        found[number] = verdict(questions[number], losses, likeliest)
    return [found[number] for number in range(len(questions))]


@torch.no_grad()
def padded_loop(model: Any, questions: list[Question]) -> None:
    rows = [row for question in questions for row in question.rows]
    for first in range(0, len(rows), PADDED_ROWS):
        ids = torch.from_numpy(pad_right(rows[first : first + PADDED_ROWS], 0))
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
        )


def main(checkpoint: str, data: str, nanochat: str, *asked: str) -> None:
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(checkpoint), load_lm(Path(checkpoint)).eval()
    tokenizer.split_special_tokens = True
    theirs = Nanochat(Path(nanochat), model, tokenizer)
    print(
        "| task | questions | other predictions | largest difference, nats | nanochat | padded | ours |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, count in (word.split("=") for word in asked):
        task = chosen_tasks(data, [name])[name]
        listed = [values for _, values in read_questions(Path(data), task)]
        asked_N = range(int(count))
        questions = [listed[i] for i in order_of(len(listed))[: max(LEFT, len(asked_N))]]
        start = time.process_time()
        rows = list(tokenised(task, questions, tokenizer))[: len(asked_N)]
        found = ours(model, rows)
        spent = [time.process_time() - start]
        judged = [theirs(task, questions, number) for number in asked_N]
        spent.append(time.process_time() - start - sum(spent))
        padded_loop(model, rows)
        spent.append(time.process_time() - start - sum(spent))
        other, largest = [], 0.0
        for number, ((right, means), mine) in enumerate(zip(judged, found, strict=True)):
            chosen = means.index(min(means)) if len(means) > 1 else mine.predicted
            same = right == (mine.predicted == rows[number].gold) and chosen == mine.predicted
            other += [] if same else [SimpleNamespace(number=number, theirs=means, ours=mine)]
            largest = max(largest, float(np.abs(np.array(means) - mine.option_nats).max()))
        our_time, their_time, padded = spent
        print(
            f"| {name} | {len(asked_N)} | {len(other)} | {largest:.1e} | {their_time:.1f} s | "
            f"{padded:.1f} s | {our_time:.1f} s |",
            *other,
            sep="\n" if other else "",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
