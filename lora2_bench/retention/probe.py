"""A linear probe: how much of a task a linear model can read off the frozen encoder's features (arXiv 1610.01644)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lora2_bench.retention.encoder import Features
from lora2_bench.tasks.metrics import METRICS, main_score
from lora2_bench.tasks.spec import TaskSpec

# A pair has 1,536 features, and there are 1,000 rows. In five folds of the train rows, MiniLM as published, 1e-3 is the
# best C of 1 to 1e-4 for MRPC and RTE; STS-B has R² 0.64 at alpha = 1,000 and 0.66 at 10,000, 0.05 at 1.
C, ALPHA, MOST_STEPS = 1e-3, 1e3, 1000


def pair_features(first: Features, second: Features) -> Features:
    """[u, v, |u - v|, u * v] of two texts' features, (rows, 4 width), after SentEval (arXiv 1803.05449)."""
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def probe_score(
    spec: TaskSpec,
    train: Features,
    train_labels: Sequence[float],
    dev: Features,
    dev_labels: Sequence[float],
) -> float:
    """The task's deciding number on dev of a linear model that was fitted on train; features are (rows, width).

    Features are standardised by train's means and deviations. Classes: logistic regression with an L2 penalty, `C`;
    scores: ridge regression, `ALPHA`. Nothing is drawn, and no setting is chosen on dev.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    mean, deviation = train.astype(np.float64).mean(axis=0), train.astype(np.float64).std(axis=0)
    deviation = np.where(deviation > 1e-8, deviation, 1.0)  # of constant features nothing is left
    inputs, asked = (train - mean) / deviation, (dev - mean) / deviation
    if spec.is_regression:
        predicted = Ridge(alpha=ALPHA).fit(inputs, train_labels).predict(asked)
    elif len(set(train_labels)) == 1:  # nothing to tell apart in so small a sample
        predicted = np.full(len(asked), train_labels[0])
    else:
        predicted = LogisticRegression(C=C, max_iter=MOST_STEPS).fit(inputs, train_labels).predict(asked)
    wanted = np.asarray(dev_labels)
    return main_score(spec, {"dev": {name: METRICS[name](predicted, wanted) for name in spec.main}})
