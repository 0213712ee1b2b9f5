"""Where each cell of a sweep is, read from disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora2_bench.experiment.sources import sources_digest
from lora2_bench.files.reading import read_json
from lora2_bench.records.lock import read_holder
from lora2_bench.records.progress import read_progress
from lora2_bench.records.record import DONE, FAILED
from lora2_bench.records.store import Store, read_record, read_status
from lora2_bench.sweep.batches import SLURM, Batch, LiveJobs, QueueReader, latest_failures, live_jobs, read_batches
from lora2_bench.sweep.cells import SweepCell

RUNNING, QUEUED, INTERRUPTED, MISSING = "running", "queued", "interrupted", "missing"
STATES = (DONE, RUNNING, QUEUED, FAILED, INTERRUPTED, MISSING)


_TOLD: tuple[Literal["step", "total", "score", "best"], ...] = ("step", "total", "score", "best")


@dataclass(frozen=True)
class State:
    """One cell's.

    Attributes:
        state: done, running, queued, failed, interrupted (its process is gone; the same command continues it), or
            missing.
        step, total, score, best: of a running or interrupted cell, as it last told; None before its first step.
        seconds_left: of a running cell, from its steps so far.
        host, pid: of a running cell's process.
        reason: of a failed or interrupted one; of a queued one, Slurm's words on its job, as in `PENDING (Priority)`.
        log: file with its output, where a sweep ran it; the folder of Slurm's own logs for a job that ended before.
    """

    id: str
    label: str
    state: str
    step: int | None = None
    total: int | None = None
    score: float | None = None
    best: float | None = None
    seconds_left: float | None = None
    host: str | None = None
    pid: int | None = None
    reason: str | None = None
    log: str | None = None


def states(cells: Sequence[SweepCell], results: Path, squeue: QueueReader) -> list[State]:
    """Every cell's state, in the given order. Raises UserError where Slurm is needed and does not answer."""
    known = read_batches(results)
    return states_of(cells, results, known, live_jobs(known, squeue))


def states_of(cells: Sequence[SweepCell], results: Path, known: dict[Path, Batch], alive: LiveJobs) -> list[State]:
    """Every cell's state, given what is queued."""
    store = Store(results)
    kept, begun = _names(store.cells), _names(results / "running")
    notes = latest_failures(results)
    queued = {
        cell_id: (known[path].submitted, words)
        for path, jobs in alive.items()
        for index, words in jobs.items()
        for cell_id in known[path].jobs[index]
    }
    sent = {
        cell_id: str(path.parent.parent / "slurm")
        for path, batch in known.items()
        for job in (batch.jobs if batch.cluster == SLURM else ())
        for cell_id in job
    }

    def of(cell: SweepCell) -> State:
        record = store.path(cell.id)
        status = read_status(record) if cell.id in kept else None
        if status == DONE:
            return State(cell.id, cell.label, DONE)
        note = notes.get(cell.id)
        log = note["log"] if note else None
        told = read_progress(store.running(cell.id)) if cell.id in begun else None
        at: dict[str, Any] = {name: told[name] for name in _TOLD} if told else {}
        owner = read_holder(store.running(cell.id)) if cell.id in begun else None
        if owner is not None and owner.is_alive:
            pace = told["seconds_per_step"] if told else None
            left = pace * (told["total"] - told["step"]) if told and pace is not None else None
            return State(cell.id, cell.label, RUNNING, **at, seconds_left=left, host=owner.host, pid=owner.pid, log=log)
        ended = max(note["time"] if note else 0.0, _changed(record) if status == FAILED else 0.0)
        submitted, words = queued.get(cell.id, (0.0, ""))
        if ended < submitted:
            return State(cell.id, cell.label, QUEUED, **at, reason=words or None)
        if (note is not None and not note["killed"]) or (note is None and status == FAILED):
            reason = note["cause"] if note else _reason(record)
            return State(cell.id, cell.label, FAILED, reason=reason, log=log)
        lost = sent.get(cell.id)  # to a job that is no more: cancelled in the queue, or broken before the cell's turn
        if note is None and cell.id not in begun and lost is None:
            return State(cell.id, cell.label, MISSING)
        reason = "its process is gone" if cell.id in begun else "its Slurm job ended before its turn"
        reason = note["cause"] if note else reason
        return State(cell.id, cell.label, INTERRUPTED, **at, reason=reason, log=log or lost)

    return [of(cell) for cell in cells]


def count(found: Iterable[State]) -> dict[str, int]:
    """Number of cells per state, every state named."""
    counted = Counter(state.state for state in found)
    return {name: counted[name] for name in STATES}


def count_other_code(found: Iterable[State], results: Path) -> int:
    """How many of the finished cells were made by other code than is here; one without a digest is not counted."""
    return sum(state.state == DONE and _is_by_other_code(Store(results).path(state.id)) for state in found)


def _is_by_other_code(record: Path) -> bool:
    try:
        run = read_json(record)["run"]  # not checked against the schema, which takes seconds for thousands
        made_by, implementation = run["sources"], run["config"]["method"]["_target_"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    known = sources_digest(implementation) if isinstance(implementation, str) else None
    return known is not None and made_by != known


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - one call for thousands of names
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _reason(record: Path) -> str:
    try:
        error = read_record(record).error
    except (OSError, ValueError):
        return "its record cannot be read"
    return f"step {error['step']}: {error['cause']}" if error else "its record was replaced just now"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
