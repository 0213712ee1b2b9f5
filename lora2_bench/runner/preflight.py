"""Checks that need no training: same rows, options that fit, a usable init_from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from lora2_bench.backbones.folder import check_vocabulary, read_config, weights_files
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.plan import Plan
from lora2_bench.experiment.settings import canonical, typed
from lora2_bench.experiment.sources import is_found, sources_digest
from lora2_bench.files.hub import find_model
from lora2_bench.files.paths import shortened, user_path
from lora2_bench.records.record import Record
from lora2_bench.records.retention import read_retention
from lora2_bench.records.store import ADAPTER, MODEL, WEIGHTS, Store
from lora2_bench.retention.rows import Source
from lora2_bench.tasks.data import texts_hash
from lora2_bench.tasks.sources import find_rows, load_task, load_test_rows, local_folder
from lora2_bench.tasks.spec import TaskSpec, test_parts


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
    if plan.run_options.own_task is None:  # whose files the plan has read
        find_rows(plan.cell.spec, plan.cell.data.source, glue_dir=plan.run_options.data_dir)


def check_same_rows(plan: Plan, known: Record) -> None:
    """Raise UserError where the files of `data=local` hold other rows than the stored record was made from.

    A cell's id has no path in it, so that records can be merged from any machine; where the files are not here (a
    merged record), there is nothing to compare. The id of a user's own task has the rows in it.
    """
    folder = plan.run_options.data_dir
    if (
        plan.cell.data.source != "local"
        or plan.cell.definition is not None
        or not folder
        or not user_path(folder, "data.dir").is_dir()
    ):
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


def check_test_source(plan: Plan) -> None:
    """Raise UserError where test rows are to be predicted of a task that is generated, or a user's own."""
    if plan.run_options.predict_test and plan.cell.definition is not None:
        raise UserError(f"predict_test=true does not fit task={plan.cell.task}, which has no test rows: leave it out")
    if plan.run_options.predict_test and plan.cell.data.source == "mini":
        raise UserError(
            "predict_test=true does not fit data=mini, whose generated tasks have no test rows: give data=local or "
            "data=hub, or leave it out"
        )


def check_test_rows(plan: Plan) -> None:
    """Raise UserError where test rows are to be predicted and cannot be had; warn of other rows than GLUE's."""
    if not plan.run_options.predict_test:
        return
    task, parts = plan.cell.task, test_parts(plan.cell.spec)
    rows = load_test_rows(task, plan.cell.data.source, glue_dir=plan.run_options.data_dir)
    for name, (spec, split) in parts.items():
        if len(rows[name]) != spec.rows[split]:
            print(
                f"warning: {task}'s {name} rows are {len(rows[name])} instead of GLUE's {spec.rows[split]}: GLUE's "
                "server does not take their predictions",
                file=sys.stderr,
            )
        elif _is_tsv(plan, spec, split) and spec.content.get(split) not in (None, texts_hash(rows[name])):
            print(f"warning: {task}'s {name} rows are GLUE's in number, and some have other texts", file=sys.stderr)


def _is_tsv(plan: Plan, spec: TaskSpec, split: str) -> bool:
    """Whether a split is read from the download script's layout, whose content may be known."""
    cell, folder = plan.cell, plan.run_options.data_dir
    return cell.data.source == "local" and (local_folder(folder) / spec.folder / f"{split}.tsv").is_file()


def has_test_predictions(plan: Plan, store: Store) -> bool:
    """Whether a finished cell's test predictions are stored, whole and of the rows that are here.

    A line on stderr says why stored ones are made anew. Raises UserError where they must be made and the cell kept no
    weights.
    """
    from lora2_bench.records.test_predictions import read_predicted  # numpy, which most look-ups need not

    cell, path = plan.cell, store.test_predictions(plan.cell.id)
    try:
        found = read_predicted(path, cell.id)
        why = "" if found is None or _same_test_rows(plan, found.rows) else "is of other rows than those that are here"
    except ValueError as error:
        found, why = None, f"cannot be used ({error})"
    if found is not None and not why:
        return True
    _check_can_be_made(plan, store, path, why, "predict_test=true", "it has no test predictions")
    return False


