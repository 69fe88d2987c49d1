"""Cases of `make bench` that run a model: scoring, a step of the fit, a rollout of probing.

Weights and tokens are random: no kernel's time depends on them. Lengths are as on the web: log-normal
with a median of 400 tokens and a mean of 730, cut at 2,040. A size takes its even quantiles.
"""

from __future__ import annotations

import copy
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch.nn.functional import mse_loss
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.bench import plain_models as plain
from benchmarks.bench.measure import Case, Pair
from groupmates.cost.calibration import read
from groupmates.maths.packing import pad_right
from groupmates.models import language_model as lm
from groupmates.models.influence import InfluenceModel, make_encoder
from groupmates.models.reference import Reference
from groupmates.settings.config import Architecture

ROOT = Path(__file__).resolve().parents[3]
CONFIG = read([str(ROOT / "config.yaml"), str(ROOT / "workflow/configs/dclm-400m-4x.yaml")])
BATCH_TOKENS = 8192  # of a pass on either side
CHUNKS, CHUNK_TOKENS = 4, 512
WINDOW, VOCABULARY = 512, 4096  # the shares of padding and head that 2,048 and 50,432 have of 411M
PROBED = Architecture(family="gpt_neox", hidden_size=256, layers=6, heads=4)
PADDED_TOGETHER = 8  # examples of a batch of the plain reference loss


def cases(small: bool) -> list[Case]:
    """All of them; `small` only tries them out."""
    shape = "48 × 1" if small else "384 × 6"
    return [
        Case(
            f"scoring, encoder of {shape}",
            "documents",
            (3,) if small else (4, 8, 16),
            lambda n, folder: score(n, folder, small),
            {16: 3.5},
            repeats=3,
        ),
        Case(
            f"fit step, encoder of {shape}",
            "documents",
            (3,) if small else (2, 3, 6),
            lambda n, folder: fit_step(n, folder, small),
            {6: 3.5},
            repeats=3,
        ),
        *(
            Case(
                f"probe rollout, padded to {how}",
                "examples",
                (5,) if small else (8, 16, 32),
                lambda n, folder, width=width: rollout(n, width, small),
                {32: asked},
                repeats=3,
            )
            for how, width, asked in (
                ("the window", WINDOW, 3.5),
                ("the batch's longest", None, 2.5),
            )
        ),
    ]


def web_lengths(documents: int, longest: int) -> np.ndarray:
    """Lengths int [N], as said above for a `longest` of 2,040 and in proportion for others."""
    normal = NormalDist(np.log(400 * longest / 2040), 1.1)
    found = [np.exp(normal.inv_cdf((i + 0.5) / documents)) for i in range(documents)]
    return np.clip(np.array(found).astype(int), 8, longest)


def influence_model(folder: Path, small: bool) -> InfluenceModel:
    """The paper's influence model with a smaller encoder, and without dropout."""
    wide, layers, heads, vocabulary = (48, 1, 4, 100) if small else (384, 6, 12, 30_522)
    torch.manual_seed(0)
    bert = BertConfig(
        hidden_size=wide,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        intermediate_size=4 * wide,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(bert).save_pretrained(folder)
    words = {w: i for i, w in enumerate(("[PAD]", "[CLS]", "[SEP]", "[UNK]"))}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")),
        **{f"{name[1:-1].lower()}_token": name for name in words},
    ).save_pretrained(folder)
    own = CONFIG.fit.encoder.model_copy(update={"name": str(folder)})
    training = CONFIG.fit.training.model_copy(update={"dropout": 0.0})
    fit = CONFIG.fit.model_copy(update={"encoder": own, "training": training})
    model = InfluenceModel(fit, make_encoder(fit, folder))
    torch.nn.init.normal_(model.head.weight)
    model.encoder.batch_tokens = BATCH_TOKENS
    return model


def pieces_of(documents: int) -> list[list[np.ndarray]]:
    """Token ids of the chunks of documents of web lengths, shuffled."""
    random, room = np.random.default_rng(documents), CHUNK_TOKENS - 2
    return [
        [random.integers(0, 100, min(room, n - s) + 2) for s in range(0, n, room)]
        for n in random.permutation(web_lengths(documents, CHUNKS * room))
    ]


