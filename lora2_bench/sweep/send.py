"""Plan the cells of a sweep and send those that are not done."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import yaml

from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import measures_of
from lora2_bench.experiment.suites import suites
from lora2_bench.records.lock import locked
from lora2_bench.records.record import DONE
from lora2_bench.records.retention import read_retention
from lora2_bench.records.store import Store
from lora2_bench.sweep.batches import LOCAL, QueueReader, delete_ended_batches, live_jobs, read_batches
from lora2_bench.sweep.cells import (
    SweepCell,
    keep_cells,
    mark_requested,
    plan_cells,
    results_dir_of,
    sweep_dir_of,
    value_of,
)
from lora2_bench.sweep.launchers import JobCells, Launcher
from lora2_bench.sweep.options import Options
from lora2_bench.sweep.places import check_rows
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
    Raises UserError, also for cells of this machine whose rows are not on it, and LockHeld while another call sends.
    """
    sweep_dir, results = sweep_dir_of(overrides, options.name), results_dir_of(overrides)
    sending = _Sending(options, overrides, results, sweep_dir, launcher, squeue, show)
    Store(results).check_writable()
    with locked(results / "sweeps" / ".sending", f"cells are being sent to {results}"):
        cells = plan_cells(overrides, sweep_dir)
        sending.send(cells, (), lambda: mark_requested(overrides, sweep_dir))
    return cells


def send_cells(
    options: Options,
    cells: Sequence[SweepCell],
    overrides: Sequence[str],
    launcher: Launcher,
    squeue: QueueReader,
    *,
    call: str,
    ended: Collection[str] = (),
    show: Callable[[str], None] = print,
) -> None:
    """Send those of `cells`, planned already, that are neither done nor queued nor running.

    `overrides` are what all of them share, the results folder among it; `call` names the request, for `status`; the ids
    of `ended` are not sent. Locks and errors as of `sweep`.
    """
    sweep_dir, results = sweep_dir_of(overrides, options.name), results_dir_of(overrides)
    sending = _Sending(options, overrides, results, sweep_dir, launcher, squeue, show)
    Store(results).check_writable()
    with locked(results / "sweeps" / ".sending", f"cells are being sent to {results}"):
        sending.send(cells, ended, lambda: keep_cells(call, cells, sweep_dir))


class _Sending:
    """What cells are sent with; within the lock of the results folder."""

    def __init__(
        self,
        options: Options,
        overrides: Sequence[str],
        results: Path,
        sweep_dir: Path,
        launcher: Launcher,
        squeue: QueueReader,
        show: Callable[[str], None],
    ) -> None:
        self.options, self.overrides, self.results, self.sweep_dir = options, overrides, results, sweep_dir
        self.launcher, self.squeue, self.show = launcher, squeue, show

    def send(self, cells: Sequence[SweepCell], ended: Collection[str], mark: Callable[[], None]) -> None:
        """Send what is to be sent; `mark` notes the request before that."""
        batches = read_batches(self.results)
        live = live_jobs(batches, self.squeue)
        found = states_of(cells, self.results, batches, live)
        to_send = {
            cell.id: [*cell.overrides, *_threads(self.options, self.overrides)]
            for cell, state in zip(cells, found, strict=True)
            if state.state not in (DONE, RUNNING, QUEUED) and cell.id not in ended
        }
        counts = ", ".join(f"{number} {name}" for name, number in count(found).items() if number)
        self.show(f"{self.sweep_dir.name}: {len(cells)} cells: {counts}")
        done = [state.id for state in found if state.state == DONE]
        if lacking := self._unmeasured(done):
            self.show(
                f"{lacking} of the {len(done)} done were not measured as asked, and are not sent for it: "
                "python -m lora2_bench -m, with the same overrides, measures them from kept weights"
            )
        if not to_send or self.options.dry_run:
            self.show(f"{len(to_send)} to send")
            return
        if self.options.cluster == LOCAL:
            check_rows(to_send.values())
        mark()
        delete_ended_batches(batches, list(live))
        self._send_batches(to_send)
        status = " ".join(["python -m lora2_bench.status", *_status_arguments(self.options, self.overrides)])
        self.show(f"follow: {status}   logs: {self.sweep_dir / 'logs'}")

    def _unmeasured(self, done: Sequence[str]) -> int:
        """How many of these cells lack a measure that is asked for, or have none that this version reads."""
        wanted, store = {*_measures(self.overrides)}, Store(self.results)

        def lacks(name: str) -> bool:
            try:
                found = read_retention(store.retention(name), name)
            except ValueError:
                return True
            return found is None or not wanted.issubset(found["asked"])

        return sum(map(lacks, done)) if wanted else 0

    def _send_batches(self, to_send: JobCells) -> None:
        split = self.launcher.split(to_send)
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        for number, jobs in enumerate(split, 1):
            name = f"{self.sweep_dir.name}-{stamp}-{number}of{len(split)}"
            batch = self.launcher.make_batch(name, self.results, jobs)
            path = batch.write(self.sweep_dir)
            try:
                where = self.launcher.send(batch, path)
            except UserError:
                path.unlink(missing_ok=True)
                raise
            self.show(f"sent {sum(map(len, jobs))} cells: {where}")


def _measures(overrides: Sequence[str]) -> tuple[str, ...]:
    """What these overrides ask for of what cells forget, themselves or by their suite. Raises UserError."""
    given, suite = value_of(overrides, "retention"), suites().get(str(value_of(overrides, "suite")))
    if given is not None:
        return measures_of(yaml.safe_load(given))
    return () if suite is None else suite.measures


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
