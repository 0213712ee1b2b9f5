"""A disk that is full, read-only or out of inodes, from any moment on: each command ends with a line, and none lies."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.errors import UserError
from lora2_bench.records.lock import locked
from lora2_bench.records.store import Store
from lora2_bench.sweep import status
from lora2_bench.tracking import publish
from tests.conftest import Told
from tests.made_records import make_cell, make_record
from tests.runner.test_run import QUICK, records_of, tiny
from tests.tracking.test_publish import Runs

Bench = Callable[..., Told]
Folders = Callable[[str], Path]


class Disk:
    """Every file and folder that is made below `folder` fails with `code`, once `left` of them are made."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, code: int, left: int = 0) -> None:
        self.folder, self.code, self.left = str(folder), code, left
        patch.setattr(io, "open", self._opening(io.open))
        patch.setattr("builtins.open", io.open)
        patch.setattr(os, "open", self._low(os.open))
        patch.setattr(os, "mkdir", self._making(os.mkdir))

    def _take(self, path: Any) -> None:
        if isinstance(path, str | Path) and str(Path(path).absolute()).startswith(self.folder):
            self.left -= 1
            if self.left < 0:
                raise OSError(self.code, os.strerror(self.code), str(path))

    def _opening(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if set(mode) & set("wax+"):
                self._take(path)
            return call(path, mode, *rest, **named)

        return opened

    def _low(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, flags: int, *rest: Any, **named: Any) -> Any:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._take(path)
            return call(path, flags, *rest, **named)

        return opened

    def _making(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(path: Any, *rest: Any, **named: Any) -> Any:
            if not Path(path).is_dir() and Path(path).absolute().parent.is_dir():
                self._take(path)
            return call(path, *rest, **named)

        return made


CODES = {"full": (errno.ENOSPC, "No space left on device"), "read-only": (errno.EROFS, "Read-only file system")}
disks = pytest.mark.parametrize("disk", CODES)


@disks
def test_status_needs_no_space(
    disk: str, tmp_path: Path, call: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).running("ab" * 8).mkdir(parents=True)
    (Store(tmp_path).running("ab" * 8) / "owner.json").write_text('{"host": "x", "pid": 1, "born": "1"}')
    Disk(monkeypatch, tmp_path, CODES[disk][0])
    told = call(status.main, "suite=smoke", f"results={tmp_path}")
    assert (told.code, told.err) == (0, "") and told.out.startswith("smoke: 4 cells: ")


@disks
def test_nothing_is_published_that_cannot_be_marked(
    disk: str, tmp_path: Path, call: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).write(make_record(make_cell("rte", "lora")))
    runs = Runs()
    monkeypatch.setitem(sys.modules, "wandb", runs)
    code, reason = CODES[disk]
    Disk(monkeypatch, tmp_path, code)
    told = call(publish.main, "--results", str(tmp_path))
    assert told.code == 2 and runs.runs == []
    assert told.err == (
        f"error: results={tmp_path} cannot be written ({reason}): free some space, or make it writable\n"
    )


# Files and folders that can still be made: the results folder, a cell's lock, checkpoints, its record.
@pytest.mark.parametrize("left", [0, 4, 5, 6, 9, 15])
def test_a_cell_on_a_disk_that_fills_up_ends_in_a_line(
    left: int, bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*tiny(tiny_folders("bert")), *QUICK, "method=bitfit", "checkpoint.steps=4", f"results={tmp_path / 'r'}")
    code, reason = CODES["full"]
    with monkeypatch.context() as patch:
        Disk(patch, tmp_path / "r", code, left)
        told = bench(*command)
    lines = [line for line in told.err.splitlines() if line.strip() and "step/s" not in line]
    assert lines.pop().startswith("error: ") and reason in told.err
    assert told.code == (1 if left > 6 else 2) and all(line.startswith("warning: ") for line in lines)
    assert records_of(tmp_path / "r") == [] and not list(tmp_path.glob("r/cells/.*"))
    assert not list(tmp_path.glob("r/running/*/owner.json"))


def multirun(disk: str, left: int, bench: Bench, backbone: Path, results: Path, patch: pytest.MonkeyPatch) -> Told:
    Disk(patch, results, CODES[disk][0], left)
    told = bench("-m", "seed=0,1", *tiny(backbone), *QUICK, "method=bitfit", f"results={results}")
    assert "Traceback" not in told.err
    return told


@pytest.mark.parametrize(("disk", "left"), [("full", 0), ("full", 2), ("read-only", 0)])
def test_a_multirun_that_cannot_begin_is_one_line(
    disk: str, left: int, bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = multirun(disk, left, bench, tiny_folders("bert"), tmp_path / "r", monkeypatch)
    assert told.code == 2 and told.err.count("\n") == 1
    assert f" cannot be written ({CODES[disk][1]}): give another results=DIR" in told.err


def test_a_multirun_on_a_disk_that_fills_up_says_what_failed(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = multirun("full", 15, bench, tiny_folders("bert"), tmp_path / "r", monkeypatch)
    assert told.code == 1
    lines = [line for line in told.err.splitlines() if line.strip() and "step/s" not in line]
    failed, last = (line for line in lines if not line.startswith("warning: "))
    assert failed.startswith("failed: seed=0 ") and "the record cannot be written below results=" in failed
    assert re.fullmatch(
        r"error: .+/outcomes cannot be written \(No space left on device\): .+ the cells that are left", last
    )


@pytest.mark.parametrize("place", ["a file", "a link to nowhere"])
def test_a_lock_whose_folder_is_none_ends_in_a_line(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "running"
    folder.write_text("") if place == "a file" else folder.symlink_to("/nowhere/at/all")
    with pytest.raises(UserError, match=f"{folder} is no folder: move it away"), locked(folder, "x"):
        pass
