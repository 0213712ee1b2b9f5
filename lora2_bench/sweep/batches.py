"""What was sent where, and how cells ended that left no record: files below results/sweeps, each written whole."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora2_bench.files.writing import write_json
from lora2_bench.records.lock import read_holder

LOCAL, SLURM = "local", "slurm"
Squeue = Callable[[], Mapping[tuple[str, int], str]]
"""Gives (job name, array index) of all that Slurm has queued or running -> what it says of it."""
Alive = dict[Path, dict[int, str]]
"""Batch's file -> index of each of its jobs that is queued or running -> what Slurm says of it."""


@dataclass(frozen=True)
class Batch:
    """Jobs that were sent together: one array of Slurm's, or one job of this machine's.

    It is written before it is sent, and Slurm's jobs are known again by name and index: a command that dies between the
    two leaves nothing that a later one could send twice.

    Attributes:
        name: of the batch, of its file and of Slurm's jobs.
        cluster: local or slurm.
        submitted: seconds since the epoch, by the sender's clock.
        cwd: where the command was given; the overrides' relative paths start there.
        results: the results folder.
        parallel: cells at once in each job.
        threads: CPU threads of each cell, or None for whatever it takes.
        jobs: per job, cell's id -> overrides.
    """

    name: str
    cluster: str
    submitted: float
    cwd: str
    results: str
    parallel: int
    threads: int | None
    jobs: list[dict[str, list[str]]]

    def write(self, home: Path) -> Path:
        """Put it below a sweep's folder; returns its file."""
        path = home / "batches" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))
        return path


def read_batch(path: Path) -> Batch:
    """The batch in a file."""
    return Batch(**json.loads(path.read_text(encoding="utf-8")))


def lock_folder(batch: Path) -> Path:
    """Where the process that runs a local batch says so."""
    return batch.with_suffix(".owner")


def batches(results: Path) -> dict[Path, Batch]:
    """All batches of all sweeps, by file."""
    found = {}
    for path in sorted(results.glob("sweeps/*/batches/*.json")):
        with suppress(OSError, json.JSONDecodeError, TypeError):  # taken away meanwhile, or of another version
            found[path] = read_batch(path)
    return found


def live(known: dict[Path, Batch], squeue: Squeue) -> Alive:
    """The batches of which something is queued or running; `squeue` is asked only where a batch is Slurm's."""
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


def prune(known: dict[Path, Batch], alive: Sequence[Path]) -> None:
    """Drop the files of batches of which nothing is queued or running any more."""
    for path in known:
        if path not in alive:
            path.unlink(missing_ok=True)
            log = path.with_suffix(".log")
            if log.is_file() and not log.stat().st_size:
                log.unlink(missing_ok=True)
            folder = lock_folder(path)
            for left in folder.glob("*") if folder.is_dir() else ():
                left.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()


def log_path(home: Path, cell_id: str) -> Path:
    """Where a cell's output goes."""
    return home / "logs" / f"{cell_id}.log"


def note_failure(home: Path, cell_id: str, cause: str, *, killed: bool) -> None:
    """Keep why a cell has no finished record; `killed`: its process went away and the same command continues it."""
    folder = home / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "cause": cause,
        "killed": killed,
        "log": str(log_path(home, cell_id)),
        "host": socket.gethostname(),
        "time": time.time(),
    }
    write_json(folder / f"{cell_id}.json", values)


def failure(home: Path, cell_id: str) -> dict[str, Any] | None:
    """A cell's note in one sweep's folder, or None."""
    try:
        note: dict[str, Any] = json.loads((home / "failed" / f"{cell_id}.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return note


def forget_failure(home: Path, cell_id: str) -> None:
    """Drop a cell's note: it is done, or begins anew."""
    (home / "failed" / f"{cell_id}.json").unlink(missing_ok=True)


def failures(results: Path) -> dict[str, dict[str, Any]]:
    """Cell's id -> its newest note, over all sweeps."""
    found: dict[str, dict[str, Any]] = {}
    for cell_id, note in _notes(results):
        if cell_id not in found or note["time"] > found[cell_id]["time"]:
            found[cell_id] = note
    return found


def _notes(results: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in results.glob("sweeps/*/failed/*.json"):
        with suppress(OSError, json.JSONDecodeError):
            yield path.stem, json.loads(path.read_text(encoding="utf-8"))
