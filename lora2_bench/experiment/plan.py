"""`Plan`: a cell together with the options of its run on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.checks import (
    MOST_RANKS,
    MOST_ROWS,
    check_no_secret,
    require,
    require_choice,
    require_int,
    require_number,
)
from lora2_bench.tasks.own.task import OwnTask

MEASURES = ("sts", "probe", "mlm", "weights")
"""What can be measured of what a cell has forgotten (docs/RETENTION.md)."""
KEEPS = ("weights", "adapter", "nothing")
"""What a finished cell can be asked to keep; None = its method's own answer (`Method.exports`)."""
_MOST_THREADS = 1024  # above any machine's cores; a million end in libgomp, without a line


@dataclass(frozen=True)
class CheckpointSchedule:
    """A checkpoint is due every `steps` optimiser steps and every `minutes` minutes; None = never by that measure."""

    steps: int | None
    minutes: float | None

    def __post_init__(self) -> None:
        if self.steps is not None:
            require_int("checkpoint.steps", self.steps, 1, "an integer of at least 1, or null")
        if self.minutes is not None:
            require_number("checkpoint.minutes", self.minutes, 0.0, 1e6, "a number of at least 0, or null")


@dataclass(frozen=True)
class Export:
    """What is exported beside a finished cell's own adapter.

    Attributes:
        rank: the adapter at this rank, or None.
        merged: whether the whole model is, with what was learnt merged into it, at `rank` where one is given.
    """

    rank: int | None
    merged: bool

    def __post_init__(self) -> None:
        if self.rank is not None:
            require_int("export.rank", self.rank, 1, "an integer of at least 1, or null", MOST_RANKS)
        require(isinstance(self.merged, bool), "export.merged", self.merged, "true or false")


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that are not part of the cell, and so never change its id.

    Attributes:
        results: the folder below which everything is written.
        rerun: whether a finished cell is trained again.
        device: auto, cpu or cuda.
        threads: CPU threads, or None for all cores.
        engine: how adapters are computed: fast, or plain; the results differ by rounding only.
        masks: what the backbone's dropout draws from: torch, sfc64 (backbones/masks.py), or auto (by device).
        eval_batch_size: rows per evaluation batch.
        data_dir: folder of the `local` data source.
        own_task: where the rows of a user's own task are; None for another task.
        model_path: folder of a `local` backbone.
        model_package, model_folder: the Python package of a `package` backbone, and the folder in it.
        tracker: the tracker's settings.
        checkpoint: when a running cell writes one.
        export: what else is exported of a finished cell.
        predict_test: whether the cell also predicts its task's test rows, for GLUE's server.
        retention: which of `MEASURES` of forgetting are taken of the finished cell.
        keep: what of the method is kept beside the record, one of `KEEPS`, or None for what the method keeps.
    """

    results: Path
    rerun: bool = False
    device: str = "auto"
    threads: int | None = None
    engine: str = "fast"
    masks: str = "auto"
    eval_batch_size: int = 64
    data_dir: str | None = None
    own_task: OwnTask | None = None
    model_path: str | None = None
    model_package: str | None = None
    model_folder: str | None = None
    tracker: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    checkpoint: CheckpointSchedule = CheckpointSchedule(None, 2.0)
    export: Export = Export(None, False)
    predict_test: bool = False
    retention: tuple[str, ...] = ()
    keep: str | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            require_choice("keep", self.keep, KEEPS)
        require_choice("device", self.device, ("auto", "cpu", "cuda"))
        require_choice("engine", self.engine, ("fast", "plain"))
        require_choice("masks", self.masks, ("auto", "torch", "sfc64"))
        require_choice("tracker.name", self.tracker.get("name"), ("none", "wandb"))
        for name in ("project", "group") if self.tracker["name"] == "wandb" else ():
            value = self.tracker.get(name)
            is_name = (isinstance(value, str) and value != "") or (name == "group" and value is None)
            require(is_name, f"tracker.{name}", value, "a name" + (", or null" if name == "group" else ""))
        tags = self.tracker.get("tags", [])
        are_names = isinstance(tags, list | tuple) and all(isinstance(tag, str) and tag for tag in tags)
        require(are_names, "tracker.tags", tags, "a list of names")
        for name in ("project", "group", "tags"):
            check_no_secret(f"tracker.{name}", self.tracker.get(name))
        require_int("eval_batch_size", self.eval_batch_size, 1, "an integer of at least 1", MOST_ROWS)
        if self.threads is not None:
            require_int("threads", self.threads, 1, "an integer of at least 1, or null for all cores", _MOST_THREADS)


@dataclass(frozen=True)
class Plan:
    """One cell to run.

    Attributes:
        implementation: dotted name of the method's class.
        cut: limits (`train.max_steps`, `data.max_train`, `data.max_eval`) and values that differ from the recipe's.
        command: the overrides of the command line, for the record.
        config: the whole composed config, for the record.
    """

    cell: Cell
    implementation: str
    run_options: RunOptions
    cut: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


def measures_of(value: object) -> tuple[str, ...]:
    """The measures that `retention` asks for, in their order: of null, all, one, or a list. Raises UserError."""
    if value is None:
        return ()
    if value == "all":
        return MEASURES
    names = [value] if isinstance(value, str) else value
    is_list = isinstance(names, list) and bool(names) and all(name in MEASURES for name in names)
    require(is_list, "retention", value, f"null, all, or a list of some of {', '.join(MEASURES)}")
    return tuple(name for name in MEASURES if name in names)  # type: ignore[operator]  # a list, as was checked
