"""The outcome of each job of a multirun, in a small file per job, which processes of any launcher can write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.files.writing import write_json, write_text
from lora2_bench.records.scrub import hide_home, scrub

NO_OUTCOME = "it reported no outcome: its process was killed or ran out of memory, or still runs"


@dataclass
class Outcomes:
    """The outcome files below one multirun's folder.

    Attributes:
        folder: set in the process that starts the multirun, before the first job is launched; each job has a copy.
    """

    folder: Path | None = None

    def begin(self, sweep_dir: str) -> None:
        """Set the folder, given the multirun's own (`hydra.sweep.dir`)."""
        self.folder = Path(sweep_dir).absolute() / "outcomes"

    @contextmanager
    def job(self, number: int, name: str, causes: list[str]) -> Iterator[None]:
        """The context in which a job runs; the job appends the causes of its failure to the list.

        The job counts as failed until the block ends, so that a process that dies within is among the failures. Raises
        UserError where the outcome cannot be written.
        """
        self._write(number, name, [NO_OUTCOME])
        try:
            yield
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
            values = {"job": hide_home(name), "causes": [hide_home(cause) for cause in causes]}
            write_json(self.folder / f"{number:06d}.json", values)
            _scrub_file(self.folder.parent / "multirun.yaml")
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written ({error.strerror}): give another results=DIR") from None


def _scrub_file(path: Path) -> None:
    """Scrub the file that Hydra's sweeper writes before its first job, which nothing reads back."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if (scrubbed := "".join(map(scrub, text.splitlines(keepends=True)))) != text:
            write_text(path, scrubbed)
