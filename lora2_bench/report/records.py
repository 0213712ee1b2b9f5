"""Records read for the report: every readable one, those that a study has committed among them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora2_bench.records.compact import compact_paths, read_compact
from lora2_bench.records.record import Record
from lora2_bench.records.schema import Scoring
from lora2_bench.records.store import record_paths
from lora2_bench.records.verified import Verified


def load_records(results: Path, skipped: list[Path] | None = None) -> Iterator[Record]:
    """Every readable record below `results`: its cells', in the order of ids, then those that only a study's file has.

    An unreadable one is named, skipped and added to `skipped`.
    """
    skipped = [] if skipped is None else skipped
    seen, verified = set(), Verified(results)
    for path in record_paths(results):
        seen.add(path.parent.name)
        try:
            record = verified.read(path)
        except (ValueError, OSError) as error:
            _skip(path, error, skipped)
            continue
        yield record
    verified.keep()
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


def trimmed(record: Record, pool: dict[str, Any]) -> Record:
    """A record without its evaluations, its ranks by map, and its config; parts that others have too are one object.

    `pool` has the parts of the records before it, and gets its own: most of a study's cells differ in few settings, and
    were run on one machine.
    """
    result, run = record.result.copy(), record.run.copy()
    result.pop("evaluations", None)
    result.pop("ranks", None)
    if best := result.get("best"):
        result["best"] = _without_ranks(best)
    if last := result.get("last"):
        result["last"] = _without_ranks(last)
    run.pop("config", None)
    return replace(record, cell=_shared(record.cell, pool), result=_shared(result, pool), run=_shared(run, pool))


def _shared(values: Any, pool: dict[str, Any]) -> Any:
    """The values with those of `_ALIKE` that the pool has under the same text taken from there."""
    shared = dict(values)
    for name in _ALIKE & values.keys():
        shared[name] = pool.setdefault(repr(values[name]), values[name])
    return shared


_ALIKE = {"model", "data", "train", "protocol", "method", "size", "backbone", "parameters", "versions", "hardware"}


def _without_ranks(scoring: Scoring) -> Scoring:
    kept = scoring.copy()
    kept.pop("ranks", None)
    return kept
