"""An optional mirror of a run; the record on disk stays the truth, and a failing tracker never fails a cell."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora2_bench.cell import Cell
from lora2_bench.record import Record


class Tracker:
    """`tracker=none`: mirrors nothing."""

    def evaluation(self, evaluation: Any) -> None:
        """Take one evaluation."""

    def finish(self, record: Record) -> None:
        """Take the finished record."""


class WandbTracker(Tracker):
    """Weights & Biases: online with WANDB_API_KEY, else offline below `results/wandb`."""

    def __init__(self, cell: Cell, project: str, results: Path) -> None:
        self._run: Any = None
        with _Shielded():
            import wandb

            folder = results / "wandb"
            folder.mkdir(parents=True, exist_ok=True)
            mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
            self._run = wandb.init(
                project=project,
                dir=str(folder),
                mode=mode,  # type: ignore[arg-type]
                name=f"{cell.task} {cell.method_label} seed {cell.seed}",
                group=cell.method_label,
                config={"id": cell.id, **cell.to_dict()},
                settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
            )

    def evaluation(self, evaluation: Any) -> None:
        """Log one evaluation at its step."""
        if self._run is not None:
            with _Shielded():
                values = asdict(evaluation)
                flat = {
                    f"{split}/{name}": value
                    for split, group in values.pop("metrics").items()
                    for name, value in group.items()
                }
                self._run.log({**values, **flat}, step=evaluation.step)

    def finish(self, record: Record) -> None:
        """Close the run with the record's summary."""
        if self._run is not None:
            with _Shielded():
                self._run.summary.update({"status": record.status, **record.result.get("best", {})})
                self._run.finish(exit_code=0 if record.is_done else 1)


class _Shielded:
    """Turns any error inside into one warning line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            print(f"warning: tracker: {type(error).__name__}: {error}; the run goes on without it", file=sys.stderr)
            return True
        return False


def make_tracker(settings: dict[str, Any], cell: Cell, results: Path) -> Tracker:
    """The tracker that the config names."""
    return WandbTracker(cell, settings["project"], results) if settings["name"] == "wandb" else Tracker()
