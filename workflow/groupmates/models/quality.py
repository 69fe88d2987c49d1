"""A quality classifier as DCLM-Baseline's: hashed word n-grams under a linear model (method section 8).

fastText's bigram classifier without its hidden layer, which for two classes is a linear model too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from groupmates.artefacts.store import intact
from groupmates.settings.selectors import Quality

HELD_OUT = 10  # every so many texts are kept for the figure
WORDS = r"(?u)\S+"


class QualityClassifier:
    """Log-odds of a text to be one of the positives; higher is better."""

    def __init__(self, settings: Quality, weight_F: np.ndarray, bias: float) -> None:
        self.settings, self.weight_F, self.bias = settings, weight_F, bias

    @classmethod
    def fit(
        cls, settings: Quality, positives: list[str], negatives: list[str]
    ) -> tuple[QualityClassifier, float]:
        """Both classes weigh the same; the classifier, and the area under the ROC curve of the
        tenth of the texts that it was not fitted on."""
        labels = np.repeat([1, 0], [len(positives), len(negatives)])
        features = _features(settings, [*positives, *negatives])
        place = np.concatenate([np.arange(len(positives)), np.arange(len(negatives))])
        held = place % HELD_OUT == HELD_OUT - 1
        model = LogisticRegression(
            C=1 / settings.penalty, class_weight="balanced", max_iter=1000, tol=1e-6
        )
        model.fit(features[~held], labels[~held])
        area = float(roc_auc_score(labels[held], model.decision_function(features[held])))
        weight_F = model.coef_[0].astype(np.float32)
        return cls(settings, weight_F, float(model.intercept_[0])), area

    def score(self, texts: list[str]) -> np.ndarray:
        """Log-odds float64 [N]; a text's depends on no other."""
        found: np.ndarray = _features(self.settings, texts) @ self.weight_F.astype(np.float64)
        return found + self.bias

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        bias = np.array([self.bias])
        save_file({"weight": self.weight_F, "bias": bias}, path, metadata)

    @classmethod
    def load(cls, settings: Quality, path: Path) -> QualityClassifier:
        with intact(path, "a quality classifier"):
            found = load_file(path)
            weight_F, bias = found["weight"], found["bias"]
        return cls(settings, weight_F, float(bias[0]))


def _features(settings: Quality, texts: list[str]) -> csr_matrix:
    """Frequencies of words and n-grams, hashed, each text's vector of unit length; sparse [N, F]."""
    return HashingVectorizer(
        token_pattern=WORDS,
        lowercase=False,
        ngram_range=(1, settings.ngrams),
        n_features=2**settings.hash_bits,
        alternate_sign=False,
        dtype=np.float64,
    ).transform(texts)
