"""A linear probe: how much of a task a linear model can read off the frozen encoder's features (arXiv 1610.01644)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lora2_bench.retention.encoder import Features
from lora2_bench.tasks.metrics import METRICS, main_score
from lora2_bench.tasks.spec import TaskSpec

C, ALPHA, MOST_STEPS = 1.0, 1.0, 1000


def probe_score(
    spec: TaskSpec,
    train: Features,
    train_labels: Sequence[float],
    dev: Features,
    dev_labels: Sequence[float],
) -> float:
    """The task's deciding number on dev of a linear model that was fitted on train; features are (rows, width).

    Features are standardised by train's means and deviations. Classes: logistic regression with an L2 penalty, C = 1;
    scores: ridge regression, alpha = 1. Nothing is drawn, and no setting is chosen on dev.
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
