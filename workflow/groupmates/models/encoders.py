"""Encoders of the influence model: documents to embeddings.

Legend: N documents, n of them asked for, F feature size, D embedding size, L tokens.

`LmEncoder` is the probed language model itself, frozen, under a learned linear map; `ChunkEncoder` a
Hugging Face encoder that is fine-tuned. `prepare` does once per document what training does not
change; `forward` is differentiable. Both batch by length: padding is a few percent of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from groupmates.errors import UserError
from groupmates.maths.meaning import whitening
from groupmates.maths.packing import length_batches, pad_right
from groupmates.models.first_token import first_states, whole_states
from groupmates.models.language_model import (
    autocast,
    batches,
    check_ids,
    device,
    load_lm,
    positions_of,
)
from groupmates.models.tokenizer import load_tokenizer, loading, read_special_tokens, text_tokens
from groupmates.settings.sections import Pooling

BATCH_TOKENS = 8192  # of a forward pass over the probe pool; scoring has a setting of its own


def frozen_lm(folder: Path) -> PreTrainedModel:
    """The language model of a folder on the device, not to be trained."""
    return load_lm(folder).eval().requires_grad_(False)


def last_layer(lm: PreTrainedModel, ids: torch.Tensor) -> list[torch.Tensor]:
    """Last hidden states [B, L, F] of token ids [B, L]."""
    return [lm.base_model(input_ids=ids, use_cache=False).last_hidden_state]


def three_layers(lm: PreTrainedModel, ids: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states [B, L, F] of token ids [B, L]: input embeddings, middle layer, last layer.

    F may differ between them. A model of one layer has two.
    """
    states = lm.base_model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    return [states[at] for at in sorted({0, len(states) // 2, len(states) - 1})]


@torch.no_grad()
def mean_hidden_states(
    lm: PreTrainedModel,
    sequences: list[np.ndarray],
    batch_tokens: int,
    advance: Callable[[int], object] = lambda n: None,
    states_of: Callable[[PreTrainedModel, torch.Tensor], list[torch.Tensor]] = last_layer,
) -> torch.Tensor:
    """Hidden states averaged over tokens, those of several layers side by side: float32 [N, F].

    `advance` counts documents.
    """
    # A probed window is one token longer than what the model sees of it in training.
    positions = positions_of(lm)
    sequences = [sequence[:positions] for sequence in sequences]
    lengths = np.array([len(s) for s in sequences])
    found = torch.empty(len(sequences), feature_size(lm, states_of), device=device())
    for rows in length_batches(lengths, batch_tokens):
        ids = torch.from_numpy(pad_right([sequences[i] for i in rows], 0)).to(device())
        # Causal attention: what is right of a token cannot change it, so padding needs no mask.
        with autocast():
            states = states_of(lm, ids)
        length = torch.from_numpy(lengths[rows]).to(device())[:, None]
        real = torch.arange(ids.shape[1], device=device())[None, :] < length
        means = [(hidden.float() * real[..., None]).sum(1) / length for hidden in states]
        found[torch.from_numpy(rows).to(device())] = torch.cat(means, dim=-1)
        advance(len(rows))
    return found


@torch.no_grad()
def feature_size(
    model: PreTrainedModel,
    states_of: Callable[[PreTrainedModel, torch.Tensor], list[torch.Tensor]] = last_layer,
) -> int:
    """Size of the hidden states that `states_of` reads; costs a forward pass over one token.

    The configuration need not tell: OPT-350M projects 1,024 to 512 in the end.
    """
    ids = torch.zeros(1, 1, dtype=torch.int64, device=device())
    return sum(hidden.shape[-1] for hidden in states_of(model, ids))


class LmEncoder(nn.Module):
    """Unit-length linear map of the language model's hidden states, averaged over tokens.

    Input embeddings tell which words there are, the last layer what comes next; with a middle layer
    between them they predict labels of unseen documents better than the last alone. Features are
    standardised with the statistics of the probe pool (`calibrate`), and the map begins as the
    pool's whitening: near-duplicates then stand out among documents of one kind.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__()
        lm = frozen_lm(folder)
        self._lm = [lm]  # in a list: it is neither trained nor part of the learned weights
        features = feature_size(lm, three_layers)
        self.size = min(size, features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.map = nn.Linear(features, self.size, bias=False)
        self.to(device())

    def check_ids(
        self,
        sequences: list[np.ndarray],
        where: Callable[[int], str],
        tokenizer: PreTrainedTokenizerBase | Path,
    ) -> None:
        """Refuse token sequences that `prepare` cannot embed; see `language_model.check_ids`."""
        check_ids(self._lm[0], sequences, where, tokenizer)

    def prepare(
        self,
        texts: list[str],
        sequences: list[np.ndarray],
        batch_tokens: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> torch.Tensor:
        """Features float32 [N, F] of the token sequences; `advance` counts documents."""
        return self.embed_read(self.read(texts, sequences), batch_tokens, advance)

    def read(
        self,
        texts: list[str],
        sequences: list[np.ndarray],
        advance: Callable[[int], object] = lambda n: None,
    ) -> list[np.ndarray]:
        """The part of `prepare` that uses no GPU: nothing."""
        return sequences

    def embed_read(
        self,
        read: list[np.ndarray],
        batch_tokens: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> torch.Tensor:
        """The rest of `prepare`."""
        return mean_hidden_states(self._lm[0], read, batch_tokens, advance, three_layers)

    @torch.no_grad()
    def calibrate(self, features: Any) -> None:
        """Take the standardisation from features [N, F], and begin the map at their whitening."""
        self.mean.copy_(features.mean(0))
        self.scale.copy_(features.std(0).clamp_min(1e-6))
        standard = (features - self.mean) / self.scale
        _, axes_FD, _ = whitening(standard.cpu().numpy(), self.size)
        self.map.weight.copy_(torch.from_numpy(axes_FD.T.copy()))

    def forward(self, prepared: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Embeddings float32 [n, D] of the documents `rows`."""
        features = prepared[torch.from_numpy(rows).to(prepared.device)]
        return normalize(self.map((features - self.mean) / self.scale), dim=-1)

    def save(self, folder: Path) -> None:
        self._lm[0].save_pretrained(folder)


class ChunkEncoder(nn.Module):
    """Vectors of a document's chunks, unit length, averaged over chunks that hold text.

    A chunk's vector is that of its first token, or the mean over its tokens. Every chunk begins with
    the tokenizer's first token ([CLS]) and ends with its last; an empty chunk does not exist, and
    padding inside a batch is masked. Padding is 0.3 % of the tokens of 4,096 documents of web lengths
    in passes of 8,192 tokens, and 3 % in passes of 131,072.
    """

    def __init__(
        self,
        folder: str | Path,
        chunk_tokens: int,
        chunks: int,
        pooling: Pooling = "first",
        key: str = "fit.encoder.name",
    ) -> None:
        super().__init__()
        expected = f'{key} to be "lm" or a Hugging Face encoder with safetensors'
        with loading(folder, expected, "give a local folder where the node has no network"):
            self.encoder = AutoModel.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder, needs_end=False)
        read_special_tokens(self.tokenizer, in_text=False)
        if self.tokenizer.cls_token_id is None or self.tokenizer.sep_token_id is None:
            raise UserError(
                expected="an encoder whose tokenizer has cls and sep tokens (BERT and its kin)",
                found="none",
                where=str(folder),
                todo='choose another encoder, or "lm"',
            )
        self.chunk_tokens, self.chunks, self.pooling = chunk_tokens, chunks, pooling
        self.batch_tokens = BATCH_TOKENS
        self.to(device())
        self.size = feature_size(self.encoder)

    def check_positions(self, tokens: int, where: str) -> None:
        """`UserError` where the encoder has fewer positions than `tokens`, which `where` sets."""
        positions = getattr(self.encoder.config, "max_position_embeddings", tokens)
        if 0 < positions < tokens:
            raise UserError(
                expected=f"at most {positions} tokens, as many as the encoder has positions",
                found=f"{tokens}",
                where=where,
                todo="lower it, or choose another encoder",
            )

    def check_ids(
        self,
        sequences: list[np.ndarray],
        where: Callable[[int], str],
        tokenizer: PreTrainedTokenizerBase | Path,
    ) -> None:
        """Nothing: token sequences of the probed model are not read; `prepare` checks its own."""

    def prepare(
        self,
        texts: list[str],
        sequences: list[np.ndarray],
        batch_tokens: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> list[list[np.ndarray]]:
        """The token ids of each document's chunks; `advance` counts documents."""
        return self.embed_read(self.read(texts, sequences, advance), batch_tokens)

    def embed_read(
        self,
        read: list[list[np.ndarray]],
        batch_tokens: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> list[list[np.ndarray]]:
        """The rest of `prepare`: nothing but the size of a pass."""
        self.batch_tokens = batch_tokens
        return read

    def read(
        self,
        texts: list[str],
        sequences: list[np.ndarray],
        advance: Callable[[int], object] = lambda n: None,
    ) -> list[list[np.ndarray]]:
        """The part of `prepare` that uses no GPU: all of it."""
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        room = self.chunk_tokens - 2
        pieces = []
        for tokens in text_tokens(self.tokenizer, texts, room * self.chunks):
            starts = range(0, max(1, len(tokens)), room)
            cut = [np.array([first, *tokens[s : s + room], last], np.int64) for s in starts]
            pieces.append(cut)
            advance(1)
        whole = [np.concatenate(cut) for cut in pieces]
        check_ids(self.encoder, whole, lambda i: f"the text {texts[i]:.80}", self.tokenizer)
        return pieces

    def calibrate(self, prepared: Any) -> None:
        """Nothing: a pretrained encoder starts as it is."""

    def forward(self, prepared: list[list[np.ndarray]], rows: np.ndarray) -> torch.Tensor:
        """Embeddings float32 [n, D] of the documents `rows`."""
        pieces = [piece for row in rows for piece in prepared[row]]
        owner = np.repeat(np.arange(len(rows)), [len(prepared[row]) for row in rows])
        lengths = np.array([len(p) for p in pieces])
        total = torch.zeros(len(rows), self.size, device=device())
        for batch in batches(lengths, self.batch_tokens):
            ids = torch.from_numpy(pad_right([pieces[i] for i in batch], 0)).to(device())
            length = torch.from_numpy(lengths[batch]).to(device())[:, None]
            real = torch.arange(ids.shape[1], device=device())[None, :] < length
            mask = real if lengths[batch].min() < ids.shape[1] else None
            with autocast():
                if self.pooling == "first":
                    pooled = first_states(self.encoder, ids, mask).float()
                else:
                    hidden = whole_states(self.encoder, ids, mask)
                    pooled = (hidden.float() * real[..., None]).sum(1) / length
            vectors = normalize(pooled, dim=-1)
            total = total.index_add(0, torch.from_numpy(owner[batch]).to(device()), vectors)
        chunks = torch.from_numpy(np.bincount(owner)).to(device())[:, None]
        return total / chunks

    def save(self, folder: Path) -> None:
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
