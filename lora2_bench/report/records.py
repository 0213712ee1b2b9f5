"""Records read for the report: every readable one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lora2_bench.records.record import Record
from lora2_bench.records.schema import Scoring
from lora2_bench.records.store import read_record, record_paths


def load_records(results: Path) -> Iterator[Record]:
    """Every readable record below `results/cells`, in the order of ids; an unreadable one is named and skipped."""
    for path in record_paths(results):
        try:
            record = read_record(path)
        except (ValueError, OSError) as error:
            print(f"warning: {path} is skipped: {error}", file=sys.stderr)
            continue
        yield record


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
