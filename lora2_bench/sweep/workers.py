"""Worker processes, each of which runs cells one after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

WORKER_ARGUMENTS = ("-m", "lora2_bench.runner.worker")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class Worker:
    """A worker process and the cells that it runs.

    Attributes:
        cells: ids of the cells that it runs; empty while idle.
    """

    def __init__(self, cwd: str, threads: int | None) -> None:
        root = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "TOKENIZERS_PARALLELISM": "false",
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        }
        command = [sys.executable, *WORKER_ARGUMENTS]
        pipe = subprocess.PIPE
        # Slurm signals every process of a job. A worker blocks the signals until it has loaded, so that none kills it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=cwd, env=environment)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.cells: set[str] = set()

    def run_cells(self, cells: Mapping[str, Sequence[str]], logs: Sequence[Path]) -> None:
        """Send it cells (id -> overrides) to run side by side. Where it has just died, `read_answers` says so."""
        self.cells = set(cells)
        told = [
            {"id": cell, "overrides": list(overrides), "log": str(log)}
            for (cell, overrides), log in zip(cells.items(), logs, strict=True)
        ]
        with suppress(BrokenPipeError):
            self.stdin.write(json.dumps(told).encode() + b"\n")
            self.stdin.flush()

    def read_answers(self) -> list[dict[str, Any]] | None:
        """The worker's answers for its cells, one line of JSON; None where the worker has died."""
        line = self.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Close its input, upon which it ends."""
        with suppress(BrokenPipeError):
            self.stdin.close()
