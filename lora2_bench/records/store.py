"""Where records live: one folder per cell below `results/cells`, written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.files.paths import below
from lora2_bench.files.reading import read_json
from lora2_bench.files.writing import write_json
from lora2_bench.records.digest import check_digest, file_digests, with_digest
from lora2_bench.records.identity import id_of
from lora2_bench.records.record import SCHEMA, Record

PREDICTIONS = "predictions.json"
WEIGHTS = "trained.safetensors"
ADAPTER = "adapter"
MODEL = "model"
"""The folder of a cell that keeps its whole model, which transformers loads; `MODEL_WEIGHTS` are in it."""
MODEL_WEIGHTS = "model.safetensors"
TEST_PREDICTIONS = "test_predictions.safetensors"
RETENTION = "retention.json"


@dataclass(frozen=True)
class Store:
    """The records below one results folder."""

    results: Path

    @property
    def cells(self) -> Path:
        """The folder of all cells."""
        return self.results / "cells"

    def folder(self, cell_id: str) -> Path:
        """A cell's own folder."""
        return below(self.cells, cell_id)

    def path(self, cell_id: str) -> Path:
        """A cell's record."""
        return self.folder(cell_id) / "record.json"

    def running(self, cell_id: str) -> Path:
        """Where a cell that is being trained keeps its owner and checkpoints."""
        return below(self.results / "running", cell_id)

    def weights(self, cell_id: str) -> Path:
        """What a cell's method trained, at the best checkpoint, as safetensors; it need not be there.

        Where every weight trained (`keep=weights` of full fine-tuning) they are those of the folder `model`.
        """
        whole = self.folder(cell_id) / MODEL / MODEL_WEIGHTS
        return whole if whole.is_file() else self.folder(cell_id) / WEIGHTS

    def test_predictions(self, cell_id: str) -> Path:
        """What a cell predicts of its task's test rows, where it was asked to."""
        return self.folder(cell_id) / TEST_PREDICTIONS

    def retention(self, cell_id: str) -> Path:
        """What a cell has forgotten, where it was measured."""
        return self.folder(cell_id) / RETENTION

    def read(self, cell_id: str) -> Record | None:
        """The record of a cell, or None where there is none. Raises UserError where it cannot be read."""
        path = self.path(cell_id)
        try:
            return read_record(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(
                f"{path} cannot be read ({error}): use the version that wrote it, or replace it with rerun=true"
            ) from None

    def check_writable(self, fix: str = "give another results=DIR") -> None:
        """Raise UserError where nothing can be written, before any training time is spent."""
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.cells) as file:
                file.write(bytes(4096))  # a full disk still makes empty files
                file.flush()
        except OSError as error:
            raise UserError(f"results={self.results} cannot be written ({error.strerror}): {fix}") from None

    def write(self, record: Record, extra: Callable[[Path], None] | None = None, *, over_finished: bool = True) -> Path:
        """Put a cell's folder in place, with whatever `extra` writes beside the record; returns the record's path.

        A record is replaced only by this whole new folder, so a reader sees the old cell or the new one. Without
        `over_finished`, a finished record that another process has written meanwhile stays. Raises OSError where the
        folder cannot be written, and UserError where what stands there cannot be read; either leaves it as it was. The
        record holds the digests of the files beside it, and its own.
        """
        final = self.folder(record.id)
        with self._new_folder(record.id) as folder:
            if extra is not None:
                extra(folder)
            write_json(folder / "record.json", with_digest({**record.to_dict(), "files": file_digests(folder)}))
            while True:
                known = None if over_finished else self.read(record.id)
                if (known is not None and known.is_done) or _swap(folder, final):
                    return self.path(record.id)

    def add(self, cell_id: str, name: str, write: Callable[[Path], None]) -> Path:
        """Put the folder or file that `write` makes beside a finished cell's record, as a whole; returns its path.

        A folder that another process has put there meanwhile stays; a file is replaced. Raises UserError where it
        cannot be written.
        """
        final = self.folder(cell_id) / name
        try:
            with self._new_folder(cell_id) as folder:
                write(folder / name)
                (folder / name).rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                reason = error.strerror
                raise UserError(f"{final} cannot be written ({reason}): free some space, or make it writable") from None
        return final

    def tidy(self, cell_id: str) -> None:
        """Remove what killed writers of a cell left, and put back a record that one had moved aside. For the owner.

        A folder that a live process still writes is left to it.
        """
        final = self.folder(cell_id)
        for left in self.cells.glob(f".{cell_id}.*"):
            if left.suffix == ".old" and not final.exists():
                left.rename(final)
            else:
                with suppress(BlockingIOError, FileNotFoundError), _locked(left):
                    shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _new_folder(self, cell_id: str) -> Iterator[Path]:
        self.cells.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{cell_id}.", dir=self.cells))
        folder.chmod(0o755)
        try:
            with _locked(folder):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # gone, where it was put in place


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Mark a folder as being written, for as long as this process lives. Raises BlockingIOError where another does.

    A file system without such locks has none; there, a cell's one owner is all that keeps writers apart.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise
        yield
    finally:
        os.close(handle)


def _swap(folder: Path, final: Path) -> bool:
    """Put `folder` in the place of `final`; False where another process put something there at the same moment."""
    old = folder.with_name(folder.name + ".old")
    with suppress(FileNotFoundError):
        final.rename(old)
    try:
        folder.rename(final)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            shutil.rmtree(old, ignore_errors=True)  # older than what stands there now
            return False
        if old.exists():
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return True


def read_record(path: Path) -> Record:
    """The record in one file: that of the cell whose folder it lies in.

    Raises FileNotFoundError where there is no file, and ValueError with the reason where it is truncated, foreign, of
    another schema, of another cell than its folder, its id or its settings say, or not what was written.
    """
    values = read_json(path)
    record = record_of(values)
    if record.id != path.parent.name:
        raise ValueError(f"a record of another cell: {record.id}, in the folder of {path.parent.name}")
    check_digest(values)
    return record


def record_of(values: Any) -> Record:
    """The record that decoded JSON holds. Raises ValueError with the reason where it is none, or its id another's."""
    try:
        record = Record.from_dict(values)
        found = id_of(record.cell)
    except RecursionError:
        raise ValueError("not a record of this package: nested too deep") from None
    except TypeError:  # settings of a method that have no order
        raise ValueError("not a record of this package: cell.method is no plain data") from None
    if record.id != found:
        raise ValueError(f"a record of another cell: its settings are those of {found}, its id is {record.id}")
    return record


def record_paths(results: Path) -> list[Path]:
    """Where the records below a results folder are, or should be, in the order of ids.

    Folders whose name begins with a dot were left by a writer that was killed.
    """
    try:
        names = sorted(os.listdir(results / "cells"))  # noqa: PTH208 - one call for thousands of names
    except OSError:
        return []
    paths = [results / "cells" / name / "record.json" for name in names if not name.startswith(".")]
    return [path for path in paths if os.path.lexists(path)]


def read_status(path: Path) -> str | None:
    """The status in a record's file, from its first bytes: thousands of whole records would take seconds.

    A record is written with schema, id and status first; a file that begins otherwise is read whole. None where there
    is no file, none that can be read, or one of another cell.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            begin = _BEGIN.match(stream.read(256))
        if not begin:
            return read_record(path).status
        return begin[2].decode() if begin[1].decode() == path.parent.name else None
    except (OSError, ValueError):
        return None


_BEGIN = re.compile(rb'\{\s*"schema": %d,\s*"id": "([^"\\]*)",\s*"status": "(done|failed)"' % SCHEMA)
