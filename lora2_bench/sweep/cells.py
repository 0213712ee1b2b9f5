"""The cells of a command line, with their ids, cached on disk: composing hundreds of configs takes seconds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import yaml

from lora2_bench.config.arguments import config_folder
from lora2_bench.errors import UserError
from lora2_bench.experiment.recipe import tuned_of
from lora2_bench.files.paths import CONF, below, results_folder, user_path
from lora2_bench.files.reading import read_json
from lora2_bench.files.writing import write_json
from lora2_bench.records.checking import checker
from lora2_bench.tasks.own.tables import stamps
from lora2_bench.tasks.own.task import OwnTask
from lora2_bench.tasks.spec import ALL_TASKS

DEFAULT_RESULTS = "results"


@dataclass(frozen=True)
class SweepCell:
    """A cell of a sweep: its id, and the overrides that `python -m lora2_bench` would run it with."""

    id: str
    overrides: tuple[str, ...]

    @property
    def label(self) -> str:
        """The overrides that tell it from other cells, as in `row=lora_r1 task=rte seed=0`."""
        names = ("row", "method", "kr", "task", "lr_factor", "seed")
        named = [override for override in self.overrides if override.split("=")[0] in names]
        return " ".join(named or self.overrides)


def value_of(overrides: Sequence[str], name: str) -> str | None:
    """The last value that the overrides give to `name`, without quotes; None without one."""
    found = [override.split("=", 1)[1] for override in overrides if override.startswith(f"{name}=")]
    return found[-1].strip("'\"") if found else None


def results_dir_of(overrides: Sequence[str]) -> Path:
    """The results folder that the overrides choose. Raises UserError for an impossible one."""
    text = value_of(overrides, "results")
    return results_folder(DEFAULT_RESULTS if text is None else text).absolute()


def sweep_dir_of(overrides: Sequence[str], name: str | None) -> Path:
    """The sweep's folder: results/sweeps/NAME, with the suite's name unless `name` is given."""
    return below(results_dir_of(overrides) / "sweeps", name or value_of(overrides, "suite") or "cells")


def plan_cells(overrides: Sequence[str], sweep_dir: Path, *, keep: bool = True) -> list[SweepCell]:
    """The cells of a command line, in the order of Hydra's sweeper, composed again only where the configs changed.

    Without `keep`, nothing is written. Raises UserError for overrides that cannot be composed.
    """
    digest, key = _digest(overrides), json.dumps(list(overrides))
    cache = _read_cache(sweep_dir)
    known = cache["calls"].get(key) if cache["digest"] == digest else None
    cells = known
    if cells is None:
        cells = [[cell.id, *cell.overrides] for cell in _compose(overrides)]
    if keep and cells is not known:
        cache = _read_cache(sweep_dir)
        calls, sent = (cache["calls"], cache["sent"]) if cache["digest"] == digest else ({}, [])
        _write_cache(sweep_dir, {"digest": digest, "calls": {**calls, key: cells}, "sent": sent})
    return [SweepCell(id_, tuple(overrides)) for id_, *overrides in cells]


def keep_cells(call: str, cells: Sequence[SweepCell], sweep_dir: Path) -> None:
    """Note that these cells, which no overrides of one line stand for, were requested of the sweep by `call`."""
    cache = _read_cache(sweep_dir)
    calls = {**cache["calls"], call: [[cell.id, *cell.overrides] for cell in cells]}
    _write_cache(sweep_dir, {**cache, "calls": calls, "sent": list(dict.fromkeys([*cache["sent"], call]))})


def mark_requested(overrides: Sequence[str], sweep_dir: Path) -> None:
    """Note that the sweep was requested with these overrides, whose cells are planned already."""
    cache, key = _read_cache(sweep_dir), json.dumps(list(overrides))
    if key not in cache["sent"]:
        _write_cache(sweep_dir, {**cache, "sent": [*cache["sent"], key]})


def requested_cells(sweep_dir: Path) -> list[SweepCell]:
    """All cells that were requested of the sweep since the configs last changed, each once."""
    cache = _read_cache(sweep_dir)
    cells: dict[str, SweepCell] = {}
    for key in cache["sent"]:
        for id_, *overrides in cache["calls"].get(key, ()):
            cells.setdefault(id_, SweepCell(id_, tuple(overrides)))
    return list(cells.values())


class _Cache(TypedDict):
    """What `plan.json` holds: each call's cells, as id and overrides, and the calls that were sent."""

    digest: str | None
    calls: dict[str, list[list[str]]]
    sent: list[str]


