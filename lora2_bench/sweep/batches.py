"""Which jobs a sweep has sent, and why cells have no finished record: JSON files below results/sweeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from lora2_bench.files.reading import read_json
from lora2_bench.files.writing import write_json
from lora2_bench.records.checking import checker
from lora2_bench.records.forms import Count, Name, Seconds
from lora2_bench.records.lock import read_holder
from lora2_bench.records.scrub import hide_home, shorten_home

LOCAL, SLURM = "local", "slurm"
QueueReader = Callable[[], Mapping[tuple[str, int], str]]
"""Returns (job name, array index) -> state and reason of every queued or running Slurm job."""
LiveJobs = dict[Path, dict[int, str]]
"""Batch file -> index of a queued or running job of it -> Slurm's state and reason; empty for a local job."""


@dataclass(frozen=True)
class Batch:
    """Jobs that were sent together: one Slurm array, or one local job.

    The batch is written before it is sent, and Slurm's jobs are recognised by name and index: so no job is sent twice,
    even if the command dies in between.

    Attributes:
        name: name of the batch, of its file and of the Slurm jobs.
        cluster: local or slurm.
        submitted: seconds since the epoch, by the sender's clock.
        cwd: working directory of the command, from which relative paths in overrides start.
        results: the results folder.
        parallel: cells that run at once in each job.
        threads: CPU threads of each cell; None sets no limit.
        jobs: for each job, cell id -> overrides.
        pack: cells that train side by side in one process.
    """

    name: str
    cluster: str
    submitted: float
    cwd: str
    results: str
    parallel: int
    threads: int | None
    jobs: list[dict[str, list[str]]]
    pack: int = 1

    def write(self, sweep_dir: Path) -> Path:
        """Write the batch below the sweep's folder; returns its file."""
        path = sweep_dir / "batches" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        paths = {"cwd": shorten_home(self.cwd), "results": shorten_home(self.results)}  # `read_batch` expands them
        write_json(path, {**asdict(self), **paths})
        return path


class _BatchValues(TypedDict):
    """What a batch's file holds."""

    name: Name
    cluster: str
    submitted: Seconds
    cwd: str
    results: str
    parallel: Count
    threads: Count | None
    jobs: list[dict[str, list[str]]]
    pack: NotRequired[Count]


def read_batch(path: Path) -> Batch:
    """The batch in a file. Raises OSError without one, and ValueError for one that no sweep of this version wrote."""
    values = read_json(path)
    checker(_BatchValues)(values)
    try:
        paths = {name: str(Path(values[name]).expanduser()) for name in ("cwd", "results")}
        return Batch(**{**values, **paths})
    except (TypeError, RuntimeError) as error:  # RuntimeError: the home of an unknown user
        raise ValueError(f"not a batch of this version: {error}") from None


def lock_folder(batch: Path) -> Path:
    """The folder of the lock that the process of a local batch holds."""
    return batch.with_suffix(".owner")


def read_batches(results: Path) -> dict[Path, Batch]:
    """Batch file -> batch, for all sweeps."""
    found = {}
    for path in sorted(results.glob("sweeps/*/batches/*.json")):
        with suppress(OSError, ValueError):  # removed meanwhile, of another version, or garbage
            found[path] = read_batch(path)
    return found


def live_jobs(known: dict[Path, Batch], squeue: QueueReader) -> LiveJobs:
    """The jobs that are queued or running; `squeue` is called only where a batch is a Slurm array."""
    found = {}
    slurm = squeue() if any(batch.cluster == SLURM for batch in known.values()) else {}
    for path, batch in known.items():
        if batch.cluster == SLURM:
            jobs = {index: slurm[key] for index in range(len(batch.jobs)) if (key := (batch.name, index)) in slurm}
        else:
            holder = read_holder(lock_folder(path))
            jobs = dict.fromkeys(range(len(batch.jobs)), "") if holder is not None and holder.is_alive else {}
        if jobs:
            found[path] = jobs
    return found


def delete_ended_batches(known: dict[Path, Batch], live: Sequence[Path]) -> None:
    """Delete the files of batches that have no queued or running job."""
    for path in known:
        if path not in live:
            path.unlink(missing_ok=True)
            log = path.with_suffix(".log")
            if log.is_file() and not log.stat().st_size:
                log.unlink(missing_ok=True)
            folder = lock_folder(path)
            for file in folder.glob("*") if folder.is_dir() else ():
                file.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


def log_path(sweep_dir: Path, cell_id: str) -> Path:
    """The file of a cell's output."""
    return sweep_dir / "logs" / f"{cell_id}.log"


def write_failure(sweep_dir: Path, cell_id: str, cause: str, *, killed: bool) -> None:
    """Write why a cell has no finished record; `killed`: its process is gone, and the same command continues it."""
    folder = sweep_dir / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "cause": hide_home(cause),
        "killed": killed,
        "log": shorten_home(str(log_path(sweep_dir, cell_id))),
        "time": time.time(),
    }
    write_json(folder / f"{cell_id}.json", values)


class FailureNote(TypedDict):
    """Why a cell has no finished record, as `write_failure` leaves it; `time` is in seconds since the epoch."""

    cause: str
    killed: bool
    log: str
    time: Seconds


def read_failure(sweep_dir: Path, cell_id: str) -> FailureNote | None:
    """A cell's failure in one sweep's folder; None without one, and for a note that no sweep wrote."""
    return _read_note(sweep_dir / "failed" / f"{cell_id}.json")


def _read_note(path: Path) -> FailureNote | None:
    try:
        values = read_json(path)
        checker(FailureNote)(values)
    except (OSError, ValueError):
        return None
    note: FailureNote = values
    return note


def delete_failure(sweep_dir: Path, cell_id: str) -> None:
    """Delete a cell's failure: the cell is done, or starts again."""
    (sweep_dir / "failed" / f"{cell_id}.json").unlink(missing_ok=True)


def latest_failures(results: Path) -> dict[str, FailureNote]:
    """Cell id -> its latest failure over all sweeps."""
    found: dict[str, FailureNote] = {}
    for path in results.glob("sweeps/*/failed/*.json"):
        note, known = _read_note(path), found.get(path.stem)
        if note is not None and (known is None or note["time"] > known["time"]):
            found[path.stem] = note
    return found
