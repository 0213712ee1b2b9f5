"""What one class for every row would score: the most frequent of train, or of dev where no record tells train's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from lora2_bench.records.record import Record
from lora2_bench.report.predictions import Reader
from lora2_bench.report.runs import Run, grouped
from lora2_bench.tasks.spec import TaskSpec

ROW = "majority class"
MEANING = "the most frequent class of train for every row of dev"
_LOOKED_AT = 3  # runs whose predictions are asked for: the reader may pass over large files


@dataclass(frozen=True)
class Majority:
    """The score of one class for every dev row of a task.

    Attributes:
        score: in points; None where it is undefined, or not known.
        of: whose most frequent class it is, `train` or `dev`; empty without a score.
        is_undefined: of a regression, whose correlation with a constant does not exist.
    """

    score: float | None
    of: str = ""
    is_undefined: bool = False

    @property
    def text(self) -> str:
        """As tables show it: `66.67`, `66.67 (dev)`, `undefined`, or a dash."""
        if self.score is None:
            return "undefined" if self.is_undefined else "–"
        return f"{self.score:.2f}" + (" (dev)" if self.of == "dev" else "")

    @property
    def meaning(self) -> str:
        """The text in a sentence."""
        if self.score is None:
            return "a correlation with a constant does not exist" if self.is_undefined else "no record tells the labels"
        return f"the most frequent class of {self.of} for every row of dev"


def majority_classes(runs: Iterable[Run], read: Reader) -> dict[str, Majority]:
    """Task -> the score of its majority class, from what the runs' records or the stored predictions tell.

    Nothing where they tell no score, unless there is none.
    """
    found = {task: _majority(group, read) for task, group in grouped(runs, "task").items()}
    told = any(one.score is not None for one in found.values()) or all(one.is_undefined for one in found.values())
    return found if told else {}


def _majority(runs: Sequence[Run], read: Reader) -> Majority:
    spec = runs[0].record.spec
    if spec.is_regression:
        return Majority(None, is_undefined=True)
    runs = sorted(runs, key=lambda run: (not run.obstacles, run.finished), reverse=True)  # a quick look may cut dev
    for run in runs:
        if (score := majority_score(run.record)) is not None:
            return Majority(score, "train")
    if len(spec.dev_splits) == 1:  # predictions of several are read as one
        for run in runs[:_LOOKED_AT]:
            stored = read(run.id)
            if (
                stored is not None
                and stored.labels.size
                and 0 <= stored.labels.min() <= stored.labels.max() < spec.num_labels
            ):
                of_dev = np.bincount(stored.labels, minlength=spec.num_labels).tolist()
                return Majority(_score(spec, [of_dev], int(np.argmax(of_dev))), "dev")
    return Majority(None)


def majority_score(record: Record) -> float | None:
    """Points of train's most frequent class for every dev row; None for a regression, and where no counts are told."""
    spec, counts = record.spec, record.result["data"].get("labels", {})
    if spec.is_regression or not _fits(spec, counts):
        return None
    chosen = int(np.argmax(counts["train"]))
    return _score(spec, [counts[split] for split in spec.dev_splits], chosen)


def _fits(spec: TaskSpec, counts: Mapping[str, Sequence[int]]) -> bool:
    """Whether these are counts of the task's classes, of train and every dev split, none of them empty."""
    return set(counts) == set(spec.splits) and all(len(of) == spec.num_labels and sum(of) for of in counts.values())


def _score(spec: TaskSpec, dev: Sequence[Sequence[int]], chosen: int) -> float:
    return 100 * fmean(_constant(name, counts, chosen) for counts in dev for name in spec.main)


def _constant(metric: str, counts: Sequence[int], chosen: int) -> float:
    """What class `chosen` for every row scores; Matthews' correlation of a constant is 0 by its definition here."""
    share = counts[chosen] / sum(counts)
    f1 = 2 * share / (1 + share)
    seen = sum(1 for number, count in enumerate(counts) if count or number == chosen)
    return {"accuracy": share, "f1": f1 if chosen == 1 else 0.0, "macro_f1": f1 / seen}.get(metric, 0.0)
