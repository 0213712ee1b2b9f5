"""One live owner per folder: races, dead owners, other machines."""

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
from lora2_bench.records.lock import SILENCE, born_of, owned, read_owner


def test_a_folder_has_one_owner_and_is_gone_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    with owned(folder, "cell x"):
        owner = read_owner(folder)
        assert owner is not None and owner.is_alive
        assert (owner.host, owner.pid) == (socket.gethostname(), os.getpid())
        with (
            pytest.raises(UserError, match=f"cell x is being trained by process {os.getpid()} on"),
            owned(folder, "cell x"),
        ):
            pass
    assert not folder.exists()
    assert read_owner(folder) is None


def leave(folder: Path, **changes: object) -> None:
    """An owner's file as another process left it."""
    folder.mkdir(exist_ok=True)
    values = {"host": socket.gethostname(), "pid": os.getpid(), "born": born_of(os.getpid()), **changes}
    (folder / "owner.json").write_text(json.dumps(values))


def test_a_dead_owner_holds_nothing(tmp_path: Path) -> None:
    leave(tmp_path / "a", born="another process had this number")
    with owned(tmp_path / "a", "a"):
        pass
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "owner.json").write_text('{"host": "x"')  # a writer killed half way
    with owned(tmp_path / "b", "b"):
        pass


def test_on_another_machine_the_heartbeat_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora2_bench.records.lock, "BEAT", 0.05)
    leave(tmp_path / "a", host="elsewhere")
    with pytest.raises(UserError, match="on elsewhere: wait for it"), owned(tmp_path / "a", "a"):
        pass
    long_ago = time.time() - SILENCE - 5
    os.utime(tmp_path / "a" / "owner.json", (long_ago, long_ago))
    with owned(tmp_path / "a", "a"):
        owner = read_owner(tmp_path / "a")
        assert owner is not None and owner.pid == os.getpid()


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_neither_robs_a_live_owner_nor_keeps_a_dead_one(
    jump: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system's clock moves by a day under another machine's owner: only whether it beats counts."""
    monkeypatch.setattr(lora2_bench.records.lock, "BEAT", 0.2)
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
    with pytest.raises(UserError, match="on elsewhere: wait for it"), owned(tmp_path / "a", "a"):
        pass
    over.set()
    other.join()
    with owned(tmp_path / "a", "a"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def compete(folder: Path, turns: int, won: Path) -> None:
    """Own the folder as often as possible; each time, no other process may be inside."""
    for turn in range(turns):
        try:
            with owned(folder, "x"):
                inside = won / "inside"
                inside.mkdir()  # fails if another owner is in
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
