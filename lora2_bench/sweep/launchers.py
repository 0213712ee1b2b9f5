"""What sends a sweep's jobs: `Local` to this machine, `Slurm` through submitit."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lora2_bench.sweep.batches import Batch

JobCells = dict[str, list[str]]
"""Cell id -> overrides, for the cells of one job."""


class Launcher(Protocol):
    """Sends cells in batches, each of which is on disk before it is sent."""

    def split(self, cells: JobCells) -> list[list[JobCells]]:
        """Cells -> batches -> jobs -> cells."""

    def make_batch(self, name: str, results: Path, jobs: list[JobCells]) -> Batch:
        """The batch of these jobs."""

    def send(self, batch: Batch, path: Path) -> str:
        """Send the batch that `path` holds; returns a description of where it went. Raises UserError."""
