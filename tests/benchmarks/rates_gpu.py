"""Rates of the kernels that run on a GPU, and where the time of a probing step goes.

    python tests/benchmarks/rates_gpu.py OUTPUT.json [--small]

Sizes of the paper's configuration (workflow/configs/dclm-400m-4x.yaml): a GPT-NeoX of 411M parameters,
documents of 2,048 tokens, 128 reference examples of 82 tokens, an encoder as bge-base. Weights and
tokens are random: no kernel's time depends on them. OUTPUT.json is a file of rates (plan.rates).
Printed are seconds of every part, those in which a kernel ran, and the memory reserved. `--small`
tries the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.cost.calibration import read
from groupmates.maths.flops import Shape, first_token_flops, forward_flops, training_flops
from groupmates.maths.kmeans import Assignment, gpus
from groupmates.models import language_model as lm
from groupmates.models.encoders import mean_hidden_states
from groupmates.models.influence import InfluenceModel, make_encoder
from groupmates.models.reference import BATCH_TOKENS, Reference
from groupmates.records.jobs import processor
from groupmates.settings.config import Architecture

CONFIG = read(["config.yaml", "workflow/configs/dclm-400m-4x.yaml"])
HYPER = CONFIG.base.optimizer


class Bench:
    """Timings; on a GPU with the time in which kernels ran."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats

    def time(self, name: str, work: Callable[[], object], repeats: int | None = None) -> float:
        """Median seconds of a call, after two that warm up."""
        for _ in range(2):
            work()
        repeats, taken = repeats or self.repeats, []
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        for _ in range(repeats):
            _wait()
            start = time.perf_counter()
            work()
            _wait()
            taken.append(time.perf_counter() - start)
        found = {"seconds": float(np.median(taken)), "worst": max(taken)}
        if torch.cuda.is_available():
            found["kernel_seconds"] = _kernel_seconds(work)
            found["peak_gb"] = torch.cuda.max_memory_reserved() / 1e9
        print(f"{name:<34}" + "  ".join(f"{k} {v:.5f}" for k, v in found.items()), flush=True)
        return found["seconds"]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _kernel_seconds(work: Callable[[], object]) -> float:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        _wait()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6


def encoder_folder(folder: Path, config: BertConfig) -> Path:
    """An encoder of random weights, with a tokenizer that only has to be there."""
    BertModel(config).save_pretrained(folder)
    words = {w: i for i, w in enumerate(("[PAD]", "[CLS]", "[SEP]", "[UNK]"))}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
    ).save_pretrained(folder)
    return folder


