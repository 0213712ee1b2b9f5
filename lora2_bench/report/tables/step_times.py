"""Table 2: seconds per training step of AdaLoRA and LoRA², and their ratio, which is what machines can share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora2_bench.experiment.suites import Suite, rows, suites
from lora2_bench.paper.printed import Printed
from lora2_bench.paper.tables import METHODS, table2
from lora2_bench.report.runs import Run
from lora2_bench.report.selection import NOT_COMPARABLE
from lora2_bench.report.tables.commands import row_commands, suite_command
from lora2_bench.report.tables.render import Sheet, Text
from lora2_bench.report.tables.sheets import legend, name_of, signed
from lora2_bench.report.tables.slots import MARKS, Slot, slot_of

CSV_COLUMNS = ("exhibit", "model", "data", "row", "task", "seconds", "sd", "n", "machine", "marks", "printed")


@dataclass(frozen=True)
class Times:
    """Seconds per step of one row, by task.

    Attributes:
        seconds: task -> machine -> one number per run.
        slots: task -> which runs count.
    """

    row: str
    seconds: Mapping[str, Mapping[str, Sequence[float]]]
    slots: Mapping[str, Slot]

    def on_one_machine(self, task: str) -> tuple[str, Sequence[float]] | None:
        """The machine and the times of a task; None where there are none, or several machines."""
        return next(iter(self.seconds[task].items())) if len(self.seconds[task]) == 1 else None


def suite() -> Suite:
    """The cells of Table 2."""
    return suites()["table2"]


def collect(by_row: Mapping[str, Sequence[Run]], stale: Mapping[str, str]) -> list[Times]:
    """The times of Table 2's rows, from runs of one backbone and data source with protocol `paper`."""
    found = []
    for name in suite().rows:
        runs = [run for run in by_row.get(name, ()) if run.protocol == "paper"]
        slots = {
            task: slot_of([run for run in runs if run.task == task], suite().seeds, stale) for task in suite().tasks
        }
        seconds: dict[str, dict[str, list[float]]] = {task: {} for task in suite().tasks}
        for task, slot in slots.items():
            for run in slot.runs.values():
                if run.seconds_per_step is not None:
                    seconds[task].setdefault(run.machine, []).append(run.seconds_per_step)
        found.append(Times(name, seconds, slots))
    return found


def times_sheet(times: Sequence[Times], model: str, data: str) -> Sheet:
    """Table 2's sheet: seconds, and LoRA²'s over AdaLoRA's where both ran on one machine."""
    papers = is_papers(model, data)
    lines: list[list[Text]] = []
    for one in times:
        spec = rows()[one.row]
        lines.append([Text(f"{METHODS[spec.method]} {spec.size_name}={spec.size}"), Text("ours, seconds"),
                      *(_seconds(one, task) for task in suite().tasks)])  # fmt: skip
        if papers:
            printed = [Text(str(_printed(one.row, task))) for task in suite().tasks]
            lines.append([Text(), Text("printed, seconds"), *printed])
    ratios = [ratio(times, task) for task in suite().tasks]
    ours = [Text("–" if value is None else f"{value:.2f}") for value in ratios]
    lines.append([Text("LoRA² / AdaLoRA"), Text("ours"), *ours])
    if papers:
        theirs = [float(table2()[task].lora2.value / table2()[task].adalora.value) for task in suite().tasks]
        lines.append([Text(), Text("printed"), *(Text(f"{value:.2f}") for value in theirs)])
        both = zip(ratios, theirs, strict=True)
        differences = [Text() if ours is None else Text(signed(ours - printed)) for ours, printed in both]
        lines.append([Text(), Text("difference"), *differences])
    machines = sorted({machine for one in times for task in one.seconds.values() for machine in task})
    notes = [
        "Mean ± standard deviation (runs). Seconds depend on the machine and on what else runs on it, and the paper "
        "names neither its machine nor the sizes: its seconds are not comparable, the ratio is, with care."
    ]
    notes += [f"Ours ran on: {', '.join(machines)}."] if machines else []
    mixed = {(one.row, task) for one in times for task, found in one.seconds.items() if len(found) > 1}
    shown = [slot for one in times for task, slot in one.slots.items() if (one.row, task) not in mixed]
    notes += legend(mark for slot in shown for mark in slot.marks)
    if mixed:
        notes.append(f"{MARKS[NOT_COMPARABLE]} beside seconds: runs on several machines, not averaged.")
    commands = [command for one in times for command in row_commands(one.row, one.slots.items(), model, data, "paper")]
    if not any(slot.runs for one in times for slot in one.slots.values()):
        commands = [suite_command(suite(), model, data)]
    title = name_of("Table 2", "seconds per training step", suite().model, model, data)
    return Sheet(
        title, ["method", "", *suite().tasks], 2, lines, frozenset({len(lines) - (3 if papers else 1)}), notes, commands
    )


def is_papers(model: str, data: str) -> bool:
    """Whether the table may carry the paper's name."""
    return model == suite().model and data in ("local", "hub")


def ratio(times: Sequence[Times], task: str) -> float | None:
    """LoRA²'s mean seconds over AdaLoRA's; None unless both ran on the same one machine."""
    found = {rows()[one.row].method: one.on_one_machine(task) for one in times}
    adalora, lora2 = found["adalora"], found["lora2"]
    if adalora is None or lora2 is None or adalora[0] != lora2[0]:
        return None
    return float(np.mean(lora2[1]) / np.mean(adalora[1]))


def csv_lines(times: Sequence[Times], model: str, data: str) -> list[list[Any]]:
    """One line per row, task and machine, as `CSV_COLUMNS`."""
    found: list[list[Any]] = []
    exhibit = ("" if is_papers(model, data) else "layout of ") + "Table 2"
    for one in times:
        for task, machines in one.seconds.items():
            printed = _printed(one.row, task) if is_papers(model, data) else ""
            for machine, seconds in machines.items() or [("", [])]:
                mean = f"{np.mean(seconds):.6f}" if seconds else ""
                sd = f"{np.std(seconds, ddof=1):.6f}" if len(seconds) > 1 else ""
                marks = "; ".join(one.slots[task].marks)
                found.append([exhibit, model, data, one.row, task, mean, sd, len(seconds), machine, marks, printed])
    return found


def _printed(row: str, task: str) -> Printed:
    step = table2()[task]
    return step.lora2 if rows()[row].method == "lora2" else step.adalora


def _seconds(times: Times, task: str) -> Text:
    marks = "".join(MARKS[mark] for mark in times.slots[task].marks)
    found = times.on_one_machine(task)
    if found is None:
        return Text(MARKS[NOT_COMPARABLE] if times.seconds[task] else marks or "–")
    seconds = found[1]
    spread = f" ± {np.std(seconds, ddof=1):.3f}" if len(seconds) > 1 else ""
    return Text(f"{np.mean(seconds):.3f}{spread} ({len(seconds)}){marks}")
