"""A sweep as one call: what the command and the function of the package share."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.experiment.words import words
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.sweep.batches import LOCAL, SLURM
from lora2_bench.sweep.cells import SweepCell, results_dir_of, sweep_dir_of
from lora2_bench.sweep.follow import wait as wait_for
from lora2_bench.sweep.launchers import Launcher
from lora2_bench.sweep.local import Local
from lora2_bench.sweep.options import Options, parse
from lora2_bench.sweep.send import sweep as send
from lora2_bench.sweep.slurm import Slurm, array_limit, squeue, submitit_executor

PAUSE = {LOCAL: 1.0, SLURM: 15.0}  # all users share Slurm's controller
"""Cluster -> seconds between two looks at the cells' states."""


def sweep(overrides: Sequence[str] | Sequence[Sequence[str]], *, wait: bool = True, **settings: Any) -> list[Record]:
    """Run the cells of a grid that are not done, in processes of this machine or on Slurm; returns their records.

    Args:
        overrides: a grid as on the command line (`["suite=smoke", "seed=0,1"]`), or a list of such grids, which are
            run one after another.
        wait: whether to show a progress bar until no cell is queued or running; else cells go on after the call.
        settings: more of every grid's overrides, and the sweep's options: `seed=[0, 1]`, `cluster="slurm"`.

    Returns:
        The records that are there at the end, in the order of the cells, each cell's once. A failed cell's is among
        them (`is_done` is false); a cell without any record is named on stderr.

    Raises:
        UserError: for what cannot be sent.
    """
    if isinstance(overrides, str):
        raise UserError(f"{overrides} is one text: give a list, as ['{overrides}']")
    texts = [one for one in overrides if isinstance(one, str)]
    grids = [texts] if texts else [list(one) for one in overrides]
    if texts and len(texts) < len(overrides):
        raise UserError("a sweep is a list of overrides, or of lists of them: give one of the two")
    found: dict[str, Record] = {}
    for grid in grids or [[]]:
        options, own = parse([*grid, *words(settings, over_lists=True)])
        cells, _ = send_and_follow(replace(options, wait=wait), own)
        store = Store(results_dir_of(own))
        for cell in cells:
            if (record := store.read(cell.id)) is not None:
                found.setdefault(record.id, record)
    return list(found.values())


def send_and_follow(options: Options, overrides: Sequence[str]) -> tuple[list[SweepCell], int]:
    """Send the cells that are not done, and follow them where the options say so; returns all cells and an exit code.

    The code is 1 where not all cells are done after that. Raises UserError.
    """
    sweep_dir = sweep_dir_of(overrides, options.name)
    cells = send(options, overrides, launcher_of(options, sweep_dir), squeue)
    if not options.wait:
        return cells, 0
    return cells, wait_for(cells, results_dir_of(overrides), squeue, PAUSE[options.cluster])


def launcher_of(options: Options, sweep_dir: Path) -> Launcher:
    """What sends the cells of a sweep, to this machine or to Slurm. Raises UserError where Slurm is not here."""
    if options.cluster == LOCAL:
        return Local(options)
    if not options.dry_run and shutil.which("sbatch") is None:
        raise UserError("cluster=slurm needs Slurm's sbatch, which is not here: send from a machine that has it")
    return Slurm(options, submitit_executor(options, sweep_dir / "slurm"), array_limit())
