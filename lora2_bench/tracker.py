"""An optional mirror of a run; the record on disk stays the truth, and a failing tracker never fails a cell."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from lora2_bench.experiment.plan import Plan
from lora2_bench.files.writing import write_json
from lora2_bench.records.record import Record
from lora2_bench.records.scrub import scrubbed
from lora2_bench.records.store import Store


class Tracker:
    """`tracker=none`: mirrors nothing."""

    def evaluation(self, evaluation: Any) -> None:
        """Take one evaluation."""

    def finish(self, record: Record) -> None:
        """Take the finished record."""


class WandbTracker(Tracker):
    """Weights & Biases: online with WANDB_API_KEY, else offline below `results/wandb`. Off after its first error."""

    def __init__(self, plan: Plan) -> None:
        self._results = plan.place.results
        self._project = plan.place.tracker["project"]
        self._run: Any = None
        cell = plan.cell

        def start() -> None:
            group = plan.place.tracker.get("group") or default_group(cell.task, cell.method_label, plan.command)
            tags = plan.place.tracker.get("tags") or ()
            self._run = start_run(
                self._results, cell.id, cell.to_dict(), cell.method_label, self._project, group=group, tags=tags
            )

        self._shielded(start)

    def evaluation(self, evaluation: Any) -> None:
        """Log one evaluation at its step."""
        if self._run is not None:
            self._shielded(lambda: log_evaluation(self._run, asdict(evaluation)))

    def finish(self, record: Record) -> None:
        """Close the run with the record's numbers."""
        if self._run is not None:
            self._shielded(lambda: self._close(record))

    def _close(self, record: Record) -> None:
        finish_run(self._run, record)
        if record.is_done and record.run.get("continued_from") is None:  # else what came before may be missing
            mark_published(Store(self._results), record.id, self._project)

    def _shielded(self, step: Callable[[], None]) -> None:
        """Do one thing; an error is told in one line, and nothing more is mirrored of this run."""
        try:
            step()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            tqdm.write(f"warning: tracker: {reason}; the run goes on without it", file=sys.stderr)
            self._run = None


def default_group(task: str, label: str, command: Iterable[str]) -> str:
    """What a run is grouped by: the suite that its command names, else its task, and its method."""
    suite = next((word.removeprefix("suite=") for word in command if word.startswith("suite=")), task)
    return f"{suite} {label}"


def start_run(
    results: Path,
    cell_id: str,
    cell: Mapping[str, Any],
    label: str,
    project: str,
    *,
    group: str,
    tags: list[str] | tuple[str, ...] = (),
) -> Any:
    """A W&B run for a cell (as `Cell.to_dict`). Its id is the cell's: however often it is sent, there is one run.

    Nothing of the machine goes along: no host or user name, no command, no path, no list of packages.
    """
    import wandb

    online = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    facts = [cell["task"], cell["method"]["name"], cell["model"]["name"], cell["data"]["source"]]
    return wandb.init(
        project=project,
        dir=str(results),  # wandb adds its own name
        mode=os.environ.get("WANDB_MODE") or online,  # type: ignore[arg-type]
        id=cell_id,
        resume="allow",
        name=f"{cell['task']} {label} seed {cell['seed']}",
        group=group,
        tags=list(dict.fromkeys([*facts, cell["protocol"]["name"], *tags])),
        config=scrubbed({"id": cell_id, "label": label, **cell}),
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            host="unnamed",
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )


def log_evaluation(run: Any, evaluation: Mapping[str, Any]) -> None:
    """Log one evaluation, as a record keeps it, at its step."""
    flat = {f"{split}/{name}": value for split, group in evaluation["metrics"].items() for name, value in group.items()}
    single = {name: value for name, value in evaluation.items() if name != "metrics"}
    run.log({**single, **flat}, step=evaluation["step"])


def finish_run(run: Any, record: Record) -> None:
    """Give a run its record's numbers, and close it."""
    kept = {name: value for name, value in record.result.items() if name != "evaluations"}
    facts = {name: value for name, value in record.run.items() if name not in ("command", "config", "code")}
    summary = scrubbed({"status": record.status, "cut": record.cut, **kept, "run": facts})
    commit = record.run.get("code", {}).get("sha")  # 40 digits, which would pass for a token
    run.summary.update({**summary, "commit": commit})
    run.finish(exit_code=0 if record.is_done else 1)


def is_published(store: Store, cell_id: str, project: str) -> bool:
    """Whether a cell's record, as it stands, has been mirrored to a project."""
    return project in _projects(store, cell_id)


def mark_published(store: Store, cell_id: str, project: str) -> None:
    """Note beside a cell's record that it has been mirrored: the note goes where the record is replaced."""
    if project not in (known := _projects(store, cell_id)):
        write_json(_marker(store, cell_id), {"projects": [*known, project]})


def _projects(store: Store, cell_id: str) -> list[str]:
    try:
        return list(json.loads(_marker(store, cell_id).read_text(encoding="utf-8"))["projects"])
    except FileNotFoundError:
        return []


def _marker(store: Store, cell_id: str) -> Path:
    return store.folder(cell_id) / "published.json"


def make_tracker(plan: Plan) -> Tracker:
    """The tracker that the config names."""
    return WandbTracker(plan) if plan.place.tracker["name"] == "wandb" else Tracker()
