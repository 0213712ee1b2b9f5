"""The functions behind `import lora2_bench`, for scripts and notebooks: see docs/API.md.

Each imports what it needs when it is called; none imports torch, but `run` where it trains.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from lora2_bench.experiment.words import words
from lora2_bench.files.paths import results_folder
from lora2_bench.files.waiting import wait_asleep

if TYPE_CHECKING:
    import pandas as pd

    from lora2_bench.records.record import Record

Folder = str | PathLike[str]


def run(*overrides: str, **settings: Any) -> Record:
    """The record of one cell: the stored one where it is finished, else that of a training run in this process.

    As `python -m lora2_bench` does, it prints the cell's line and writes below `results`.

    Args:
        overrides: as on the command line: `"method=lora2"`, `"train.lr=1e-3"`.
        settings: the same as keywords: `seed=3`, `results=folder`. None is null.

    Raises:
        UserError: for what cannot be run: one line, with what is allowed and the fix.
        CellFailed: where training failed; the record of that is stored.
        Interrupted: where a signal (Ctrl-C) ended it; the same call goes on from there.
    """
    from lora2_bench.config.calls import plan_of_call
    from lora2_bench.runner.run import run as run_plan

    wait_asleep()
    return run_plan(plan_of_call([*overrides, *words(settings)]))


def load(results: Folder = "results") -> pd.DataFrame:
    """Every record below a results folder as a frame, one row a run: docs/API.md lists the columns.

    A record that cannot be read is named on stderr and left out. Raises UserError where there is no such folder.
    """
    from lora2_bench.report.frame import run_frame

    return run_frame(results_folder(str(results)))


def predictions(cell_id: str, results: Folder = "results") -> pd.DataFrame:
    """What a finished cell predicts of dev, one row an example: docs/API.md lists the columns.

    Raises UserError where the cell has no predictions, or they cannot be read.
    """
    from lora2_bench.report.frame import prediction_frame

    return prediction_frame(results_folder(str(results)), cell_id)


def compare(frame: pd.DataFrame, ours: str, other: str, *, margin: float | None = None) -> pd.DataFrame:
    """Paired comparisons of two methods, per task and on average: one row a task and way of choosing the checkpoint.

    Args:
        frame: of `load`, or some of its rows.
        ours: a row of the paper's tables (`lora2_k1`), a method with its size (`lora r=8`), or a method.
        other: the same, of the method that it is compared with.
        margin: points by which ours may be worse and still count as no worse; None for no test of it.

    Returns:
        The frame of `report.comparisons.compare`: docs/API.md lists the columns.

    Raises:
        UserError: where the frame has no run of one of them, or both are the same runs.
    """
    from lora2_bench.report.versus import compared

    return compared(frame, ours, other, margin)
