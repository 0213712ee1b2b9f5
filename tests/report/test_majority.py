"""The majority class of a task: from the record's counts, else from stored predictions; of a regression undefined."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from lora2_bench.records.record import Record
from lora2_bench.records.schema import Result
from lora2_bench.report.majority import Majority, majority_classes
from lora2_bench.report.predictions import Correctness
from lora2_bench.report.runs import Run
from tests.made_records import make_cell, make_record


def counted(task: str, labels: dict[str, list[int]] | None) -> Record:
    record = make_record(make_cell(task, "lora"))
    data: Any = {**record.result["data"], **({} if labels is None else {"labels": labels})}
    return dataclasses.replace(record, result=cast(Result, {**record.result, "data": data}))


def majority(record: Record, dev: list[int] | None = None) -> Majority:
    stored = None if dev is None else Correctness(np.array(dev, dtype=np.int64), {})
    other = counted("sst2", {"train": [1, 2], "dev": [1, 2]})  # of which there is always something to tell
    return majority_classes([Run.of(record), Run.of(other)], lambda _: stored)[record.cell["task"]]


def test_the_class_is_that_of_train_and_the_score_that_of_dev() -> None:
    found = majority(counted("rte", {"train": [3, 5], "dev": [6, 2]}), [0, 0, 0, 1])
    assert (found.of, found.text) == ("train", "25.00")


def test_a_quick_look_tells_it_only_where_no_whole_run_does() -> None:
    whole = counted("rte", {"train": [3, 5], "dev": [6, 2]})
    look = counted("rte", {"train": [3, 1], "dev": [1, 1]})
    look = dataclasses.replace(look, cut=["data.max_eval=2"], run={**look.run, "finished": "2026-01-01T00:00:00+00:00"})
    for records, wanted in (([look], "50.00"), ([look, whole], "25.00"), ([whole, look], "25.00")):
        found = majority_classes(map(Run.of, records), lambda _: None)["rte"]
        assert found.text == wanted


def test_every_metric_and_split_counts() -> None:
    truth = np.array([0] * 6 + [1] * 14)
    always = np.ones(20)
    mean = (accuracy_score(truth, always) + f1_score(truth, always)) / 2
    assert majority(counted("qqp", {"train": [1, 2], "dev": [6, 14]})).score == pytest.approx(100 * mean)
    of_mnli = {"train": [1, 3, 2], "dev_matched": [1, 1, 2], "dev_mismatched": [1, 9, 0]}
    assert majority(counted("mnli", of_mnli)).score == pytest.approx(50 * (1 / 4 + 9 / 10))
    assert majority(counted("cola", {"train": [1, 2], "dev": [1, 5]})).score == 0.0


def test_without_counts_it_is_that_of_dev_and_says_so() -> None:
    assert majority(counted("rte", None), [0, 0, 0, 1]).text == "75.00 (dev)"
    assert majority(counted("rte", {"train": [3, 5, 1], "dev": [6, 2, 1]}), [1]).of == "dev"  # of another task
    assert majority(counted("rte", None)).text == "–"
    assert majority(counted("mnli", None), [0, 0, 0, 1]).text == "–"  # two splits


def test_nothing_is_told_where_no_score_is_known() -> None:
    runs = [Run.of(counted(task, None)) for task in ("rte", "stsb")]
    assert majority_classes(runs, lambda _: None) == {}
    assert majority_classes(runs[1:], lambda _: None)["stsb"].text == "undefined"


def test_that_of_a_regression_is_undefined() -> None:
    found = majority(counted("stsb", None), [0, 1])
    assert (found.text, found.meaning) == ("undefined", "a correlation with a constant does not exist")
