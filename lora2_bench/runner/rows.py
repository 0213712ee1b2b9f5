"""A cell's rows: to train on, to select the checkpoint on, and to score in the end."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.plan import Plan
from lora2_bench.records.record import TUNE
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.sources import load_task


@dataclass(frozen=True)
class Rows:
    """A cell's rows: to train on, to select the checkpoint on, and to score in the end.

    Under `paper` the last two are the same dev splits. Under `clean` the checkpoint is selected on rows held out of
    train, and dev is scored only after that; under `tune` there is no dev.
    """

    train: Split
    selection: dict[str, Split]
    dev: dict[str, Split]

    def counts(self) -> dict[str, int]:
        """Rows per split."""
        return {"train": len(self.train), **{name: len(split) for name, split in (self.selection | self.dev).items()}}

    def labels(self, classes: int) -> dict[str, list[int]]:
        """Rows per class, of train and of dev."""
        splits = {"train": self.train, **self.dev}
        return {name: [split.labels.count(number) for number in range(classes)] for name, split in splits.items()}


def held_out_rows(cell: Cell, rows: int) -> int:
    """Rows of train that select the checkpoint under `clean` and `tune`; 0 under `paper`. Raises UserError for none."""
    count = round(cell.protocol.held_out * rows)
    if cell.protocol.name != "paper" and not 0 < count < rows:
        raise UserError(
            f"protocol.held_out={cell.protocol.held_out} of {rows} train rows leaves no rows on one side: give another "
            "share"
        )
    return count


def prepare_rows(cell: Cell, data: TaskData) -> Rows:
    """Cut and split a task's rows as the cell says: the same for every seed and method."""
    train = sample(data.splits["train"], cell.data.max_train)
    dev = {name: sample(data.splits[name], cell.data.max_eval) for name in cell.spec.dev_splits}
    if cell.protocol.name == "paper":
        return Rows(train, dev, dev)
    count = held_out_rows(cell, len(train))
    order = list(range(len(train)))
    random.Random(cell.protocol.split_seed).shuffle(order)
    held_out = train.take(sorted(order[:count]))
    return Rows(train.take(sorted(order[count:])), {"held_out": held_out}, {} if cell.protocol.name == TUNE else dev)


def sample(split: Split, rows: int | None) -> Split:
    """At most `rows` rows of a split: a sample, the same for every cell, in the split's order."""
    if rows is None or rows >= len(split):
        return split
    return split.take(sorted(random.Random(0).sample(range(len(split)), rows)))


def load_rows(plan: Plan) -> tuple[TaskData, Rows]:
    """The task's data, and its rows as the cell takes them."""
    cell, own = plan.cell, plan.run_options.own_task
    if own is not None:
        data = own.read()
        if data.spec.definition != cell.definition:
            raise UserError(f"the files of task={cell.task} have changed since this began: run the same again")
        return data, prepare_rows(cell, data)
    data = load_task(cell.task, cell.data.source, glue_dir=plan.run_options.data_dir, mini_seed=cell.data.seed or 0)
    return data, prepare_rows(cell, data)
