"""One job of a sweep: it runs its cells in worker processes, several at once, and writes down how each one ended.

Cells share workers, because starting torch takes seconds, and a worker runs one cell at a time, or one pack of them: a
crash ends those alone, and a fresh worker takes the next. The job itself imports no torch and holds no cell's memory.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2_bench.records.lock import HEARTBEAT_SECONDS, STALE_AFTER, locked, read_holder
from lora2_bench.records.record import DONE
from lora2_bench.records.store import Store, read_status
from lora2_bench.sweep.batches import delete_failure, lock_folder, log_path, read_batch, read_failure, write_failure
from lora2_bench.sweep.workers import STOP_SIGNALS, Worker

SHUTDOWN_SECONDS = 75.0
"""Seconds that workers have to write a checkpoint after a signal; Slurm gives 90 before it kills."""
WAIT_FOR_SLURM_SECONDS = 900.0
"""Seconds that a Slurm job waits, after SIGTERM, for Slurm to end it (see `_exit_after_signal`)."""


class Job:
    """Runs the cells of one job. See `run_job`."""

    def __init__(self, batch_file: Path, index: int) -> None:
        self.batch = read_batch(batch_file)
        self.sweep_dir = batch_file.parent.parent
        self.store = Store(Path(self.batch.results))
        self.cells = self.batch.jobs[index]
        self.pending = deque(self.cells)
        self.locked_elsewhere: dict[str, float] = {}  # cells that another process trains -> first time seen
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self.outcomes: Counter[str] = Counter()
        self.signals: set[int] = set()

    def run(self) -> None:
        """Run all cells; after a signal, let the workers write their checkpoints and end."""
        self._assign_cells()
        while (self.workers or self.pending or self.locked_elsewhere) and not self.signals:
            self._read_answers(1.0)
            self._check_locked()
            self._assign_cells()
        deadline, next_signal = time.monotonic() + SHUTDOWN_SECONDS, 0.0
        while self.workers and time.monotonic() < deadline:
            if time.monotonic() >= next_signal:  # a worker that is still loading ignores the first
                for worker in self.workers:
                    worker.process.terminate()
                    worker.close()
                next_signal = time.monotonic() + 2
            self._read_answers(0.5)

    def _assign_cells(self) -> None:
        """Give cells to idle workers, and start as many as may run at once."""
        idle = [worker for worker in self.workers if not worker.cells]
        while not self.signals and (idle or len(self.workers) < self.batch.parallel) and (pack := self._next_pack()):
            worker = idle.pop() if idle else self._start_worker()
            for cell in pack:
                delete_failure(self.sweep_dir, cell)
            logs = [log_path(self.sweep_dir, cell) for cell in pack]
            worker.run_cells({cell: self.cells[cell] for cell in pack}, logs)
        for worker in idle:
            if not self.locked_elsewhere or self.signals:
                self._stop_worker(worker)

    def _next_pack(self) -> list[str]:
        """The next cell, and others of its task and model to train beside it; empty without one."""
        pack: list[str] = []
        others: list[str] = []
        while len(pack) < self.batch.pack and (cell := self._next_cell()):
            fits = not pack or _shared(self.cells[cell]) == _shared(self.cells[pack[0]])
            (pack if fits else others).append(cell)
        self.pending.extendleft(reversed(others))
        return pack

    def _next_cell(self) -> str | None:
        """The next cell that is not done and that no other process trains; None without one."""
        while self.pending:
            cell = self.pending.popleft()
            if self._is_done(cell):
                self.outcomes["done"] += 1
                delete_failure(self.sweep_dir, cell)
                continue
            if self._has_failed(cell):
                self.outcomes["failed"] += 1
                continue
            holder = read_holder(self.store.running(cell))
            if holder is None or not holder.is_alive:
                return cell
            self.locked_elsewhere.setdefault(cell, time.monotonic())
        return None

    def _check_locked(self) -> None:
        """Queue the locked cells whose lock is released or stale; leave those whose holder is certainly alive.

        The lock of a process that was killed on another machine looks alive until its last heartbeat is old.
        """
        for cell, since in list(self.locked_elsewhere.items()):
            holder = read_holder(self.store.running(cell))
            if holder is None or not holder.is_alive:
                del self.locked_elsewhere[cell]
                self.pending.append(cell)
            elif time.monotonic() - since > STALE_AFTER + 2 * HEARTBEAT_SECONDS or holder.is_local:
                del self.locked_elsewhere[cell]
                self.outcomes["elsewhere"] += 1

    def _is_done(self, cell: str) -> bool:
        return read_status(self.store.path(cell)) == DONE  # the worker that looks the cell up reads it whole

    def _has_failed(self, cell: str) -> bool:
        """Whether the cell failed in this job before Slurm queued it again: only a new sweep command tries it again."""
        note = read_failure(self.sweep_dir, cell)
        return note is not None and not note["killed"] and bool(note["time"] > self.batch.submitted)

    def _start_worker(self) -> Worker:
        worker = Worker(self.batch.cwd, self.batch.threads)
        self.workers.append(worker)
        self.selector.register(worker.stdout, selectors.EVENT_READ, worker)
        return worker

    def _read_answers(self, seconds: float) -> None:
        """Wait up to `seconds` for an answer, and handle all that have come."""
        for key, _ in self.selector.select(seconds):
            worker: Worker = key.data
            answers = worker.read_answers()
            if answers is None:
                self._handle_exit(worker)
                continue
            worker.cells.clear()
            for answer in answers:
                self._handle_answer(answer)

    def _handle_answer(self, answer: dict[str, Any]) -> None:
        cell, state = answer["id"], answer["state"]
        if state == "busy":
            self.locked_elsewhere.setdefault(cell, time.monotonic())
            return
        self.outcomes[state] += 1
        if state == "failed":
            write_failure(self.sweep_dir, cell, answer["cause"], killed=False)
        elif state == "interrupted" and not self.signals:
            write_failure(self.sweep_dir, cell, answer["cause"] or "it was stopped by a signal", killed=True)

    def _handle_exit(self, worker: Worker) -> None:
        """Handle a worker that has exited: after a signal, after an error that it has reported, or during a cell."""
        self._stop_worker(worker)
        code = worker.process.returncode
        if not worker.cells:
            return
        how = f"by signal {-code} (killed, or out of memory)" if code < 0 else f"with exit code {code}"
        for cell in worker.cells:
            if self._is_done(cell):  # before another of its pack ended the process
                self.outcomes["done"] += 1
                continue
            self.outcomes["interrupted"] += 1
            if not self.signals:  # a signal reached all processes of the job, and the cell continues later
                write_failure(self.sweep_dir, cell, f"its process ended {how}", killed=True)

    def _stop_worker(self, worker: Worker) -> None:
        self.selector.unregister(worker.stdout)
        self.workers.remove(worker)
        worker.close()
        worker.stdout.close()
        worker.process.wait()


def _shared(overrides: Sequence[str]) -> set[str]:
    """The overrides that cells have to share to train side by side; the worker looks at the cells themselves."""
    return {one for one in overrides if one.startswith(("task=", "model=", "data", "train.precision="))}


def run_job(batch_file: Path, index: int) -> dict[str, int]:
    """Run job `index` of a batch to its end; returns the number of cells per way of ending.

    SIGUSR2 and SIGTERM make the workers write checkpoints and end; then see `_exit_after_signal`.
    """
    job = Job(batch_file, index)
    if threading.current_thread() is not threading.main_thread():
        job.run()
        return dict(job.outcomes)

    def handler(number: int, _frame: object) -> None:
        job.signals.add(number)

    previous = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        job.run()
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
    if job.signals:
        _exit_after_signal(job.signals, previous[signal.SIGUSR2])
    return dict(job.outcomes)


def _exit_after_signal(signals: set[int], usr2_handler: object) -> None:
    """Exit after a signal: have submitit queue the job again, or leave that to Slurm.

    Slurm sends SIGUSR2 before the time limit, and submitit's handler, installed before ours, queues the job again.
    SIGTERM comes with a preemption and with scancel alike. Slurm queues a preempted job again if it still runs at the
    end of its grace time, and must not queue a cancelled one: so the job waits until Slurm ends it.
    """
    if signal.SIGUSR2 in signals and callable(usr2_handler):
        signal.raise_signal(signal.SIGUSR2)
    elif signal.SIGTERM in signals and "SLURM_JOB_ID" in os.environ:
        time.sleep(WAIT_FOR_SLURM_SECONDS)
    sys.exit(3)


class SlurmJobs:
    """The jobs of a batch, as submitit pickles them and calls one on a node."""

    def __init__(self, batch_file: Path) -> None:
        self.batch_file = batch_file

    def __call__(self, index: int) -> dict[str, int]:
        """Run job `index`."""
        return run_job(self.batch_file, index)

    def checkpoint(self, index: int) -> Any:
        """What submitit queues again after a signal: the same job, which skips the cells that are done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, index)


def main() -> None:
    """`python -m lora2_bench.sweep.job BATCH_FILE`: run the one job of a local batch, holding its lock."""
    path = Path(sys.argv[1])
    with locked(lock_folder(path), f"{path.stem} is being run"):
        run_job(path, 0)


if __name__ == "__main__":
    main()
