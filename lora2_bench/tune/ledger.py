"""What a study has planned and what came of it: `plan.json`, `ledger.csv`, `runs.csv`, and its records in one file."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from lora2_bench.errors import UserError
from lora2_bench.files.paths import below
from lora2_bench.files.reading import read_json
from lora2_bench.files.writing import write_json, write_text
from lora2_bench.records.checking import checker
from lora2_bench.records.compact import FILE, read_compact, write_compact
from lora2_bench.records.forms import Count, Id, Name
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store

RECIPE, DRAW, WIDER, EXTRA = "recipe", "draw", "wider", "extra"
"""Kinds of a trial: the recipe itself, a draw, the one beyond an edge, and the draw that keeps budgets equal to it."""
EXTRA_KINDS = (WIDER, EXTRA)
PLANNED = "planned"


@dataclass(frozen=True)
class Trial:
    """One trial: its place, its number from 0, what its values are and how they came, and its cell."""

    row: str
    task: str
    number: int
    kind: str
    values: dict[str, float]
    steps: int
    id: str
    overrides: list[str]


@dataclass(frozen=True)
class RunCell:
    """One run of a tuned recipe, which trial that is, and its cell."""

    row: str
    task: str
    seed: int
    trial: int
    id: str
    overrides: list[str]


@dataclass
class Begun:
    """What has been planned so far.

    Attributes:
        study: the name in conf/study, from which trials are drawn.
        values, extra: as of `Study`.
        trials, runs: in the order of planning.
        run_steps: `row-task` -> optimiser steps of a run.
    """

    study: str
    values: dict[str, Any]
    extra: list[str]
    trials: list[Trial] = field(default_factory=list)
    runs: list[RunCell] = field(default_factory=list)
    run_steps: dict[str, int] = field(default_factory=dict)

    @property
    def cells(self) -> list[Trial | RunCell]:
        """All that is planned."""
        return [*self.trials, *self.runs]

    def ended(self, records: Mapping[str, Record]) -> list[tuple[RunCell, Record]]:
        """The runs that have a record, finished or failed, with it."""
        return [(run, records[run.id]) for run in self.runs if run.id in records]

    def of(self, row: str, task: str) -> list[Trial]:
        """The trials of one place, by number."""
        found = [trial for trial in self.trials if (trial.row, trial.task) == (row, task)]
        return sorted(found, key=lambda trial: trial.number)


class _TrialValues(TypedDict):
    row: Name
    task: Name
    number: Count
    kind: str
    values: dict[str, float]
    steps: Count
    id: Id
    overrides: list[str]


class _RunValues(TypedDict):
    row: Name
    task: Name
    seed: Count
    trial: Count
    id: Id
    overrides: list[str]


class _BegunValues(TypedDict):
    study: Name
    values: dict[str, Any]
    extra: list[str]
    trials: list[_TrialValues]
    runs: list[_RunValues]
    run_steps: dict[str, Count]


class Folder:
    """A study's folder below a results folder, and the records of its cells."""

    def __init__(self, results: Path, name: str) -> None:
        self.results = results
        self.path = below(results / "studies", name)
        self.store = Store(results)

    def read(self) -> Begun | None:
        """What has been planned; None where nothing was. Raises UserError for a file that no study wrote."""
        path = self.path / "plan.json"
        try:
            values = read_json(path)
            checker(_BegunValues)(values)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{path} cannot be read ({error}): put it back, or give another name=NAME") from None
        trials = [Trial(**one) for one in values["trials"]]
        runs = [RunCell(**one) for one in values["runs"]]
        return Begun(values["study"], values["values"], values["extra"], trials, runs, values["run_steps"])

    def write(self, begun: Begun) -> None:
        """Keep what has been planned."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "plan.json", asdict(begun))

    @cached_property
    def committed(self) -> dict[str, Record]:
        """Id -> record of those that the study's own file has. Raises UserError where it cannot be read."""
        path = self.path / FILE
        try:
            return {record.id: record for record in read_compact(path)}
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}): put it back as it was committed") from None

    def record(self, cell_id: str) -> Record | None:
        """The record of a cell, finished or failed; None without one."""
        return self.store.read(cell_id) or self.committed.get(cell_id)

    def records(self, cells: Sequence[Trial | RunCell]) -> dict[str, Record]:
        """Id -> record of those of the cells that have one."""
        found = ((cell.id, self.record(cell.id)) for cell in cells)
        return {cell_id: record for cell_id, record in found if record is not None}

    def keep_records(self, records: Mapping[str, Record]) -> Path:
        """Write all records in one file; returns it."""
        path = self.path / FILE
        write_compact(path, records.values())
        return path


