"""The language model that is probed: loading, saving, losses, training steps, exact restore.

Losses are in nats per label token, lower is better. On a GPU, training is under bf16 autocast, and
losses that are compared are in TF32. On a CPU, or a GPU without these two, all is float32. Losses are
summed in float32 or better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from groupmates.artefacts import store
from groupmates.errors import UserError
from groupmates.maths.packing import MICRO_TOKENS, length_batches, pad_right
from groupmates.models.tokenizer import check_folder, load_tokenizer, loading
from groupmates.progress import note
from groupmates.settings.config import Architecture, Optimizer

# Tokens x layers x hidden size of one pass. About 34 bytes each are kept for its gradient: 14 GB.
# A model of 2.8B parameters needs 70 GB then, with its AdamW state (workflow/docs/experiments.md).
PASS_SIZE = MICRO_TOKENS * 24 * 1024
# Logits of one pass. Five float32 tensors of them are held at once: 20 GB.
PASS_LOGITS = MICRO_TOKENS * 2**16
CACHED_TOKENS = 2048
# Tokens of padding, on a CPU, for which another pass would take as long.
CPU_PADDING = 128


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> Any:
    return torch.autocast("cuda", torch.bfloat16) if has_bfloat16() else nullcontext()


@cache
def has_bfloat16() -> bool:
    """Whether there is a GPU that computes in bf16, and so in TF32; one that does not is told once.

    Older ones (V100, T4) would emulate bf16, which is slower than float32. float16 would need scaled
    losses.
    """
    if not torch.cuda.is_available():
        return False
    known = torch.cuda.is_bf16_supported(including_emulation=False)
    if not known:
        name = torch.cuda.get_device_name()
        note("device", f"{name} has neither bf16 nor TF32: everything is computed in float32")
    return known


@contextmanager
def in_float32(products: Literal["high", "highest"]) -> Iterator[None]:
    """Without autocast. Products on a GPU are in TF32 if `high`, in float32 if `highest`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(products if torch.cuda.is_available() else before)
    try:
        with torch.autocast(device().type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def comparable() -> Any:
    """For losses whose differences count: those may be smaller than bf16 can tell (DECISIONS.md)."""
    return in_float32("high")


def unit_roundoff() -> float:
    """Largest relative error of a rounded activation, within `comparable`."""
    return 2.0**-11 if has_bfloat16() else 2.0**-24


def batches(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """`length_batches`; on a CPU with as little padding as pays. A GPU waits for few, large passes."""
    return length_batches(lengths, max_tokens, CPU_PADDING if device().type == "cpu" else None)


def make_lm(
    architecture: Architecture, vocabulary_size: int, positions: int, end_of_text: int, seed: int
) -> PreTrainedModel:
    """A model with random weights, determined by `seed`."""
    common: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "max_position_embeddings": positions,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": False,
    }
    config: PreTrainedConfig
    gated = _gated_size(architecture.hidden_size)
    if architecture.family == "llama":
        config = LlamaConfig(intermediate_size=gated, **common)
    elif architecture.family == "qwen3":
        config = Qwen3Config(
            intermediate_size=gated,
            head_dim=architecture.hidden_size // architecture.heads,
            num_key_value_heads=architecture.heads,
            **common,
        )
    else:
        config = GPTNeoXConfig(intermediate_size=4 * architecture.hidden_size, **common)
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.to(device())  # type: ignore[arg-type]


def _gated_size(hidden_size: int) -> int:
    """8/3 of the hidden size, rounded up to a multiple of 32: the parameters of a 4x MLP."""
    return -(-8 * hidden_size // 3 // 32) * 32


def load_lm(folder: Path, key: str = "base.checkpoint") -> PreTrainedModel:
    """A Hugging Face causal LM in float32; safetensors only, no remote code.

    `key`: the setting that names the folder, for errors. Quantised weights raise `UserError`: they
    cannot be trained.
    """
    check_folder(folder)
    expected = "a Hugging Face causal language model with safetensors weights"
    todo = (
        f"correct {key}; pickled weights: load and save_pretrained them once; a "
        "checkpoint's own code is never run: convert it to a model that transformers knows"
    )
    safely = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    with loading(folder, expected, todo):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            raise quantised(config.quantization_config, folder)
        found: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **safely)
    model, loaded = found
    if absent := sorted(loaded["missing_keys"]):  # transformers draws them at random
        raise UserError(
            expected=expected + f", {absent[0]} among them",
            found=f"none for {len(absent):,} of its tensors",
            where=str(folder),
            todo="copy the checkpoint again: a file of its weights may be missing, or save it anew",
        )
    return model.to(device())


def quantised(how: Any, folder: Path) -> UserError:
    """A checkpoint whose weights are stored in fewer bits; `how` is its quantization_config."""
    told = how if isinstance(how, dict) else how.to_dict()
    return UserError(
        expected="weights in float32, bfloat16 or float16: probing trains them",
        found=f"quantization_config with quant_method {str(told.get('quant_method'))!r}",
        where=str(Path(folder) / "config.json"),
        todo="give the checkpoint that was quantised; or dequantise this one once, where the package "
        "of its method is installed: AutoModelForCausalLM.from_pretrained(FOLDER).dequantize()"
        ".save_pretrained(NEW), and copy the tokenizer's files to NEW",
    )


def check_finite(model: nn.Module, when: str, where: str, todo: str) -> None:
    """A weight that is not finite raises `UserError`: the loss was not, or the file is damaged."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UserError(
                expected=f"finite weights {when}",
                found=f"nan or inf in {name}",
                where=where,
                todo=todo,
            )


def check_fits(model: PreTrainedModel, tokens: int, where: str) -> None:
    """Sequences of so many tokens must lie within the model's positions."""
    positions = positions_of(model)
    if positions is not None and tokens > positions:
        raise UserError(
            expected=f"sequences of at most {positions:,} tokens, the model's positions",
            found=f"{tokens:,} tokens",
            where=where,
            todo="lower sample.sequence_length or reference.split.max_tokens",
        )


def positions_of(model: PreTrainedModel) -> int | None:
    """Tokens of the longest sequence that the model reads, where it has such a limit."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def embedding_rows(model: PreTrainedModel) -> int:
    """Ids below this number can be read and predicted: rows of the smaller embedding."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(int(table.weight.shape[0]) for table in tables if table is not None)  # type: ignore


def check_ids(
    model: PreTrainedModel,
    sequences: Sequence[np.ndarray],
    where: Callable[[int], str],
    tokenizer: PreTrainedTokenizerBase | Path,
    todo: str | None = None,
) -> None:
    """Every token id must be a row of the embedding, else `UserError` with token and document.

    `where` names a sequence by its number. `tokenizer`, or its folder, names the token. `todo` is the
    advice, where the texts are none of a pool or reference. On a GPU, an id past the last row would
    end the process without a word about the document. Costs 2 us a document of 500 tokens.
    """
    rows = embedding_rows(model)
    for number, ids in enumerate(sequences):
        if len(ids) and ids.max() >= rows:
            first = int(ids[ids >= rows][0])
            raise past_embedding(first, rows, where(number), tokenizer, todo)


def past_embedding(
    token_id: int,
    rows: int,
    where: str,
    tokenizer: PreTrainedTokenizerBase | Path,
    todo: str | None = None,
) -> UserError:
    """A token that the model has no embedding of."""
    if isinstance(tokenizer, Path):
        tokenizer = load_tokenizer(tokenizer, needs_end=False)
    token = tokenizer.convert_ids_to_tokens(token_id)
    as_text = "; or set sample.special_tokens_in_text to false, if it is true"
    return UserError(
        expected=f"token ids below {rows:,}, the rows of the model's embedding",
        found=f"the token {token!r} with the id {token_id:,}",
        where=where,
        todo=todo
        or "take the text out of the pool or the reference; or remove the token from the tokenizer's "
        "files; or add a row to the model's embedding (resize_token_embeddings, save_pretrained)"
        f"{as_text if token in tokenizer.all_special_tokens else ''}"
        "; if sample.tokenizer is set, null takes the checkpoint's own",
    )


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, as is usual; all state tensors exist at once."""
    # One kernel, which then counts steps on the GPU: 3 instead of 9 ms for 411M parameters (H200).
    fused = device().type == "cuda"
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        foreach=not fused,
        fused=fused,
    )
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=device() if fused else None),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


STATE = ("step", "exp_avg", "exp_avg_sq")


def save_optimizer(optimizer: torch.optim.AdamW, model: nn.Module, path: Path) -> None:
    """`{parameter name}.{step,exp_avg,exp_avg_sq}` as safetensors."""
    tensors = {
        f"{name}.{key}": optimizer.state[parameter][key].detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key in STATE
    }
    save_file(tensors, path)


def load_optimizer(optimizer: torch.optim.AdamW, model: nn.Module, path: Path) -> None:
    """Copy saved AdamW state in; a damaged file, a missing or misshapen tensor raises `UserError`."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        if store.made_here(path.parent):
            raise store.damaged(path, "AdamW state as safetensors", str(error)) from error
        raise UserError(
            expected="AdamW state as safetensors",
            found=f"a file that cannot be read ({error})",
            where=str(path),
            todo="copy the file again, or remove it: base then builds AdamW state itself",
        ) from error
    for name, parameter in model.named_parameters():
        for key in STATE:
            target, saved = optimizer.state[parameter][key], tensors.get(f"{name}.{key}")
            if saved is None or saved.shape != target.shape:
                raise UserError(
                    expected=f"a tensor {name}.{key} of shape {tuple(target.shape)}",
                    found="none" if saved is None else f"shape {tuple(saved.shape)}",
                    where=str(path),
                    todo="save the AdamW state of this very model; "
                    "workflow/docs/checkpoint.md has the format",
                )
            target.copy_(saved)


class Snapshot:
    """Weights, moments and step counters kept beside the model, and copied back exactly.

    Copies values into the tensors in use: nothing that a later step changes in place is shared with
    the snapshot, the step counters included.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.AdamW) -> None:
        parameters = list(model.parameters())
        self._live: list[list[torch.Tensor]] = [[p.data for p in parameters]]
        self._live += [[optimizer.state[p][key] for p in parameters] for key in STATE]
        self._kept = [[tensor.clone() for tensor in group] for group in self._live]

    def restore(self) -> None:
        for live, kept in zip(self._live, self._kept, strict=True):
            torch._foreach_copy_(live, kept)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.AdamW,
    input_ids: torch.Tensor,
    clip_norm: float,
    z_loss: float,
    predicted: int | None = None,
) -> None:
    """One AdamW step on next-token loss, A(M, x): input_ids int64 [B, L + 1].

    `predicted`: tokens of each row that are, where padding follows them.
    """
    optimizer.zero_grad(set_to_none=True)
    pull_back(model, input_ids, z_loss, predicted=predicted)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()


def pull_back(
    model: nn.Module,
    ids: torch.Tensor,
    z_loss: float,
    weight: float = 1.0,
    passes: int = 1,
    before_the_last: Callable[[], AbstractContextManager[Any]] = nullcontext,
    predicted: int | None = None,
) -> torch.Tensor:
    """Add `weight` times the gradient of the loss to the gradients: ids int64 [B, L + 1].

    Gradients add up over parts of at most `pass_tokens`, a row at least. Rows are equally
    long, so parts weighted by their rows have the mean of the whole. There are at least `passes`
    parts: rows that count nothing make up for what is missing. Every part but the last is within
    `before_the_last`. `predicted`: see `token_losses`.

    Returns `weight` times the mean loss without z-loss, nats per token, float32 on the device.
    """
    parts = list(ids.split(rows_of_pass(model, ids)))
    weights = [weight * len(part) / len(ids) for part in parts]
    for _ in range(passes - len(parts)):
        parts.append(ids[:1])
        weights.append(0.0)
    mean = torch.zeros((), device=ids.device)
    for number, (part, factor) in enumerate(zip(parts, weights, strict=True), 1):
        with before_the_last() if number < len(parts) else nullcontext():
            loss, square = token_losses(model, part, predicted)
            # The factor is exactly 1 for one part: its gradient is then not rounded again.
            ((loss + z_loss * square) * factor).backward()
        mean += loss.detach() * factor
    return mean


def rows_of_pass(model: nn.Module, ids: torch.Tensor) -> int:
    """Rows of ids [B, L + 1] in one backward pass."""
    return max(1, pass_tokens(model) // ids.shape[1])


def next_token_loss(model: nn.Module, ids: torch.Tensor, z_loss: float) -> torch.Tensor:
    """Mean loss of ids int64 [B, L + 1], nats per token, plus z_loss x squared log-partition."""
    loss, square = token_losses(model, ids)
    return loss + z_loss * square


def token_losses(
    model: nn.Module, ids: torch.Tensor, predicted: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of ids int64 [B, L + 1], nats per token, and mean squared log-partition.

    Of the first `predicted` tokens of each row alone, where they are given: the rest is padding,
    which no token before it can look at.
    """
    with autocast():
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[:, :predicted]
    # Cross-entropy and z-loss from one log-partition: logits are by far the largest tensor.
    logits = logits.float()
    log_partition = logits.logsumexp(-1)
    target = logits.gather(-1, ids[:, 1 : 1 + logits.shape[1], None]).squeeze(-1)
    return (log_partition - target).mean(), log_partition.square().mean()


def pass_tokens(model: nn.Module) -> int:
    """Tokens of one backward pass that fit the memory, for a model as wide and deep as this."""
    whole: Any = getattr(model, "module", model)  # several processes share a wrapped model
    config = whole.config.get_text_config(decoder=True)
    width = getattr(config, "num_hidden_layers", 1) * getattr(config, "hidden_size", 1)
    return min(MICRO_TOKENS, PASS_SIZE // width, PASS_LOGITS // config.vocab_size)


def loss_tokens(model: nn.Module) -> int:
    """Tokens of one forward pass of `mean_losses`."""
    fits = pass_tokens(model)
    # Logits that stay in a core's cache: 1.6 times as fast (2,048 words, hidden size 96).
    return fits if device().type == "cuda" else min(fits, CACHED_TOKENS)


@torch.no_grad()
def mean_losses(model: PreTrainedModel, sequences: list[np.ndarray]) -> np.ndarray:
    """Mean loss per predicted token of each sequence, float64 [N], nats; NaN where none is predicted.

    Every token but the first is predicted.
    """
    found_N = np.full(len(sequences), np.nan)
    lengths_N = np.array([len(s) for s in sequences])
    predicting = np.flatnonzero(lengths_N > 1)
    for rows in batches(lengths_N[predicting], loss_tokens(model)):
        here = predicting[rows]
        ids = torch.from_numpy(pad_right([sequences[i] for i in here], 0)).to(device())
        with comparable():
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        losses_BL = logits.logsumexp(-1) - logits.gather(-1, ids[:, 1:, None]).squeeze(-1)
        predicted_B = torch.from_numpy(lengths_N[here] - 1).to(device())
        real_BL = torch.arange(losses_BL.shape[1], device=device()) < predicted_B[:, None]
        sums_B = torch.where(real_BL, losses_BL, 0.0).double().sum(-1)
        found_N[here] = (sums_B / predicted_B).cpu().numpy()
    return found_N
