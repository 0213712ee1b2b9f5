"""Where a sweep's jobs go: processes of this machine, or Slurm through submitit."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lora2_bench.sweep.batches import Batch

JobCells = dict[str, list[str]]
"""Id -> overrides of the cells of one job."""


class Launcher(Protocol):
    """Sends cells, as batches that are on disk before they are sent."""

    def split(self, cells: JobCells) -> list[list[JobCells]]:
        """Cells -> batches -> jobs -> cells."""

    def batch(self, name: str, results: Path, jobs: list[JobCells]) -> Batch:
        """The batch of these jobs."""

    def send(self, batch: Batch, path: Path) -> str:
        """Send the batch that `path` holds; returns where it went, for the user. Raises UserError."""
