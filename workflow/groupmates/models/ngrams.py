"""Linear scores of texts on hashed word n-grams: cheap enough for every document of a pool.

Legend: N texts, F hashed features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Ridge

from groupmates.artefacts.store import intact
from groupmates.maths.statistics import spearman

HELD_OUT = 10  # every so many texts are kept for the figure
WORDS = r"(?u)\S+"


class Ngrams(Protocol):
    """What the settings of such scores say of the features, and of the fit."""

    @property
    def ngrams(self) -> int: ...
    @property
    def hash_bits(self) -> int: ...
    @property
    def penalty(self) -> float: ...


class NgramScores:
    """Scores of texts; higher is better."""

    def __init__(self, settings: Ngrams, weight_F: np.ndarray, bias: float) -> None:
        self.settings, self.weight_F, self.bias = settings, weight_F, bias

    def score(self, texts: list[str]) -> np.ndarray:
        """Scores float64 [N]; a text's depends on no other."""
        found: np.ndarray = features(self.settings, texts) @ self.weight_F.astype(np.float64)
        return found + self.bias

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        bias = np.array([self.bias])
        save_file({"weight": self.weight_F, "bias": bias}, path, metadata)

    @classmethod
    def load(cls, settings: Ngrams, path: Path) -> Self:
        with intact(path, "weights of hashed n-grams"):
            found = load_file(path)
            weight_F, bias = found["weight"], found["bias"]
        return cls(settings, weight_F, float(bias[0]))


class NgramRegression(NgramScores):
    """What a score of some texts is likely to be for others."""

    @classmethod
    def fit(cls, settings: Ngrams, texts: list[str], score_N: np.ndarray) -> tuple[Self, float]:
        """Ridge regression: the squared errors, plus `penalty` times the squared weights.

        The second value is the rank correlation of predicted and true scores, of the tenth of the
        texts that it was not fitted on.
        """
        found, held_N = features(settings, texts), held_out(len(texts))
        model = Ridge(alpha=settings.penalty, solver="sparse_cg", tol=1e-6, max_iter=1000)
        model.fit(found[~held_N], score_N[~held_N])
        correlation = spearman(model.predict(found[held_N]), score_N[held_N])
        return cls(settings, model.coef_.astype(np.float32), float(model.intercept_)), correlation


def held_out(texts: int) -> np.ndarray:
    """Which texts nothing is fitted on, bool [N]: every tenth."""
    held_N: np.ndarray = np.arange(texts) % HELD_OUT == HELD_OUT - 1
    return held_N


def features(settings: Ngrams, texts: list[str]) -> csr_matrix:
    """Frequencies of words and n-grams, hashed, each text's vector of unit length; sparse [N, F]."""
    return HashingVectorizer(
        token_pattern=WORDS,
        lowercase=False,
        ngram_range=(1, settings.ngrams),
        n_features=2**settings.hash_bits,
        alternate_sign=False,
        dtype=np.float64,
    ).transform(texts)
