"""What a finished cell exports on request, from its stored weights: its adapter at another rank, the merged model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.base import Method, at_rank
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.runner.export import export_adapter
from lora2_bench.runner.model_folder import write_model
from lora2_bench.runner.stored import stored_method


def export_at_rank(plan: Plan, store: Store, record: Record) -> Path:
    """The folder `adapter_rN` beside the finished cell's record, N being `export.rank`; written where it is missing.

    Raises UserError where it cannot be written, and for weights that are not those that the cell has kept.
    """
    rank = plan.run_options.export.rank
    assert rank is not None
    return _exported(plan, store, record, "adapter", f"export.rank={rank}", export_adapter)


def export_merged(plan: Plan, store: Store, record: Record) -> Path:
    """The folder `merged` beside the finished cell's record, or `merged_rN`; written where it is missing.

    Raises UserError as `export_at_rank` does, and where the method cannot be merged.
    """
    spec = plan.cell.spec

    def write(folder: Path, method: Method) -> None:
        method.merge()
        write_model(folder, method.backbone, spec, plan.cell.train.max_length)

    return _exported(plan, store, record, "merged", "export.merged=true", write)


def _exported(
    plan: Plan, store: Store, record: Record, name: str, asked: str, write: Callable[[Path, Method], None]
) -> Path:
    """The folder `name`, with `_rN` at a rank of its own, that `write` makes of the cell's method; made once."""
    rank = plan.run_options.export.rank
    name = name if rank is None else f"{name}_r{rank}"
    if (known := store.folder(plan.cell.id) / name).is_dir():
        return known
    method = stored_method(plan, store, record, asked)
    with at_rank(method, rank):
        return store.add(plan.cell.id, name, lambda folder: write(folder, method))
