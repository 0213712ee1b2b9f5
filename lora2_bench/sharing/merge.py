"""Records of another machine put beside one's own."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import partial
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.records.record import Record
from lora2_bench.records.retention import read_retention
from lora2_bench.records.store import PREDICTIONS, RETENTION, Store

ADDED, THERE, KEPT = "added", "there already", "not added"
AGREED = "there already, of another run with the same numbers"
MEASURED = "there already, and now with what was forgotten"


def merge(store: Store, incoming: Store, records: list[Record]) -> tuple[Counter[str], list[str]]:
    """Put checked records of `incoming` into `store`: how many ended how, and a line for each that was not added.

    A finished record is never replaced; one that failed gives way to a finished one. What was forgotten is put beside
    a record with the same numbers that has none. Raises UserError where the store cannot be written.
    """
    counts: Counter[str] = Counter()
    lines = []
    for record in records:
        outcome, line = _merge_one(store, incoming, record)
        counts[outcome] += 1
        lines += [line] if line else []
    return counts, lines


def _merge_one(store: Store, incoming: Store, record: Record) -> tuple[str, str]:
    try:
        known = store.read(record.id)
    except UserError as error:
        return KEPT, f"{record.id}: {error}"
    if known is not None and (known.is_done or not record.is_done):
        if known.result == record.result and known.status == record.status:
            return _with_retention(store, incoming, record, known == record)
        if not record.is_done:
            return THERE, ""
        where = store.path(record.id)
        return KEPT, f"{record.id}: {where} has other results: remove its folder where the new ones are right"

    def write(folder: Path) -> None:
        for name in (PREDICTIONS, RETENTION):
            if (source := incoming.folder(record.id) / name).is_file():
                shutil.copyfile(source, folder / name)

    try:
        store.write(record, write, over_finished=False)
    except OSError as error:
        reason = error.strerror
        raise UserError(f"{store.cells} cannot be written ({reason}): free some space, or make it writable") from None
    return ADDED, ""


def _with_retention(store: Store, incoming: Store, record: Record, is_same: bool) -> tuple[str, str]:
    """What was forgotten, put beside a record that is there already; its outcome and line."""
    source, own = incoming.retention(record.id), store.retention(record.id)
    if not source.is_file():
        return THERE if is_same else AGREED, ""
    try:
        known = read_retention(own, record.id)
    except ValueError as error:
        return KEPT, f"{record.id}: its {own} cannot be used ({error}): remove it, and load again"
    if known is not None:
        return THERE if is_same else AGREED, ""
    store.add(record.id, RETENTION, partial(shutil.copyfile, source))
    return MEASURED, ""