def score(documents: int, folder: Path, small: bool) -> Pair:
    model, pieces = influence_model(folder, small), pieces_of(documents)
    model.eval()

    def ours() -> np.ndarray:
        individual, emb = model.score_read(pieces, BATCH_TOKENS)
        return np.column_stack([individual, emb])

    @torch.no_grad()
    def padded() -> np.ndarray:
        emb = plain.embed(model.encoder.encoder, pieces, CHUNKS, CHUNK_TOKENS)
        return torch.column_stack([model.individual(emb), emb]).numpy()

    return Pair(ours, padded, close(1e-4))


def close(limit: float):
    """Agreement by the largest difference, in units of the largest value."""

    def agreement(a: np.ndarray, b: np.ndarray) -> tuple[bool, str]:
        difference = float(np.abs(a - b).max() / np.abs(b).max())
        return difference <= limit, f"within {difference:.0e}"

    return agreement


def fit_step(documents: int, folder: Path, small: bool) -> Pair:
    """One AdamW step on one rollout; compared are theta and gradients at both ends of the model."""
    first, pieces = influence_model(folder, small), pieces_of(documents)
    labels = torch.from_numpy(np.random.default_rng(0).normal(size=documents)).float()

    def step(
        model: InfluenceModel, optimizer: torch.optim.AdamW, theta: torch.Tensor
    ) -> np.ndarray:
        loss = mse_loss(theta, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = model.encoder.encoder.embeddings.LayerNorm.weight.grad
        compared = [theta.detach(), norm / norm.abs().max(), model.alpha.grad[None]]
        found = torch.cat(compared).numpy().copy()
        optimizer.step()
        return found

    def side(padded: bool):
        model = copy.deepcopy(first).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG.fit.training.learning_rate)

        def ours() -> np.ndarray:
            return step(model, optimizer, model(pieces, np.arange(documents)[None])[0])

        def straight() -> np.ndarray:
            emb = plain.embed(model.encoder.encoder, pieces, CHUNKS, CHUNK_TOKENS)
            individual = model.individual(emb)
            return step(
                model, optimizer, plain.rollout_theta(individual, emb, model.alpha, model.beta)
            )

        return straight if padded else ours

    return Pair(side(padded=False), side(padded=True), close(1e-3))


def rollout(examples: int, width: int | None, small: bool) -> Pair:
    """Three documents of a window each. The last fifth of an example's tokens is its label."""
    random, window = np.random.default_rng(examples), 64 if small else WINDOW
    shape = Architecture(family="gpt_neox", hidden_size=32, layers=1, heads=2) if small else PROBED
    model = lm.make_lm(shape, VOCABULARY, positions=window + 1, end_of_text=0, seed=0)
    hyper = CONFIG.base.optimizer
    model.train()
    documents = [
        torch.from_numpy(random.integers(0, VOCABULARY, (1, window + 1))) for _ in range(3)
    ]
    lengths = random.permutation(web_lengths(examples, window))
    texts = [random.integers(0, VOCABULARY, n) for n in lengths]
    starts = lengths - np.maximum(1, lengths // 5)

    optimizer = lm.make_optimizer(model, hyper)
    lm.train_step(model, optimizer, documents[0], hyper.clip_norm, hyper.z_loss)  # moments
    reference, snapshot = Reference(texts, starts, BATCH_TOKENS), lm.Snapshot(model, optimizer)

    def ours() -> np.ndarray:
        snapshot.restore()
        losses = []
        for ids in documents:
            lm.train_step(model, optimizer, ids, hyper.clip_norm, hyper.z_loss)
            losses.append(reference.loss(model))
        return np.array(losses)

    other = copy.deepcopy(model)
    its_optimizer = lm.make_optimizer(other, hyper)
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    batches = padded_batches(texts, starts, min(width, window) if width else None)

    def straight() -> np.ndarray:
        return np.array(plain.probe_rollout(other, its_optimizer, start, documents, batches, hyper))

    return Pair(ours, straight, close(1e-5))


def padded_batches(
    texts: list[np.ndarray], starts: np.ndarray, width: int | None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and labels in the order of the examples, padded to `width` or to the batch's longest."""
    found = []
    for first in range(0, len(texts), PADDED_TOGETHER):
        rows = range(first, min(first + PADDED_TOGETHER, len(texts)))
        ids = pad_right([texts[i] for i in rows], 0)
        if width:
            ids = np.pad(ids, [(0, 0), (0, width - ids.shape[1])])
        labels = np.full_like(ids, -100)
        for row, i in enumerate(rows):
            labels[row, starts[i] : len(texts[i])] = texts[i][starts[i] :]
        found.append((torch.from_numpy(ids), torch.from_numpy(labels)))
    return found
