"""Texts to vectors, by the probed model or by a sentence encoder that is used as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from groupmates.models.encoders import BATCH_TOKENS, ChunkEncoder, frozen_lm, mean_hidden_states
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.settings.selectors import Betr


def encoder_of(
    settings: Betr.Prepare, base: Path | None, tokenizer: Path
) -> Callable[[list[str]], np.ndarray]:
    """A function of texts: float32 [N, F], mean hidden states of `lm`, else vectors of unit length.

    A text is read as a document in probing: `lm` sees its end-of-text token.
    """
    betr = settings.betr
    if betr.encoder == "lm":
        assert base is not None, "needs() names it"
        lm, tokens, limit = frozen_lm(base), load_tokenizer(tokenizer), settings.sequence_length + 1

        def hidden(texts: list[str]) -> np.ndarray:
            windows = document_tokens(tokens, texts, limit)
            return mean_hidden_states(lm, windows, BATCH_TOKENS).cpu().numpy()

        return hidden
    encoder = ChunkEncoder(betr.encoder, betr.max_tokens, 1, betr.pooling, "select.betr.encoder")
    encoder.eval().check_positions(betr.max_tokens, "select.betr.max_tokens")

    @torch.no_grad()
    def units(texts: list[str]) -> np.ndarray:
        found: torch.Tensor = encoder(
            encoder.prepare(texts, [], BATCH_TOKENS), np.arange(len(texts))
        )
        return found.cpu().numpy()

    return units
