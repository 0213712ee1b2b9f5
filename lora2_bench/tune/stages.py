"""The stages of a study: plan and send its trials, write the winners' recipes, send their runs, tell what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.suites import rows
from lora2_bench.records.record import Record
from lora2_bench.sweep.batches import QueueReader
from lora2_bench.sweep.calls import PAUSE
from lora2_bench.sweep.cells import SweepCell
from lora2_bench.sweep.follow import wait
from lora2_bench.sweep.launchers import Launcher
from lora2_bench.sweep.options import Options
from lora2_bench.sweep.send import send_cells
from lora2_bench.tune.ledger import (
    DRAW,
    EXTRA,
    EXTRA_KINDS,
    RECIPE,
    WIDER,
    Begun,
    Folder,
    RunCell,
    Trial,
    budgets,
    write_ledger,
)
from lora2_bench.tune.recipes import Winner, winners, write_recipe
from lora2_bench.tune.space import default_of, draw, read_space, widened
from lora2_bench.tune.study import Pair, Study

PLAN, TRIALS, WINNERS, RUNS, TABLES = "plan", "trials", "winners", "runs", "tables"
STAGES = (PLAN, TRIALS, WINNERS, RUNS, TABLES)


class Stages:
    """One study below one results folder.

    Args:
        study: what was declared.
        folder: where it is kept.
        options: how its cells are sent.
        places: overrides of where and how they run, the results folder among them.
        launcher: what sends them; None for stages that send nothing.
        squeue: as sweeps have it.
        show: takes each line of output.
    """

    def __init__(
        self,
        study: Study,
        folder: Folder,
        options: Options,
        places: Sequence[str],
        launcher: Launcher | None,
        squeue: QueueReader,
        show: Callable[[str], None] = print,
    ) -> None:
        self.study, self.folder, self.places = study, folder, list(places)
        self.options = options
        self.launcher, self.squeue, self.show = launcher, squeue, show
        self.begun = folder.read() or Begun(study.name, dict(study.values), list(study.extra))
        _check_same(study, self.begun, folder)
        self.begun.values = dict(study.values)

    def plan_trials(self) -> None:
        """Plan the trials that are not planned yet, the extra ones among them once they are due."""
        known = {(trial.row, trial.task, trial.number) for trial in self.begun.trials}
        wanted = [
            (row, task, number)
            for row, task in self.study.places
            for number in range(self.study.trials)
            if (row, task, number) not in known
        ]
        if wanted:
            self._plan_drawn(wanted)
        if self._extra_due():
            self._plan_extra()
        if not self.options.dry_run:
            self.folder.write(self.begun)

    def send_trials(self) -> bool:
        """Send the trials that have not ended; whether all have."""
        return self._send(self.begun.trials, TRIALS)

    def write_winners(self) -> dict[Pair, Winner]:
        """Write the recipe of every row's and task's winner. Raises UserError while trials are under way."""
        found, records = self.winners(), self.folder.records(self.begun.trials)
        for one in found.values():
            write_recipe(self.folder, self.study, one, self.begun.trials, records)
        self.show(f"{len(found)} recipes in {self.folder.path / 'recipes'}. {budgets(self.begun.trials, records)}")
        for row, task in self.study.places:
            if (row, task) not in found:
                self.show(f"no trial of {row} on {task} has finished, so it has no runs: ledger.csv has the causes")
        return found

    def winners(self) -> dict[Pair, Winner]:
        """(row, task) -> winner, of those with a finished trial. Raises UserError while trials are under way."""
        records = self.folder.records(self.begun.trials)
        if left := sum(trial.id not in records for trial in self.begun.trials):
            raise UserError(f"{left} of {len(self.begun.trials)} trials have not ended: run stage=trials first")
        found = winners(self.begun, records, self.study.places)
        return {place: one for place, one in found.items() if one is not None}

    def send_runs(self) -> bool:
        """Plan the winners' runs where they are not planned, send those that have not ended; whether all have.

        Those of the primary comparison are sent first: a study that is cut off has its answer early.
        """
        from lora2_bench.config.grid import plan_points  # Hydra takes a third of a second to import

        known = {(run.row, run.task, run.seed) for run in self.begun.runs}
        wanted = [
            (*place, seed) for place in self.study.places for seed in self.study.seeds if (*place, seed) not in known
        ]
        found = self.winners() if wanted else {}
        if wanted := [(row, task, seed) for row, task, seed in wanted if (row, task) in found]:
            recipes = {place: self.study.recipe(*place) for place in found}
            points = [self.study.run(row, task, seed, recipes[row, task]) for row, task, seed in wanted]
            planned = zip(wanted, points, plan_points([(*point, *self.places) for point in points]), strict=True)
            for (row, task, seed), point, plan in planned:
                number = found[row, task].trial.number
                self.begun.runs.append(RunCell(row, task, seed, number, plan.cell.id, list(point)))
            if not self.options.dry_run:
                self.folder.write(self.begun)
        primary = self.study.comparisons[0]
        return self._send(sorted(self.begun.runs, key=lambda run: run.row not in primary), RUNS)

    def tell(self) -> list[Path]:
        """Write the ledger, the records in one file, curves, differences, summary, findings; returns their paths."""
        from lora2_bench.tune.curves import write_curves  # matplotlib takes a while to import
        from lora2_bench.tune.differences import draw_differences
        from lora2_bench.tune.findings import write_findings
        from lora2_bench.tune.summary import write_summary

        records = self.folder.records(self.begun.cells)
        if not self.begun.trials and (kept := self.folder.committed):
            raise UserError(
                f"{self.folder.path} has {len(kept)} records and no plan.json: put it back as it was committed"
            )
        written = [*write_ledger(self.folder, self.begun, records), self.folder.keep_records(records)]
        written += write_curves(self.folder, self.begun, records)
        written += draw_differences(self.folder, self.study, self.begun, records)
        written.append(write_summary(self.folder, self.study, self.begun, records))
        return [*written, write_findings(self.folder, self.study, self.begun, records)]

    def _plan_drawn(self, wanted: Sequence[tuple[str, str, int]]) -> None:
        from lora2_bench.config.grid import plan_points

        places = list(dict.fromkeys((row, task) for row, task, _ in wanted))
        first = plan_points([(*self.study.trial(*place, {}), *self.places) for place in places])
        recipes = {place: plan.config["recipe"] for place, plan in zip(places, first, strict=True)}
        values: list[dict[str, float]] = []
        for row, task, number in wanted:
            space, recipe = read_space(rows()[row].method), recipes[row, task]
            is_recipe = {one.name: default_of(one, recipe) for one in space}
            values.append(is_recipe if number == 0 else draw(space, recipe, self.study.name, row, task, number))
        self._add([(*place, RECIPE if place[2] == 0 else DRAW, one) for place, one in zip(wanted, values, strict=True)])

    def _extra_due(self) -> bool:
        """Whether all trials of the budget ended, no extra ones are planned, and a winner lies at an edge."""
        if self.begun.runs or any(trial.kind in EXTRA_KINDS for trial in self.begun.trials):
            return False  # a run belongs to the winner that it was planned with
        records = self.folder.records(self.begun.trials)
        if any(trial.id not in records for trial in self.begun.trials):
            return False
        return any(one.at_edge for one in self.winners().values())

    def _plan_extra(self) -> None:
        """One more trial for every row and task: beyond the edge for a winner at one, a further draw for any other."""
        found: list[tuple[str, str, int, str, dict[str, float]]] = []
        for (row, task), best in self.winners().items():
            space, recipe = read_space(rows()[row].method), self.begun.of(row, task)[0].values
            number = self.study.trials
            parts = (self.study.name, row, task, number)
            wider = widened(space, recipe, best.trial.values, *parts)
            values = draw(space, recipe, *parts) if wider is None else wider
            found.append((row, task, number, EXTRA if wider is None else WIDER, values))
        at_edge = sum(kind == WIDER for _, _, _, kind, _ in found)
        self.show(
            f"{at_edge} of {len(found)} winners lie at an edge of their space: one more trial for every row and task"
        )
        self._add(found)

    def _add(self, wanted: Sequence[tuple[str, str, int, str, dict[str, float]]]) -> None:
        """Plan these trials: row, task, number, kind, values."""
        from lora2_bench.config.grid import plan_points

        points = [
            self.study.trial(row, task, {} if kind == RECIPE else values) for row, task, _, kind, values in wanted
        ]
        plans = plan_points([(*point, *self.places) for point in points])
        for (row, task, number, kind, values), point, plan in zip(wanted, points, plans, strict=True):
            steps, run_steps = steps_of(plan.cell)
            trial = Trial(row, task, number, kind, values, steps, plan.cell.id, list(point))
            self.begun.trials.append(trial)
            self.begun.run_steps[f"{row}-{task}"] = run_steps

    def _send(self, planned: Sequence[Trial] | Sequence[RunCell], stage: str) -> bool:
        """Send the cells that have not ended, and follow them where asked to; whether all of them have ended."""
        cells = [SweepCell(one.id, (*one.overrides, *self.places)) for one in planned]
        ended = self._ended(planned)
        if len(ended) == len(planned):
            return True
        left = [cell for cell in cells if cell.id not in ended]
        assert self.launcher is not None, "a stage that sends has one"
        call = f"study={self.study.name} stage={stage} of {len(cells)} cells"
        send_cells(self.options, left, self._shared(), self.launcher, self.squeue, call=call, show=self.show)
        if not self.options.wait or self.options.dry_run:
            return False
        wait(left, self.folder.results, self.squeue, PAUSE[self.options.cluster])
        return len(self._ended(planned)) == len(planned)

    def _ended(self, planned: Sequence[Trial] | Sequence[RunCell]) -> dict[str, Record]:
        """Those that are not to be sent: a failed trial is a result of its settings, a failed run is tried again."""
        found = self.folder.records([*planned])
        runs = {one.id for one in planned if isinstance(one, RunCell)}
        return {name: record for name, record in found.items() if record.is_done or name not in runs}

    def _shared(self) -> list[str]:
        """The overrides that all cells share, as a sweep has them."""
        return [*self.places, *self.study.extra]


def steps_of(cell: Cell) -> tuple[int, int]:
    """Optimiser steps of a trial, and of a run of the same settings on all of train; of the official row counts."""
    from lora2_bench.tasks.mini import TRAIN_ROWS

    count = TRAIN_ROWS if cell.data.source == "mini" else cell.spec.rows["train"]
    count = min(count, cell.data.max_train or count)
    held_out = round(cell.protocol.held_out * count)
    return cell.train.total_steps(count - held_out), cell.train.total_steps(count)


def _check_same(study: Study, begun: Begun, folder: Folder) -> None:
    """Raise UserError where the folder holds the study with other settings."""
    if begun.study != study.name:
        raise UserError(f"{folder.path} holds study={begun.study}: give name=NAME for another folder")
    before = Study(begun.study, begun.values, tuple(begun.extra)).science()
    for key, value in study.science().items():
        if begun.trials and before.get(key) != value:
            raise UserError(
                f"study={study.name} was begun with {key}={before.get(key)}, not {value} ({folder.path}): give the "
                "same, or name=NAME for a study of its own"
            )
