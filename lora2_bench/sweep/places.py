"""Whether what cells read is on this machine: a sweep of cells that must fail is not begun."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lora2_bench.tasks.sources import find_rows


def check_rows(cells: Iterable[Sequence[str]]) -> None:
    """Raise UserError where the rows of a cell's task are not here; one cell of each task is looked at.

    `cells` are the overrides of each.
    """
    from lora2_bench.config.grid import plan_points  # Hydra takes a third of a second to import

    first = {tuple(word for word in cell if word.startswith(("task=", "data"))): cell for cell in reversed(list(cells))}
    for plan in plan_points(list(first.values())):
        if plan.run_options.own_task is None:  # whose files the plan has read
            find_rows(plan.cell.spec, plan.cell.data.source, glue_dir=plan.run_options.data_dir)
