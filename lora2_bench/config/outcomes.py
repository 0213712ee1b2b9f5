"""What became of each job of a multirun: a small file per job, since a launcher's other processes tell nothing else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.files.writing import write_json

SILENT = "no end was told: its process was killed or ran out of memory, or still runs"


@dataclass
class Outcomes:
    """The jobs' files below one multirun's folder.

    Attributes:
        folder: set in the process that starts the multirun, before the first job is sent; jobs carry a copy along.
    """

    folder: Path | None = None

    def begin(self, sweep_dir: str) -> None:
        """Take the folder of this multirun."""
        self.folder = Path(sweep_dir).absolute() / "outcomes"

    @contextmanager
    def job(self, number: int, name: str) -> Iterator[list[str]]:
        """Within, a job runs; the causes that it puts into the list are its failure.

        It counts as failed until the block ends, so that a process that dies in it is among the failures.
        """
        causes: list[str] = []
        self._write(number, name, [SILENT])
        try:
            yield causes
        except BaseException:
            if causes:
                self._write(number, name, causes)
            raise
        self._write(number, name, causes)

    def failures(self) -> list[str]:
        """`overrides: cause` of every failed job, in the jobs' order."""
        found = []
        for path in sorted(self.folder.glob("*.json")) if self.folder else ():
            with suppress(OSError, json.JSONDecodeError, KeyError):
                values = json.loads(path.read_text(encoding="utf-8"))
                found += [f"{values['job']}: {cause}" for cause in values["causes"]]
        return found

    def _write(self, number: int, name: str, causes: list[str]) -> None:
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(
                self.folder / f"{number:06d}.json", {"job": name, "host": socket.gethostname(), "causes": causes}
            )
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): give another results=DIR") from None
