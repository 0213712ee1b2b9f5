"""The figures of docs/STATISTICS.md, by simulated experiments: `python scripts/simulate_statistics.py`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lora2_bench.paper.tables import table1
from lora2_bench.report.statistics.intervals import mean_interval
from lora2_bench.report.statistics.power import detectable_difference, seeds_needed
from lora2_bench.report.statistics.significance import holm, non_inferiority_test, sign_flip_test, t_test
from lora2_bench.report.tables.paired import MARGIN

TRIALS = 40_000
SPREADS = np.linspace(0.2, 2.0, 8)  # points: the sd over seeds of eight tasks
TOGETHER = 0.6  # points: the sd of what a seed gives to all of its tasks
Floats = NDArray[np.float64]


def drawn(rng: np.random.Generator, seeds: int, together: float = TOGETHER) -> Floats:
    """(trials, 8 tasks, seeds) scores around a true mean of 0."""
    scores = rng.normal(0, SPREADS[:, None], (TRIALS, 8, seeds))
    shared: Floats = scores + rng.normal(0, together, (TRIALS, 1, seeds))
    return shared


def share(hits: Iterable[bool]) -> str:
    """In percent."""
    return f"{100 * np.mean(list(hits)):.1f} %"


def covered(rows: Floats) -> str:
    """How often the interval of each row's mean holds 0."""
    found = [mean_interval(row) for row in rows]
    return share(one.low is not None and one.high is not None and one.low <= 0 <= one.high for one in found)


def alarms(ps: Iterable[float | None], level: float = 0.05) -> str:
    """How often a p-value says that there is something."""
    return share(p is not None and p <= level for p in ps)


def main() -> None:
    """Print one line per figure."""
    rng = np.random.default_rng(0)
    for seeds in (5, 6):
        scores = drawn(rng, seeds)
        others = drawn(rng, seeds)
        averages = (scores - others).mean(axis=1)
        flips = alarms(sign_flip_test(one) for one in averages)
        print(f"{seeds} seeds: the t interval covers {covered(scores[:, 7])} (one task), ", end="")
        print(
            f"{covered(scores.mean(axis=1))} (average); two methods alike: t test {alarms(map(t_test, averages))}, ",
            end="",
        )
        print(f"sign-flip test {flips} at 5 %")
    table = np.stack([drawn(rng, 6).mean(axis=1) for _ in range(9)])[:, :4000]
    ps = [[t_test(table[0, trial] - other) or 0.0 for other in table[1:, trial]] for trial in range(table.shape[1])]
    print(f"eight comparisons of nine methods alike: any at 5 %, {alarms(map(min, ps))}; ", end="")
    print(f"by Holm, {alarms(min(holm(row)) for row in ps)}")
    at_margin = rng.normal(-MARGIN, 0.4, (TRIALS, 6))
    wrong = alarms((non_inferiority_test(one, MARGIN) for one in at_margin), 0.025)
    print(f"worse by the margin: called no worse in {wrong}")
    independent = drawn(rng, 6, together=0.0)
    own = 1.96 * np.sqrt((SPREADS**2).sum() / 6) / 8
    widths = np.mean([mean_interval(one).half_width for one in independent.mean(axis=1)])
    print(f"tasks independent, 6 seeds: the average's interval is {widths / own:.2f} times one with known variances")
    low, high = (np.sqrt(5 / special.chdtri(5, tail)) for tail in (0.025, 0.975))
    print(f"with 6 pairs the true sd is {low:.2f} to {high:.2f} times the one seen (95 %)")
    for sd in (0.3, 0.5, 1.0):
        found = detectable_difference(sd, 6), detectable_difference(sd, 6, alpha=0.05 / 8), seeds_needed(MARGIN, sd)
        print(f"sd {sd}: 6 pairs detect {found[0]:.2f}, under Holm's first step of 8 {found[1]:.2f}; ", end="")
        print(f"no worse by {MARGIN} where alike needs {found[2]} seeds")
    ours, theirs = table1()["K/R=8", "lora2", "k=8"], table1()["K/R=8", "sora", "r=8"]
    by_cells = float(ours.mean_over_tasks().value - theirs.mean_over_tasks().value)
    printed = float(ours.average.value - theirs.average.value)
    print(
        f"LoRA² k=8 over SoRA r=8, sd 0.5: {by_cells:.3f} by the cells, {seeds_needed(by_cells, 0.5)} seeds; ", end=""
    )
    print(f"{printed:.2f} by the printed averages, {seeds_needed(printed, 0.5)} seeds")


if __name__ == "__main__":
    main()
