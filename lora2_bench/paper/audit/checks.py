"""What the checks of the paper's printed figures share: verdicts, groups and the check itself.

Averages and differences are recomputed from the printed cells, accuracies from the official row counts, parameter
counts from the shapes of the encoders, all without training. A cell stands for all numbers that round to it, and
verdicts allow for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora2_bench.paper.attainable import MAX_RUNS
from lora2_bench.paper.printed import Printed, Range
from lora2_bench.paper.tables import Row, table1, table3, table4

CONSISTENT, INCONSISTENT, NOT_CHECKABLE = "consistent", "inconsistent", "not checkable"
ONE_RUN, IMPOSSIBLE = "one run", "impossible"
VERDICTS = {
    CONSISTENT: "numbers that round to the figures used give a number that rounds to the printed one",
    INCONSISTENT: "no such numbers do",
    NOT_CHECKABLE: "what is printed does not settle it",
    ONE_RUN: "an accuracy of one run on the official dev rows: n right answers of N round to it",
    "mean of m": f"no single run gives it; the mean of m runs does, m the smallest of 2 to {MAX_RUNS}",
    IMPOSSIBLE: f"no mean of 1 to {MAX_RUNS} runs on the official dev rows, rounded once, gives it; more runs, "
    "or runs rounded before the mean, still may",
}

# LoRA²'s inner rank. The paper does not print it; its parameter counts need it.
INNER_RANK = 8

AVERAGES = "Averages"
CLAIMS = "Claims of the text"
PARAMETERS = "Trainable parameters"
ACCURACIES = "Accuracies that a run can give"
SAME_RUN = "One run in two tables"
DATASETS = "Sizes of the data sets"
TIMES = "Seconds per step"


@dataclass(frozen=True)
class Check:
    """One check of a printed figure.

    Attributes:
        group: its heading on the page.
        what: names the figure.
        printed: the figure as in the paper.
        recomputed: the recomputed figure, or the fraction that gives the printed one.
        verdict: one of `VERDICTS`, with a number for m.
        how: how it was recomputed, in one sentence.
        source: the paper and the place of the printed figure.
    """

    group: str
    what: str
    printed: str
    recomputed: str
    verdict: str
    how: str
    source: str


def printed_rows() -> list[Row]:
    """Every row of Tables 1, 3 and 4."""
    return [*table1().values(), *table3().values(), *table4().values()]


def verdict_on(printed: Printed, recomputed: Range) -> str:
    """`consistent` where a number that rounds to the printed one lies in the recomputed range, else `inconsistent`."""
    return CONSISTENT if printed.range.overlaps(recomputed) else INCONSISTENT
