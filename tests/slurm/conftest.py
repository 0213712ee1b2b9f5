"""A real Slurm of one node for the whole session, and what tests ask of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.test_chaos import command

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm_test_cluster.sh"
CANNOT_RUN_HERE = 3


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a Slurm that this session's commands talk to; skips where it cannot be started."""
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "start", folder], stderr=subprocess.PIPE, text=True, check=False, timeout=200)
    if started.returncode == CANNOT_RUN_HERE:
        pytest.skip(started.stderr.strip().removeprefix("error: "))
    assert started.returncode == 0, started.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            yield folder
        finally:
            subprocess.run([SCRIPT, "stop", folder], check=True, timeout=120)


@pytest.fixture
def empty(slurm: Path) -> Iterator[None]:
    """No job before the test, and none left by it."""
    yield
    ask("scancel", f"--user={os.getuid()}")
    until(lambda: not ask("squeue", "--noheader"), "an empty queue")


def ask(*words: str) -> str:
    """What one of Slurm's commands prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def jobs(state: str = "PENDING,RUNNING,COMPLETING") -> list[str]:
    """Ids of the sweeps' jobs in a state of Slurm's, as in `12_3`."""
    return ask("squeue", "--noheader", "--array", "--partition=low", f"--states={state}", "--format=%i").split()


def facts(job: str) -> dict[str, str]:
    """What `scontrol show job` tells of one."""
    words = ask("scontrol", "show", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def until(true: Callable[[], Any], what: str, seconds: float = 240.0) -> Any:
    """Wait for something; a busy machine is given time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.2)
    queue = ask("squeue", "--array", "--format=%i %j %T %r")
    pytest.fail(f"waited {seconds:.0f} s in vain for {what}; the queue:\n{queue}")


def status(*words: str) -> dict[str, Any]:
    """The user's status, as JSON."""
    told = command("status", *words, "--json")
    assert told.returncode == 0, told.stderr
    values: dict[str, Any] = json.loads(told.stdout)
    return values


def multirun(*words: str) -> subprocess.CompletedProcess[str]:
    """The user's `python -m lora2_bench -m`."""
    called = [sys.executable, "-m", "lora2_bench", "-m", *words]
    return subprocess.run(called, capture_output=True, text=True, check=False, timeout=300)
