"""Linear probes: what a classifier can read from vectors that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Probe:
    """Result of ``probe``: balanced accuracies, 0 to 1."""

    accuracy: float
    """Mean accuracy on the held-out folds."""
    null: float
    """Mean accuracy with labels shuffled among groups."""
    null_high: float
    """95th percentile of the accuracies with shuffled labels."""
    p: float
    """Share of shuffles that reach ``accuracy``."""
    labels: int
    """Number of different labels."""


def probe(
    x: Any,
    labels: Sequence[Any],
    groups: Sequence[Any] | None = None,
    *,
    folds: int = 5,
    draws: int = 100,
    seed: int = 0,
) -> Probe:
    """Cross-validated balanced accuracy of a logistic probe for ``labels`` (n,) from ``x`` (n, d).

    With ``groups`` (n,), no group is in both halves of a fold. Otherwise a probe for the kind of text would only have
    to recognise the passage. Null model: labels shuffled among groups. Raises ``ValueError`` if a group has several
    labels, or if a label belongs to one group only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, given = np.asarray(x, float), np.asarray(labels)
    owner = pd.factorize(np.asarray(groups if groups is not None else range(len(given))))[0]
    by_group = pd.Series(given).groupby(owner)
    if (by_group.nunique() > 1).any():
        raise ValueError(
            "A group holds several labels, so labels cannot be shuffled among groups. Give one label per group."
        )
    of_group = by_group.first().to_numpy()
    # Classes are weighted and accuracy is balanced: a label that is rare in the training half is common in the other
    # half. A classifier that follows label frequencies would score below chance.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500))
    folds = min(folds, int(pd.Series(of_group).value_counts().min()))
    if folds < 2:
        raise ValueError(
            "A label belongs to one group only, so it cannot be both learnt and tested. Give each label at least two "
            "groups."
        )
    rng = np.random.default_rng(seed)

    def score(assigned: np.ndarray) -> float:
        split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        scores = cross_val_score(model, rows, assigned[owner], groups=owner, cv=split, scoring="balanced_accuracy")
        return float(np.mean(scores))

    accuracy = score(of_group)
    null = np.array([score(rng.permutation(of_group)) for _ in range(draws)])
    p = (1 + np.sum(null >= accuracy)) / (1 + draws)
    return Probe(accuracy, float(null.mean()), float(np.quantile(null, 0.95)), float(p), len(set(given.tolist())))
