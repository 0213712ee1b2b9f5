"""The interval of one model's score over its dev rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lora2_bench.records.predictions import SplitPredictions
from lora2_bench.tasks.metrics import METRICS
from lora2_bench.tasks.spec import TASKS
from lora2_bench.using.interval import score_interval


def predictions(labels: list[int], said: list[int], classes: int = 2) -> SplitPredictions:
    return SplitPredictions(np.array(labels), {"best": np.eye(classes, dtype=np.float32)[said]})


def test_an_accuracys_interval_is_the_binomials() -> None:
    found = predictions([0] * 300 + [1] * 100, [0] * 240 + [1] * 60 + [1] * 100)
    low, high = score_interval(TASKS["rte"], {"dev": found})
    half = 1.96 * math.sqrt(0.85 * 0.15 / 400)
    assert (low, high) == (pytest.approx(0.85 - half, abs=3e-3), pytest.approx(0.85 + half, abs=3e-3))


@pytest.mark.parametrize("task", ["cola", "qqp", "mnli", "macro_f1"])
def test_it_is_that_of_rows_drawn_anew(task: str) -> None:
    """Against the plain bootstrap, which draws rows and scores them with the package's own metrics."""
    spec = replace(TASKS["mnli"], dev_splits=("dev",), main=(task,)) if task in METRICS else TASKS[task]
    random = np.random.default_rng(1)
    splits = {}
    for split in spec.dev_splits:
        labels = random.integers(0, spec.num_labels, 150)
        said = np.where(random.random(150) < 0.7, labels, random.integers(0, spec.num_labels, 150))
        splits[split] = predictions(labels.tolist(), said.tolist(), spec.num_labels)
    scores = []
    for _ in range(150):
        parts = []
        for found in splits.values():
            rows = random.integers(0, 150, 150)
            labels, said = found.labels[rows], found.logits["best"].argmax(1)[rows]
            parts.append(np.mean([METRICS[name](said, labels) for name in spec.main]))
        scores.append(np.mean(parts))
    wanted = np.quantile(scores, (0.025, 0.975))
    np.testing.assert_allclose(score_interval(spec, splits), wanted, rtol=0, atol=0.03)


def test_a_correlations_interval_is_fishers() -> None:
    random = np.random.default_rng(2)
    labels = random.random(103)
    logits = (labels + random.normal(0, 0.3, 103))[:, None].astype(np.float32)
    low, high = score_interval(TASKS["stsb"], {"dev": SplitPredictions(labels, {"best": logits})})
    r = float(np.corrcoef(labels, logits[:, 0])[0, 1])
    assert low == pytest.approx(math.tanh(math.atanh(r) - 0.196), abs=1e-3) and low < r < high
    assert score_interval(TASKS["stsb"], {"dev": SplitPredictions(labels[:3], {"best": logits[:3]})}) == (-1.0, 1.0)
