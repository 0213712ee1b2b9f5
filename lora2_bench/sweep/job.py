"""One job of a sweep: it runs its cells in worker processes, several at once, and notes how each one ended.

Cells share workers, because starting torch takes seconds, and a worker runs one cell at a time: a crash ends that cell
alone, and a fresh worker takes the next. The job itself imports no torch and holds no cell's memory.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.records.lock import HEARTBEAT_SECONDS, STALE_AFTER, locked, read_holder
from lora2_bench.records.record import DONE
from lora2_bench.records.store import Store
from lora2_bench.sweep.batches import failure, forget_failure, lock_folder, log_path, note_failure, read_batch
from lora2_bench.sweep.workers import SIGNALS, Worker

GRACE = 75.0
"""Seconds that workers have to keep their cells after a signal; Slurm gives 90 before it kills."""
HOLD = 900.0
"""Seconds that a job of Slurm's waits, after SIGTERM, to be ended by Slurm (see `_leave`)."""


class Job:
    """Runs the cells of one job. See `run_job`."""

    def __init__(self, batch_file: Path, index: int) -> None:
        self.batch = read_batch(batch_file)
        self.home = batch_file.parent.parent
        self.store = Store(Path(self.batch.results))
        self.cells = self.batch.jobs[index]
        self.pending = deque(self.cells)
        self.elsewhere: dict[str, float] = {}  # cells that another process has, and since when we know
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self.ended: Counter[str] = Counter()
        self.told: set[int] = set()

    def run(self) -> None:
        """Run all cells, or stop and keep them once a signal came."""
        self._assign()
        while (self.workers or self.pending or self.elsewhere) and not self.told:
            self._hear(1.0)
            self._look_elsewhere()
            self._assign()
        deadline, again = time.monotonic() + GRACE, 0.0
        while self.workers and time.monotonic() < deadline:
            if time.monotonic() >= again:  # a worker that was still loading had nobody listening to the first
                for worker in self.workers:
                    worker.process.terminate()
                    worker.close()
                again = time.monotonic() + 2
            self._hear(0.5)

    def _assign(self) -> None:
        """Give cells to idle workers, and start as many as may run at once."""
        idle = [worker for worker in self.workers if worker.cell is None]
        while not self.told and (idle or len(self.workers) < self.batch.parallel) and (cell := self._next()):
            worker = idle.pop() if idle else self._start()
            forget_failure(self.home, cell)
            worker.give(cell, self.cells[cell], log_path(self.home, cell))
        for worker in idle:
            if not self.elsewhere or self.told:
                self._dismiss(worker)

    def _next(self) -> str | None:
        """The next cell that is neither done nor in another process's hands."""
        while self.pending:
            cell = self.pending.popleft()
            if self._done(cell):
                self.ended["done"] += 1
                forget_failure(self.home, cell)
                continue
            if self._failed(cell):
                self.ended["failed"] += 1
                continue
            holder = read_holder(self.store.running(cell))
            if holder is None or not holder.is_alive:
                return cell
            self.elsewhere.setdefault(cell, time.monotonic())
        return None

    def _look_elsewhere(self) -> None:
        """Take back what another process has let go of; leave what it has once it cannot be a dead one's any more.

        A process killed on another machine looks alive until its heartbeat is old, so the first look is not enough.
        """
        for cell, since in list(self.elsewhere.items()):
            holder = read_holder(self.store.running(cell))
            if holder is None or not holder.is_alive:
                del self.elsewhere[cell]
                self.pending.append(cell)
            elif time.monotonic() - since > STALE_AFTER + 2 * HEARTBEAT_SECONDS or holder.is_local:
                del self.elsewhere[cell]
                self.ended["elsewhere"] += 1

    def _done(self, cell: str) -> bool:
        try:
            record = self.store.read(cell)
        except UserError:  # an unreadable record: the worker says so
            return False
        return record is not None and record.status == DONE

    def _failed(self, cell: str) -> bool:
        """Whether the cell failed in this very job before that was queued again: only a new call tries it anew."""
        note = failure(self.home, cell)
        return note is not None and not note["killed"] and bool(note["time"] > self.batch.submitted)

    def _start(self) -> Worker:
        worker = Worker(self.batch.cwd, self.batch.threads)
        self.workers.append(worker)
        self.selector.register(worker.stdout, selectors.EVENT_READ, worker)
        return worker

    def _hear(self, seconds: float) -> None:
        """Take the workers' answers of the next `seconds`, the first of them at once."""
        for key, _ in self.selector.select(seconds):
            worker: Worker = key.data
            answer = worker.answer()
            if answer is None:
                self._lost(worker)
            else:
                self._heard(worker, answer)

    def _heard(self, worker: Worker, answer: dict[str, Any]) -> None:
        cell, state = answer["id"], answer["state"]
        worker.cell = None
        if state == "busy":
            self.elsewhere.setdefault(cell, time.monotonic())
            return
        self.ended[state] += 1
        if state == "failed":
            note_failure(self.home, cell, answer["cause"], killed=False)
        elif state == "interrupted" and not self.told:
            note_failure(self.home, cell, answer["cause"] or "it was told to stop", killed=True)

    def _lost(self, worker: Worker) -> None:
        """A worker has ended: after a signal or an error that it has told of, or in the middle of a cell."""
        self._dismiss(worker)
        code = worker.process.returncode
        if worker.cell is None:
            return
        self.ended["interrupted"] += 1
        if self.told:  # the signal was for all of the job's processes, and the cell goes on where it was
            return
        how = f"by signal {-code} (killed, or out of memory)" if code < 0 else f"with exit code {code}"
        note_failure(self.home, worker.cell, f"its process ended {how}", killed=True)

    def _dismiss(self, worker: Worker) -> None:
        self.selector.unregister(worker.stdout)
        self.workers.remove(worker)
        worker.close()
        worker.stdout.close()
        worker.process.wait()


