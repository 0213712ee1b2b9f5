"""Does Table 1 set means over five runs on half of dev beside single runs on all of it?

SoRA's released code halves GLUE's dev set into validation and test, and its script has five seeds. A mean over five
runs on n rows is a number of right answers of 5·n. GRIM's question (`paper.attainable`), asked of two groups of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import comb
from statistics import NormalDist

from lora2_bench.paper.attainable import attainable_share, correct_count
from lora2_bench.paper.printed import decimal
from lora2_bench.paper.tables import COLUMNS, METHODS, Column, table1, table3

RUNS = 5
# Whose figures SoRA's study has too, and whose it has not, or not with its code.
SHARED = ("full", "bitfit", "lora", "sora")
OTHERS = ("adalora", "lora2")
# The tasks where few of all figures fit either reading.
TASKS = ("rte", "mrpc", "sst2")


@dataclass(frozen=True)
class Fits:
    """How many of a group's printed accuracies fit each reading.

    Attributes:
        half: right answers of five runs on the larger half of dev.
        whole: right answers of one run on all of dev.
        figures: how many figures there are.
    """

    half: int
    whole: int
    figures: int


def half_rows(column: Column) -> int:
    """Rows of the larger half of a dev split."""
    return (column.rows + 1) // 2


def fits(task: str, methods: tuple[str, ...]) -> Fits:
    """The fits of Table 1's figures of a task, over the rows of some methods."""
    column = COLUMNS[task]
    printed = [row.scores[task] for row in table1().values() if row.method in methods]
    half = [correct_count(one, half_rows(column), RUNS) is not None for one in printed]
    whole = [correct_count(one, column.rows) is not None for one in printed]
    return Fits(sum(half), sum(whole), len(printed))


def chance_of_at_least(hits: int, of: int, share: Fraction) -> Fraction:
    """The binomial probability of `hits` or more of `of`, each with probability `share`."""
    return sum((comb(of, n) * share**n * (1 - share) ** (of - n) for n in range(hits, of + 1)), Fraction())


def half_dev_findings() -> list[str]:
    """The finding, task by task, and the chance of its being chance."""
    counts = []
    for task in TASKS:
        column = COLUMNS[task]
        ours, theirs = fits(task, SHARED), fits(task, OTHERS)
        counts.append(
            f"{column.label}: {ours.half} of {ours.figures} fit n/({RUNS}·{half_rows(column)}) and {ours.whole} fit "
            f"n/{column.rows}, against {theirs.half} and {theirs.whole} of {theirs.figures}"
        )
    names = [", ".join(METHODS[method] for method in group) for group in (SHARED, OTHERS)]
    return [
        f"Likely, Table 1 sets means over {RUNS} runs on half of dev ({names[0]}; SoRA's released code halves dev, its "
        f"script has {RUNS} seeds) beside single runs on all of dev ({names[1]}). {'; '.join(counts)}",
        _chances(),
    ]


def _chances() -> str:
    """What figures drawn at random would do."""
    told, chances = [], {}
    for task in ("rte", "mrpc"):
        column, ours = COLUMNS[task], fits(task, SHARED)
        share = attainable_share(2, RUNS * half_rows(column))
        chances[task] = chance_of_at_least(ours.half, ours.figures, share)
        told.append(
            f"{decimal(100 * share, 1)} % of all figures with two decimals fit n/({RUNS}·{half_rows(column)}), so "
            f"{ours.half} or more of {ours.figures} do with a chance of {float(chances[task]):.0e} ({column.label})"
        )
    rows = COLUMNS["rte"].rows
    ours, theirs = fits("rte", SHARED), fits("rte", OTHERS)
    share = attainable_share(2, rows)
    none, every = (1 - share) ** ours.figures, chance_of_at_least(theirs.whole, theirs.figures, share)
    return (
        f"The chance of that being chance: {'; '.join(told)}. {decimal(100 * share, 1)} % fit n/{rows}: none of "
        f"{ours.figures} with a chance of {decimal(none, 2)} (single runs on all of dev would all fit), all "
        f"{theirs.whole} of the others with {float(every):.0e}. The reading was chosen after the figures were seen: "
        f"with 1 to {RUNS} runs on either half it is one of {2 * RUNS}, which makes RTE's chance "
        f"{float(2 * RUNS * chances['rte']):.0e} at most. On the smaller half of RTE, {rows // 2} rows, "
        f"{_fits_smaller_half()} of {ours.figures} fit"
    )


def _fits_smaller_half() -> int:
    rows = COLUMNS["rte"].rows // 2
    printed = [row.scores["rte"] for row in table1().values() if row.method in SHARED]
    return sum(correct_count(one, rows, RUNS) is not None for one in printed)


def spread_finding() -> str:
    """How many pairs of runs Table 3's spread on RTE would need."""
    rows = COLUMNS["rte"].rows
    values = [row.scores["rte"].value / 100 for row in table3().values()]
    low, high = min(values), max(values)
    return (
        f"Table 3's spread on RTE, {decimal(100 * low, 2)} to {decimal(100 * high, 2)}, is "
        f"{round((high - low) * rows)} of {rows} rows, in steps of one row: untestable. With the binomial spread of "
        f"{rows} rows, power 0.8 and p = 0.05, telling lowest from highest takes "
        f"{pairs_needed(high - low, high, rows)} pairs of runs, and a step of one row "
        f"{pairs_needed(Fraction(1, rows), high, rows)}"
    )


def pairs_needed(difference: Fraction, accuracy: Fraction, rows: int) -> int:
    """Pairs of runs that find a difference of two accuracies with power 0.8 at p = 0.05, two-sided (normal).

    Each run is taken to have the binomial spread of `rows` rows at `accuracy`, and two of a pair to be independent.
    """
    variance = float(2 * accuracy * (1 - accuracy) / rows)
    reach = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    return round(reach**2 * variance / float(difference) ** 2)
