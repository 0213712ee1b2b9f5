"""Many cells scored over one task's dev rows: each batch is one pass of the frozen backbone, whatever its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from lora2_bench.errors import UserError
from lora2_bench.runner.rows import sample
from lora2_bench.serving.engine import Engine, Row
from lora2_bench.serving.library import Entry, check_fits
from lora2_bench.sharing.scoring import metrics_of
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.metrics import main_name, main_score
from lora2_bench.tasks.sources import load_task
from lora2_bench.tasks.spec import TaskSpec, task_spec

DIGITS = 4
"""Digits of a printed score, after the point."""
_Rows = tuple[dict[str, Split], dict[str, list[Row]]]


@dataclass(frozen=True)
class Scored:
    """One cell's scores on a task's dev rows.

    Attributes:
        data: source of the rows.
        metrics: split -> {metric: value}, with the mean loss.
        score: the task's deciding number.
        stored: the record's, of the same task and rows; None for another task or other rows.
    """

    entry: Entry
    data: str
    metrics: dict[str, dict[str, float]]
    score: float
    stored: float | None

    @property
    def difference(self) -> float | None:
        """The score less the record's, where they differ in the digits that are printed."""
        if self.stored is None or f"{self.score:.{DIGITS}f}" == f"{self.stored:.{DIGITS}f}":
            return None
        return self.score - self.stored

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        entry = self.entry
        told = {"cell": entry.id, "task": entry.task, "model": entry.model, "method": entry.method, "seed": entry.seed}
        return {**told, "data": self.data, "score": self.score, "record": self.stored, "metrics": self.metrics}


def evaluate(
    engine: Engine, entries: Sequence[Entry], task: str, *, batch: int = 64, data_dir: str | None = None
) -> tuple[list[Scored], list[UserError]]:
    """Score cells on the dev rows of `task` from each one's own source; those that fail are told and left out.

    A cell's rows come longest first, the next one's shortest first, so that a batch of two cells is padded little.
    Raises UserError for a cell whose outputs are not the task's, and for rows that cannot be had.
    """
    spec = task_spec(task)
    for entry in entries:
        check_fits(entry, spec)
    of = _Loader(engine, spec, data_dir)
    total = sum(len(rows) for entry in entries for rows in of(entry)[1].values())
    logits = {
        entry.id: {name: np.zeros((len(rows), spec.num_labels), np.float32) for name, rows in of(entry)[1].items()}
        for entry in entries
    }
    failed: dict[str, UserError] = {}
    with tqdm(total=total, desc=f"{task}, {len(entries)} cells", unit="row") as bar:
        for part in _batches(_requests(entries, of), batch):
            for (entry, name, number, _), found in zip(
                part, engine.logits([(entry, row) for entry, _, _, row in part]), strict=True
            ):
                if isinstance(found, UserError):
                    failed[entry.id] = found
                else:
                    logits[entry.id][name][number] = found.numpy()
            bar.update(len(part))
    scored = []
    for entry in entries:
        if entry.id not in failed:
            try:
                scored.append(_scored(engine, entry, spec, of, logits[entry.id]))
            except ValueError as error:  # UserError among them
                failed[entry.id] = UserError(f"cell {entry.id}: {error}")
    return scored, list(failed.values())


class _Loader:
    """A cell's dev rows of the task, raw and tokenised; loaded and tokenised once for all cells that share them."""

    def __init__(self, engine: Engine, spec: TaskSpec, data_dir: str | None) -> None:
        self.engine, self.spec, self.data_dir = engine, spec, data_dir
        self.tasks: dict[tuple[str, int], TaskData] = {}
        self._rows: dict[tuple[Any, ...], _Rows] = {}

    def data(self, entry: Entry) -> TaskData:
        """The task from the cell's own source."""
        settings = self.engine.library.record(entry).cell["data"]
        key = (settings["source"], settings["seed"] or 0)
        if key not in self.tasks:
            self.tasks[key] = load_task(self.spec.name, key[0], glue_dir=self.data_dir, mini_seed=key[1])
        return self.tasks[key]

    def __call__(self, entry: Entry) -> _Rows:
        """Split -> rows, as many as the cell's own evaluation takes."""
        data, most = self.data(entry), self.engine.library.record(entry).cell["data"]["max_eval"]
        key = (id(data), most, entry.max_length)
        if key not in self._rows:
            splits = {name: sample(data.splits[name], most) for name in self.spec.dev_splits}
            encoded = {name: self.engine.encode_split(split, self.spec, entry) for name, split in splits.items()}
            self._rows[key] = splits, encoded
        return self._rows[key]


_Request = tuple[Entry, str, int, Row]


def _requests(entries: Sequence[Entry], of: Callable[[Entry], _Rows]) -> Iterator[_Request]:
    for turn, entry in enumerate(entries):
        rows = [(name, number, row) for name, split in of(entry)[1].items() for number, row in enumerate(split)]
        rows.sort(key=lambda one: len(one[2]), reverse=turn % 2 == 0)
        yield from ((entry, *one) for one in rows)


def _batches(requests: Iterator[_Request], size: int) -> Iterator[list[_Request]]:
    part: list[_Request] = []
    for request in requests:
        part.append(request)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _scored(
    engine: Engine, entry: Entry, spec: TaskSpec, of: _Loader, logits: dict[str, NDArray[np.float32]]
) -> Scored:
    """Raises ValueError for logits that are no finite numbers."""
    splits, data, record = of(entry)[0], of.data(entry), engine.library.record(entry)
    order = [(entry.labels or ()).index(label) for label in spec.labels] or [0]
    metrics = {}
    for name, split in splits.items():
        if not np.isfinite(logits[name]).all():
            raise ValueError("it gives no finite numbers: its weights are not usable")
        metrics[name] = metrics_of(spec, np.array(split.labels), logits[name][:, order])
    same_rows = entry.task == spec.name and record.result["data"]["sha256"] == data.content_hash()
    return Scored(entry, data.source, metrics, main_score(spec, metrics), entry.score if same_rows else None)


def table(scored: Sequence[Scored], task: str) -> str:
    """The cells' scores as aligned columns, best first, beside the records' own."""
    spec = task_spec(task)
    head = ["cell", "task", "method", "seed", "data", main_name(spec), "record", "difference"]
    lines = [head]
    for one in sorted(scored, key=lambda one: -one.score):
        stored = "-" if one.stored is None else f"{one.stored:.{DIGITS}f}"
        told = "" if one.difference is None else f"{one.difference:+.1e}"
        entry = one.entry
        cells = [entry.id, entry.task, entry.method, str(entry.seed), one.data]
        lines.append([*cells, f"{one.score:.{DIGITS}f}", stored, told])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