def run_job(batch_file: Path, index: int) -> dict[str, int]:
    """Run job `index` of a batch to its end; returns the number of cells per way of ending.

    SIGUSR2 and SIGTERM make the workers keep their cells and end; then see `_leave`.
    """
    job = Job(batch_file, index)
    if threading.current_thread() is not threading.main_thread():
        job.run()
        return dict(job.ended)

    def handler(number: int, _frame: object) -> None:
        job.told.add(number)

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        job.run()
    finally:
        for number, action in before.items():
            signal.signal(number, action)
    if job.told:
        _leave(job.told, before[signal.SIGUSR2])
    return dict(job.ended)


def _leave(told: set[int], usr2: object) -> None:
    """After a signal: have the job queued again, or let Slurm decide.

    SIGUSR2 is Slurm's word that time is nearly up, and submitit's handler, which was there before ours, puts the job
    back into the queue. SIGTERM comes with a preemption and with scancel alike: Slurm itself queues a preempted job
    again if it is still there when its grace ends. A cancelled one must not come back: so the job waits to be ended.
    """
    if signal.SIGUSR2 in told and callable(usr2):
        signal.raise_signal(signal.SIGUSR2)
    elif signal.SIGTERM in told and "SLURM_JOB_ID" in os.environ:
        time.sleep(HOLD)
    sys.exit(3)


class SlurmJobs:
    """The jobs of a batch, as submitit pickles them and calls one on a node."""

    def __init__(self, batch_file: Path) -> None:
        self.batch_file = batch_file

    def __call__(self, index: int) -> dict[str, int]:
        """Run job `index`."""
        return run_job(self.batch_file, index)

    def checkpoint(self, index: int) -> Any:
        """What submitit queues again after a signal: the same job, which passes over the cells that are done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, index)


def main() -> None:
    """`python -m lora2_bench.sweep.job BATCH_FILE`: run the one job of a local batch, holding its lock."""
    path = Path(sys.argv[1])
    with locked(lock_folder(path), f"{path.stem} is being run"):
        run_job(path, 0)


if __name__ == "__main__":
    main()
