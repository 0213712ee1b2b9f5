"""Records read for the report: every readable one, those that a study has committed among them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lora2_bench.records.compact import compact_paths, read_compact
from lora2_bench.records.record import Record
from lora2_bench.records.schema import Scoring
from lora2_bench.records.store import read_record, record_paths


def load_records(results: Path, skipped: list[Path] | None = None) -> Iterator[Record]:
    """Every readable record below `results`: its cells', in the order of ids, then those that only a study's file has.

    An unreadable one is named, skipped and added to `skipped`.
    """
    skipped = [] if skipped is None else skipped
    seen = set()
    for path in record_paths(results):
        seen.add(path.parent.name)
        try:
            record = read_record(path)
        except (ValueError, OSError) as error:
            _skip(path, error, skipped)
            continue
        yield record
    for path in compact_paths(results):
        try:
            records = read_compact(path)
        except (ValueError, OSError) as error:
            _skip(path, error, skipped)
            continue
        yield from (record for record in records if record.id not in seen)
        seen |= {record.id for record in records}


def _skip(path: Path, error: Exception, skipped: list[Path]) -> None:
    print(f"warning: {path} is skipped: {error}", file=sys.stderr)
    skipped.append(path)


def trimmed(record: Record) -> Record:
    """A record without its evaluations, its ranks by map, and its config."""
    result, run = record.result.copy(), record.run.copy()
    result.pop("evaluations", None)
    result.pop("ranks", None)
    if best := result.get("best"):
        result["best"] = _without_ranks(best)
    if last := result.get("last"):
        result["last"] = _without_ranks(last)
    run.pop("config", None)
    return replace(record, result=result, run=run)


def _without_ranks(scoring: Scoring) -> Scoring:
    kept = scoring.copy()
    kept.pop("ranks", None)
    return kept
