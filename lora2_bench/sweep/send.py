"""Plan the cells of a sweep and send those that are not done."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from lora2_bench.errors import UserError
from lora2_bench.records.lock import locked
from lora2_bench.records.record import DONE
from lora2_bench.records.store import Store
from lora2_bench.sweep.batches import LOCAL, Squeue, batches, live, prune
from lora2_bench.sweep.cells import Planned, home_of, mark_sent, plan, results_of
from lora2_bench.sweep.launchers import Launcher
from lora2_bench.sweep.options import Options
from lora2_bench.sweep.states import QUEUED, RUNNING, count, states_of


def sweep(
    options: Options,
    overrides: Sequence[str],
    launcher: Launcher,
    squeue: Squeue,
    tell: Callable[[str], None] = print,
) -> list[Planned]:
    """Plan the cells and send those that are neither done nor queued nor running; returns all of them.

    Two calls for one results folder take turns, so that nothing is sent twice. Raises UserError.
    """
    home, results = home_of(overrides, options.name), results_of(overrides)
    Store(results).check_writable()
    with locked(results / "sweeps" / ".sending", f"cells are being sent to {results}"):
        cells = plan(overrides, home)
        known = batches(results)
        alive = live(known, squeue)
        found = states_of(cells, results, known, alive)
        to_send = {
            cell.id: [*cell.overrides, *_threads(options, overrides)]
            for cell, state in zip(cells, found, strict=True)
            if state.state not in (DONE, RUNNING, QUEUED)
        }
        counts = ", ".join(f"{number} {name}" for name, number in count(found).items() if number)
        tell(f"{home.name}: {len(cells)} cells: {counts}")
        if not to_send or options.dry_run:
            tell(f"{len(to_send)} to send")
            return cells
        mark_sent(overrides, home)
        prune(known, list(alive))
        split = launcher.split(to_send)
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        for number, jobs in enumerate(split, 1):
            batch = launcher.batch(f"{home.name}-{stamp}-{number}of{len(split)}", results, jobs)
            path = batch.write(home)
            try:
                where = launcher.send(batch, path)
            except UserError:
                path.unlink(missing_ok=True)
                raise
            tell(f"sent {sum(map(len, jobs))} cells: {where}")
    tell(f"follow: python -m lora2_bench.status {' '.join(_named(options, overrides))}   logs: {home / 'logs'}")
    return cells


def _threads(options: Options, overrides: Sequence[str]) -> list[str]:
    """On one machine, one-thread cells side by side do more than one cell with all cores."""
    if any(word.startswith("threads=") for word in overrides):
        return []
    if options.cluster == LOCAL:
        return ["threads=1"]
    return [f"threads={max(1, options.cpus // (options.parallel or 1))}"] if options.cpus else []


def _named(options: Options, overrides: Sequence[str]) -> list[str]:
    """The words by which the status of this sweep is asked for."""
    wanted = [word for word in overrides if word.startswith(("suite=", "results="))]
    return [*wanted, *([f"name={options.name}"] if options.name else [])]
