"""The probed model, frozen, as an encoder of meaning that no influence has shaped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from groupmates.artefacts.store import damaged, intact
from groupmates.maths.meaning import embedded, whitening
from groupmates.models.encoders import BATCH_TOKENS, feature_size, frozen_lm, mean_hidden_states
from groupmates.models.language_model import check_ids


class SemanticEncoder:
    """Mean hidden states, centred and whitened along the directions `axes_FD`, at unit length."""

    def __init__(self, lm: PreTrainedModel, mean_F: np.ndarray, axes_FD: np.ndarray) -> None:
        self._lm, self.mean_F, self.axes_FD = lm, mean_F, axes_FD
        self.size = axes_FD.shape[1]

    @classmethod
    def fit(
        cls,
        base: Path,
        sequences: list[np.ndarray],
        doc_ids: list[str],
        size: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> tuple[SemanticEncoder, float]:
        """Whitened on these documents along their `size` leading directions, whose share of the
        variance is the second value."""
        lm = frozen_lm(base)
        check_ids(lm, sequences, lambda i: f"document {doc_ids[i]!r}", base)
        hidden_NF = mean_hidden_states(lm, sequences, BATCH_TOKENS, advance).cpu().numpy()
        mean_F, axes_FD, share = whitening(hidden_NF, size)
        return cls(lm, mean_F, axes_FD), share

    def check_ids(
        self,
        sequences: list[np.ndarray],
        where: Callable[[int], str],
        tokenizer: PreTrainedTokenizerBase | Path,
    ) -> None:
        """Refuse token sequences that cannot be embedded; see `language_model.check_ids`."""
        check_ids(self._lm, sequences, where, tokenizer)

    def __call__(self, sequences: list[np.ndarray], batch_tokens: int) -> np.ndarray:
        """Embeddings float32 [N, D] of token sequences."""
        hidden_NF = mean_hidden_states(self._lm, sequences, batch_tokens).cpu().numpy()
        return embedded(hidden_NF, self.mean_F, self.axes_FD)

    def save(self, path: Path) -> None:
        save_file({"mean": self.mean_F, "axes": np.ascontiguousarray(self.axes_FD)}, path)

    @classmethod
    def load(cls, base: Path, path: Path) -> SemanticEncoder:
        """`base`: the model that it was fitted with."""
        with intact(path, "mean and directions of the semantic embeddings"):
            found = load_file(path)
            mean_F, axes_FD = found["mean"], found["axes"]
        lm = frozen_lm(base)
        if (size := feature_size(lm)) != len(mean_F):
            expected = f"those of a model with hidden size {size}"
            raise damaged(path, expected, f"hidden size {len(mean_F)}")
        return cls(lm, mean_F, axes_FD)
