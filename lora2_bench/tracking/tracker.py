"""An optional mirror of a run. The record on disk stays the reference, and a failing tracker never fails a cell."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tqdm.auto import tqdm

from lora2_bench.experiment.plan import Plan
from lora2_bench.records.record import Record
from lora2_bench.records.scrub import hide_secrets
from lora2_bench.records.store import Store
from lora2_bench.tracking.published import mark_published
from lora2_bench.tracking.wandb_runs import default_group, finish_run, log_evaluation, start_run


class Tracker:
    """`tracker=none`: mirrors nothing."""

    def evaluation(self, evaluation: Any) -> None:
        """Take one evaluation."""

    def finish(self, record: Record) -> None:
        """Take the finished record."""


class WandbTracker(Tracker):
    """Weights & Biases: online with WANDB_API_KEY, else offline below `results/wandb`. Off after its first error."""

    def __init__(self, plan: Plan) -> None:
        self._results = plan.run_options.results
        self._project = plan.run_options.tracker["project"]
        self._run: Any = None
        cell = plan.cell

        def start() -> None:
            group = plan.run_options.tracker.get("group") or default_group(cell.task, cell.method_label, plan.command)
            tags = plan.run_options.tracker.get("tags") or ()
            self._run = start_run(
                self._results, cell.id, cell.to_dict(), cell.method_label, self._project, group=group, tags=tags
            )

        self._guarded(start)

    def evaluation(self, evaluation: Any) -> None:
        """Log one evaluation at its step."""
        if self._run is not None:
            self._guarded(lambda: log_evaluation(self._run, asdict(evaluation)))

    def finish(self, record: Record) -> None:
        """Close the run with the record's numbers."""
        if self._run is not None:
            self._guarded(lambda: self._close(record))

    def _close(self, record: Record) -> None:
        finish_run(self._run, record)
        if record.is_done and record.run.get("continued_from") is None:  # else earlier evaluations may be missing
            mark_published(Store(self._results), record.id, self._project)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Call `step`; an error becomes a one-line warning, and nothing more of this run is mirrored."""
        try:
            step()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            reason = hide_secrets(reason)
            tqdm.write(f"warning: tracker: {reason}; the run goes on without it", file=sys.stderr)
            self._run = None


def make_tracker(plan: Plan) -> Tracker:
    """The tracker that the config names."""
    return WandbTracker(plan) if plan.run_options.tracker["name"] == "wandb" else Tracker()
