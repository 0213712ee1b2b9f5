"""A stored cell as the plan that made it, put together again from its record alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell, Model
from lora2_bench.experiment.plan import Export, Plan, RunOptions
from lora2_bench.files.digests import hash_folder
from lora2_bench.files.paths import CONF, shortened, user_path
from lora2_bench.records.forms import PLAIN_NAME
from lora2_bench.records.identity import AT
from lora2_bench.records.record import Record
from lora2_bench.records.store import ADAPTER, Store

_ID = re.compile(rf"[0-9a-f]{{16}}({AT}[^/]*)?")


def find_cell(text: str, results: Path) -> tuple[Path, str]:
    """The results folder and the id of the cell that a user named: by its id in `results`, or by its folder.

    `@4` after either, for the cell at rank 4, stays with the id. Raises UserError for text that is neither; whether
    there is a record, `open_cell` says.
    """
    if _ID.fullmatch(text):
        return results, text
    folder = user_path(text, "CELL").absolute()
    if _ID.fullmatch(folder.name) and folder.parent.name == "cells":
        return folder.parent.parent, folder.name
    raise UserError(
        f"CELL={shortened(text)} is no cell: give its id (16 digits of 0-9 and a-f, as in its record's path) or its "
        "folder, as in results/cells/ID; ID@4 is a cell at rank 4"
    )


def open_cell(
    results: Path,
    cell_id: str,
    *,
    base: str | None = None,
    implementation: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    eval_batch_size: int = 64,
    data_dir: str | None = None,
) -> tuple[Plan, Record]:
    """A finished cell's plan and record; nothing is loaded, and no torch is imported.

    A record may come from elsewhere, so it names no code to run: the method's class is that of conf/method, or one of
    PEFT's configs.

    Args:
        results: the folder with `cells/`.
        cell_id: the cell's id; `ID@4` at rank 4, of a method that serves several, which is then the plan's
            `export.rank`.
        base: the folder of a `local` backbone, for its path is in no record.
        implementation: MODULE.CLASS of a method of the user's own.
        device: auto, cpu or cuda.
        threads: CPU threads, or None for all cores.
        eval_batch_size: rows per batch.
        data_dir: folder of the `local` data source, for a caller that reads rows.

    Raises:
        UserError: where there is no finished cell, a local backbone's folder is missing or another's, or the class of
            the method is not known; for a rank that the cell does not serve.
    """
    store = Store(results)
    cell_id, at, rank = cell_id.partition(AT)
    record = store.read(cell_id)
    if record is None:
        raise UserError(f"there is no cell {cell_id} in {store.cells}: give --results DIR, or the cell's folder")
    if not record.is_done:
        raise UserError(f"cell {cell_id} ({record.label} on {record.cell['task']}) is not finished: run it again")
    cell = Cell.from_dict(record.cell)
    if cell.id != cell_id:
        raise UserError(f"cell {cell_id} has settings that are another's here ({cell.id}): use the version that ran it")
    package, folder = package_of(cell.model, record)
    place = RunOptions(
        results=results,
        device=device,
        threads=threads,
        engine=record.run.get("engine", "fast"),
        eval_batch_size=eval_batch_size,
        data_dir=data_dir,
        model_path=_local_folder(cell, base),
        model_package=package,
        model_folder=folder,
        export=Export(record.rank_of(rank) if at else None, False),
    )
    return Plan(cell, _implementation(cell, _section(record, "method"), implementation), place), record


def require_weights(store: Store, record: Record) -> None:
    """Raise UserError where a cell kept no weights to be used with."""
    if not store.weights(record.id).is_file():
        kept = "its adapter alone, which PEFT reads" if (store.folder(record.id) / ADAPTER).is_dir() else "no weights"
        raise UserError(
            f"cell {record.id} ({record.label} on {record.cell['task']}) kept {kept}: train it anew with "
            "rerun=true keep=weights"
        )


def _implementation(cell: Cell, told: Mapping[str, Any], given: str | None) -> str:
    """The dotted name of the method's class."""
    name, target = str(cell.method["name"]), told.get("_target_")
    own = str(_conf("method", name).get("_target_"))
    if given is not None:
        return given
    if target in (None, own) and "?" not in own and own != "None":
        return own
    if isinstance(target, str) and re.fullmatch(r"peft\.[A-Za-z]\w*", target):
        return target
    raise UserError(
        f"cell {cell.id} is of method={shortened(name)}, which is not the package's, and no record is asked for code: "
        "give --method MODULE.CLASS, the class that trained it"
    )


def _local_folder(cell: Cell, base: str | None) -> str | None:
    """The folder of a local backbone, its content compared with the cell's; None for other backbones."""
    model = cell.model
    if model.source != "local":
        if base is not None:
            raise UserError(f"--base {shortened(base)} is for model=local alone, not for {model.name}: leave it out")
        return None
    if base is None:
        raise UserError(f"cell {cell.id} is of model=local, and no record names a path: give --base DIR, its folder")
    if (found := hash_folder(user_path(base, "--base"))) != model.sha256:
        raise UserError(
            f"--base {shortened(base)} is another backbone (sha256 {found[:16]}) than that of cell {cell.id} "
            f"({str(model.sha256)[:16]}): give the folder that it was trained on"
        )
    return base


def package_of(model: Model, record: Record) -> tuple[str | None, str | None]:
    """Package and folder of a `package` backbone: of conf/model, or of one's own as a cell's record says.

    Raises UserError where neither says.
    """
    if model.source != "package":
        return None, None
    values = _conf("model", model.name)
    if values.get("sha256") != model.sha256:
        values = _section(record, "model")
    package, folder = values.get("package"), values.get("folder")
    if not (isinstance(package, str) and package.isidentifier() and isinstance(folder, str)):
        raise UserError(f"cell {record.id} does not say which package has model={model.name}: run its command again")
    return package, folder


def _conf(group: str, name: str) -> Mapping[str, Any]:
    """The unresolved settings of a config's file; empty without one."""
    path = CONF / group / f"{name}.yaml"
    if not PLAIN_NAME.matches(name) or not path.is_file():
        return {}
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def _section(record: Record, name: str) -> Mapping[str, Any]:
    """A section of the composed config that a record holds; empty where it has none."""
    found = record.run.get("config", {}).get(name)
    return found if isinstance(found, dict) else {}
