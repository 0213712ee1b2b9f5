"""`Run`: one record as tables, figures, comparisons and the page see it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from typing import Any

from lora2_bench.experiment.recipe import off_recipe, tuned_of, with_unmarked
from lora2_bench.experiment.settings import ABSENT, canonical, value_at
from lora2_bench.paper.tables import COLUMNS
from lora2_bench.records.identity import without_old_values
from lora2_bench.records.record import Record
from lora2_bench.records.schema import CellSettings, Config, Hardware, Parameters, Scoring
from lora2_bench.records.store import PREDICTIONS
from lora2_bench.report.records import trimmed

XY = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One record, as the report sees it.

    Attributes:
        record: all that is kept of the cell.
        data: source of its rows, with what must never meet the rest in one table: `-sample` where real files do not
            hold GLUE's own rows, `own-TASK` of a user's own task, `-init_from` where it started from another cell's
            adapter, `-tuned-STUDY` where a study chose its recipe.
        science: its settings without task and seed, as one text for equal science.
        obstacles: why it is no run of its recipe: limits, and settings off the recipe.
        scores: protocol (`paper`, `last`, `clean`) -> the task's deciding number, in points; empty for a failed cell.
        columns: protocol -> column of Table 1 -> points.
        machine: as `machine_name`.
        evaluated: how often it was scored during training; 0 for a failed cell.
        implementation: the method's class, by its dotted name; None where the record does not say.
        older: whether its code has changed since, for all runs of its method alike (see `selection.selection_of`).
    """

    record: Record
    data: str
    science: str
    obstacles: tuple[str, ...]
    scores: Mapping[str, float]
    columns: Mapping[str, Mapping[str, float]]
    machine: str
    evaluated: int
    implementation: str | None
    older: bool = False

    @classmethod
    def of(cls, record: Record) -> Run:
        """The run of a record."""
        config: Config = record.run.get("config", {})
        hardware: Hardware = record.run.get("hardware", {})
        scorings = record.scorings()
        return cls(
            record=record,
            data=_data_name(record),
            science=science_of(record.cell),
            obstacles=with_unmarked(record.cut, off_recipe(record.cell, config, record.run["command"])),
            scores={protocol: 100 * scoring["score"] for protocol, scoring in scorings.items()},
            columns={protocol: _columns(record.cell["task"], scoring) for protocol, scoring in scorings.items()},
            machine=machine_name(hardware),
            evaluated=len(record.result.get("evaluations", ())),
            implementation=_text(config.get("method", {}).get("_target_")),
        )

    def trimmed(self, pool: dict[str, Any]) -> Run:
        """The run without what only figures and the page show, as `records.trimmed`: thousands then fit in memory."""
        return replace(self, record=trimmed(self.record, pool))

    @property
    def id(self) -> str:
        """The cell's."""
        return self.record.id

    @property
    def cell(self) -> CellSettings:
        """The science, as in the record."""
        return self.record.cell

    @property
    def model(self) -> str:
        """The backbone's name."""
        return self.cell["model"]["name"]

    @property
    def folder(self) -> str:
        """Where its tables and figures lie: `<backbone>-<data>`."""
        return f"{self.model}-{self.data}"

    @property
    def task(self) -> str:
        """The task's name."""
        return self.cell["task"]

    @property
    def seed(self) -> int:
        """The cell's seed."""
        return self.cell["seed"]

    @property
    def method_name(self) -> str:
        """The method, without its size."""
        return str(self.cell["method"]["name"])

    @property
    def sources(self) -> str | None:
        """Digest of the code that made it; None in records of versions that kept none."""
        return self.record.run.get("sources")

    @property
    def masks(self) -> str:
        """What its backbone's dropout drew from; torch in records of versions that had nothing else."""
        return self.record.run.get("masks", "torch")

    @property
    def predictions_sha256(self) -> str | None:
        """Digest of its stored dev predictions; None without any, and in records of versions that kept none."""
        return (self.record.files or {}).get(PREDICTIONS)

    @property
    def rng_version(self) -> int:
        """Version of the cell's random streams; 1 in records of versions that named none."""
        return self.cell.get("rng_version", 1)

    @property
    def protocol(self) -> str:
        """`paper` or `clean`: how the checkpoint was chosen."""
        return self.cell["protocol"]["name"]

    @property
    def label(self) -> str:
        """Method and size."""
        return self.record.label

    @property
    def done(self) -> bool:
        """False for a failed cell."""
        return self.record.is_done

    @property
    def cause(self) -> str:
        """Why it failed; empty for a finished one."""
        return self.record.error["cause"] if self.record.error else ""

    @property
    def metric(self) -> str:
        """What its deciding number is called."""
        return self.record.result["main_metric"]

    @property
    def parameters(self) -> Parameters:
        """Adapter, head and active parameters."""
        return self.record.result["parameters"]

    def active(self, protocol: str) -> int:
        """Adapter parameters that survive at the step whose score `protocol` gives.

        Records of versions that did not count them there have the number at the end of training.
        """
        return self._scorings[protocol].get("active", self.parameters["active"])

    def is_early(self, protocol: str) -> bool:
        """Whether that step came before the method's rank budget was met; False where a record does not say."""
        return not self._scorings[protocol].get("budget_met", True)

    def looks(self, protocol: str) -> int | None:
        """How often dev was scored for the best of these scores; None for a score that is no best one on dev."""
        return self.evaluated if protocol == "paper" else None

    @property
    def _scorings(self) -> dict[str, Scoring]:
        return self.record.scorings()

    @property
    def seconds_per_step(self) -> float | None:
        """Of training; None where the record has none of its own. They tell nothing across two values of `machine`."""
        return self.record.seconds_per_step

    @property
    def memory(self) -> int | None:
        """Peak bytes, of the GPU where it ran on one, else of the process; None where the record has none."""
        peak = self.record.run.get("memory", {})
        return peak.get("gpu_bytes", peak.get("process_bytes"))

    @property
    def data_sha256(self) -> str:
        """The digest of its rows."""
        return self.record.result["data"]["sha256"]

    @property
    def backbone_sha256(self) -> str | None:
        """The digest of its backbone's weights."""
        return self.record.result["backbone"]["sha256"]

    @property
    def major(self) -> str | None:
        """Major version of the package that made it; None where the record has none."""
        version = value_at(self.record.run, "versions.lora2_bench")
        return None if version is ABSENT else str(version).partition(".")[0]

    @property
    def finished(self) -> str:
        """When it ended, ISO 8601."""
        return self.record.run["finished"]

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self.cell["train"]["lr"]

    @property
    def without_lr(self) -> str:
        """What runs that differ in the learning rate alone have in common."""
        train = {name: value for name, value in self.cell["train"].items() if name != "lr"}
        others = [obstacle for obstacle in self.obstacles if not obstacle.startswith("train.lr=")]
        return json.dumps([others, science_of({**self.cell, "train": train})])

    @property
    def curve(self) -> tuple[XY, ...]:
        """(epoch, points) of every evaluation; of a whole record."""
        result = self.record.result
        epochs_per_step = result["epochs"] / result["steps"] if result["steps"] else 0.0
        evaluations = result["evaluations"] if epochs_per_step else []
        return tuple((one["step"] * epochs_per_step, 100 * one["score"]) for one in evaluations)

    @property
    def ranks(self) -> Mapping[str, Mapping[str, int]] | None:
        """Layer -> map -> ranks kept, of a whole record; None where the method has none."""
        return self.record.result.get("ranks")

    @property
    def full_rank(self) -> float:
        """The ranks that a map started with; 0 where the method has none."""
        maps = sum(len(layer) for layer in (self.ranks or {}).values())
        return self.record.result.get("ranks_initial", 0) / maps if maps else 0.0

    @property
    def rank_limit(self) -> int | None:
        """LoRA²'s k: no update has a higher rank, whatever its r. None for a method whose size is its rank."""
        size = self.record.result["size"]
        return size["value"] if size["name"] == "k" else None


