"""What the paper's tables need of a record, and which records are out of date."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pandas as pd

from lora2_bench.experiment.settings import ABSENT, at, canonical
from lora2_bench.paper.tables import COLUMNS
from lora2_bench.records.record import Record
from lora2_bench.records.schema import CellSettings, Config, Hardware, Scoring
from lora2_bench.report.records import scales_budget
from lora2_bench.report.scores import data_name, science_of

# The recipe's values that stand elsewhere: what a row fixes, and what `cut` names.
_ELSEWHERE = ("targets", "target_r", "lr", "epochs", "batch_size")
_SCHEDULE = ("t_init", "t_final", "delta_t", "warmup")


@dataclass(frozen=True)
class Run:
    """One record, as the tables see it.

    Attributes:
        id: of the cell.
        model: the backbone's name.
        data: as `aggregate.data_name`.
        cell: the science, as in the record.
        science: its settings without task and seed, as text.
        label: method and size.
        done: False for a failed cell.
        cause: why it failed; empty for a finished one.
        obstacles: why it is no run of its row's recipe: limits, and settings off the recipe.
        scores: protocol (`paper`, `last`, `clean`) -> column of Table 1 -> points.
        parameters: adapter, head, active.
        seconds_per_step: of training; None where the record has none.
        machine: processor or GPU, and threads.
        data_sha256, backbone_sha256, major: what must not differ between cells of one table.
        finished: when it ended, ISO 8601.
    """

    id: str
    model: str
    data: str
    cell: CellSettings
    science: str
    label: str
    done: bool
    cause: str
    obstacles: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float]]
    parameters: Mapping[str, int]
    seconds_per_step: float | None
    machine: str
    data_sha256: str
    backbone_sha256: str
    major: str | None
    finished: str

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.cell["task"])

    @property
    def seed(self) -> int:
        """The cell's seed."""
        return int(self.cell["seed"])

    @property
    def protocol(self) -> str:
        """`paper` or `clean`: how the checkpoint was chosen."""
        return str(self.cell["protocol"]["name"])

    @classmethod
    def of(cls, record: Record) -> Run:
        """The run of a record. Raises LookupError, TypeError, AttributeError or ValueError for a foreign layout."""
        cell, result, facts = record.cell, record.result, record.run
        version = at(facts, "versions.lora2_bench")
        seconds = facts.get("seconds_per_step")
        config: Config = facts.get("config", {})
        hardware: Hardware = facts.get("hardware", {})
        return cls(
            id=record.id,
            model=str(cell["model"]["name"]),
            data=data_name(record),
            cell=cell,
            science=science_of(cell),
            label=record.label,
            done=record.is_done,
            cause=record.error["cause"] if record.error else "",
            obstacles=(*record.cut, *off_recipe(cell, config)),
            scores=_scores(record) if record.is_done else {},
            parameters={name: int(result["parameters"][name]) for name in ("adapter", "head", "active")},
            seconds_per_step=None if seconds is None else float(seconds),
            machine=_machine(hardware),
            data_sha256=str(result["data"]["sha256"]),
            backbone_sha256=str(result["backbone"]["sha256"]),
            major=None if version is ABSENT else version.partition(".")[0],
            finished=str(facts.get("finished", "")),
        )


def off_recipe(cell: CellSettings, config: Config) -> list[str]:
    """Settings of a cell that differ from the recipe it names, as `alpha=32 (recipe: 16)`.

    lr, epochs and batch size are left out: where they differ, the record is marked as cut. Nothing is found where the
    record has no config.
    """
    recipe = config.get("recipe", {})
    train: Mapping[str, Any] = cell["train"]
    method: Mapping[str, Any] = cell["method"]
    sections = [method[name] for name in ("reg", "budget") if isinstance(method.get(name), dict)]
    skipped = {*_ELSEWHERE, cell["size"]}
    if scales_budget(config):
        skipped |= set(_SCHEDULE)
    found = []
    for name, wanted in recipe.items():
        for part in (train, method, *sections):
            if name in part and name not in skipped and canonical(part[name]) != canonical(wanted):
                found.append(f"{name}={part[name]} (recipe: {wanted})")
    if method["name"] != "adalora" and "target_r" in recipe:  # AdaLoRA's is in proportion to its r
        found_r = at(method, "budget.target_r")
        kept = None if found_r is ABSENT else found_r
        if canonical(kept) != canonical(recipe["target_r"]):
            found.append(f"target_r={kept} (recipe: {recipe['target_r']})")
    return found


def _scores(record: Record) -> dict[str, dict[str, float]]:
    return {protocol: _columns(record.cell["task"], scoring) for protocol, scoring in record.scorings().items()}


def _columns(task: str, scoring: Scoring) -> dict[str, float]:
    """Column -> points; a task with one column is scored by its deciding number. WNLI has no column."""
    columns = [column for column in COLUMNS.values() if column.task == task]
    if len(columns) == 1:
        return {columns[0].name: 100 * scoring["score"]}
    found = {column.name: at(scoring["metrics"], f"{column.split}.{column.metric}") for column in columns}
    return {name: 100 * value for name, value in found.items() if value is not ABSENT}


