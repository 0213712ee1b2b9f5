"""The printed figures of the LoRA² paper with their source, read from the CSV files beside this module.

Keys are this project's names: tasks `cola` to `rte`, methods `full`, `bitfit`, `lora`, `adalora`, `sora`, `lora2`.
Figures are kept as text, because the number of digits gives the rounding.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from lora2_bench.paper.printed import Printed, Range, mean
from lora2_bench.tasks.spec import TASKS

SOURCE = "LoRA², arXiv 2408.06854"
METHODS = {
    "full": "full fine-tuning",
    "bitfit": "BitFit",
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "sora": "SoRA",
    "lora2": "LoRA²",
    "vera": "VeRA",
    "ptuning_v2": "P-Tuning v2",
}


# All rows of Tables 3 and 4 are LoRA² k=1; their CSV files do not repeat it.
_K1 = {"group": "K/R=1", "method": "lora2", "setting": "k=1"}


@dataclass(frozen=True)
class Column:
    """One score column of the tables.

    Attributes:
        name: as in `Row.scores`.
        label: for readers.
        task: the project's name.
        metric: as in the task's specification.
        split: the dev split it is measured on.
    """

    name: str
    label: str
    task: str
    metric: str
    split: str = "dev"

    @property
    def rows(self) -> int:
        """Rows of the official dev split."""
        return TASKS[self.task].rows[self.split]


COLUMNS = {
    column.name: column
    for column in (
        Column("cola", "CoLA", "cola", "matthews_correlation"),
        Column("sst2", "SST-2", "sst2", "accuracy"),
        Column("mrpc", "MRPC", "mrpc", "accuracy"),
        Column("qqp_acc", "QQP accuracy", "qqp", "accuracy"),
        Column("qqp_f1", "QQP F1", "qqp", "f1"),
        Column("stsb", "STS-B", "stsb", "pearson"),
        Column("mnli_m", "MNLI matched", "mnli", "accuracy", "dev_matched"),
        Column("mnli_mm", "MNLI mismatched", "mnli", "accuracy", "dev_mismatched"),
        Column("qnli", "QNLI", "qnli", "accuracy"),
        Column("rte", "RTE", "rte", "accuracy"),
    )
}


@dataclass(frozen=True)
class Row:
    """One row of scores.

    Attributes:
        table: `Table 1`, `Table 3` or `Table 4`, or the suite of another paper's table.
        group: `full`, `K/R=1` or `K/R=8`, or that suite.
        method: the project's name.
        setting: `k=1`, `r=8`, ...; empty for methods without a size.
        variant: the regulariser's terms in Table 3, the adapted maps in Table 4; empty in Table 1.
        params: trainable parameters without the head; None where they are not printed.
        scores: 100 × metric by column name.
        printed_average: the printed average; None where the table at hand has none.
        source: the paper and the table.
    """

    table: str
    group: str
    method: str
    setting: str
    variant: str
    params: Printed | None
    scores: dict[str, Printed]
    printed_average: Printed | None
    source: str

    @property
    def average(self) -> Printed:
        """The printed average. Raises ValueError for a row without one."""
        if self.printed_average is None:
            raise ValueError(f"{self.table} prints no average")
        return self.printed_average

    @property
    def label(self) -> str:
        """The row for readers, as `LoRA² k=1` or `LoRA² k=1 (uv)`."""
        parts = (METHODS[self.method], self.setting, f"({self.variant})" if self.variant else "")
        return " ".join(part for part in parts if part)

    @property
    def size(self) -> int | None:
        """k of LoRA², r of a baseline; None where the method has neither."""
        return int(self.setting.partition("=")[2]) if "=" in self.setting else None

    @property
    def tasks(self) -> list[str]:
        """The tasks of the row's columns, in the table's order."""
        return list(dict.fromkeys(COLUMNS[name].task for name in self.scores))

    def score(self, task: str) -> Range:
        """The task's score: for QQP the mean of accuracy and F1, for MNLI the mean of matched and mismatched accuracy.

        Raises KeyError for a task that the table has no column for.
        """
        figures = [figure.range for name, figure in self.scores.items() if COLUMNS[name].task == task]
        if not figures:
            raise KeyError(f"{self.table} has no {task}")
        return mean(figures)

    def mean_over_tasks(self) -> Range:
        """The average by GLUE's rule: every task counts once."""
        return mean([self.score(task) for task in self.tasks])

    def mean_over_columns(self) -> Range:
        """The average with every column counted once, so QQP and MNLI twice."""
        return mean([figure.range for figure in self.scores.values()])


