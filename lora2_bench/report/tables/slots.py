"""Which runs count for one row and task, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lora2_bench.report.runs import Run, rows_and_study
from lora2_bench.report.selection import FAILED, MISSING, NOT_COMPARABLE, OK, STALE, taken, why_not

SEEDS, UNEVEN, EARLY, OLDER = "seeds", "uneven", "early", "older code"


MARKS = {MISSING: "–", FAILED: "×", STALE: "†", NOT_COMPARABLE: "≠", SEEDS: "‡", UNEVEN: "§", EARLY: "¶", OLDER: "°"}


MEANINGS = {
    MISSING: "no run",
    FAILED: "a run failed",
    STALE: "a run is stale: made with other rows, backbone weights or another major version than the newest record, or "
    "by other code than other runs of its method",
    NOT_COMPARABLE: "a run is not comparable: a quick look, or settings off the recipe",
    SEEDS: "other seeds than the suite's",
    UNEVEN: "an average over tasks with different sets of seeds: without sd",
    EARLY: "a best step before the rank budget was met",
    OLDER: "stale code: all runs of the method are by code that has changed since; rerun=true trains a cell anew",
}


_WORST_FIRST = (FAILED, STALE, NOT_COMPARABLE, MISSING)


@dataclass(frozen=True)
class Slot:
    """One row and task under one way of choosing the checkpoint.

    Attributes:
        runs: seed -> the run that counts.
        states: seed of the suite -> ok, missing, failed, stale or not comparable.
        reasons: why runs do not count, each once.
    """

    runs: Mapping[int, Run]
    states: Mapping[int, str]
    reasons: tuple[str, ...] = ()

    @property
    def seen(self) -> bool:
        """Whether there is any run, counted or not."""
        return bool(self.runs or self.reasons)

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks of its place: every state but ok where nothing counts, and what is wrong beside what counts."""
        found = [state for state in _WORST_FIRST if state in self.states.values()]
        if not self.runs:
            return tuple(found[:1])
        odd = set(self.runs) != set(self.states)
        return tuple([state for state in found if state != MISSING] + ([SEEDS] if odd else []))


def slot_of(runs: Sequence[Run], seeds: Iterable[int], stale: Mapping[str, str]) -> Slot:
    """Which of a row's runs on one task count, as `selection.taken`, and why the others do not."""
    counted = {run.seed: run for run in taken(runs, stale)}
    states: dict[int, str] = {}
    reasons = set()
    for run in runs:
        if counted.get(run.seed) is run:
            continue
        state, reason = why_not(run, stale, counted.values())
        reasons.add(f"{state}: {reason}")
        if run.seed not in counted:
            known = states.get(run.seed, MISSING)
            states[run.seed] = min(state, known, key=_WORST_FIRST.index)
    return Slot(
        dict(sorted(counted.items())),
        {seed: OK if seed in counted else states.get(seed, MISSING) for seed in seeds},
        tuple(sorted(reasons)),
    )


def obstacles(model: str, data: str, cut: str, protocol: str, *, backbone: str) -> list[str]:
    """Why a group of runs is no counterpart of a figure that the paper prints for `backbone`; empty where it is one.

    Args:
        model: its backbone, as in `scores.scores`, like the next three.
        data: source of its rows.
        cut: settings that make it a quick look or move it off its recipe.
        protocol: paper, last or clean.
        backbone: the name of the figure's own backbone.
    """
    found = []
    if model != backbone:
        found.append(f"the backbone is {model}, not {backbone}")
    rows, study = rows_and_study(data)
    if rows == "mini":
        found.append("generated data, not GLUE")
    elif rows.endswith("-sample"):
        found.append("not GLUE's own rows")
    if study:
        found.append(f"recipes that the study {study} tuned")
    if cut:
        found.append(f"cut: {cut}")
    if protocol != "paper":
        found.append(f"protocol {protocol}; the paper prints best dev scores")
    return found
