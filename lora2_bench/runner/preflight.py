"""Checks that need no training: same rows, options that fit, a usable init_from."""

from __future__ import annotations

import sys

from lora2_bench.backbones.folder import check_vocabulary, read_config, weights_files
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.plan import Plan
from lora2_bench.experiment.settings import canonical, typed
from lora2_bench.experiment.sources import is_found, sources_digest
from lora2_bench.files.hub import find_model
from lora2_bench.files.paths import shortened, user_path
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.tasks.hub import find_hub
from lora2_bench.tasks.local import find_local
from lora2_bench.tasks.sources import load_task, local_folder


def check_places(plan: Plan) -> None:
    """Raise UserError for a method, a backbone or rows that are not where the plan says: torch takes seconds to import.

    Nothing is imported or read but the configuration of a local backbone; what loads them checks all of it again.
    """
    if not is_found(plan.implementation):
        target = shortened(plan.implementation)
        raise UserError(f"method._target_={target} cannot be imported (no such module): give MODULE.CLASS")
    if plan.cell.model.source == "local":
        root = user_path(str(plan.run_options.model_path), "model.path")
        where = f"model.path={root.name}"
        read_config(root, where)
        weights_files(root, where, is_pinned=False)
        check_vocabulary(root, where)
    if plan.cell.model.source == "hub":
        find_model(str(plan.cell.model.hub_id), str(plan.cell.model.revision))
    if plan.cell.data.source == "hub":
        find_hub(plan.cell.spec)
    if plan.cell.data.source == "local":
        find_local(plan.cell.spec, local_folder(plan.run_options.data_dir))


def check_same_rows(plan: Plan, known: Record) -> None:
    """Raise UserError where the files of `data=local` hold other rows than the stored record was made from.

    A cell's id has no path in it, so that records can be merged from any machine; where the files are not here (a
    merged record), there is nothing to compare.
    """
    folder = plan.run_options.data_dir
    if plan.cell.data.source != "local" or not folder or not user_path(folder, "data.dir").is_dir():
        return
    data = load_task(plan.cell.task, "local", glue_dir=folder)
    if data.content_hash() != known.result["data"]["sha256"]:
        raise UserError(
            f"data.dir={folder} has other rows ({data.rows}) than the stored record of this cell "
            f"({known.result['data']['source_rows']}): give another results=DIR, or rerun=true to replace it"
        )


def warn_of_other_code(plan: Plan, known: Record) -> None:
    """Say on stderr where the code that can change this cell's result is not the code that made the stored record.

    A record of a version that kept no digest of its code says nothing.
    """
    made_by = known.run.get("sources")
    if made_by is None:
        return
    if made_by != (now := sources_digest(plan.implementation)):
        print(
            f"warning: the code behind cell {known.id} has changed since then (sources {made_by}, now {now}): "
            "rerun=true trains it anew",
            file=sys.stderr,
        )


def check_origin(cell: Cell, store: Store) -> None:
    """Raise UserError unless `init_from` is a finished cell of the same backbone and method that kept its weights."""
    if cell.init_from is None:
        return
    origin = store.read(cell.init_from)
    if origin is None or not origin.is_done:
        raise UserError(
            f"init_from={cell.init_from} is no finished cell in {store.cells}: run it first, or copy its folder there"
        )
    if not store.weights(cell.init_from).is_file():
        raise UserError(
            f"init_from={cell.init_from} ({origin.label} on {origin.cell['task']}) kept no weights: give a cell of an "
            "adapter or of bitfit"
        )
    if origin.cell["model"] != cell.to_dict()["model"]:
        raise UserError(
            f"init_from={cell.init_from} is a cell of another model={origin.cell['model']['name']}: give one of this "
            "backbone"
        )
    if (theirs := origin.cell["method"]["name"]) != cell.method["name"]:
        raise UserError(
            f"init_from={cell.init_from} is a cell of method={theirs}: give method={theirs}, or another cell"
        )
    _check_function(cell, origin)


# A method's options that say what its adapter computes, and those that say how it is trained.
_FUNCTION = ("k", "r", "alpha", "targets")
_TRAINING = ("dropout", "init_std", "reg", "budget", "score", "xi", "l1", "xi_schedule")


def _check_function(cell: Cell, origin: Record) -> None:
    """Raise UserError where the origin's adapter would compute something else here; warn where it may.

    Options that only train it may differ; of a user's own method nobody knows which these are.
    """
    theirs, ours = canonical({**origin.cell["method"]}), canonical({**cell.method})
    for name in sorted(theirs.keys() | ours.keys()):
        before, now = theirs.get(name), ours.get(name)
        if before == now or name in _TRAINING:
            continue
        told = f"init_from={origin.id} was trained with method.{name}={typed(before)}, not {typed(now)}"
        if name in _FUNCTION:
            raise UserError(f"{told}: its adapter would be another here; give the same")
        print(f"warning: {told}: its adapter may compute something else here", file=sys.stderr)
