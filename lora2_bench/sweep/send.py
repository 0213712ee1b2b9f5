"""Plan the cells of a sweep and send those that are not done."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from lora2_bench.errors import UserError
from lora2_bench.records.lock import locked
from lora2_bench.records.record import DONE
from lora2_bench.records.store import Store
from lora2_bench.sweep.batches import LOCAL, QueueReader, delete_ended_batches, live_jobs, read_batches
from lora2_bench.sweep.cells import SweepCell, mark_requested, plan_cells, results_dir_of, sweep_dir_of
from lora2_bench.sweep.launchers import Launcher
from lora2_bench.sweep.options import Options
from lora2_bench.sweep.states import QUEUED, RUNNING, count, states_of


def sweep(
    options: Options,
    overrides: Sequence[str],
    launcher: Launcher,
    squeue: QueueReader,
    show: Callable[[str], None] = print,
) -> list[SweepCell]:
    """Plan the cells and send those that are neither done nor queued nor running; returns all of them.

    One call at a time sends to a results folder, so that nothing is sent twice. `show` takes each line of output.
    Raises UserError, and LockHeld while another call sends.
    """
    sweep_dir, results = sweep_dir_of(overrides, options.name), results_dir_of(overrides)
    Store(results).check_writable()
    with locked(results / "sweeps" / ".sending", f"cells are being sent to {results}"):
        cells = plan_cells(overrides, sweep_dir)
        batches = read_batches(results)
        live = live_jobs(batches, squeue)
        found = states_of(cells, results, batches, live)
        to_send = {
            cell.id: [*cell.overrides, *_threads(options, overrides)]
            for cell, state in zip(cells, found, strict=True)
            if state.state not in (DONE, RUNNING, QUEUED)
        }
        counts = ", ".join(f"{number} {name}" for name, number in count(found).items() if number)
        show(f"{sweep_dir.name}: {len(cells)} cells: {counts}")
        if not to_send or options.dry_run:
            show(f"{len(to_send)} to send")
            return cells
        mark_requested(overrides, sweep_dir)
        delete_ended_batches(batches, list(live))
        split = launcher.split(to_send)
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        for number, jobs in enumerate(split, 1):
            batch = launcher.make_batch(f"{sweep_dir.name}-{stamp}-{number}of{len(split)}", results, jobs)
            path = batch.write(sweep_dir)
            try:
                where = launcher.send(batch, path)
            except UserError:
                path.unlink(missing_ok=True)
                raise
            show(f"sent {sum(map(len, jobs))} cells: {where}")
    status = " ".join(["python -m lora2_bench.status", *_status_arguments(options, overrides)])
    show(f"follow: {status}   logs: {sweep_dir / 'logs'}")
    return cells


def _threads(options: Options, overrides: Sequence[str]) -> list[str]:
    """The override of a cell's CPU threads: on one machine, one-thread cells side by side are fastest."""
    if any(override.startswith("threads=") for override in overrides):
        return []
    if options.cluster == LOCAL:
        return ["threads=1"]
    return [f"threads={max(1, options.cpus // (options.parallel or 1))}"] if options.cpus else []


def _status_arguments(options: Options, overrides: Sequence[str]) -> list[str]:
    """The arguments of the status command for this sweep."""
    named = [override for override in overrides if override.startswith(("suite=", "results="))]
    return [*named, *([f"name={options.name}"] if options.name else [])]
