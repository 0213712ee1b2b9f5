"""Records read for the report: every readable one, and only what tables need."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lora2_bench.experiment.settings import value_at
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
    """A record without its evaluations, its ranks by map, and its config, but for the recipe and the budget's scale."""
    result, run = record.result.copy(), record.run.copy()
    result.pop("evaluations", None)
    result.pop("ranks", None)
    if best := result.get("best"):
        result["best"] = _without_ranks(best)
    if last := result.get("last"):
        result["last"] = _without_ranks(last)
    config = run.pop("config", {})
    if "recipe" in config:
        run["config"] = {"recipe": config["recipe"], "method": {"budget": {"scale": scales_budget(config)}}}
    return replace(record, result=result, run=run)


def _without_ranks(scoring: Scoring) -> Scoring:
    kept = scoring.copy()
    kept.pop("ranks", None)
    return kept


def scales_budget(config: Config) -> bool:
    """Whether a composed config has its method's budget stand in proportion to the run's steps."""
    return value_at(config, "method.budget.scale") is True
