"""The metrics of stored predictions, as a run computes them, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora2_bench.tasks.metrics import METRICS
from lora2_bench.tasks.spec import TaskSpec


def metrics_of(spec: TaskSpec, labels: NDArray[Any], logits: NDArray[np.float32]) -> dict[str, float]:
    """Every metric of the task over one split, and the mean loss; labels (rows,), logits (rows, outputs).

    The loss differs from a run's by float32's rounding. Raises ValueError for shapes or labels of another task.
    """
    if not len(labels) or logits.shape != (len(labels), spec.num_labels):
        raise ValueError(f"logits of shape {logits.shape} are not ({len(labels)}, {spec.num_labels}), at least one row")
    if spec.is_regression:
        found = logits[:, 0].astype(np.float64)
        loss = float(np.mean((found - labels) ** 2))
        return {**{name: METRICS[name](found, labels) for name in spec.metrics}, "loss": loss}
    if labels.dtype.kind != "i" or labels.min() < 0 or labels.max() >= spec.num_labels:
        raise ValueError(f"labels are not all whole numbers from 0 to {spec.num_labels - 1}")
    chosen = logits.argmax(axis=1)
    wide = logits.astype(np.float64)
    highest = wide.max(axis=1, keepdims=True)
    logs = np.log(np.exp(wide - highest).sum(axis=1)) + highest[:, 0]
    loss = float(np.mean(logs - wide[np.arange(len(labels)), labels]))
    return {**{name: METRICS[name](chosen, labels) for name in spec.metrics}, "loss": loss}
