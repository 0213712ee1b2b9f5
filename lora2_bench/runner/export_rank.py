"""The adapter of a finished cell at another rank than its own, from its stored weights."""

from __future__ import annotations

from pathlib import Path

from lora2_bench.experiment.plan import Plan
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.runner.export import export_adapter
from lora2_bench.runner.stored import stored_method


def export_at_rank(plan: Plan, store: Store, record: Record) -> Path:
    """The folder `adapter_rN` beside the finished cell's record, N being `export.rank`; written where it is missing.

    Raises UserError where it cannot be written, and for weights that are not those that the cell has kept.
    """
    cell, rank = plan.cell, plan.run_options.export.rank
    assert rank is not None
    name = f"adapter_r{rank}"
    if (known := store.folder(cell.id) / name).is_dir():
        return known
    method = stored_method(plan, store, record, f"export.rank={rank}")
    with method.at_rank(rank):
        return store.add(cell.id, name, lambda folder: export_adapter(folder, method))
