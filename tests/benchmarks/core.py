"""CORE's predictions and speed beside karpathy/nanochat's `core_eval.py` and a padded batch loop.

    PYTHONPATH=workflow:tests .venv/bin/python tests/benchmarks/core.py MODEL DATA NANOCHAT \\
        [--padded] [--positions P] TASK=N …

MODEL is a Hugging Face folder, DATA that of the tasks, NANOCHAT a checkout of nanochat. The first N
questions of each task's fixed order are asked, with examples from its whole file. With --positions,
rows are cut to so many tokens. One thread; CPU seconds, by turns.

A row per task has the questions with another prediction, the largest difference of an option's loss,
the least distance of the two best options, the rows that were cut, and seconds. Then come the
questions themselves. --padded adds a loop that reads 16 rows at a time, with logits at every position.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groupmates.maths.in_context import Question, Verdict, fitted, order_of, verdict
from groupmates.maths.packing import pad_right
from groupmates.models.in_context import read
from groupmates.models.language_model import load_lm
from groupmates.models.tokenizer import load_tokenizer, text_tokens
from groupmates.pool.core_questions import read_questions, tokenised
from groupmates.pool.core_tasks import chosen_tasks
from groupmates.stages.core import start_of

BATCH_TOKENS, PADDED_ROWS = 4096, 16


class Nanochat:
    """Its harness on our model: what it decides, and each option's mean loss by its own spans."""

    def __init__(self, folder: Path, model: Any, tokenizer: Any, positions: int | None) -> None:
        path = folder / "nanochat/core_eval.py"
        spec = importlib.util.spec_from_file_location("core_eval", path)
        assert spec and spec.loader, path
        self._harness = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._harness)
        self._lengths: list[tuple[int, int]] = []  # of rows: scored tokens, all
        self._losses = torch.empty(0)
        self._positions = positions
        for name in ("batch_sequences_mc", "batch_sequences_schema", "batch_sequences_lm"):
            self._listen_to_lengths(name)
        forward = self._harness.forward_model

        def heard(*arguments: Any) -> Any:
            self._losses, predictions = forward(*arguments)
            return self._losses, predictions

        self._harness.forward_model = heard
        self._model = lambda ids: model(input_ids=ids, use_cache=False).logits
        self._model.max_seq_len = positions  # type: ignore[attr-defined]

        def tokens(texts: list[str], prepend: int) -> list[list[int]]:
            found = tokenizer(texts, add_special_tokens=False)["input_ids"]
            return [[prepend, *ids] for ids in found]

        self._tokenizer = type("T", (), {"__call__": staticmethod(tokens)})()
        self._tokenizer.get_bos_token_id = lambda: start_of(tokenizer)

    def _listen_to_lengths(self, name: str) -> None:
        inner = getattr(self._harness, name)

        def heard(*arguments: Any) -> Any:
            rows, starts, ends = inner(*arguments)
            self._lengths = [(e - s, e) for s, e in zip(starts, ends, strict=True)]
            return rows, starts, ends

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
        ends = [min(length, self._positions or length) - 1 for _, length in self._lengths]
        scored = [count for count, _ in self._lengths]
        means = [
            float(self._losses[i, end - count : end].mean())
            for i, (count, end) in enumerate(zip(scored, ends, strict=True))
        ]
        return bool(right), means


def ours(model: Any, questions: list[Question]) -> list[Verdict]:
    found: dict[int, Verdict] = {}
    for batch in read(model, questions, BATCH_TOKENS):
        for number, losses, likeliest in batch:
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


def compared(task: Any, data: Path, arguments: argparse.Namespace, count: int, setup: Any) -> str:
    """A row of the table for the first `count` questions of a task."""
    tokenizer, model, theirs = setup
    listed = [values for _, values in read_questions(data, task)]
    questions = [listed[i] for i in order_of(len(listed))]
    start = time.process_time()
    encode, asked = partial(text_tokens, tokenizer), range(len(questions))[:count]
    whole = tokenised(task, questions, asked, encode, start_of(tokenizer))
    rows = [fitted(question, arguments.positions) for question in whole]
    found = ours(model, rows)
    spent = [time.process_time() - start]
    judged = [theirs(task, questions, number) for number in range(len(rows))]
    spent.append(time.process_time() - start - spent[0])
    if arguments.padded:
        padded_loop(model, rows)
        spent.append(time.process_time() - start - sum(spent))
    other, largest, nearest = [], 0.0, float("inf")
    for number, ((right, means), mine) in enumerate(zip(judged, found, strict=True)):
        chosen = means.index(min(means)) if len(means) > 1 else mine.predicted
        if right != (mine.predicted == rows[number].gold) or chosen != mine.predicted:
            other.append(f"question {number}: nanochat {right}, {means}; {mine}")
        largest = max(largest, float(np.abs(np.array(means) - mine.option_nats).max()))
        if len(means) > 1:
            first, second = sorted(mine.option_nats)[:2]
            nearest = min(nearest, second - first)
    cut = sum(question.cut for question in rows)
    least = f"{nearest:.1e}" if np.isfinite(nearest) else ""
    cells = [task.name, len(rows), len(other), f"{largest:.1e}", least, cut]
    cells += [f"{x:.1f} s" for x in spent]
    return "\n".join([f"| {' | '.join(map(str, cells))} |", *other])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs=3, type=Path, metavar="MODEL DATA NANOCHAT")
    parser.add_argument("asked", nargs="+", metavar="TASK=N")
    parser.add_argument("--padded", action="store_true")
    parser.add_argument("--positions", type=int)
    arguments = parser.parse_args()
    checkpoint, data, nanochat = arguments.folders
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(checkpoint), load_lm(checkpoint).eval()
    tokenizer.split_special_tokens = True
    setup = tokenizer, model, Nanochat(nanochat, model, tokenizer, arguments.positions)
    heads = ["task", "questions", "other predictions", "largest difference, nats"]
    heads += ["nearest options, nats", "cut", "ours", "nanochat"]
    heads += ["padded"] * arguments.padded
    print(f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", sep="\n")
    for name, count in (word.split("=") for word in arguments.asked):
        task = chosen_tasks(str(data), [name])[name]
        print(compared(task, data, arguments, int(count), setup), flush=True)


if __name__ == "__main__":
    main()
