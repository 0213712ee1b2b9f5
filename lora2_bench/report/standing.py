"""Where the methods of one place stand: averages over tasks with intervals, and which of them are tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from lora2_bench.paper.tables import METHODS
from lora2_bench.report.comparisons import EIGHT
from lora2_bench.report.figures.data import by_protocol
from lora2_bench.report.runs import Run, grouped
from lora2_bench.report.selection import Selection
from lora2_bench.report.statistics.intervals import Interval, averages, mean_interval
from lora2_bench.report.statistics.ties import ALPHA, adjusted_p, letters_of, tie_groups
from lora2_bench.tasks.spec import ALL_TASKS, TASKS, TaskSpec, in_order

ANSWERS_BY = ("last", "clean", "paper")
"""Which protocol answers, where a place has several: at the end of training nothing was chosen on dev."""
_PAPERS = ("deberta_v3_base-hub", "deberta_v3_base-local")


@dataclass(frozen=True)
class Entrant:
    """One method with its size, in one place.

    Attributes:
        label: as in its records, `lora2 k=1`.
        runs: task -> seed -> the run that counts.
        scores: task -> seed -> points.
        mean: of the board's tasks, over the seeds that all of them have; None without such a seed or such a task.
        groups: letters of its tie groups; empty where it has no mean.
    """

    label: str
    runs: Mapping[str, Mapping[int, Run]]
    scores: Mapping[str, Mapping[int, float]]
    mean: Interval | None = None
    groups: str = ""

    @property
    def name(self) -> str:
        """For readers: `LoRA² k=1`."""
        return display_name(self.label)

    @property
    def all_runs(self) -> list[Run]:
        """Every run that counts."""
        return [run for of_task in self.runs.values() for run in of_task.values()]

    @property
    def adapter(self) -> float:
        """Trained adapter parameters; their mean where tasks differ."""
        return fmean(run.parameters["adapter"] for run in self.all_runs)


@dataclass(frozen=True)
class Board:
    """The methods of one backbone, data source and protocol, the best average first.

    Attributes:
        model, data: whose runs these are.
        protocol: paper, last or clean.
        tasks: all tasks with a run that counts, in GLUE's order.
        averaged: those that the averages are over.
        entrants: methods with an average first, best first; then the others, by name.
        p: (i, j) of entrants with an average, i < j -> Holm's p of the paired t test; without pairs of unknown spread.
        tied: groups of entrants that no test separates, as positions.
    """

    model: str
    data: str
    protocol: str
    tasks: tuple[str, ...]
    averaged: tuple[str, ...]
    entrants: tuple[Entrant, ...]
    p: Mapping[tuple[int, int], float]
    tied: Sequence[tuple[int, ...]]

    @property
    def folder(self) -> str:
        """`<backbone>-<data>`."""
        return f"{self.model}-{self.data}"

    @property
    def ranked(self) -> list[Entrant]:
        """The methods with an average, best first."""
        return [one for one in self.entrants if one.mean is not None]

    def spec(self, task: str) -> TaskSpec:
        """One of its tasks."""
        return next(run.record.spec for one in self.entrants for run in one.runs.get(task, {}).values())

    @property
    def runs(self) -> int:
        """How many runs count here."""
        return sum(len(one.all_runs) for one in self.entrants)


def boards(selection: Selection) -> list[Board]:
    """Every board that a run counts for: the one that answers first, then the others of its place, then by name."""
    made = [
        board_of(runs[0].model, runs[0].data, protocol, runs)
        for (_, protocol), runs in by_protocol(selection.shown()).items()
    ]
    size = {folder: sum(board.runs for board in made if board.folder == folder) for folder in {b.folder for b in made}}

    def place(board: Board) -> tuple[int, int, str, int]:
        papers = _PAPERS.index(board.folder) if board.folder in _PAPERS else len(_PAPERS)
        return papers, -size[board.folder], board.folder, ANSWERS_BY.index(board.protocol)

    return sorted(made, key=place)


def board_of(model: str, data: str, protocol: str, runs: Iterable[Run]) -> Board:
    """The board of runs that count, all of one backbone, data source and protocol."""
    found = []
    for label, own in grouped(runs, "label").items():
        by_task = {task: {run.seed: run for run in group} for task, group in grouped(own, "task").items()}
        by_task = {task: by_task[task] for task in in_order(by_task)}
        points = {t: {seed: run.scores[protocol] for seed, run in of.items()} for t, of in by_task.items()}
        found.append(Entrant(label, by_task, points))
    tasks = tuple(in_order(task for one in found for task in one.runs))
    averaged = _averaged([set(one.runs) for one in found], tasks)
    per_seed = {one.label: averages({t: one.scores[t] for t in averaged}) if averaged and averaged <= one.runs.keys()
                else {} for one in found}  # fmt: skip
    order = sorted(found, key=lambda one: (-fmean(of.values()) if (of := per_seed[one.label]) else np.inf, one.label))
    ranked = [one for one in order if per_seed[one.label]]
    p = adjusted_p([per_seed[one.label] for one in ranked])
    tied = tie_groups(len(ranked), [pair for pair, value in p.items() if value < ALPHA])
    shared = [*letters_of(len(ranked), tied), *("" for _ in order[len(ranked) :])]
    entrants = tuple(
        Entrant(
            one.label,
            one.runs,
            one.scores,
            mean_interval(list(of.values())) if (of := per_seed[one.label]) else None,
            own_letters,
        )
        for one, own_letters in zip(order, shared, strict=True)
    )
    return Board(model, data, protocol, tasks, tuple(in_order(averaged)), entrants, p, tied)


def _averaged(owned: Sequence[set[str]], tasks: Sequence[str]) -> frozenset[str]:
    """The tasks of the averages: those of one method that make methods with all of them × tasks largest.

    WNLI and own tasks are in no average beside GLUE's eight.
    """
    allowed = set(EIGHT) & set(tasks) or set(tasks)
    candidates = {frozenset(own & allowed) for own in owned}

    def worth(chosen: frozenset[str]) -> tuple[int, int, list[str]]:
        return len(chosen) * sum(chosen <= own for own in owned), len(chosen), sorted(chosen)

    return max(candidates, key=worth, default=frozenset())


def display_name(label: str) -> str:
    """A record's label for readers: `LoRA² k=1` of `lora2 k=1`."""
    method, _, size = label.partition(" ")
    return f"{METHODS.get(method, method)} {size}".strip()


def task_name(task: str) -> str:
    """A task for readers: `SST-2`."""
    return ALL_TASKS[task].folder if task in TASKS else task
