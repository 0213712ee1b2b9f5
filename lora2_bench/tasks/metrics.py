"""The metrics of tasks, and as a local `evaluate.Metric`: nothing is fetched at run time.

They are a few lines each: sklearn.metrics and scipy.stats take two seconds to import, more than scoring does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora2_bench.tasks.spec import TaskSpec

Array = NDArray[Any]


def matthews_correlation(predictions: Array, references: Array) -> float:
    """Matthews correlation of two classes, -1 to 1: the Pearson correlation of their ids; 0 where it is undefined."""
    return pearson(predictions, references)


def accuracy(predictions: Array, references: Array) -> float:
    """Share of equal labels, 0 to 1."""
    return float(np.mean(predictions == references))


def f1(predictions: Array, references: Array) -> float:
    """F1 of class 1, 0 to 1; 0 where no row is predicted or labelled 1."""
    return _f1_of(1, predictions, references)


def macro_f1(predictions: Array, references: Array) -> float:
    """Mean over classes of each one's F1, 0 to 1; over those that a row has or is predicted to have."""
    classes = np.union1d(predictions, references)
    return float(np.mean([_f1_of(one, predictions, references) for one in classes]))


def _f1_of(label: float, predictions: Array, references: Array) -> float:
    """2 TP / (2 TP + FP + FN): hits over the mean of how often the class is predicted and how often it is there."""
    predicted, there = predictions == label, references == label
    marked = int(predicted.sum() + there.sum())
    return 2 * int((predicted & there).sum()) / marked if marked else 0.0


def pearson(predictions: Array, references: Array) -> float:
    """Pearson correlation, -1 to 1; 0 where it is undefined (constant scores)."""
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return float(np.corrcoef(predictions, references)[0, 1])


def spearman(predictions: Array, references: Array) -> float:
    """Spearman rank correlation, -1 to 1; 0 where it is undefined."""
    return pearson(_ranks(predictions), _ranks(references))


def _ranks(values: Array) -> Array:
    """Ranks from 1, equal values at the mean of theirs; NaN for all where one is NaN."""
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks


METRICS = {
    "matthews_correlation": matthews_correlation,
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "pearson": pearson,
    "spearman": spearman,
}


def metrics_of(spec: TaskSpec, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Every metric of a task, by name, from class ids, or from scores of a regression."""
    given, wanted = np.asarray(predictions), np.asarray(references)
    return {name: METRICS[name](given, wanted) for name in spec.metrics}


@cache
def _metric_class() -> type:
    """The `evaluate.Metric` class; made on first use because `evaluate` takes seconds to import."""
    import datasets
    import evaluate

    class Glue(evaluate.Metric):  # type: ignore[misc]
        """Every metric of one task, over predictions and references of one split."""

        def __init__(self, spec: TaskSpec) -> None:
            self.spec = spec
            super().__init__(config_name=spec.name, keep_in_memory=True)

        def _build_data_dir(self) -> str:
            """No folder: with keep_in_memory nothing is written there, and a home may be one that nobody writes to."""
            return self._data_dir_root  # type: ignore[no-any-return]

        def _info(self) -> evaluate.MetricInfo:
            kind = datasets.Value("float64" if self.spec.is_regression else "int64")
            return evaluate.MetricInfo(
                description=f"Metrics of {self.spec.name}: {', '.join(self.spec.metrics)}",
                citation="Wang et al., GLUE (arXiv 1804.07461)",
                inputs_description="predictions and references: class ids, or scores for a regression",
                features=datasets.Features({"predictions": kind, "references": kind}),
            )

        def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
            return metrics_of(self.spec, predictions, references)

    return Glue


def glue_metric(spec: TaskSpec) -> Any:
    """The `evaluate.Metric` of one task: `.compute(predictions=..., references=...)` -> {metric name: value}.

    For scripts that take such a one. Its numbers are those of `metrics_of`, which a run takes: `evaluate` is imported
    with datasets, pandas and scipy.stats, in seconds.
    """
    return _metric_class()(spec)


def main_score(spec: TaskSpec, by_split: Mapping[str, Mapping[str, float]]) -> float:
    """The deciding number: the mean of the task's main metrics over its evaluation splits."""
    values = [metrics[name] for metrics in by_split.values() for name in spec.main]
    return float(np.mean(values))


def main_name(spec: TaskSpec) -> str:
    """What the deciding number is called: `accuracy`, `mean of accuracy and f1`, ..."""
    return spec.main[0] if len(spec.main) == 1 else f"mean of {' and '.join(spec.main)}"