Place = tuple[str, str, int]
"""Row, task and number of a trial."""


def score_of(record: Record) -> float | None:
    """A finished cell's score at the end of training, in points: held-out rows of a trial, dev of a run."""
    last = record.result.get("last") if record.is_done else None
    return None if last is None else 100 * last["score"]


def processor_of(record: Record) -> str | None:
    """The GPU that a finished cell ran on, or the processor where it had none; None where the record names neither."""
    hardware = record.run.get("hardware") if record.is_done else None
    return (hardware.get("gpu") or hardware.get("processor")) if hardware else None


def trial_lines(trials: Sequence[Trial], records: Mapping[str, Record]) -> tuple[str, dict[Place, str]]:
    """The header of ledger.csv, and row, task and number of every trial -> its line; without ends of lines."""
    names = sorted({name for trial in trials for name in trial.values}, key=lambda name: (name != "lr", name))
    head = ["row", "task", "trial", "kind", *names, "status", "score", "metric", "steps", "seconds"]
    lines = {}
    for trial in sorted(trials, key=lambda one: (one.task, one.row, one.number)):
        values = [trial.values.get(name, "") for name in names]
        start = [trial.row, trial.task, trial.number, trial.kind, *values]
        found = records.get(trial.id)  # that of two trials, where both drew the same values
        line = _line([*start, *_outcome(found), trial.id, _cause(found)])
        lines[trial.row, trial.task, trial.number] = line
    return _line([*head, "seconds_per_step", "cell", "cause"]), lines


def _outcome(record: Record | None) -> list[Any]:
    """Status, score, metric, steps, seconds and seconds per step, as a ledger has them."""
    if record is None:
        return [PLANNED, "", "", "", "", ""]
    score, result, run = score_of(record), record.result, record.run
    shown = "" if score is None else f"{score:.4f}"
    return [
        record.status,
        shown,
        result["main_metric"],
        result.get("steps", ""),
        run["seconds"],
        record.seconds_per_step or "",
    ]


def _cause(record: Record | None) -> str:
    return record.error["cause"] if record and record.error else ""


def write_ledger(folder: Folder, begun: Begun, records: Mapping[str, Record]) -> list[Path]:
    """Write ledger.csv and runs.csv; returns their paths."""
    folder.path.mkdir(parents=True, exist_ok=True)
    paths = [folder.path / "ledger.csv", folder.path / "runs.csv"]
    header, trials = trial_lines(begun.trials, records)
    write_text(paths[0], "".join(f"{line}\n" for line in [header, *trials.values()]))
    head = ["row", "task", "seed", "trial", "status", "score", "metric", "steps", "seconds", "seconds_per_step"]
    lines = [_line([*head, "cell", "cause"])]
    for run in sorted(begun.runs, key=lambda one: (one.task, one.row, one.seed)):
        record = records.get(run.id)
        lines.append(_line([run.row, run.task, run.seed, run.trial, *_outcome(record), run.id, _cause(record)]))
    write_text(paths[1], "".join(f"{line}\n" for line in lines))
    return paths


def _line(cells: Sequence[Any]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()


def digest_of(line: str) -> str:
    """16 hex digits of SHA-256 of a ledger's line, by which a recipe names it."""
    return hashlib.sha256(line.encode()).hexdigest()[:16]


def budgets(trials: Sequence[Trial], records: Mapping[str, Record]) -> str:
    """One line: whether every row and task had the same number of trials, and whether all of them ended."""
    planned = Counter((trial.task, trial.row) for trial in trials)
    ended = Counter((trial.task, trial.row) for trial in trials if trial.id in records)
    if not planned:
        return "No trial is planned yet."
    counts = sorted(set(planned.values()))
    most = counts[-1]
    if len(counts) > 1:
        fewer = ", ".join(f"{row} on {task} {count}" for (task, row), count in planned.items() if count < most)
        return f"Budgets are unequal: {most} trials, but {fewer}."
    short = {place: planned[place] - ended[place] for place in planned if ended[place] < planned[place]}
    if short:
        return (
            f"Budgets are equal as planned, {most} trials for each of {len(planned)} (row, task), and "
            f"{sum(short.values())} of {len(trials)} have not ended."
        )
    return (
        f"Budgets are equal: {most} trial{'s' if most > 1 else ''} for each of {len(planned)} (row, task), all ended."
    )