@dataclass(frozen=True)
class StepTime:
    """Seconds per training step on one task (Table 2)."""

    task: str
    adalora: Printed
    lora2: Printed


@dataclass(frozen=True)
class Claim:
    """A figure that the text states: what it claims, and where."""

    id: str
    claim: str
    where: str
    printed: Printed

    @property
    def source(self) -> str:
        """The paper and the place."""
        return f"{SOURCE}, {self.where}"


@dataclass(frozen=True)
class DatasetSize:
    """Printed row counts of one task; MNLI's dev and test hold both of its splits."""

    task: str
    train: Printed
    dev: Printed
    test: Printed


@cache
def table1() -> dict[tuple[str, str, str], Row]:
    """Table 1, GLUE dev scores on DeBERTaV3-base, by (group, method, setting), as `("K/R=1", "lora2", "k=1")`."""
    rows = (_row("Table 1", line) for line in _lines("table1.csv"))
    return {(row.group, row.method, row.setting): row for row in rows}


@cache
def table2() -> dict[str, StepTime]:
    """Table 2, seconds per step of AdaLoRA and LoRA², by task."""
    return {
        line["task"]: StepTime(line["task"], Printed(line["adalora"]), Printed(line["lora2"]))
        for line in _lines("table2.csv")
    }


@cache
def table3() -> dict[str, Row]:
    """Table 3, LoRA² k=1 by the terms of its regulariser: `uv`, `UV`, `uv&UV`, `PQ`, `all`."""
    return {line["variant"]: _row("Table 3", _K1 | line) for line in _lines("table3.csv")}


@cache
def table4() -> dict[str, Row]:
    """Table 4, LoRA² k=1 by the maps it is applied to: `Q,K`, `Q,V`, `Q,K,V`, `all`."""
    return {line["variant"]: _row("Table 4", _K1 | line) for line in _lines("table4.csv")}


@cache
def vera_table2() -> dict[tuple[str, str], Row]:
    """VeRA's Table 2 by (suite, method): `vera_table2` on RoBERTa-base, `vera_table2_large` on RoBERTa-large."""
    rows = [_row(line["suite"], line) for line in _lines("vera_table2.csv")]
    return {(row.table, row.method): row for row in rows}


@cache
def released() -> dict[tuple[str, str], Row]:
    """Figures that the released code of LoRA and P-Tuning v2 gives for its runs, by (suite, method)."""
    rows = [_row(line["suite"], line) for line in _lines("released.csv")]
    return {(row.table, row.method): row for row in rows}


@cache
def claims() -> dict[str, Claim]:
    """Figures of the abstract and the text, by a short name."""
    return {
        line["id"]: Claim(line["id"], line["claim"], line["where"], Printed(line["printed"]))
        for line in _lines("claims.csv")
    }


@cache
def dataset_sizes() -> dict[str, DatasetSize]:
    """The paper's table of data sets: train, dev and test rows by task."""
    return {
        line["task"]: DatasetSize(line["task"], *(Printed(line[split]) for split in ("train", "dev", "test")))
        for line in _lines("datasets.csv")
    }


def _row(table: str, line: dict[str, str]) -> Row:
    return Row(
        table,
        line["group"],
        line["method"],
        line["setting"],
        line.get("variant", ""),
        Printed(line["params"]) if "params" in line else None,
        {name: Printed(line[name]) for name in COLUMNS if line.get(name)},
        Printed(line["average"]) if "average" in line else None,
        line.get("source", f"{SOURCE}, {table}"),
    )


def _lines(name: str) -> Iterable[dict[str, str]]:
    return csv.DictReader((files("lora2_bench.paper") / name).read_text(encoding="utf-8").splitlines())
