"""Whether one run, or the mean of a few runs, can give the printed accuracies on the official number of rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from lora2_bench.paper.attainable import (
    MAX_RUNS,
    attainable_share,
    correct_count,
    correct_count_truncated,
    fewest_runs,
    nearest_correct_count,
)
from lora2_bench.paper.audit.checks import ACCURACIES, IMPOSSIBLE, NOT_CHECKABLE, ONE_RUN, Check, printed_rows
from lora2_bench.paper.printed import Printed, decimal
from lora2_bench.paper.tables import COLUMNS, METHODS, SOURCE, Column, Row

# An accuracy distinguishes one run from several only where one run can give few of all figures.
INFORMATIVE_SHARE = Fraction(1, 10)


@dataclass(frozen=True)
class Accuracy:
    """A printed accuracy.

    Attributes:
        row, column: its cell in the tables.
        printed: the figure.
        runs: the smallest number of runs whose mean rounds to it; None where no mean of up to five does.
        share: of all figures with as many decimals, those that one run can give.
    """

    row: Row
    column: Column
    printed: Printed
    runs: int | None
    share: Fraction

    @property
    def is_informative(self) -> bool:
        """Whether one run can give only few of all figures on this number of rows."""
        return self.share < INFORMATIVE_SHARE


def accuracies() -> list[Accuracy]:
    """Every printed accuracy, with the fewest runs that can give it."""
    return [
        Accuracy(row, column, printed, fewest_runs(printed, column.rows), attainable_share(printed.digits, column.rows))
        for row in printed_rows()
        for column, printed in ((COLUMNS[name], printed) for name, printed in row.scores.items())
        if column.metric == "accuracy"
    ]


def accuracy_findings() -> list[str]:
    """The findings over all accuracies, one sentence each."""
    every = accuracies()
    informative = [one for one in every if one.is_informative]
    columns = ", ".join(dict.fromkeys(one.column.label for one in informative))

    def by_one_run(cells: list[Accuracy]) -> str:
        return f"{sum(one.runs == 1 for one in cells)} of {len(cells)}"

    of_table1 = [one for one in informative if one.row.table == "Table 1"]
    in_table1 = {
        name: by_one_run(of_method)
        for method, name in METHODS.items()
        if (of_method := [one for one in of_table1 if one.row.method == method])
    }
    # The rows `all` of Tables 3 and 4 are the run of Table 1 again.
    ablations = [one for one in informative if one.row.variant not in ("", "all")]
    return [
        f"Accuracies of Table 1 on {columns} that one run can give: "
        + ", ".join(f"{name} {count}" for name, count in in_table1.items()),
        f"The same for the ablations of LoRA² in Tables 3 and 4: {by_one_run(ablations)}",
        "Accuracies of LoRA² that one run cannot give: "
        + _listed(one for one in every if one.row.method == "lora2" and one.runs != 1),
        f"Accuracies that no mean of 1 to {MAX_RUNS} runs can give: " + _listed(one for one in every if not one.runs),
    ]


def _listed(cells: Iterable[Accuracy]) -> str:
    return (
        "; ".join(f"{one.row.label}, {one.column.label} {one.printed} ({_verdict_of(one)})" for one in cells) or "none"
    )


def check_accuracies() -> list[Check]:
    """A check for every printed accuracy."""
    lines = []
    for one in accuracies():
        rows = one.column.rows
        what = f"{one.row.table}, {one.column.label} of {one.row.label}"
        recomputed = "none"
        if one.runs is not None:
            total = f"{rows}" if one.runs == 1 else f"({one.runs}·{rows})"
            recomputed = f"{correct_count(one.printed, rows, one.runs)}/{total}"
        lines.append(
            Check(ACCURACIES, what, one.printed.text, recomputed, _verdict_of(one), _how_accuracy(one), one.row.source)
        )
    for column in COLUMNS.values():
        if column.metric != "accuracy":
            how = f"{column.metric.replace('_', ' ')} is no share of the rows"
            source = f"{SOURCE}, Tables 1, 3 and 4"
            lines.append(Check(ACCURACIES, f"{column.label}, all figures", "–", "–", NOT_CHECKABLE, how, source))
    return lines


def _verdict_of(one: Accuracy) -> str:
    if one.runs is None:
        return IMPOSSIBLE
    return ONE_RUN if one.runs == 1 else f"mean of {one.runs}"


def _how_accuracy(one: Accuracy) -> str:
    rows, printed = one.column.rows, one.printed
    if one.runs == 1:
        if one.share == 1:
            return "any figure is attainable at this size"
        return f"one run on {rows} rows can print {decimal(100 * one.share, 0)} % of all figures"
    nearest = nearest_correct_count(printed, rows)
    how = f"the nearest of one run is {nearest}/{rows}, {printed.like(Fraction(100 * nearest, rows))}"
    cut_off = correct_count_truncated(printed, rows)
    return how if cut_off is None else f"{how}; with digits cut off, not rounded, {cut_off}/{rows} gives it"
