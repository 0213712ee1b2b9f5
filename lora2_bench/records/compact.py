"""Records of a study in one file, small enough for git: `results/studies/NAME/records.jsonl`, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lora2_bench.files.writing import write_text
from lora2_bench.records.record import Record
from lora2_bench.records.store import record_of

FILE = "records.jsonl"


def compact_paths(results: Path) -> list[Path]:
    """The files of all studies below a results folder, in the order of their names."""
    return sorted((results / "studies").glob(f"*/{FILE}"))


def write_compact(path: Path, records: Iterable[Record]) -> None:
    """Write records in the order of ids, each without its composed config: `cell` and `cut` say what it was."""
    lines = []
    for record in sorted(records, key=lambda record: record.id):
        run = record.run.copy()
        run.pop("config", None)
        values = replace(record, run=run).to_dict()
        lines.append(json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n")
    write_text(path, "".join(lines))


def read_compact(path: Path) -> list[Record]:
    """The records in one file. Raises OSError without one, and ValueError with the line that is no record."""
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            records.append(record_of(json.loads(line.decode("utf-8"))))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
    return records
