"""A learnt keep/drop head: a logistic regression on hidden states. Labels come from dropping one token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from memlab.experiments.landscape.prompt_scores import costs, fit_passages, once, states
from memlab.models import FrozenLM, Passage

TOKENS, PASSAGES = 32, 12
"""Size and number of the passages that the head is trained on: half prose, half random words, none of them in a row."""


def left_out(lm: FrozenLM, passage: Passage, cue: tuple[int, ...]) -> np.ndarray:
    """Bits (n,) that the passage costs more when one token is missing from the prompt, by token."""
    n = len(passage)
    prompts = [passage.ids, *(np.delete(passage.ids, i) for i in range(n))]
    total = costs(lm, prompts, [passage.ids] * (n + 1), cue)
    return total[1:] - total[0]


def fit(states: np.ndarray, keep: np.ndarray, groups: np.ndarray) -> Any:
    """A logistic regression from ``states`` (rows, d) to ``keep`` (rows,) bool.

    Its strength of regularisation is the one with the best AUC on held-out ``groups`` (rows,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = GroupKFold(min(4, len(np.unique(groups))))
    search = GridSearchCV(model, {"logisticregression__C": 10.0 ** np.arange(-7, 0)}, scoring="roc_auc", cv=folds)
    return search.fit(states, keep, groups=groups)


@once
def head(lm: FrozenLM, cue: tuple[int, ...]) -> Any:
    """The head of a model, for prompts with this cue behind them. It takes 2 minutes with the default model."""
    passages = fit_passages(lm, TOKENS, PASSAGES)
    labels = [(bits := left_out(lm, passage, cue)) > np.median(bits) for passage in passages]
    groups = np.repeat(np.arange(len(passages)), [len(passage) for passage in passages])
    return fit(np.concatenate([states(lm, passage) for passage in passages]), np.concatenate(labels), groups)


def keep_scores(lm: FrozenLM, passage: Passage, cue: tuple[int, ...]) -> np.ndarray:
    """(n,) the head's log odds that dropping a token costs more than the median of its passage."""
    return np.asarray(head(lm, cue).decision_function(states(lm, passage)))
