"""Records of a study in one file, small enough for git: `results/studies/NAME/records.jsonl`, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lora2_bench.files.writing import write_text
from lora2_bench.records.identity import id_of
from lora2_bench.records.record import Record

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
            record = Record.from_dict(json.loads(line.decode("utf-8")))
            if record.id != (found := id_of(record.cell)):
                raise ValueError(f"its settings are those of {found}, its id is {record.id}")
        except (ValueError, RecursionError, TypeError) as error:
            raise ValueError(f"line {number}: {error}") from None
        records.append(record)
    return records
