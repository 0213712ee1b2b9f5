"""Records read for the report: every readable one, and only what tables need."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

from lora2_bench.records.record import Record
from lora2_bench.records.schema import Config, Scoring
from lora2_bench.records.store import read_record, record_paths


def load_records(results: Path, *, whole: bool = True) -> list[Record]:
    """Every readable record below `results/cells`, in the order of ids; an unreadable one is named and skipped.

    With whole=False, without what only figures and single pages show (`trimmed`): thousands then fit in memory.
    """
    records: dict[str, Record] = {}
    for path in record_paths(results):
        try:
            record = read_record(path)
        except (ValueError, OSError) as error:
            print(f"warning: {path} is skipped: {error}", file=sys.stderr)
            continue
        records[record.id] = record if whole else trimmed(record)
    return list(records.values())


def trimmed(record: Record) -> Record:
    """A record without its evaluations, ranks and config, but for what `off_recipe` reads of it."""
    result, run = record.result.copy(), record.run.copy()
    result.pop("evaluations", None)
    result.pop("ranks", None)
    if best := result.get("best"):
        result["best"] = _without_ranks(best)
    if last := result.get("last"):
        result["last"] = _without_ranks(last)
    config = run.pop("config", {})
    if "recipe" in config:
        method, train = config.get("method", {}), config.get("train", {})
        schedule = {"method": {"budget": method.get("budget")}, "train": {"warmup": train.get("warmup")}}
        run["config"] = cast(Config, {"recipe": config["recipe"], **schedule})
    return replace(record, result=result, run=run)


def _without_ranks(scoring: Scoring) -> Scoring:
    kept = scoring.copy()
    kept.pop("ranks", None)
    return kept
