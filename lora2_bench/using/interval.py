"""The score of one model with an interval over the dev rows it was scored on."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lora2_bench.records.predictions import SplitPredictions
from lora2_bench.tasks.metrics import pearson
from lora2_bench.tasks.spec import TaskSpec

_DRAWS = 10_000
_Z = 1.959964  # 97.5 % of a standard normal distribution
Counts = NDArray[np.float64]


def score_interval(spec: TaskSpec, splits: Mapping[str, SplitPredictions]) -> tuple[float, float]:
    """The 95 % interval of the task's deciding number over rows drawn anew, for this one trained model.

    Metrics of classes depend on the table of true and predicted classes alone, so the bootstrap draws that table
    (10,000 times, from seed 0). Of a correlation of scores it is Fisher's transform.
    """
    if spec.is_regression:
        (found,) = splits.values()
        return _fisher(pearson(found.logits["best"][:, 0].astype(np.float64), found.labels), len(found.labels))
    random = np.random.default_rng(0)
    drawn = []
    for found in splits.values():
        table = np.zeros((spec.num_labels, spec.num_labels))
        np.add.at(table, (found.labels.astype(int), found.logits["best"].argmax(1)), 1)
        rows = int(table.sum())
        tables = random.multinomial(rows, table.ravel() / rows, _DRAWS).reshape(_DRAWS, *table.shape).astype(float)
        drawn.append(np.mean([_METRICS[name](tables) for name in spec.main], axis=0))
    low, high = np.quantile(np.mean(drawn, axis=0), (0.025, 0.975))
    return float(low), float(high)


def _fisher(correlation: float, rows: int) -> tuple[float, float]:
    if rows < 4:
        return -1.0, 1.0
    middle, half = math.atanh(min(max(correlation, -1 + 1e-12), 1 - 1e-12)), _Z / math.sqrt(rows - 3)
    return math.tanh(middle - half), math.tanh(middle + half)


def _accuracy(tables: Counts) -> Counts:
    """(draws, true classes, predicted classes) -> (draws,)."""
    right: Counts = np.trace(tables, axis1=1, axis2=2) / tables.sum((1, 2))
    return right


def _f1(tables: Counts) -> Counts:
    """F1 of class 1; 0 where no row is predicted or labelled 1."""
    return _f1_of(tables, 1)[0]


def _macro_f1(tables: Counts) -> Counts:
    """Mean of F1 over the classes that a row has or is predicted to have."""
    by_class = [_f1_of(tables, number) for number in range(tables.shape[1])]
    scores, rows = (np.array(part) for part in zip(*by_class, strict=True))
    return _ratio(scores.sum(0), (rows > 0).sum(0).astype(float))


def _f1_of(tables: Counts, number: int) -> tuple[Counts, Counts]:
    """F1 of one class, and how many rows have it or are predicted to, counted once for each of the two."""
    rows = tables[:, number, :].sum(1) + tables[:, :, number].sum(1)
    return _ratio(2 * tables[:, number, number], rows), rows


def _matthews(tables: Counts) -> Counts:
    """Matthews correlation of two classes; 0 where it is undefined."""
    (a, b), (c, d) = tables[:, 0].T, tables[:, 1].T
    product = np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    return _ratio(a * d - b * c, product)


def _ratio(above: Counts, below: Counts) -> Counts:
    """Quotients, 0 where nothing is below."""
    found: Counts = np.divide(above, below, out=np.zeros(len(below)), where=below > 0)
    return found


_METRICS = {"accuracy": _accuracy, "f1": _f1, "macro_f1": _macro_f1, "matthews_correlation": _matthews}
