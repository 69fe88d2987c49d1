"""CORE's predictions and speed beside EleutherAI's lm-eval: the same model and the same tokens.

    PYTHONPATH=workflow:tests ENVIRONMENT/bin/python tests/benchmarks/core_lm_eval.py \\
        MODEL DATA TASK=N …

ENVIRONMENT has lm-eval beside this package's needs. One process, one thread and one loaded model; two
turns each. lm-eval gets tokens, and the scored ones of each option: by text it would also score what
the options share, and cut no blank before them. It reads 16 rows together, the longest first.

Prints a row per task: questions, those with another prediction, the largest difference of an option's
mean loss, CPU seconds of each turn. Only ours include tokenising.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from groupmates.maths.in_context import NONE_OF_THEM, Question, Verdict, order_of, verdict
from groupmates.models.in_context import read
from groupmates.models.language_model import load_lm
from groupmates.models.tokenizer import load_tokenizer, text_tokens
from groupmates.pool.core_questions import read_questions, tokenised
from groupmates.pool.core_tasks import chosen_tasks
from groupmates.stages.core import start_of

BATCH_TOKENS, BATCH_ROWS = 4096, 16


def ours(model: Any, rows: list[Question]) -> list[Verdict]:
    found = {}
    for batch in read(model, rows, BATCH_TOKENS):
        for number, losses, likeliest in batch:
            found[number] = verdict(rows[number], losses, likeliest)
    return [found[number] for number in range(len(rows))]


def theirs(harness: HFLM, rows: list[Question]) -> list[tuple[int, list[float]]]:
    """What lm-eval predicts, and the mean loss of each option."""
    options = [
        (row[:scored].tolist(), row[scored:].tolist())
        for question in rows
        for row, scored in zip(question.rows, question.scored, strict=True)
    ]
    told = iter(harness._loglikelihood_tokens([(("", ""), *o) for o in options], disable_tqdm=True))
    lengths = iter([len(scored) for _, scored in options])
    found = []
    for question in rows:
        sums, greedy = zip(*[next(told) for _ in question.rows], strict=True)
        means = [-float(total) / next(lengths) for total in sums]
        alone = 0 if greedy[0] else NONE_OF_THEM
        found.append((means.index(min(means)) if len(means) > 1 else alone, means))
    return found


def main(checkpoint: str, data: str, *asked: str) -> None:
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(checkpoint), load_lm(Path(checkpoint)).eval()
    encode, clock = partial(text_tokens, tokenizer), time.process_time
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_ROWS)
    heads = [
        "task",
        "questions",
        "other predictions",
        "largest difference, nats",
        "lm-eval",
        "ours",
    ]
    print(f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", sep="\n")
    for name, count in ((name, int(n)) for name, n in (word.split("=") for word in asked)):
        task = chosen_tasks(data, [name])[name]
        listed = read_questions(Path(data), task)
        questions = [listed[i][1] for i in order_of(len(listed))]
        spent: list[float] = []
        for _ in range(2):
            start = clock()
            rows = list(tokenised(task, questions, range(count), encode, start_of(tokenizer)))
            verdicts = ours(model, rows)
            between = clock()
            judged = theirs(harness, rows)
            spent += [between - start, clock() - between]
        both = list(zip(judged, verdicts, strict=True))
        other = [f"{i}: {t}; {mine}" for i, (t, mine) in enumerate(both) if t[0] != mine.predicted]
        largest = max(np.abs(np.array(means) - mine.option_nats).max() for (_, means), mine in both)
        seconds = (", ".join(f"{x:.1f}" for x in turns) for turns in (spent[1::2], spent[::2]))
        cells = [name, count, len(other), f"{largest:.1e}", *(f"{x} s" for x in seconds)]
        print(f"| {' | '.join(map(str, cells))} |", *other, sep="\n", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
