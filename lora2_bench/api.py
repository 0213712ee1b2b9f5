"""The functions behind `import lora2_bench`, for scripts and notebooks: see docs/API.md.

Each imports what it needs when it is called; none imports torch, but `run` where it trains, and `predict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from lora2_bench.errors import UserError
from lora2_bench.experiment.words import words
from lora2_bench.files.paths import results_folder
from lora2_bench.files.waiting import wait_shortly

if TYPE_CHECKING:
    import pandas as pd

    from lora2_bench.records.record import Record
    from lora2_bench.using.prediction import Prediction

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

    wait_shortly()
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


def predict(
    cell: Folder,
    texts: str | Sequence[str],
    text_pairs: str | Sequence[str] | None = None,
    *,
    results: Folder = "results",
    base: Folder | None = None,
    method: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    eval_batch_size: int = 64,
) -> list[Prediction]:
    """What a finished cell's model says of new texts, at its best checkpoint: one prediction a row.

    The model is loaded at each call, which takes a second: give all rows at once. Torch's settings of this process are
    changed as by `run`.

    Args:
        cell: its id, or its folder; `ID@4` at rank 4, of a method that serves several.
        texts: the rows, or a single one.
        text_pairs: the second text of each, for a task on pairs.
        results: the folder with `cells/`, for an id.
        base: the backbone's folder, of a cell of `model=local`.
        method: MODULE.CLASS that trained the cell, of a method of one's own.
        device: auto, cpu or cuda.
        threads: CPU threads; None for all cores.
        eval_batch_size: rows a batch.

    Raises:
        UserError: for a cell that is not there, not finished or kept no weights, and for rows that cannot be predicted.
        CellFailed: where a batch does not fit the memory, or the outputs are no finite numbers.
    """
    from lora2_bench.runner.opened import find_cell, open_cell
    from lora2_bench.using.rows import given_rows

    if method is not None and not isinstance(method, str):
        raise UserError(f"method is a {type(method).__name__}: give MODULE.CLASS as text")
    place, cell_id = find_cell(_path("cell", cell), results_folder(_path("results", results)))
    plan, record = open_cell(
        place,
        cell_id,
        base=None if base is None else _path("base", base),
        implementation=method,
        device=device,
        threads=threads,
        eval_batch_size=eval_batch_size,
    )
    pairs = None if text_pairs is None else _column("text_pairs", text_pairs)
    rows = given_rows(plan.cell.spec, _column("texts", texts), pairs, ("texts", "text_pairs"))
    from lora2_bench.using.predictor import Predictor

    return Predictor(plan, record).predict(rows.texts)


def _column(name: str, value: object) -> list[str]:
    """One text, or several, as a list. Raises UserError for what is neither, and for dicts, sets, bytes and frames."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping, Set)) and getattr(value, "ndim", 1) == 1:
        return list(value)
    raise UserError(f"{name} is a {type(value).__name__}: give a text, or a list of texts")


def _path(name: str, value: object) -> str:
    """Text, or a path as text. Raises UserError for anything else."""
    if not isinstance(value, (str, PathLike)):
        raise UserError(f"{name} is a {type(value).__name__}: give a text or a path")
    return str(fspath(value))


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