def _machine(hardware: Mapping[str, Any]) -> str:
    if gpu := hardware.get("gpu"):
        return str(gpu)
    threads = hardware.get("threads")
    return f"{hardware.get('processor', 'unknown machine')}" + (f", {threads} thread(s)" if threads else "")


def stale_runs(runs: Iterable[Run]) -> dict[str, str]:
    """Id -> reason of every run that was made with other rows, weights or another major version than the newest.

    The newest finished run of the same backbone, data (a generator's seed included) and task is the measure: what has
    changed since then cannot be averaged with it, whichever of the two is right.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        if run.done:
            groups.setdefault((run.model, run.data, run.cell["data"]["seed"], run.task), []).append(run)
    found: dict[str, str] = {}
    for group in groups.values():
        newest = max(group, key=lambda run: (run.finished, run.id))
        for run in group:
            if run.data_sha256 != newest.data_sha256:
                found[run.id] = "other rows than the newest record's"
            elif run.backbone_sha256 != newest.backbone_sha256:
                found[run.id] = "other backbone weights than the newest record's"
            elif None not in (run.major, newest.major) and run.major != newest.major:
                found[run.id] = f"version {run.major} of the package, the newest record's is {newest.major}"
    return found


XY = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished cell under one protocol.

    Attributes:
        folder: `<backbone>-<data>`.
        method: the label, with its size.
        science: everything but seed and task, as in `aggregate.scores`; `without_lr` likewise without the lr.
        score: 0 to 100.
        curve: (epoch, score) of every evaluation.
        ranks: layer -> map -> ranks kept, None where the method has none; `full_rank` is what a map started with.
        seconds: per training step, None where not recorded; they tell nothing across two values of `machine`.
    """

    folder: str
    protocol: str
    method: str
    cut: str
    task: str
    science: str
    without_lr: str
    seed: int
    metric: str
    adapter: int
    score: float
    lr: float
    curve: tuple[XY, ...]
    ranks: dict[str, dict[str, int]] | None
    full_rank: float
    seconds: float | None
    machine: str


def measured(records: Sequence[Record], frame: pd.DataFrame) -> list[Measured]:
    """Every finished cell, once per protocol that it has a score for; `frame` is `aggregate.scores` of `records`."""
    by_id = {record.id: record for record in records}
    facts = {cell_id: _facts(record) for cell_id, record in by_id.items() if record.is_done}
    found = []
    for row in frame.to_dict("records"):
        fact = facts[row["id"]]
        lr = f'"lr": {json.dumps(canonical(fact["lr"]))}, '
        cuts = [cut for cut in by_id[row["id"]].cut if not cut.startswith("train.lr=")]
        found.append(
            Measured(
                folder=f"{row['model']}-{row['data']}",
                without_lr=json.dumps([cuts, row["science"].replace(lr, "")]),
                **{name: row[name] for name in ("protocol", "method", "cut", "task", "science", "seed", "metric")},
                adapter=row["adapter"],
                score=row["score"],
                **fact,
            )
        )
    return found


def grouped(found: Iterable[Measured], *names: str) -> dict[Any, list[Measured]]:
    """Runs by these attributes (a value for one name, a tuple for several), keys in order."""
    key = attrgetter(*names)
    groups: dict[Any, list[Measured]] = {}
    for run in found:
        groups.setdefault(key(run), []).append(run)
    return {name: groups[name] for name in sorted(groups)}


def main_settings(found: Iterable[Measured]) -> list[Measured]:
    """The runs of one setting per folder, protocol, method and task: uncut first, then the one with most seeds."""
    chosen = []
    for every in grouped(found, "folder", "protocol", "method", "task").values():
        settings = grouped(every, "cut", "science")
        best = min(settings, key=lambda key: (key[0] != "", -len(settings[key]), key))
        chosen += sorted(settings[best], key=attrgetter("seed"))
    return chosen


def _facts(record: Record) -> dict[str, Any]:
    result, run = record.result, record.run
    epochs_per_step = result["epochs"] / result["steps"] if result.get("steps") else 0.0
    evaluations = (result.get("evaluations") or []) if epochs_per_step else []
    ranks = result.get("ranks")
    hardware = run.get("hardware") or {}
    machine = hardware.get("gpu") or hardware.get("processor") or "not recorded"
    if not hardware.get("gpu") and (threads := hardware.get("threads")):
        machine += f", {threads} thread" + "s" * (threads != 1)
    return {
        "lr": record.cell["train"]["lr"],
        "curve": tuple((one["step"] * epochs_per_step, 100 * one["score"]) for one in evaluations),
        "ranks": ranks,
        "full_rank": result.get("ranks_initial", 0) / sum(len(layer) for layer in ranks.values()) if ranks else 0.0,
        "seconds": run.get("seconds_per_step"),
        "machine": machine,
    }
