"""How the processes of one cell end: the main one prints the error, and the others wait for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from lora2_bench.config import launch
from tests.conftest import Told


@pytest.fixture
def main_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start `python -c CODE` as the main process of a launcher that started this process, too, as rank 1."""
    started = []

    def start(code: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-S", "-c", code], env={**os.environ, "RANK": "0"})
        started.append(process)
        launcher = psutil.Process()  # this process: the launcher of both
        monkeypatch.setattr(psutil.Process, "parent", lambda _: launcher)
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_another_process_than_the_main_one_ends_after_it_and_prints_nothing(
    bench: Callable[..., Told], main_process: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = main_process("import time; time.sleep(1)")
    told = bench("train.lr=-1")
    assert (told.code, told.err) == (2, "")
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE  # ended, though nobody has waited for it
    process.wait()
    told = bench("train.lr=-1")  # no main process here: it has ended, or it is on another machine
    assert (told.code, told.err) == (2, "")


def test_an_error_of_another_process_alone_is_printed(
    bench: Callable[..., Told],
    main_process: Callable[[str], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "MAIN_PROCESS_SECONDS", 0.2)
    process = main_process("import time; time.sleep(600)")
    told = bench("train.lr=-1")
    assert told.code == 2 and told.err.startswith("error: train.lr=-1 is not possible") and process.poll() is None
