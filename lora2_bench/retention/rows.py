"""The rows that measures of retention use: fixed, of the cell's own data source, and named by their digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.hub import find_hub
from lora2_bench.tasks.local import find_local
from lora2_bench.tasks.sources import load_task, local_folder
from lora2_bench.tasks.spec import TASKS

STS = "stsb"
PROBES = ("cola", "sst2", "mrpc", "stsb", "qnli", "rte")
"""Tasks that are probed, but for the cell's own. MNLI and QQP are not: to read them costs more than to probe them."""
TRAIN_ROWS, DEV_ROWS = 1000, 1000
"""Rows of a probe at most; a source with fewer train rows than the first has none."""


@dataclass(frozen=True)
class Source:
    """Where rows come from: the cell's own source, and the cuts of a quick look.

    Attributes:
        task: the cell's, which is not measured.
        glue_dir: the folder of `data=local`.
        mini_seed: of `data=mini`.
    """

    task: str
    name: str
    glue_dir: str | None
    mini_seed: int
    max_train: int | None
    max_eval: int | None

    @classmethod
    def of(cls, cell: Cell, glue_dir: str | None) -> Source:
        """The source of a cell's rows."""
        data = cell.data
        return cls(cell.task, data.source, glue_dir, data.seed or 0, data.max_train, data.max_eval)

    def lacking(self, measure: str) -> dict[str, str]:
        """What of a measure cannot be taken here, with the reason, as far as can be told without reading any row."""
        if measure == "sts":
            why = "task=stsb trains on it" if self.task == STS else self._not_found(STS)
            return {"sts": why} if why else {}
        if measure == "probe":
            found = {f"probe.{task}": self._not_found(task) for task in self.probed()}
            return {name: why for name, why in found.items() if why}
        return {}

    def has_nothing_for(self, measure: str) -> str:
        """Why no part of a measure can be taken here; empty where some may be."""
        absent = self.lacking(measure)
        is_whole = measure in absent or (measure == "probe" and len(absent) == len(self.probed()))
        return next(iter(absent.values())) if is_whole else ""

    def probed(self) -> tuple[str, ...]:
        """The tasks to probe."""
        return tuple(task for task in PROBES if task != self.task)

    def sts_rows(self) -> Split:
        """STS-B's dev rows. Raises UserError where they cannot be had."""
        return evenly(self._load(STS).splits["dev"], self.max_eval)

    def probe_rows(self, task: str) -> tuple[Split, Split]:
        """Train and dev rows of a probe. Raises UserError where they cannot be had, and for a sample too small."""
        data = self._load(task)
        train, dev = data.splits["train"], data.splits["dev"]
        if len(train) < TRAIN_ROWS:
            raise UserError(f"data={self.name} has {len(train)} train rows of {task}, and a probe takes {TRAIN_ROWS}")
        most_train, most_dev = min(TRAIN_ROWS, self.max_train or TRAIN_ROWS), min(DEV_ROWS, self.max_eval or DEV_ROWS)
        return evenly(train, most_train), evenly(dev, most_dev)

    def _load(self, task: str) -> TaskData:
        return load_task(task, self.name, glue_dir=self.glue_dir, mini_seed=self.mini_seed)

    def _not_found(self, task: str) -> str:
        try:
            if self.name == "local":
                find_local(TASKS[task], local_folder(self.glue_dir))
            elif self.name == "hub":
                find_hub(TASKS[task])
        except UserError as error:
            return str(error)
        return ""


def evenly(split: Split, rows: int | None) -> Split:
    """At most `rows` rows, spread evenly over the split and in its order: the same for every cell."""
    if rows is None or rows >= len(split):
        return split
    return split.take([number * len(split) // rows for number in range(rows)])


def digest_of(task: str, splits: Mapping[str, Split]) -> str:
    """SHA-256 over texts and labels of these splits of a task, in order."""
    return TaskData(TASKS[task], "", dict(splits)).content_hash(*splits)
