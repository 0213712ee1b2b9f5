"""A study whose cells are made, not trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from lora2_bench.config.grid import plan_points
from lora2_bench.records.store import Store
from lora2_bench.sweep.options import Options
from lora2_bench.tune.ledger import Folder, RunCell, Trial
from lora2_bench.tune.stages import Stages
from lora2_bench.tune.study import read_study
from tests.made_records import make_record

SMALL = ("study.trials=3", "study.tasks={rte: [lora_r1, lora2_k1]}", "study.settings.tasks={rte: {epochs: 2}}")


class Made:
    """The stages of a small study, with nothing sent and records made by hand."""

    def __init__(self, results: Path, changes: Sequence[str] = SMALL, name: str = "smoke") -> None:
        self.results = results
        self.told: list[str] = []
        self.changes = list(changes)
        self.study = read_study(name, changes, (), name)
        self.again()

    def again(self) -> None:
        """A new call of the command."""
        folder = Folder(self.results, self.study.folder)
        places = [f"results={self.results}"]
        self.stages = Stages(self.study, folder, Options(), places, None, dict, self.told.append)

    def choose(self, points: Mapping[tuple[str, int], float]) -> Stages:
        """Plan the trials, end them with these points and write the winners' recipes."""
        self.stages.plan_trials()
        self.finish(self.stages.begun.trials, points)
        self.stages.write_winners()
        return self.stages

    def plan_runs(self) -> list[RunCell]:
        """Plan the winners' runs, with nothing sent."""
        self.stages._send = lambda *_: False  # type: ignore[method-assign]
        self.stages.send_runs()
        return self.stages.begun.runs

    def finish(self, cells: Sequence[Trial | RunCell], points: Mapping[tuple[str, int], float]) -> None:
        """Leave a finished record of each cell: points by row and trial (or seed)."""
        for cell, plan in zip(
            cells, plan_points([(*cell.overrides, f"results={self.results}") for cell in cells]), strict=True
        ):
            assert plan.cell.id == cell.id
            number = cell.number if isinstance(cell, Trial) else cell.seed
            score = points[cell.row, number] / 100
            record = make_record(plan.cell, best=score, last=score, cut=plan.cut)
            record.run["command"] = list(cell.overrides)
            Store(self.results).write(record)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Made]:
    """Makes a study below a folder of the test's own."""
    return lambda **options: Made(tmp_path / "results", **options)
