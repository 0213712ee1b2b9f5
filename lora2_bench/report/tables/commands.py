"""The commands that fill the gaps of a table."""

from __future__ import annotations

from collections.abc import Iterable

from lora2_bench.experiment.suites import Suite
from lora2_bench.report.runs import rows_and_study
from lora2_bench.report.selection import OK, STALE
from lora2_bench.report.tables.grid import Grid
from lora2_bench.report.tables.slots import Slot

RUN = "python -m lora2_bench"


def place_of(model: str, data: str) -> str:
    """`model=... data=...` of the runs in one folder of tables, with what only the reader knows in capitals."""
    source = data.split("-", maxsplit=1)[0]
    where = f"model={model}" + (" model.path=DIR" if model == "local" else "") + f" data={source}"
    return where + (" init_from=CELL" if data.endswith("-init_from") else "")


def prefix_of(data: str) -> str:
    """The environment that official files need."""
    return "GLUE_DIR=DIR " if data.startswith("local") else ""


def suite_command(suite: Suite, model: str, data: str, protocol: str = "paper") -> str:
    """The command that runs all of a suite's cells, and passes over those that are done; for a study's runs its own."""
    if study := rows_and_study(data)[1]:
        return study_command(study, data)
    clean = " protocol=clean" if protocol == "clean" else ""
    return f"{prefix_of(data)}{RUN} -m suite={suite.name} {place_of(model, data)}{clean}"


def study_command(study: str, data: str) -> str:
    """The command that goes on with a study."""
    return f"{prefix_of(data)}{RUN}.tune study={study}"


def filling(grid: Grid) -> list[str]:
    """One command per row and set of seeds; the suite's own where no cell counts, and a study's where it tuned them."""
    if not any(slot.runs for row in grid.rows for slot in row.slots.values()):
        return [suite_command(grid.exhibit.suite, grid.model, grid.data, grid.protocol)]
    return [
        command
        for row in grid.rows
        for command in row_commands(row.line.spec.name, row.slots.items(), grid.model, grid.data, grid.protocol)
    ]


def row_commands(row: str, slots: Iterable[tuple[str, Slot]], model: str, data: str, protocol: str) -> list[str]:
    """The commands that fill one row; stale cells have to be trained anew. A study goes on by its own command."""
    if rows_and_study(data)[1]:
        return []
    gaps: dict[tuple[tuple[int, ...], bool], list[str]] = {}
    for task, slot in slots:
        for rerun in (False, True):
            seeds = tuple(
                sorted(seed for seed, state in slot.states.items() if state != OK and (state == STALE) == rerun)
            )
            if seeds:
                gaps.setdefault((seeds, rerun), []).append(task)
    end = " protocol=clean" if protocol == "clean" else ""
    found = []
    for (seeds, rerun), tasks in gaps.items():
        many = " -m" if len(seeds) * len(tasks) > 1 else ""
        cells = f"row={row} task={','.join(tasks)} seed={','.join(map(str, seeds))}"
        again = " rerun=true" if rerun else ""
        found.append(f"{prefix_of(data)}{RUN}{many} {cells} {place_of(model, data)}{end}{again}")
    return found
