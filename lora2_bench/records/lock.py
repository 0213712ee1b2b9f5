"""Who trains a cell: one live owner at most, on one machine or on a shared file system. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2_bench.errors import Busy, UserError
from lora2_bench.files.writing import write_json

BEAT = 10.0
"""Seconds between two heartbeats."""
SILENCE = 9 * BEAT
"""Seconds without a heartbeat after which an owner on another machine counts as gone."""


@dataclass(frozen=True)
class Owner:
    """The process that trains a cell.

    Attributes:
        host, pid, born: the machine, and what tells the process from a later one with the same number.
        silent: seconds since its last heartbeat, by the file system's own clock.
    """

    host: str
    pid: int
    born: str
    silent: float

    @property
    def is_timely(self) -> bool:
        """Whether `is_alive` can be trusted at once: a file system's clock that jumped would look like silence."""
        return self.is_here or -BEAT < self.silent < SILENCE

    @property
    def is_alive(self) -> bool:
        """On this machine, whether the process runs; on another, whether its heartbeat is fresh."""
        return born_of(self.pid) == self.born if self.is_here else self.silent < SILENCE

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == socket.gethostname()


def born_of(pid: int) -> str | None:
    """What identifies a process beside its number (its start time where the system tells), or None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def read_owner(folder: Path) -> Owner | None:
    """The owner that `folder` names, alive or not; None where there is none."""
    path = folder / "owner.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        beat = path.stat().st_mtime
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".now.") as now:  # clocks of two machines may differ
            silent = Path(now.name).stat().st_mtime - beat
        return Owner(str(values["host"]), int(values["pid"]), str(values["born"]), silent)
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        return None


@contextmanager
def owned(folder: Path, name: str) -> Iterator[None]:
    """Own `folder` for as long as the block runs, with a heartbeat. Raises Busy where a live owner has it."""
    path = folder / "owner.json"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _take(path, name)
            break
        except (FileNotFoundError, FileExistsError):  # its last owner removed the folder while we came in
            if folder.is_file():
                raise
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            try:
                os.utime(path)
            except OSError:  # the folder was taken away: the run goes on, and its record will still be written
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)
        with suppress(OSError):  # checkpoints to continue from, or the next owner, are in it
            folder.rmdir()


def _take(path: Path, name: str) -> None:
    """Create the owner's file, after moving a dead owner's out of the way. A link is made by one process only."""
    mine: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "born": born_of(os.getpid())}
    draft = path.with_name(f".owner.{mine['host']}.{mine['pid']}.json")
    write_json(draft, mine)
    try:
        for _ in range(100):
            try:
                os.link(draft, path)
                return
            except FileExistsError:
                owner = read_owner(path.parent)
            if owner is not None and (owner.is_alive if owner.is_timely else _beats(path)):
                raise Busy(
                    f"{name} is being trained by process {owner.pid} on {owner.host}: wait for it, or stop that process"
                )
            _move_away(path, owner)
        raise UserError(f"{name} cannot be owned: {path} comes back each time it is removed")
    finally:
        draft.unlink(missing_ok=True)


def _beats(path: Path) -> bool:
    """Whether the file's heartbeat changes within three beats, by this process's own steady clock."""
    until = time.monotonic() + 3 * BEAT
    try:
        before = path.stat().st_mtime_ns
        while time.monotonic() < until:
            time.sleep(BEAT / 10)
            if path.stat().st_mtime_ns != before:
                return True
    except FileNotFoundError:
        pass
    return False


def _move_away(path: Path, dead: Owner | None) -> None:
    """Remove a dead owner's file, unless a live owner has replaced it meanwhile."""
    aside = path.with_name(f".dead.{socket.gethostname()}.{os.getpid()}.json")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    try:
        values = json.loads(aside.read_text(encoding="utf-8"))
        if dead is None or (values["host"], values["pid"], values["born"]) != (dead.host, dead.pid, dead.born):
            os.link(aside, path)  # it was a new owner's: back with it
    except (FileExistsError, json.JSONDecodeError, KeyError, TypeError):
        pass
    finally:
        aside.unlink()
