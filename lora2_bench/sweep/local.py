"""Jobs that run as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.records.lock import read_holder
from lora2_bench.sweep.batches import LOCAL, Batch, lock_folder
from lora2_bench.sweep.launchers import JobCells
from lora2_bench.sweep.options import Options

START_SECONDS = 60.0
"""Seconds that the process has to load and lock its batch."""


@dataclass(frozen=True)
class Local:
    """One detached process that keeps `parallel` workers busy until no cell is left."""

    options: Options

    def split(self, cells: JobCells) -> list[list[JobCells]]:
        """One job."""
        return [[cells]]

    def make_batch(self, name: str, results: Path, jobs: list[JobCells]) -> Batch:
        """A batch of one-thread cells."""
        pack = self.options.pack or 1
        parallel = min(self.options.parallel or len(os.sched_getaffinity(0)), -(-len(jobs[0]) // pack))
        return Batch(name, LOCAL, time.time(), str(Path.cwd()), str(results), parallel, 1, jobs, pack)

    def send(self, batch: Batch, path: Path) -> str:
        """Start the process and wait until it holds the batch's lock."""
        log = path.with_suffix(".log")
        root = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        }
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "lora2_bench.sweep.job", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
                start_new_session=True,  # the terminal may be closed
            )
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            holder = read_holder(lock_folder(path))
            if holder is not None and holder.pid == process.pid:
                break
            time.sleep(0.05)
        if process.poll() not in (None, 0):
            raise UserError(f"the sweep's process ended at once: see {log}")
        at_once = batch.parallel * batch.pack
        return f"process {process.pid}, {at_once} cells at once; `kill {process.pid}` keeps them and stops"
