"""The record of a cell: its schema, and the line that is printed of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Record:
    """All that is kept of a cell, as `record.json`.

    Attributes:
        id: of the cell.
        status: done or failed.
        cell: the science, as `Cell.to_dict`.
        label: how tables name the method, with its size.
        cut: settings that made it a quick look, or moved it off its recipe.
        result: numbers that the same cell gives again: evaluations, best, last, parameters, ranks, data, backbone.
        run: what may differ between two runs of the same cell: times, memory, versions, code, hardware, command.
        error: step and cause of a failed cell.
        schema: version of this layout.
    """

    id: str
    status: str
    cell: dict[str, Any]
    label: str
    cut: list[str]
    result: dict[str, Any]
    run: dict[str, Any]
    error: dict[str, Any] | None = None
    schema: int = field(default=SCHEMA)

    @property
    def is_done(self) -> bool:
        """True for a finished cell."""
        return self.status == DONE

    def to_dict(self) -> dict[str, Any]:
        """Plain data, schema first."""
        values = asdict(self)
        return {"schema": values.pop("schema"), **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """The inverse of `to_dict`. Raises ValueError for another schema, KeyError or TypeError for another layout."""
        if (schema := values.get("schema")) != SCHEMA:
            told = values.get("run", {}).get("versions", {}).get("lora2_bench")
            by = f", written by lora2_bench {told}" if told else ""
            raise ValueError(f"schema {schema} is not {SCHEMA}, the one this version reads{by}")
        return cls(**values)


def result_line(record: Record, path: str) -> str:
    """The one line a run ends with: task, backbone, method and size, seed, score, parameters, seconds, path."""
    cell = record.cell
    head = f"{cell['task']} | {cell['model']['name']} | {record.label} | seed {cell['seed']}"
    if not record.is_done:
        error = record.error or {}
        return f"{head} | failed at step {error.get('step')}: {error.get('cause')} | {path}"
    result = record.result
    last = result["last"]["score"] if result["last"] else None
    score = f"{result['main_metric']} best {result['best']['score']:.4f}"
    score += f", last {last:.4f}" if last is not None else ""
    counts = f"{result['parameters']['adapter']:,} adapter parameters"
    cut = f" | cut: {'; '.join(record.cut)}" if record.cut else ""
    return f"{head} | {score} | {counts} | {record.run['seconds']:.1f} s | {path}{cut}"
