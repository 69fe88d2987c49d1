"""CORE's speed beside EleutherAI's lm-eval: the same model, questions, examples and prompts.

    PYTHONPATH=workflow:tests ENVIRONMENT/bin/python tests/benchmarks/core_lm_eval.py \\
        MODEL DATA TASK=N …

ENVIRONMENT has lm-eval beside this package's needs. Both have one process, one thread and one loaded
model; each has two turns. lm-eval gets prompts that are written out, and batches of 16 rows. Prints a
row per task: questions, those with another prediction, CPU seconds of both turns. lm-eval's losses of
options are divided by their tokens, as here; it scores all tokens of an option.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, get_task_dict

from groupmates.maths.in_context import Verdict, order_of, shots_of, verdict
from groupmates.models.in_context import read
from groupmates.models.language_model import load_lm
from groupmates.models.tokenizer import load_tokenizer, text_tokens
from groupmates.pool.core_questions import gold_of, prompts, read_questions, tokenised
from groupmates.pool.core_tasks import Task, chosen_tasks
from groupmates.stages.core import start_of

BATCH_TOKENS, BATCH_ROWS = 4096, 16


def ours(task: Task, questions: list[Any], count: int, model: Any, tokenizer: Any) -> list[Verdict]:
    encode, found = partial(text_tokens, tokenizer), {}
    rows = list(tokenised(task, questions, range(count), encode, start_of(tokenizer)))
    for batch in read(model, rows, BATCH_TOKENS):
        for number, losses, likeliest in batch:
            found[number] = verdict(rows[number], losses, likeliest)
    return [found[number] for number in range(count)]


def as_task(task: Task, questions: list[Any], count: int, folder: Path) -> Any:
    """The questions as a task of lm-eval, each with its whole prompt."""
    path = folder / f"{task.name}.jsonl"
    delimiter = task.continuation_delimiter
    with path.open("w") as stream:
        for i in range(count):
            shots = [questions[j] for j in shots_of(i, len(questions), task.num_fewshot)]
            _, whole = prompts(task, shots, questions[i])
            answers = questions[i].get("choices", [questions[i].get("continuation")])
            context = whole[0].removesuffix(f"{delimiter}{answers[0]}")
            assert all(w == f"{context}{delimiter}{a}" for w, a in zip(whole, answers, strict=True))
            row = {"prompt": context, "choices": answers, "gold": gold_of(questions[i])}
            stream.write(json.dumps(row | {"answer": answers[0]}) + "\n")
    of_choices = {"output_type": "multiple_choice", "doc_to_choice": "choices"}
    of_choices["doc_to_target"] = "gold"
    of_answer = {"output_type": "loglikelihood", "doc_to_target": "answer"}
    config = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "doc_to_text": "prompt",
        "target_delimiter": delimiter,
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc"}],
        **(of_answer if task.type == "language_modeling" else of_choices),
    }
    return get_task_dict([config], TaskManager())


def main(checkpoint: str, data: str, *asked: str) -> None:
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(checkpoint), load_lm(Path(checkpoint)).eval()
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH_ROWS, add_bos_token=True)
    print("| task | questions | other predictions | lm-eval | ours |", "|---" * 5 + "|", sep="\n")
    for name, count in ((name, int(n)) for name, n in (word.split("=") for word in asked)):
        task = chosen_tasks(data, [name])[name]
        listed = read_questions(Path(data), task)
        questions = [listed[i][1] for i in order_of(len(listed))]
        spent: dict[str, list[float]] = {"theirs": [], "ours": []}
        with tempfile.TemporaryDirectory() as folder:
            made = as_task(task, questions, count, Path(folder))
            for _ in range(2):
                start = time.process_time()
                found = evaluate(theirs, made, bootstrap_iters=0, log_samples=True)
                spent["theirs"].append(time.process_time() - start)
                start = time.process_time()
                verdicts = ours(task, questions, count, model, tokenizer)
                spent["ours"].append(time.process_time() - start)
        samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
        other = []
        for sample, mine in zip(samples, verdicts, strict=True):
            told = [response[0] for response in sample["resps"]]
            if len(mine.option_nats) == 1:
                chosen = 0 if told[0][1] in (True, "True") else -1
            else:
                texts = [task.continuation_delimiter + c for c in sample["doc"]["choices"]]
                tokens = [len(ids) for ids in text_tokens(tokenizer, texts)]
                means = [-float(sums[0]) / n for sums, n in zip(told, tokens, strict=True)]
                chosen = means.index(min(means))
            if chosen != mine.predicted:
                other.append(f"{sample['doc_id']}: {chosen}, {told}; {mine}")
        both = (", ".join(f"{x:.1f}" for x in spent[side]) for side in ("theirs", "ours"))
        print(f"| {name} | {count} | {len(other)} | {' s | '.join(both)} s |", *other, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
