"""What a study costs before it is run: cells, steps and hours, by measured seconds per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from lora2_bench.records.record import Record
from lora2_bench.tune.ledger import EXTRA_KINDS, Begun, RunCell, Trial
from lora2_bench.tune.study import Study


def cost_lines(study: Study, begun: Begun, records: Mapping[str, Record]) -> list[str]:
    """A table of every row and task: trials and runs, their steps and hours; hours with the extra trial of each too."""
    lines = [f"{'task':6} {'row':14} {'trials':>6} {'steps':>6} {'runs':>5} {'steps':>6} {'s/step':>7} {'hours':>7}"]
    seeds, total, left, extra, steps, unknown = len(study.seeds), 0.0, 0.0, 0.0, 0, 0
    has_extra = any(trial.kind in EXTRA_KINDS for trial in begun.trials)
    for row, task in study.places:
        trials = begun.of(row, task)
        run_steps = begun.run_steps[f"{row}-{task}"]
        of_place = sum(trial.steps for trial in trials) + seeds * run_steps
        seconds = seconds_per_step(study, begun, records, row, task)
        hours = None if seconds is None else of_place * seconds / 3600
        steps += of_place
        total += hours or 0.0
        left += _steps_left(study, begun, records, row, task) * (seconds or 0.0) / 3600
        extra += 0.0 if seconds is None or has_extra else trials[0].steps * seconds / 3600
        unknown += seconds is None
        shown = ("?", "?") if seconds is None or hours is None else (f"{seconds:.3f}", f"{hours:.2f}")
        lines.append(
            f"{task:6} {row:14} {len(trials):6} {trials[0].steps:6} {seeds:5} {run_steps:6} {shown[0]:>7} {shown[1]:>7}"
        )
    cells = len(begun.trials) + seeds * len(study.places)
    lines.append(f"{cells} cells ({len(begun.trials)} trials, {seeds * len(study.places)} runs), {steps} steps")
    if unknown:
        lines.append(f"hours are unknown for {unknown} (row, task): give study.seconds_per_step=SECONDS, as measured")
    else:
        told = f"{total:.1f} hours of one worker (GPU-hours where a cell has a GPU)"
        more = f"; {total + extra:.1f} with the one more trial each that a winner at an edge asks for"
        lines.append(told if has_extra else told + more)
        if records:
            lines.append(f"{left:.1f} of them are left")
    return lines


def _steps_left(study: Study, begun: Begun, records: Mapping[str, Record], row: str, task: str) -> int:
    """Steps of the row's planned cells on the task that have no record."""
    runs_in = sum((run.row, run.task) == (row, task) for run, _ in begun.ended(records))
    trials = sum(trial.steps for trial in begun.of(row, task) if trial.id not in records)
    return trials + (len(study.seeds) - runs_in) * begun.run_steps[f"{row}-{task}"]


def seconds_per_step(study: Study, begun: Begun, records: Mapping[str, Record], row: str, task: str) -> float | None:
    """Seconds of a training step: as the finished cells of the row and task took, else what the study says."""
    cells = [one for one in begun.cells if (one.row, one.task) == (row, task) and one.id in records]
    found = step_seconds(cells, records)
    return _told(study.values["seconds_per_step"], (task, row)) if found is None else found


def step_seconds(cells: Sequence[Trial | RunCell], records: Mapping[str, Record]) -> float | None:
    """The median of the cells' seconds of a step, which one that was stopped for a while does not move."""
    found = [seconds for one in cells if (seconds := records[one.id].seconds_per_step)]
    return median(found) if found else None


def _told(value: Any, names: Sequence[str]) -> float | None:
    """The number of a row on a task in a study's `seconds_per_step`, by task and row, or one for all."""
    for name in names:
        if isinstance(value, dict):
            value = value.get(name, value.get("default"))
    return None if value is None or isinstance(value, dict) else float(value)
