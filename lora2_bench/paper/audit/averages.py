"""Whether the printed averages follow from the printed cells."""

from __future__ import annotations

from lora2_bench.paper.audit.checks import AVERAGES, INCONSISTENT, SAME_RUN, Check, printed_rows, verdict_on
from lora2_bench.paper.printed import decimal
from lora2_bench.paper.tables import COLUMNS, Row, table1, table3, table4


def check_averages() -> list[Check]:
    """Every printed average against the mean of its row's printed cells, over tasks."""
    lines = []
    for row in printed_rows():
        recomputed = row.mean_over_tasks()
        verdict = verdict_on(row.average, recomputed)
        how = f"mean over {len(row.tasks)} tasks"
        if len(row.scores) > len(row.tasks):
            how += ", QQP and MNLI each by the mean of their two figures"
        if verdict == INCONSISTENT:
            how += f"; {_why_average(row)}"
        what = f"{row.table}, average of {row.label}"
        lines.append(
            Check(AVERAGES, what, row.average.text, row.average.like(recomputed.value), verdict, how, row.source)
        )
    return lines


def _why_average(row: Row) -> str:
    if row.average.range.overlaps(row.mean_over_columns()):
        return f"{row.average} is the mean over all {len(row.scores)} columns"
    missing = (row.average.value - row.mean_over_tasks().value) * len(row.tasks)
    return f"the cells would have to add up to {decimal(abs(missing), 2)} {'more' if missing > 0 else 'less'}"


def check_same_run() -> list[Check]:
    """The rows of Tables 3 and 4 that repeat a run of Table 1, figure by figure."""
    reference = table1()["K/R=1", "lora2", "k=1"]
    lines = []
    for row in (table3()["all"], table4()["all"]):
        for name, printed in row.scores.items():
            other = reference.scores[name]
            what = f"{row.table}, {COLUMNS[name].label} of {row.label}"
            verdict = verdict_on(printed, other.range)
            lines.append(Check(SAME_RUN, what, printed.text, other.text, verdict, "the figure of Table 1", row.source))
    return lines
