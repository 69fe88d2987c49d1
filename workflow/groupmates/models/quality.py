"""A quality classifier as DCLM-Baseline's: hashed word n-grams under a linear model (method section 8).

fastText's bigram classifier without its hidden layer, which for two classes is a linear model too.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from groupmates.models.ngrams import NgramScores, features, held_out
from groupmates.settings.selectors import Quality


class QualityClassifier(NgramScores):
    """Log-odds of a text to be one of the positives; higher is better."""

    @classmethod
    def fit(
        cls, settings: Quality, positives: list[str], negatives: list[str]
    ) -> tuple[QualityClassifier, float]:
        """Both classes weigh the same; the classifier, and the area under the ROC curve of the
        tenth of the texts that it was not fitted on."""
        labels = np.repeat([1, 0], [len(positives), len(negatives)])
        found = features(settings, [*positives, *negatives])
        held = np.concatenate([held_out(len(positives)), held_out(len(negatives))])
        model = LogisticRegression(
            C=1 / settings.penalty, class_weight="balanced", max_iter=1000, tol=1e-6
        )
        model.fit(found[~held], labels[~held])
        area = float(roc_auc_score(labels[held], model.decision_function(found[held])))
        weight_F = model.coef_[0].astype(np.float32)
        return cls(settings, weight_F, float(model.intercept_[0])), area
