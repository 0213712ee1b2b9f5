"""What must hold of a record before it leaves its machine, and again where it arrives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2_bench.records.record import Record
from lora2_bench.records.retention import read_retention
from lora2_bench.records.scrub import scrub
from lora2_bench.records.store import PREDICTIONS, RETENTION, read_record, record_paths
from lora2_bench.sharing.rescore import changes, rescored

_HASH = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True)
class Checked:
    """What was found below one results folder.

    Attributes:
        records: those that may travel, in the order of ids.
        problems: `id: what is wrong` of every other.
        trials: ids of trials of studies, which predict nothing of dev and stay at home.
    """

    records: list[Record]
    problems: list[str]
    trials: list[str]


def check_records(results: Path, *, private: bool = False) -> Checked:
    """Check every record below a results folder: schema, id, digests, scores by predictions, and what was forgotten.

    With `private`, also that no text in them tells a path, a secret, or the names of this user and machine.
    """
    found = Checked([], [], [])
    for path in record_paths(results):
        cell_id = path.parent.name
        try:
            record = read_record(path)
        except (ValueError, OSError) as error:
            found.problems.append(f"{cell_id}: its record cannot be read: {error}")
            continue
        if record.is_trial:
            found.trials.append(cell_id)
            continue
        wrong = [*(_leaks(record.to_dict()) if private else ()), *_unlike_predictions(record, path.parent)]
        try:
            retention = read_retention(path.parent / RETENTION, cell_id)
            wrong += _leaks(dict(retention), RETENTION) if private and retention is not None else ()
        except ValueError as error:
            wrong.append(f"{RETENTION} cannot be used: {error}")
        found.problems.extend(f"{cell_id}: {problem}" for problem in wrong)
        if not wrong:
            found.records.append(record)
    return found


def _leaks(value: Any, place: str = "") -> Iterator[str]:
    """Every text that holds a path, a secret, or the name of this user or machine."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaks(item, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _leaks(item, f"{place}.{number}")
    elif isinstance(value, str) and not _HASH.fullmatch(value) and scrub(value) != value:
        yield f"{place} holds a path, a name or a secret: {scrub(value)!r} would be without it"


def _unlike_predictions(record: Record, folder: Path) -> list[str]:
    """Why the predictions beside a finished cell's record do not give its scores again."""
    if not record.is_done:
        return []
    try:
        told = changes(record, rescored(record, folder))
    except FileNotFoundError:
        return [f"it has no {PREDICTIONS}, so nobody can check its scores: train it anew with rerun=true"]
    except ValueError as error:
        return [f"{PREDICTIONS} does not fit its record: {error}"]
    return [f"its predictions give other scores: {'; '.join(told)}"] if told else []
