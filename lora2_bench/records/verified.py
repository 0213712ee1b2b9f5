"""Which record files were found whole: each is checked once, and again when it has changed. Their values stay in them.

Half of the time that thousands of records take to read is spent on checks of the schema, the id and the digest, which
say the same of a file for as long as nobody writes to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from lora2_bench.files.paths import cache_folder
from lora2_bench.files.reading import Unreadable, read_json
from lora2_bench.files.writing import write_text
from lora2_bench.records.record import Record
from lora2_bench.records.store import read_record

Stamp = tuple[int, int, int, int, int]
"""Size, times of change of content and of the file, number and device: no write to a file leaves all as they were."""
_SETTLED = 2.0
"""Seconds after which a file's times tell one more write apart."""


class Verified:
    """The record files of one results folder that were found whole, kept in the user's own cache folder.

    What is kept says nothing of another machine, another folder, or other code of the checks. A cache that cannot be
    read or written costs the checks alone.
    """

    def __init__(self, results: Path) -> None:
        self._path = _path_of(results)
        self._known: Mapping[str, Stamp] = _read(self._path)
        self._seen: dict[str, Stamp] = {}

    def read(self, path: Path) -> Record:
        """The record at `path`, with the errors of `read_record`; one that was found whole is not checked again."""
        name = path.parent.name
        before = _stamp(path)
        if before is not None and self._known.get(name) == before:
            values = read_json(path)
            if _stamp(path) == before:
                self._seen[name] = before
                return Record(**{key: value for key, value in values.items() if key != "sha256"})
        record = read_record(path)
        if before is not None and _stamp(path) == before and time.time() - before[2] / 1e9 > _SETTLED:
            self._seen[name] = before
        return record

    def keep(self) -> None:
        """Write down which of the files that were read are whole, and forget those that are no more."""
        if self._path is None or self._seen == self._known:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._seen))


def _stamp(path: Path) -> Stamp | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - thousands of files
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def _path_of(results: Path) -> Path | None:
    if (folder := cache_folder()) is None:
        return None
    name = hashlib.sha256(f"{_checks()}\0{os.path.realpath(results)}".encode("utf-8", "surrogateescape")).hexdigest()
    return folder / "verified" / f"{name}.json"


@cache
def _checks() -> str:
    """SHA-256 over the code of the checks: this room's, and the names of tasks that it allows."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for file in (*sorted(here.glob("*.py")), here.parent / "tasks" / "spec.py", here.parent / "files" / "reading.py"):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(path: Path | None) -> dict[str, Stamp]:
    if path is None:
        return {}
    try:
        values = read_json(path)
        return {name: _as_stamp(stamp) for name, stamp in values.items()}
    except (FileNotFoundError, Unreadable, AttributeError, TypeError, ValueError):
        return {}


def _as_stamp(values: list[int]) -> Stamp:
    size, changed, touched, number, device = values
    return size, changed, touched, number, device