def _same_test_rows(plan: Plan, known: Mapping[str, str]) -> bool:
    """Whether stored predictions are of these files' rows; True where no files are here, and of the hub's, pinned."""
    folder = plan.run_options.data_dir
    if plan.cell.data.source != "local" or not folder or not user_path(folder, "data.dir").is_dir():
        return True
    rows = load_test_rows(plan.cell.task, "local", glue_dir=folder)
    return {name: texts_hash(split) for name, split in rows.items()} == known


def check_retention(plan: Plan) -> None:
    """Raise UserError where nothing of what retention is asked for can be measured, as far as can be told here."""
    measures = plan.run_options.retention
    if not measures:
        return
    source = Source.of(plan.cell, plan.run_options.data_dir)
    reasons = [source.has_nothing_for(name) for name in measures]
    if all(reasons):
        raise UserError(
            f"retention=[{','.join(measures)}] has nothing to measure here ({measures[0]}: {reasons[0]}): give other "
            "measures, or leave it out"
        )


def has_retention(plan: Plan, store: Store) -> bool:
    """Whether what is asked for of a finished cell's retention is stored, whole.

    A line on stderr says why a stored file is made anew. Raises UserError where it must be and no weights are kept.
    """
    cell, path = plan.cell, store.retention(plan.cell.id)
    try:
        found = read_retention(path, cell.id)
        lacking = [] if found is None else [name for name in plan.run_options.retention if name not in found["asked"]]
        why = f"has no {', '.join(lacking)}" if lacking else ""
    except ValueError as error:
        found, why = None, f"cannot be used ({error})"
    if found is not None and not why:
        return True
    asked = f"retention=[{','.join(plan.run_options.retention)}]"
    _check_can_be_made(plan, store, path, why, asked, "its retention was not measured")
    return False


def _check_can_be_made(plan: Plan, store: Store, path: Path, why: str, asked: str, absent: str) -> None:
    """Say on stderr `why` a file beside a finished cell's record is made anew, where one is there.

    Raises UserError where the cell kept no weights to make it from.
    """
    cell = plan.cell
    if not store.weights(cell.id).is_file():
        raise UserError(
            f"{asked}: cell {cell.id} ({cell.method_label} on {cell.task}) is finished, "
            f"{f'{path} {why}' if why else absent}, and it kept no weights: train it anew with rerun=true {asked}"
        )
    if why:
        print(f"warning: {path} {why}: made anew", file=sys.stderr)


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
            f"init_from={cell.init_from} ({origin.label} on {origin.cell['task']}) kept no weights: train it anew "
            "with rerun=true keep=weights"
        )
    if not origin.result["parameters"]["adapter"]:
        raise UserError(
            f"init_from={cell.init_from} ({origin.label} on {origin.cell['task']}) trained its head alone, which no "
            "other cell starts from: give a cell of an adapter or of bitfit"
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


def check_kept(plan: Plan, store: Store, record: Record) -> None:
    """Raise UserError where a finished cell did not keep what is asked for now; say where it keeps what is not."""
    keep, folder = plan.run_options.keep, store.folder(record.id)
    if keep == "nothing" and any((folder / name).exists() for name in (ADAPTER, WEIGHTS, MODEL)):
        print(
            f"warning: keep=nothing: cell {record.id} is finished, and what it kept stays: delete it, or train it anew "
            "with rerun=true keep=nothing",
            file=sys.stderr,
        )
    lacks_weights = keep == "weights" and not store.weights(record.id).is_file()
    if lacks_weights or (keep == "adapter" and not (folder / ADAPTER).is_dir()):
        raise UserError(
            f"keep={keep}: cell {record.id} ({record.label} on {record.cell['task']}) is finished, and kept none: "
            f"train it anew with rerun=true keep={keep}"
        )


def kept_line(store: Store, cell_id: str) -> str:
    """What a finished cell keeps of its method, each part with its size."""
    folder = store.folder(cell_id)
    parts = []
    for name in (ADAPTER, WEIGHTS, MODEL):
        path = folder / name
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        if files:
            parts.append(f"{path} ({sum(file.stat().st_size for file in files) / 1e6:,.2f} MB)")
    return f"kept: {', '.join(parts) or 'nothing but the record and the predictions'}"
