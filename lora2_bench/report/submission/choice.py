"""Which run answers a task: the best on dev among the finished runs that the command line leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.records.record import Record
from lora2_bench.report.records import trimmed


@dataclass(frozen=True)
class Wanted:
    """Which runs may answer: those of one backbone and method, narrowed by what is not None."""

    model: str
    method: str
    kr: int | None = None
    seed: int | None = None
    protocol: str | None = None

    def fits(self, record: Record) -> bool:
        """Whether a record is a finished run on GLUE's rows, of this backbone and method and what else is wanted."""
        cell = record.cell
        return (
            record.is_done
            and not record.is_trial
            and cell["data"]["source"] != "mini"
            and "definition" not in cell
            and (cell["model"]["name"], cell["method"]["name"]) == (self.model, self.method)
            and self.kr in (None, record.result["size"]["value"])
            and self.seed in (None, cell["seed"])
            and self.protocol in (None, cell["protocol"]["name"])
        )

    @property
    def label(self) -> str:
        """What is wanted, in words."""
        more = {"kr": self.kr, "seed": self.seed, "protocol": self.protocol}
        given = [f"{name}={value}" for name, value in more.items() if value is not None]
        return " ".join([f"method={self.method} on model={self.model}", *given])

    @property
    def slug(self) -> str:
        """What is wanted, as the name of a file."""
        parts = [self.model, self.method]
        parts += [f"kr{self.kr}"] if self.kr is not None else []
        parts += [f"seed{self.seed}"] if self.seed is not None else []
        return "-".join([*parts, *([self.protocol] if self.protocol else [])])


@dataclass(frozen=True)
class Taken:
    """The run that answers a task, and among how many it was the best on dev."""

    record: Record
    among: int

    @property
    def said(self) -> str:
        """Cell, method, seed and score, and what moved the run off its recipe or from the backbone."""
        record = self.record
        score, metric = record.result["best"]["score"], record.result["main_metric"]
        best = f", best of {self.among} on dev" if self.among > 1 else ""
        parts = [f"cell {record.id}", record.label, f"seed {record.cell['seed']}{best} ({metric} {score:.4f})"]
        if origin := record.result.get("init_from"):
            parts.append(f"started from {origin['task']}'s cell {origin['cell']}")
        if not record.result["data"]["official"]:
            parts.append("trained on a sample")
        return " | ".join([*parts, *([f"cut: {'; '.join(record.cut)}"] if record.cut else [])])


def choose(records: Iterable[Record], wanted: Wanted) -> Mapping[str, Taken]:
    """Task -> the run that answers it, for every task that has one; one protocol for all.

    Of a task's runs those are compared that were scored on most rows of dev, for other scores tell nothing beside
    theirs; of equal scores the smallest seed is taken. Raises UserError for runs under two protocols.
    """
    found: dict[str, list[Record]] = {}
    pool: dict[str, Any] = {}
    for record in records:
        if wanted.fits(record):
            found.setdefault(record.cell["task"], []).append(trimmed(record, pool))
    protocols = sorted({record.cell["protocol"]["name"] for runs in found.values() for record in runs})
    if len(protocols) > 1:
        raise UserError(
            f"there are runs of {wanted.label} under {' and '.join(protocols)}, whose scores are not alike: give "
            f"{' or '.join(f'--protocol {name}' for name in protocols)}"
        )
    taken = {}
    for task, runs in found.items():
        most = max(map(_dev_rows, runs))
        compared = [record for record in runs if _dev_rows(record) == most]
        best = min(compared, key=lambda record: (-record.result["best"]["score"], record.cell["seed"], record.id))
        taken[task] = Taken(best, len(compared))
    return taken


def _dev_rows(record: Record) -> tuple[bool, int]:
    """Whether the rows are GLUE's own, and how many of dev were scored."""
    data = record.result["data"]
    return data["official"], sum(count for split, count in data["rows"].items() if split.startswith("dev"))
