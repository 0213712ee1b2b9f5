"""Records read for the report: every readable one, checked, and only what tables need."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora2_bench.experiment.settings import ABSENT, value_at
from lora2_bench.records.record import Record
from lora2_bench.records.store import read_record

_RUN_FACTS = ("finished", "seconds", "seconds_per_step", "versions", "hardware", "command")


def load_records(results: Path, *, whole: bool = True) -> list[Record]:
    """Every readable record below `results/cells`, in the order of ids; an unreadable one is named and skipped.

    With whole=False, without what only figures and single pages show (`trimmed`): thousands then fit in memory.
    """
    records: dict[str, Record] = {}
    for path in sorted(results.glob("cells/[!.]*/record.json")):  # a dot: left over by a writer that was killed
        try:
            record = read_record(path)
            check(record)
        except (ValueError, OSError) as error:
            print(f"warning: {path} is skipped: {error}", file=sys.stderr)
            continue
        if record.id in records:
            print(f"warning: {path} is skipped: a second record of cell {record.id}", file=sys.stderr)
            continue
        records[record.id] = record if whole else trimmed(record)
    return list(records.values())


def trimmed(record: Record) -> Record:
    """A record without its evaluations, ranks and config, but for the recipe and the budget's scale."""
    result = {name: value for name, value in record.result.items() if name not in ("evaluations", "ranks")}
    run = {name: record.run[name] for name in _RUN_FACTS if name in record.run}
    config = record.run.get("config") or {}
    if "recipe" in config:
        scale = config.get("method", {}).get("budget", {}).get("scale", False)
        run["config"] = {"recipe": config["recipe"], "method": {"budget": {"scale": scale}}}
    return replace(record, result=result, run=run)


_NUMBER = (int, float)


_MAYBE_TEXT = (str, type(None))


_NEEDED: dict[str, tuple[type, ...]] = {
    "label": (str,),
    "cut": (list,),
    "cell.model.name": (str,),
    "cell.task": (str,),
    "cell.seed": (int,),
    "cell.size": _MAYBE_TEXT,
    "cell.method.name": (str,),
    "cell.data.source": (str,),
    "cell.data.seed": (int, type(None)),
    "cell.train": (dict,),
    "cell.protocol.name": (str,),
    "result.main_metric": (str,),
    "result.data.official": (bool,),
    "result.data.sha256": (str,),
    "result.backbone.sha256": _MAYBE_TEXT,
    "result.parameters.adapter": (int,),
    "result.parameters.head": (int,),
    "result.parameters.active": (int,),
    "run.finished": (str,),
}


_IF_THERE: dict[str, tuple[type, ...]] = {
    "cell.method.reg": (dict,),
    "cell.method.budget": (dict,),
    "run.seconds_per_step": _NUMBER,
    "run.versions": (dict,),
    "run.hardware": (dict,),
    "run.config": (dict,),
    "run.config.recipe": (dict,),
    "run.config.method": (dict,),
    "run.config.method.budget": (dict,),
}


def reported(record: Record) -> dict[str, str]:
    """Protocol -> the evaluation of the record that it reports: `best` or `last`."""
    return {"clean": "best"} if record.cell["protocol"]["name"] == "clean" else {"paper": "best", "last": "last"}


def check(record: Record) -> None:
    """Raise ValueError with the first place of a record that is not there, or not of its kind."""
    top = {"label": record.label, "cut": record.cut, "cell": record.cell, "result": record.result, "run": record.run}
    needed = dict(_NEEDED)
    if record.is_done:
        _look(top, "cell.protocol.name", (str,))
        for when in reported(record).values():
            needed |= {f"result.{when}.score": _NUMBER, f"result.{when}.metrics": (dict,)}
    for name, kinds in needed.items():
        _look(top, name, kinds)
    for name, kinds in _IF_THERE.items():
        if value_at(top, name) is not ABSENT:
            _look(top, name, kinds)


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and math.isfinite(value)


def _look(top: dict[str, Any], name: str, kinds: tuple[type, ...]) -> None:
    value = value_at(top, name)
    if not isinstance(value, kinds) or (kinds == _NUMBER and not is_number(value)):
        raise ValueError(f"not a record of this package: {name} is missing or no {kinds[0].__name__}")
