"""One live holder per lock: races, dead holders, other machines."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import threading
import time
from pathlib import Path

import pytest

import lora2_bench.records.lock
from lora2_bench.errors import UserError
from lora2_bench.records.lock import STALE_AFTER, locked, process_start, read_holder


def test_a_lock_has_one_holder_and_its_folder_is_gone_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    with locked(folder, "cell x is being trained"):
        holder = read_holder(folder)
        assert holder is not None and holder.is_alive
        assert (holder.host, holder.pid) == (socket.gethostname(), os.getpid())
        with (
            pytest.raises(UserError, match=f"cell x is being trained by process {os.getpid()} on"),
            locked(folder, "cell x is being trained"),
        ):
            pass
    assert not folder.exists()
    assert read_holder(folder) is None


def leave(folder: Path, **changes: object) -> None:
    """A lock file as another process left it."""
    folder.mkdir(exist_ok=True)
    values = {"host": socket.gethostname(), "pid": os.getpid(), "born": process_start(os.getpid()), **changes}
    (folder / "owner.json").write_text(json.dumps(values))


def test_the_lock_of_a_dead_process_counts_for_nothing(tmp_path: Path) -> None:
    leave(tmp_path / "a", born="another process had this number")
    with locked(tmp_path / "a", "a is being trained"):
        pass
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "owner.json").write_text('{"host": "x"')  # a writer killed half way
    with locked(tmp_path / "b", "b"):
        pass


def test_on_another_machine_the_heartbeat_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora2_bench.records.lock, "HEARTBEAT_SECONDS", 0.05)
    leave(tmp_path / "a", host="elsewhere")
    with pytest.raises(UserError, match="on elsewhere: wait for it"), locked(tmp_path / "a", "a is being trained"):
        pass
    long_ago = time.time() - STALE_AFTER - 5
    os.utime(tmp_path / "a" / "owner.json", (long_ago, long_ago))
    with locked(tmp_path / "a", "a is being trained"):
        holder = read_holder(tmp_path / "a")
        assert holder is not None and holder.pid == os.getpid()


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_neither_takes_a_live_lock_nor_keeps_a_stale_one(
    jump: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system's clock moves by a day under a holder on another machine: only its heartbeat counts."""
    monkeypatch.setattr(lora2_bench.records.lock, "HEARTBEAT_SECONDS", 0.2)
    leave(tmp_path / "a", host="elsewhere")
    path, over = tmp_path / "a" / "owner.json", threading.Event()

    def beat() -> None:
        moment = time.time() + jump
        while not over.wait(0.1):
            moment += 0.1
            os.utime(path, (moment, moment))

    os.utime(path, (time.time() + jump, time.time() + jump))
    other = threading.Thread(target=beat)
    other.start()
    with pytest.raises(UserError, match="on elsewhere: wait for it"), locked(tmp_path / "a", "a is being trained"):
        pass
    over.set()
    other.join()
    with locked(tmp_path / "a", "a is being trained"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def compete(folder: Path, turns: int, won: Path) -> None:
    """Own the folder as often as possible; each time, no other process may be inside."""
    for turn in range(turns):
        try:
            with locked(folder, "x"):
                inside = won / "inside"
                inside.mkdir()  # fails if another holder is in
                (won / f"{os.getpid()}.{turn}").touch()
                inside.rmdir()
        except UserError:
            pass


def test_processes_that_compete_are_never_in_together(tmp_path: Path) -> None:
    won = tmp_path / "won"
    won.mkdir()
    context = multiprocessing.get_context("fork")
    rivals = [context.Process(target=compete, args=(tmp_path / "cell", 40, won)) for _ in range(4)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert [rival.exitcode for rival in rivals] == [0] * 4
    assert len(list(won.iterdir())) >= 20