def _is_id(first: list[str]) -> bool:
    return len(first) == 1 and re.fullmatch("[0-9a-f]{16}", first[0]) is not None


def _read_cache(sweep_dir: Path) -> _Cache:
    try:
        values = read_json(sweep_dir / "plan.json")
        checker(_Cache)(values)
    except (OSError, ValueError):
        return {"digest": None, "calls": {}, "sent": []}
    cache: _Cache = values
    ids = (cell[:1] for cells in cache["calls"].values() for cell in cells)
    return cache if all(map(_is_id, ids)) else {"digest": None, "calls": {}, "sent": []}


def _write_cache(sweep_dir: Path, values: _Cache) -> None:
    sweep_dir.mkdir(parents=True, exist_ok=True)
    write_json(sweep_dir / "plan.json", values)


def _compose(overrides: Sequence[str]) -> list[SweepCell]:
    from lora2_bench.config.grid import expand_grid  # Hydra takes a third of a second to import

    found: dict[str, SweepCell] = {}
    for of_cell, cell, _ in expand_grid(overrides, _suite_params(overrides)):
        id_ = cell.id
        found.setdefault(id_, SweepCell(id_, of_cell))  # rows that are the same science are one cell
    return list(found.values())


def _suite_params(overrides: Sequence[str]) -> dict[str, str]:
    from lora2_bench.experiment.suites import suites

    name = value_of(overrides, "suite")
    if name is None:
        return {}
    if name not in suites():
        raise UserError(f"suite={name} is not known: choose one of {', '.join(suites())}")
    return suites()[name].params


def _own_files(task: str, folder: str | None, roots: Sequence[Path]) -> str:
    """The files of a user's own task as they stand now; nothing for another task, and for one that has to be mended."""
    paths = [root / "task" / f"{task}.yaml" for root in roots]
    path = next((path for path in paths if path.is_file()), None)
    if task in ALL_TASKS or "/" in task or path is None:
        return ""
    with suppress(OSError, ValueError, yaml.YAMLError, TypeError, LookupError):  # told where the cells are composed
        own = OwnTask.of(yaml.safe_load(path.read_text(encoding="utf-8")), folder)
        return repr([stamps(one) for one in own.files])
    return ""


def _digest(overrides: Sequence[str]) -> str:
    """SHA-256 over what ids depend on besides the overrides: configs, the code that reads them, a local backbone."""
    package = Path(__file__).resolve().parents[1]
    code = [path for room in ("config", "experiment") for path in sorted((package / room).glob("*.py"))]
    digest = hashlib.sha256()
    own = config_folder(overrides)
    roots = [CONF, *([own] if own else [])]
    configs = (path for root in roots for path in sorted(root.rglob("*.yaml")) if path.is_file())
    for path in [*configs, *code]:
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    folder = user_path(value_of(overrides, "model.path") or "/nowhere", "model.path")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    for name in (value_of(overrides, "task") or "").split(","):
        digest.update(_own_files(name, value_of(overrides, "data.dir"), roots).encode())
    if (tuned := tuned_of(overrides)) and (recipe := tuned.path(results_dir_of(overrides))).is_file():
        digest.update(recipe.read_bytes())
    return digest.hexdigest()
