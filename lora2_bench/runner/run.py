"""Run one plan: look its cell up, else train and score it, and keep the record."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from lora2_bench.errors import CellFailed, UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.files.lean import lean_imports
from lora2_bench.records.lock import locked
from lora2_bench.records.record import Record, result_line
from lora2_bench.records.store import Store
from lora2_bench.runner.preflight import (
    check_kept,
    check_origin,
    check_places,
    check_retention,
    check_same_rows,
    check_test_rows,
    check_test_source,
    has_retention,
    has_test_predictions,
    kept_line,
    warn_of_other_code,
)
from lora2_bench.training.ranks import Ranks

if TYPE_CHECKING:  # a finished cell is printed without torch
    from lora2_bench.training.pack import Pack


def run(plan: Plan, pack: Pack | None = None) -> Record:
    """The plan's record: the stored one of a finished cell, else that of a new run. Prints the result line last.

    In a `pack` this call is one of those that it runs.

    Raises UserError for bad input, before training; CellFailed when training ended early (its record is stored).
    """
    store = Store(plan.run_options.results)
    ranks = join_process_group(plan)
    with ExitStack() as locks:

        def look_up_and_lock() -> Record | None:
            check_export(plan, store)
            check_test_source(plan)
            check_retention(plan)
            if (record := finished_record(plan, store)) is not None:
                check_kept(plan, store, record)
                return record
            check_origin(plan.cell, store)
            store.check_writable()
            check_places(plan)
            check_test_rows(plan)
            import_trainer(plan)
            from lora2_bench.runner.setup import check_fit

            check_fit(plan)
            locks.enter_context(locked(store.running(plan.cell.id), f"cell {plan.cell.id} is being trained"))
            store.tidy(plan.cell.id)
            return finished_record(plan, store)  # another process may have finished it meanwhile

        record = ranks.on_main(look_up_and_lock) or _train(plan, store, ranks, pack)
    if record.is_done:
        if plan.run_options.keep is not None and ranks.is_main:
            print(kept_line(store, record.id))
        ranks.on_main(partial(_export, plan, store, record))
    if plan.run_options.predict_test and record.is_done:
        _predict(plan, store, record, ranks)
    if plan.run_options.retention and record.is_done:
        _retain(plan, store, record, ranks)
    if ranks.is_main:
        print(result_line(record, str(store.path(plan.cell.id))))
    if record.error is not None:
        raise CellFailed(record.error["step"], record.error["cause"])
    return record


def import_trainer(plan: Plan) -> None:
    """Import the training code: torch and transformers take seconds, and a finished cell is printed without them.

    The garbage collector is off meanwhile, and never looks through the imported objects afterwards. The plan's backbone
    is read as soon as torch is there.
    """
    if "lora2_bench.runner.train_cell" in sys.modules:
        return  # freezing again would keep an earlier cell's objects for ever
    gc.disable()
    try:
        with lean_imports():
            from lora2_bench.backbones.ahead import read_ahead

            place = plan.run_options
            read_ahead(plan.cell.model, path=place.model_path, package=place.model_package, folder=place.model_folder)
            import lora2_bench.runner.train_cell  # noqa: F401 (its import is all that is wanted)
    finally:
        gc.freeze()
        gc.enable()


def check_export(plan: Plan, store: Store) -> None:
    """Raise UserError for what the cell's method cannot give: an adapter to keep, a merged model, another rank."""
    export, keep = plan.run_options.export, plan.run_options.keep
    rank, label = export.rank, plan.cell.method_label
    if rank is None and not export.merged and keep != "adapter":
        return
    import_trainer(plan)
    from lora2_bench.methods.base import load_method

    kind = load_method(plan.implementation)
    method = kind(kind.parse(plan.cell.method), total_steps=1)
    if keep == "adapter" and kind.exports not in ("lora", "peft"):
        raise UserError(
            f"keep=adapter does not fit {label}, which PEFT cannot load: give keep=weights, or leave it out"
        )
    asked = f"export.rank={rank}" if rank is not None else "export.merged=true"
    if rank is None and not export.merged:
        return
    if keep in ("adapter", "nothing"):
        raise UserError(f"{asked} is made of the weights, which keep={keep} leaves out: leave out one of the two")
    if export.merged and kind.exports == "none" and keep is None and not store.weights(plan.cell.id).is_file():
        raise UserError(f"export.merged=true does not fit {label}, which keeps no weights: give keep=weights too")
    if export.merged and not kind.merges:
        method.merge()  # which refuses, with its reason
    if rank is None:
        return
    served = method.ranks()
    if not served:
        raise UserError(f"export.rank={rank} does not fit {label}, which serves no rank but its own: leave it out")
    if rank not in served:
        raise UserError(f"export.rank={rank} does not fit {label}: give one of {', '.join(map(str, served))}")


def _export(plan: Plan, store: Store, record: Record) -> None:
    export = plan.run_options.export
    if export.rank is not None:
        from lora2_bench.runner.export_more import export_at_rank

        print(f"adapter at rank {export.rank}: {export_at_rank(plan, store, record)}")
    if export.merged:
        from lora2_bench.runner.export_more import export_merged

        print(f"merged model: {export_merged(plan, store, record)}")


def _predict(plan: Plan, store: Store, record: Record, ranks: Ranks) -> None:
    """Print where a finished cell's test predictions are; they are made first where they are not there."""
    if not ranks.on_main(partial(has_test_predictions, plan, store)):
        ranks.on_main(partial(check_test_rows, plan))
        import_trainer(plan)
        from lora2_bench.runner.predict import predict_finished

        predict_finished(plan, store, record, ranks)
    if ranks.is_main:
        print(f"test predictions: {store.test_predictions(record.id)}")


def _retain(plan: Plan, store: Store, record: Record, ranks: Ranks) -> None:
    """Print where it stands what a finished cell has forgotten; it is measured first where it is not there."""
    if not ranks.on_main(partial(has_retention, plan, store)):
        import_trainer(plan)
        from lora2_bench.runner.retain import retain_finished

        retain_finished(plan, store, record, ranks)
    if ranks.is_main:
        print(f"retention: {store.retention(record.id)}")


def _train(plan: Plan, store: Store, ranks: Ranks, pack: Pack | None) -> Record:
    import_trainer(plan)
    from lora2_bench.runner.train_cell import run_cell

    return run_cell(plan, store, ranks, pack)


def join_process_group(plan: Plan) -> Ranks:
    """Rank and world size under `accelerate launch`; a single process without it."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    from lora2_bench.training.device import make_accelerator, pick_device

    accelerator = make_accelerator(plan.cell.train.precision, pick_device(plan.run_options))
    return Ranks(accelerator.process_index, accelerator.num_processes, str(accelerator.device))


def finished_record(plan: Plan, store: Store) -> Record | None:
    """The stored record of the plan's cell where it is done and `rerun` is off."""
    known = None if plan.run_options.rerun else store.read(plan.cell.id)
    if known is None or not known.is_done:
        return None
    check_same_rows(plan, known)
    warn_of_other_code(plan, known)
    return known
