"""A lock on a folder, held by one live process at most, on one machine or on a shared file system.

The lock is the file `owner.json`. Its holder touches it every HEARTBEAT_SECONDS; the lock of a dead process counts for
nothing. Imports nothing heavy.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from lora2_bench.errors import LockHeld, UserError
from lora2_bench.files.reading import read_json
from lora2_bench.files.writing import write_json
from lora2_bench.records.checking import checker
from lora2_bench.records.forms import Range

HEARTBEAT_SECONDS = 10.0
"""Seconds between two heartbeats."""
STALE_AFTER = 9 * HEARTBEAT_SECONDS
"""Seconds without a heartbeat after which a holder on another machine counts as dead."""


@dataclass(frozen=True)
class LockHolder:
    """The process that a lock file names.

    Attributes:
        host, pid: the machine and the process on it.
        started: when the process started, which tells it from a later one with the same number.
        heartbeat_age: seconds since its last heartbeat, by the file system's clock.
    """

    host: str
    pid: int
    started: str
    heartbeat_age: float

    @property
    def is_local(self) -> bool:
        """Whether the process is one of this machine's."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """On this machine, whether the process runs; on another, whether its heartbeat is fresh."""
        return process_start(self.pid) == self.started if self.is_local else self.heartbeat_age < STALE_AFTER

    @property
    def is_certain(self) -> bool:
        """Whether `is_alive` is certain; it is not where the heartbeat is old or the file system's clock has jumped."""
        return self.is_local or -HEARTBEAT_SECONDS < self.heartbeat_age < STALE_AFTER


def process_start(pid: int) -> str | None:
    """When a process of this machine started, as /proc counts it (`unknown` without /proc); None if it is gone."""
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


class _Owner(TypedDict):
    """What `owner.json` holds."""

    host: str
    pid: Annotated[int, Range(1, 2**31)]
    born: str


def _read_owner(path: Path) -> _Owner | None:
    """The process that a lock file names; None for no file, and for one that no process of this package wrote."""
    try:
        values = read_json(path)
        checker(_Owner)(values)
    except (OSError, ValueError):
        return None
    owner: _Owner = values
    return owner


def read_holder(folder: Path) -> LockHolder | None:
    """The process that the folder's lock names, alive or not; None without a lock, and for one that is garbage."""
    path = folder / "owner.json"
    owner = _read_owner(path)
    if owner is None:
        return None
    try:
        heartbeat = path.stat().st_mtime
    except OSError:
        return None
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".now.") as now:  # two machines' clocks may differ
            age = Path(now.name).stat().st_mtime - heartbeat
    except OSError:  # a folder that can only be read
        age = time.time() - heartbeat
    return LockHolder(owner["host"], owner["pid"], owner["born"], age)


@contextmanager
def locked(folder: Path, activity: str) -> Iterator[None]:
    """Hold the folder's lock for as long as the block runs.

    `activity` says what the holder does, for the error of a second process: `cell x is being trained`. Raises LockHeld
    where a live process holds the lock, and UserError where it cannot be written.
    """
    path = folder / "owner.json"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _acquire(path, activity)
            break
        except (FileNotFoundError, FileExistsError):  # the last holder removed the folder at the same moment
            if _is_no_folder(folder):
                raise UserError(f"{folder} is no folder: move it away") from None
        except OSError as error:
            reason = error.strerror
            raise UserError(f"{folder} cannot be written ({reason}): free some space, or make it writable") from None
    released = threading.Event()

    def send_heartbeats() -> None:
        while not released.wait(HEARTBEAT_SECONDS):
            try:
                os.utime(path)
            except OSError:  # the folder is gone: the run goes on, and its record will still be written
                return

    thread = threading.Thread(target=send_heartbeats, daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        path.unlink(missing_ok=True)
        with suppress(OSError):  # the folder holds checkpoints, or the next holder's lock
            folder.rmdir()


def _is_no_folder(path: Path) -> bool:
    """Whether something else, a link to nowhere for one, stands in a folder's place."""
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _acquire(path: Path, activity: str) -> None:
    """Create the lock file, after removing a dead holder's. Of several processes, one alone can make the link."""
    own: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "born": process_start(os.getpid())}
    draft = path.with_name(f".owner.{own['host']}.{own['pid']}.json")
    write_json(draft, own)
    try:
        for _ in range(100):
            try:
                os.link(draft, path)
                return
            except FileExistsError:
                holder = read_holder(path.parent)
            if holder is not None and (holder.is_alive if holder.is_certain else _has_heartbeat(path)):
                raise LockHeld(
                    f"{activity} by process {holder.pid} on {holder.host}: wait for it, or stop that process"
                )
            _remove_stale(path, holder)
        raise UserError(f"{path} cannot be created: it is there again each time it is removed; stop what writes it")
    finally:
        draft.unlink(missing_ok=True)


def _has_heartbeat(path: Path) -> bool:
    """Whether the lock file is touched within three heartbeats, by this process's own monotonic clock."""
    deadline = time.monotonic() + 3 * HEARTBEAT_SECONDS
    try:
        before = path.stat().st_mtime_ns
        while time.monotonic() < deadline:
            time.sleep(HEARTBEAT_SECONDS / 10)
            if path.stat().st_mtime_ns != before:
                return True
    except FileNotFoundError:
        pass
    return False


def _remove_stale(path: Path, dead: LockHolder | None) -> None:
    """Remove a dead holder's lock file, unless a live process has replaced it at the same moment."""
    aside = path.with_name(f".dead.{socket.gethostname()}.{os.getpid()}.json")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    try:
        owner = _read_owner(aside)
        known = None if dead is None else {"host": dead.host, "pid": dead.pid, "born": dead.started}
        if owner is not None and owner != known:
            os.link(aside, path)  # a new holder's lock, put back
    except FileExistsError:
        pass
    finally:
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        else:
            aside.unlink()
