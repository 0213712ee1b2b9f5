"""Metrics against their textbook formulas, and the local `evaluate.Metric` against them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.tasks.metrics import glue_metric, main_name, main_score, metrics_of
from lora2_bench.tasks.spec import TASKS, task_spec

binary = st.integers(0, 1)
pairs = st.lists(st.tuples(binary, binary), min_size=1, max_size=60)


def counts(rows: list[tuple[int, int]]) -> tuple[int, int, int, int]:
    """True positives, true negatives, false positives, false negatives of (prediction, label) pairs."""
    return tuple(rows.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))  # type: ignore[return-value]


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_matthews_and_accuracy(rows: list[tuple[int, int]]) -> None:
    tp, tn, fp, fn = counts(rows)
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    given_, wanted = zip(*rows, strict=True)
    found = metrics_of(task_spec("cola"), given_, wanted)
    assert found["matthews_correlation"] == pytest.approx((tp * tn - fp * fn) / below if below else 0.0)
    assert found["accuracy"] == pytest.approx((tp + tn) / len(rows))


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_f1(rows: list[tuple[int, int]]) -> None:
    tp, _, fp, fn = counts(rows)
    given_, wanted = zip(*rows, strict=True)
    found = metrics_of(task_spec("qqp"), given_, wanted)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0)


scores = st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 20)), min_size=2, max_size=40)


def slow_pearson(xs: list[float], ys: list[float]) -> float:
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    below = math.sqrt(sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys))
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / below if below else 0.0


def ranks(xs: list[float]) -> list[float]:
    return [sum(y < x for y in xs) + (sum(y == x for y in xs) + 1) / 2 for x in xs]


@settings(max_examples=40, deadline=None)
@given(scores)
def test_correlations(rows: list[tuple[int, int]]) -> None:
    xs, ys = [x / 7 for x, _ in rows], [y / 4 for _, y in rows]
    found = metrics_of(task_spec("stsb"), xs, ys)
    assert found["pearson"] == pytest.approx(slow_pearson(xs, ys), abs=1e-9)
    assert found["spearman"] == pytest.approx(slow_pearson(ranks(xs), ranks(ys)), abs=1e-9)


def test_main_score_is_the_mean_of_main_metrics_over_splits() -> None:
    assert main_score(task_spec("qqp"), {"dev": {"accuracy": 0.9, "f1": 0.8}}) == pytest.approx(0.85)
    mnli = {"dev_matched": {"accuracy": 0.7}, "dev_mismatched": {"accuracy": 0.8}}
    assert main_score(task_spec("mnli"), mnli) == pytest.approx(0.75)
    assert main_score(task_spec("mrpc"), {"dev": {"accuracy": 0.6, "f1": 0.9}}) == 0.6
    assert main_name(task_spec("qqp")) == "mean of accuracy and f1"


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reports_its_metrics(task: str) -> None:
    spec = task_spec(task)
    rows = [0.5, 1.0, 2.0] if spec.is_regression else [0, 1, 1]
    found = metrics_of(spec, rows, rows)
    assert set(found) == set(spec.metrics) and set(spec.main) <= set(found)
    assert all(value == pytest.approx(1.0) for value in found.values())


@pytest.mark.parametrize("task", ["mrpc", "stsb"])
def test_the_evaluate_metric_gives_the_same(task: str) -> None:
    predictions, references = ([1, 0, 1, 1], [1, 0, 0, 1]) if task == "mrpc" else ([0.5, 2.0, 4.0], [0.0, 2.5, 3.0])
    found = glue_metric(task_spec(task)).compute(predictions=predictions, references=references)
    assert found == metrics_of(task_spec(task), predictions, references)
