"""One board as the page shows it: leaderboard, scores by task, costs, as plain rows for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from lora2_bench.report.figures.chart import Style
from lora2_bench.report.majority import MEANING, ROW, Majority
from lora2_bench.report.page.gather import Line
from lora2_bench.report.page.plots import curves, marker, scatter
from lora2_bench.report.runs import grouped
from lora2_bench.report.standing import Board, Entrant, task_name
from lora2_bench.report.statistics.intervals import mean_interval

BAR_STEPS, HEAT_STEPS = 20, 8


@dataclass(frozen=True)
class Shown:
    """One cell of a table: its text, a bar or heat behind it (a class of page.css), and a longer text to point at."""

    text: str
    behind: str = ""
    title: str = ""


def figures(board: Board, style: Mapping[str, Style]) -> dict[str, Markup]:
    """The first figure, for wide and for narrow screens; the second would be too small to read on the first's scale."""
    if not board.ranked:
        return {}
    return {
        "wide": scatter(board, style, width=1180, height=340),
        "narrow": scatter(board, style, width=360, height=300),
    }


def legend(board: Board, style: Mapping[str, Style]) -> list[tuple[str, str, Markup]]:
    """Label, name and sign of every method."""
    return [(one.label, one.name, marker(style[one.label])) for one in board.entrants]


def leaderboard(board: Board) -> list[list[Shown]]:
    """Method, tie groups, mean, interval, seeds and parameters; methods without an average say what they lack."""
    scale = _scale([one.mean.estimate for one in board.ranked if one.mean], BAR_STEPS)
    lines = []
    for one in board.entrants:
        if one.mean is None:
            lacking = [task_name(task) for task in board.averaged if task not in one.runs]
            why = f"no run on {', '.join(lacking)}" if lacking else "no seed with every task"
            lines.append([Shown(one.name), Shown(""), Shown(""), Shown(why), Shown(""), Shown(f"{one.adapter:,.0f}")])
            continue
        interval = "unknown" if one.mean.low is None else f"{one.mean.low:.2f} to {one.mean.high:.2f}"
        mean = Shown(f"{one.mean.estimate:.2f}", f"bar b{scale(one.mean.estimate)}")
        lines.append([Shown(one.name), Shown(one.groups), mean, Shown(interval), Shown(str(one.mean.n)),
                      Shown(f"{one.adapter:,.0f}")])  # fmt: skip
    return lines


def by_task(board: Board, majority: Mapping[str, Majority]) -> list[list[Shown]]:
    """Method × task: mean with half its interval and seeds, heat by column; last what one class alone would score."""
    scales = {
        task: _scale([fmean(one.scores[task].values()) for one in board.entrants if task in one.scores], HEAT_STEPS)
        for task in board.tasks
    }
    lines = []
    for one in board.entrants:
        line = [Shown(one.name)]
        for task in board.tasks:
            line.append(_score(one, task, scales[task]) if task in one.scores else Shown(""))
        lines.append(line)
    if majority:
        lines.append([Shown(ROW, "", MEANING), *(_constant(majority[task]) for task in board.tasks)])
    return lines


def _constant(one: Majority) -> Shown:
    return Shown(one.text, "", one.meaning)


def _score(one: Entrant, task: str, scale: _Step) -> Shown:
    found = mean_interval(list(one.scores[task].values()))
    half = "" if found.low is None else f" ± {found.half_width:.2f}"
    seeds = "; ".join(f"seed {seed}: {score:.2f}" for seed, score in sorted(one.scores[task].items()))
    return Shown(f"{found.estimate:.2f}{half} ({found.n})", f"heat h{scale(found.estimate)}", seeds)


def costs(board: Board) -> list[list[Shown]]:
    """One row per method and machine: parameters, seconds a step and a run, peak memory; over the averages' tasks."""
    lines = []
    for one in board.entrants:
        counted = [run for run in one.all_runs if run.task in board.averaged]
        for machine, runs in grouped(counted or one.all_runs, "machine").items():
            active = fmean(run.active(board.protocol) for run in runs)
            head = fmean(run.parameters["head"] for run in runs)
            counts = [Shown(f"{number:,.0f}") for number in (one.adapter, head, active)]
            steps = [found for run in runs if (found := run.seconds_per_step)]
            memory = [peak / 2**30 for run in runs if (peak := run.memory)]
            lines.append([
                Shown(one.name), *counts, Shown(f"{fmean(steps):.4f}" if steps else ""),
                Shown(f"{fmean(run.record.run['seconds'] for run in runs):.0f}"),
                Shown(f"{max(memory):.2f}" if memory else ""), Shown(machine),
            ])  # fmt: skip
    return lines


def learning(board: Board, lines: Mapping[str, Line], style: Mapping[str, Style]) -> list[Markup]:
    """One small figure per task."""
    names = {one.label: one.name for one in board.entrants}
    found = []
    for task in board.tasks:
        of_task = {
            one.label: [lines[run.id] for run in one.runs[task].values()] for one in board.entrants if task in one.runs
        }
        found.append(curves(task_name(task), of_task, names, style))
    return [one for one in found if one]


class _Step:
    """A value's step of a scale from the lowest to the highest of its column."""

    def __init__(self, values: Sequence[float], steps: int) -> None:
        self._low, self._high, self._steps = min(values, default=0.0), max(values, default=1.0), steps

    def __call__(self, value: float) -> int:
        if self._high == self._low:
            return self._steps
        return max(1, round(self._steps * (value - self._low) / (self._high - self._low)))


def _scale(values: Sequence[float], steps: int) -> _Step:
    return _Step(values, steps)