def grouped(runs: Iterable[Run], *names: str) -> dict[Any, list[Run]]:
    """Runs by these attributes (a value for one name, a tuple for several), keys in order."""
    key = attrgetter(*names)
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return {name: groups[name] for name in sorted(groups)}


def machine_name(hardware: Hardware) -> str:
    """The GPU, or the processor with the threads in use: what seconds are of."""
    if gpu := hardware.get("gpu"):
        return gpu
    name, threads = hardware.get("processor") or "not recorded", hardware.get("threads")
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}" if threads else name


def science_of(cell: Mapping[str, Any]) -> str:
    """A cell's settings without its task and seed, as one text for equal science."""
    version = {"rng_version": cell.get("rng_version", 1)}  # named on both sides where it tells two apart
    values = {**without_old_values(cell), **version}
    return _canonical_text(json.dumps({name: value for name, value in values.items() if name not in ("seed", "task")}))


@cache  # the seeds of one row share theirs
def _canonical_text(text: str) -> str:
    return json.dumps(canonical(json.loads(text)), sort_keys=True)


_TUNED = "-tuned-"


def rows_and_study(data: str) -> tuple[str, str]:
    """What a `Run.data` says of the rows, and the study that tuned the recipes; empty without one."""
    rows, _, study = data.removesuffix("-init_from").partition(_TUNED)
    return rows, study


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _data_name(record: Record) -> str:
    tuned = tuned_of(record.run["command"])
    by_study = "" if tuned is None else f"{_TUNED}{tuned.study}"
    return record.data_name + by_study + ("-init_from" if record.cell.get("init_from") else "")


def _columns(task: str, scoring: Scoring) -> dict[str, float]:
    """Column -> points; a task with one column is scored by its deciding number. WNLI has no column."""
    columns = [column for column in COLUMNS.values() if column.task == task]
    if len(columns) == 1:
        return {columns[0].name: 100 * scoring["score"]}
    found = {column.name: value_at(scoring["metrics"], f"{column.split}.{column.metric}") for column in columns}
    return {name: 100 * value for name, value in found.items() if value is not ABSENT}
