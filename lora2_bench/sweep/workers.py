"""Worker processes that run cells one after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

WORKER = ("-m", "lora2_bench.runner.worker")
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


class Worker:
    """A worker process and the cell that it runs.

    Attributes:
        cell: id of its cell, or None while it has none.
    """

    def __init__(self, cwd: str, threads: int | None) -> None:
        root = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "TOKENIZERS_PARALLELISM": "false",
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        }
        command = [sys.executable, *WORKER]
        pipe = subprocess.PIPE
        # Slurm signals every process of a job: a worker that is still loading must not die of it, so they wait for it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=cwd, env=environment)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.cell: str | None = None

    def give(self, cell_id: str, overrides: list[str], log: Path) -> None:
        """Let it run a cell. A worker that has just died takes it too, and is found dead."""
        self.cell = cell_id
        with suppress(BrokenPipeError):
            self.stdin.write(json.dumps({"id": cell_id, "overrides": overrides, "log": str(log)}).encode() + b"\n")
            self.stdin.flush()

    def answer(self) -> dict[str, Any] | None:
        """Its answer, which is one short line; None where it has died instead."""
        line = self.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Let it end."""
        with suppress(BrokenPipeError):
            self.stdin.close()