def language_model(bench: Bench, small: bool) -> dict[str, float]:
    """Training, and a step of probing and its parts."""
    hidden, layers, length, examples = (64, 2, 128, 8) if small else (1024, 24, 2048, 128)
    vocabulary, sequences = (512, 2) if small else (50432, 32)
    random, shape = np.random.default_rng(0), Shape(hidden, layers, vocabulary)
    architecture = Architecture(
        family="gpt_neox", hidden_size=hidden, layers=layers, heads=hidden // 64
    )
    model = lm.make_lm(architecture, vocabulary, positions=length + 1, end_of_text=0, seed=0)
    model.train()
    optimizer = lm.make_optimizer(model, HYPER)
    batch = torch.randint(vocabulary, (sequences, length + 1), device=lm.device())

    def step(ids: torch.Tensor) -> None:
        lm.train_step(model, optimizer, ids, HYPER.clip_norm, HYPER.z_loss)

    taken = bench.time("training step, 32 sequences", lambda: step(batch))
    rates = {"train": training_flops(shape, batch.numel() - sequences, length) / taken}

    start = lm.Snapshot(model, optimizer)
    bench.time("probe: restore", start.restore)
    bench.time("probe: step on one document", lambda: step(batch[:1]))
    rates["step"] = layers / bench.time(
        "probe: step on 500 tokens", lambda: step(batch[:1, : length // 4])
    )
    lengths = np.maximum(8, random.normal(82, 15, examples).astype(int))
    texts = [random.integers(0, vocabulary, n) for n in lengths]
    reference = Reference(texts, np.ones(examples, np.int64), BATCH_TOKENS)
    tokens = int(lengths.sum())
    taken = bench.time("probe: reference loss", lambda: reference.loss(model))
    rates["forward"] = forward_flops(shape, tokens, 41, tokens) / taken

    def probe() -> None:
        step(batch[:1])
        reference.loss(model)

    bench.time("probe: step and loss", probe)
    documents = [random.integers(0, vocabulary, length) for _ in range(sequences)]
    bench.time(
        "hidden states, 32 documents", lambda: mean_hidden_states(model, documents, BATCH_TOKENS)
    )
    return rates


def encoder(bench: Bench, small: bool) -> dict[str, float]:
    """Passes over documents of 1,100 tokens on average, and steps of the fit."""
    random = np.random.default_rng(0)
    bert = BertConfig(hidden_size=48, num_attention_heads=4, intermediate_size=192)
    bert = bert if small else BertConfig()
    with tempfile.TemporaryDirectory() as temporary:
        name = str(encoder_folder(Path(temporary), bert))
        own = CONFIG.fit.encoder.model_copy(update={"name": name})
        fit = CONFIG.fit.model_copy(update={"encoder": own})
        influence = InfluenceModel(fit, make_encoder(fit, Path(temporary)))
    influence.encoder.batch_tokens = 2048 if small else CONFIG.score.batch_tokens
    count = 8 if small else 1024
    words = np.minimum(random.exponential(1100, count).astype(int) + 20, 2040)
    pieces: list[list[np.ndarray]] = [
        [random.integers(0, bert.vocab_size, min(510, n - s) + 2) for s in range(0, n, 510)]
        for n in words
    ]
    shape = Shape(bert.hidden_size, bert.num_hidden_layers, bert.vocab_size)

    def flops(rows: np.ndarray) -> float:
        return sum(first_token_flops(shape, len(p), len(p)) for row in rows for p in pieces[row])

    every = np.arange(count)
    influence.eval()
    with torch.no_grad():
        taken = bench.time("encoder, 1,024 documents", lambda: influence.encoder(pieces, every), 3)
    rates = {"encoder_forward": flops(every) / taken}
    influence.train()
    adamw = torch.optim.AdamW(influence.parameters(), lr=5e-5)
    rollouts = random.permutation(count)[: min(count, 80)].reshape(-1, 2 if small else 10)

    def fit_step() -> None:
        loss = influence(pieces, rollouts).square().mean()
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        adamw.step()

    taken = bench.time("fit: 8 rollouts of ten documents", fit_step)
    return rates | {"encoder_train": 3 * flops(rollouts.ravel()) / taken}


def clusters(bench: Bench, small: bool) -> dict[str, float]:
    """Search for the nearest centroid, and exact sums; only rates of faiss's GPU build count."""
    count, centroids, size = (2000, 50, 32) if small else (100_000, 10_000, 768)
    emb = np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    assign = Assignment(emb[:centroids])
    taken = bench.time(f"k-means search, {gpus()} GPUs of faiss", lambda: assign(emb), 1)
    nearest = assign(emb)
    summed = bench.time("k-means, exact sums", lambda: assign.sums(emb, nearest), 1)
    rates = {"kmeans": emb.size * centroids / taken, "sums": emb.size / summed}
    return rates if gpus() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(2 if arguments.small else 5)
    if torch.cuda.is_available():
        _ceilings(bench)
    rates: dict[str, float] = {}
    for kernels in (language_model, encoder, clusters):
        rates |= kernels(bench, arguments.small)
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else processor()
    basis = f"measured {date.today()}, {machine}, torch {torch.__version__}"
    body = {
        "machine": machine,
        "gpu": gpu,
        "date": str(date.today()),
        "basis": "measured",
        "rates": {k: {"per_second": float(f"{v:.3g}"), "basis": basis} for k, v in rates.items()},
    }
    arguments.output.write_text(json.dumps(body, indent=2) + "\n")
    for name, rate in rates.items():
        print(f"{name:<18}{rate:.4g} a second")


def _ceilings(bench: Bench) -> None:
    """What the GPU can do at most: a large matrix product, and a copy."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b, c = a.clone(), torch.empty(2**30, device="cuda", dtype=torch.float32)
    d = torch.empty_like(c)
    taken = bench.time("ceiling: bf16 product of 8192^3", lambda: a @ b, 10)
    print(f"  {2 * 8192**3 / taken / 1e12:.0f} TFLOP/s")
    taken = bench.time("ceiling: copy of 4.3 GB", lambda: d.copy_(c), 10)
    print(f"  {8 * 2**30 / taken / 1e12:.2f} TB/s")


if __name__ == "__main__":
    main()
