"""The record of a cell, checked against its schema, and the line that is printed of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.files.paths import shortened
from lora2_bench.records.checking import Wrong, checker
from lora2_bench.records.schema import CellSettings, Failure, RecordValues, Result, RunFacts, Scoring
from lora2_bench.tasks.spec import ALL_TASKS, TaskSpec, spec_of

SCHEMA = 1
DONE, FAILED = "done", "failed"
TUNE = "tune"
"""The protocol of a study's trials, whose scores are of held-out rows of train and stand in no table."""
OWN = "own-"
"""What the data of a user's own task begin with, as tables name them."""
_FINISHED = ("evaluations", "best", "last", "steps", "epochs")  # what the result of a failed cell has not
_SIGNED = {"matthews_correlation", "pearson", "spearman"}  # metrics that can be negative


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
        files: name of a file beside the record -> SHA-256 of it, where the file carries none itself; None in records of
            earlier versions. `Store.write` fills it in.
        schema: version of this layout.
    """

    id: str
    status: str
    cell: CellSettings
    label: str
    cut: list[str]
    result: Result
    run: RunFacts
    error: Failure | None = None
    files: dict[str, str] | None = field(default=None, compare=False)  # of the folder, not of the cell
    schema: int = SCHEMA

    @property
    def is_done(self) -> bool:
        """True for a finished cell."""
        return self.status == DONE

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds of a training step; None where the record has none, or has those of a whole pack of cells."""
        return None if self.run.get("pack", 1) > 1 else self.run.get("seconds_per_step")

    @property
    def is_trial(self) -> bool:
        """True for a trial of a study, which no table shows."""
        return self.cell["protocol"]["name"] == TUNE

    @property
    def data_name(self) -> str:
        """Source of its rows, as tables name it: `-sample` for real files without GLUE's own row counts.

        A user's own task has a name of its own there, `own-TASK`: its runs meet those of no other.
        """
        if "definition" in self.cell:
            return f"{OWN}{self.cell['task']}"
        source = self.cell["data"]["source"]
        return source if source == "mini" or self.result["data"]["official"] else f"{source}-sample"

    @property
    def spec(self) -> TaskSpec:
        """The task's columns, labels and metrics."""
        return spec_of(self.cell["task"], self.cell.get("definition"))

    @property
    def by_rank(self) -> dict[str, Scoring]:
        """Rank -> its scores on dev at the best step, where one training serves several; else nothing."""
        return self.result.get("by_rank") or {}

    def rank_of(self, text: str) -> int:
        """The rank that a user named, of those that one training serves. Raises UserError, in one line, for others."""
        if text not in self.by_rank:
            several = f"a rank from 1 to {len(self.by_rank)}" if self.by_rank else "no rank: it serves none but its own"
            raise UserError(f"rank={shortened(text)} of cell {self.id} ({self.label}) is not served: give {several}")
        return int(text)

    def label_at(self, rank: int | None) -> str:
        """The method's label at one of its ranks; as it is without one."""
        return self.label if rank is None else f"{self.label.split()[0]} r={rank}"

    def scorings(self) -> dict[str, Scoring]:
        """Protocol (`paper`, `last`, `clean`) -> its scoring on dev; nothing of a failed cell or a trial."""
        if not self.is_done or self.is_trial:
            return {}
        best, last = self.result["best"], self.result["last"]
        if self.cell["protocol"]["name"] == "clean":
            return {"clean": best}
        assert last is not None, "checked by `from_dict`"
        return {"paper": best, "last": last}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, schema first."""
        values = {"schema": self.schema, **{one.name: getattr(self, one.name) for one in fields(self)}}
        return {name: value for name, value in values.items() if (name, value) != ("files", None)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """The inverse of `to_dict`. Raises ValueError for another schema, and for the first place that is wrong.

        The digest of a file's values is left to `store.read_record`.
        """
        if not isinstance(values, dict):
            raise ValueError("not a record of this package: no JSON object")
        if (schema := values.get("schema")) != SCHEMA:
            raise ValueError(f"schema {schema} is not {SCHEMA}, the one this version reads{_written_by(values)}")
        try:
            checker(RecordValues)(values)
            _check_outcome(values)
            return cls(**{name: value for name, value in values.items() if name != "sha256"})
        except (Wrong, TypeError) as error:
            raise ValueError(f"not a record of this package: {error}") from None


def _written_by(values: dict[str, Any]) -> str:
    """Which version wrote a file of another schema, where it says so as this one does."""
    told: Any = values
    for name in ("run", "versions", "lora2_bench"):
        told = told.get(name) if isinstance(told, dict) else None
    return f", written by lora2_bench {told}" if isinstance(told, str) else ""


def _check_outcome(values: dict[str, Any]) -> None:
    """Raise Wrong where status, protocol, task and result do not go together."""
    status, result, task = values["status"], values["result"], _task_of(values["cell"])
    if status == FAILED:
        if values["error"] is None:
            raise Wrong("is missing", "error")
        return
    if status != DONE:
        raise Wrong(f"is neither {DONE} nor {FAILED}", "status")
    for name in _FINISHED:
        if name not in result:
            raise Wrong("is missing", f"result.{name}")
    if values["cell"]["protocol"]["name"] != "clean" and result["last"] is None:
        raise Wrong("is missing", "result.last")
    if _SIGNED.isdisjoint(task.main):
        _check_shares(result)


def _task_of(cell: CellSettings) -> TaskSpec:
    """The cell's task. Raises Wrong for one that neither the package nor the cell defines."""
    if "definition" not in cell and cell["task"] not in ALL_TASKS:
        raise Wrong("is no task of this package, and the cell has no definition of it", "cell.task")
    try:
        return spec_of(cell["task"], cell.get("definition"))
    except UserError as error:
        raise Wrong(f"is no task: {error}", "cell.definition") from None


def _check_shares(result: Result) -> None:
    """Raise Wrong where a score of a task whose metrics are shares is negative."""
    for name, one in (("best", result["best"]), ("last", result["last"])):
        if one is not None and one["score"] < 0:
            raise Wrong(f"is out of range: {one['score']} is not 0 to 1", f"result.{name}.score")
    for place, one in enumerate(result["evaluations"]):
        if one["score"] < 0:
            raise Wrong(f"is out of range: {one['score']} is not 0 to 1", f"result.evaluations.{place}.score")


def result_line(record: Record, path: str) -> str:
    """The one line a run ends with: task, data, backbone, method and size, seed, score, parameters, seconds, path.

    A best score has beside it how often dev was scored to find it: it rises with that.
    """
    cell = record.cell
    head = f"{cell['task']} ({record.data_name}) | {cell['model']['name']} | {record.label} | seed {cell['seed']}"
    if not record.is_done:
        assert record.error is not None, "checked by `from_dict`"
        cause = " ".join(record.error["cause"].split())
        return f"{head} | failed at step {record.error['step']}: {cause} | {path}"
    result = record.result
    score = f"{result['main_metric']} best {result['best']['score']:.4f}"
    if result["last"]:
        looks = len(result["evaluations"])
        score += f" of {looks} look{'s' if looks != 1 else ''} at {'held-out rows' if record.is_trial else 'dev'}"
    score += f", last {result['last']['score']:.4f}" if result["last"] else ""
    counts = f"{result['parameters']['adapter']:,} adapter parameters"
    cut = f" | cut: {'; '.join(record.cut)}" if record.cut else ""
    return f"{head} | {score} | {counts} | {record.run['seconds']:.1f} s | {path}{cut}"
