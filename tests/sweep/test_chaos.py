"""Real cells on this machine, workers and the sweep itself killed at random: everything is done once, and right."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.sweep.cells import plan_cells
from lora2_bench.sweep.states import count, states
from tests.conftest import Told

QUICK = (
    "data.max_train=64",
    "data.max_eval=20",
    "train.epochs=12",
    "train.batch_size=8",
    "train.eval_steps=24",
    "train.max_length=32",
    "device=cpu",
    "threads=1",
)
CELLS = ("method=lora,lora2", "task=rte,cola")


def command(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A user's command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"lora2_bench.{module}", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def kept(results: Path) -> dict[str, Any]:
    """Cell's id -> its record without times and places, and its predictions."""
    found = {}
    for path in results.glob("cells/*/record.json"):
        record = json.loads(path.read_text())
        del record["run"], record["sha256"]  # the digest is of the times too
        found[path.parent.name] = (record, (path.parent / "predictions.json").read_text())
    return found


class Written:
    """When each record was written, as it was seen first: one that is written again afterwards was done twice."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.first: dict[str, int] = {}

    def now(self) -> dict[str, int]:
        """Cell's id -> when its record was written."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.results.glob("cells/*/record.json")}

    def look(self) -> None:
        """See the records that are there."""
        self.first = self.now() | self.first


def each_done_once(written: Written, quiet: Path, count: int) -> list[dict[str, Any]]:
    """The records of a sweep that chaos went through: equal to a quiet one, each cell done once, nothing left over."""
    results = written.results
    assert kept(results) == kept(quiet) and len(kept(quiet)) == count
    assert written.first == written.now() and len(written.first) == count
    records = [json.loads(path.read_text()) for path in results.glob("cells/*/record.json")]
    for record in records:
        log = (results / "sweeps" / "chaos" / "logs" / f"{record['id']}.log").read_text()
        # None where the worker was killed between the record and the line; a second worker may print the same record.
        assert len(set(re.findall(r"adapter parameters \| [\d.]+ s \|", log))) <= 1
    assert list((results / "running").iterdir()) == []
    assert not list(results.glob("sweeps/chaos/failed/*")) and not (results / "sweeps" / ".sending").exists()
    return records


def pids(results: Path, pattern: str) -> list[int]:
    """Processes that own what matches."""
    found = []
    for path in results.glob(f"{pattern}/owner.json"):
        try:
            found.append(int(json.loads(path.read_text())["pid"]))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
    return found


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_killed_workers_and_a_killed_sweep_change_nothing(
    bench: Callable[..., Told], tiny_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    chance = random.Random(5)
    quiet, results = tmp_path / "quiet", tmp_path / "results"
    words = ("model=local", f"model.path={tiny_folders('bert')}", *QUICK, *CELLS)
    assert bench("-m", *words, f"results={quiet}").code == 0
    chaotic = (*words, "checkpoint.steps=6", f"results={results}")

    victims = ["worker", "sweep", "worker"]  # one after another, each in the middle of a cell
    deadline = time.monotonic() + 400  # generous, for a busy machine: it takes about half a minute
    sent, written = 0, Written(results)
    while True:
        assert time.monotonic() < deadline, command("status", *chaotic, "name=chaos").stdout
        told = command("sweep", *chaotic, "name=chaos", "cluster=local", "parallel=2")
        assert told.returncode == 0, told.stderr
        sent += "sent" in told.stdout
        cells = plan_cells(chaotic, results / "sweeps" / "chaos")
        while True:
            begun = [path.parent.parent for path in results.glob("running/*/checkpoints/step-*.pt")]
            if victims and begun:
                time.sleep(chance.uniform(0, 0.2))
                cell = chance.choice(begun).name
                place = f"running/{cell}" if victims[0] == "worker" else "sweeps/chaos/batches/*.owner"
                if any(kill(pid) for pid in pids(results, place)):
                    victims.pop(0)
            counts = count(states(cells, results, dict))
            written.look()
            if not counts["running"] and not counts["queued"]:
                break
            time.sleep(0.1)
        if counts["done"] == 4:
            break

    assert not victims and sent >= 2
    while any((results / "running").iterdir()):  # a worker lets go of a cell a moment after its record is there
        assert time.monotonic() < deadline
        time.sleep(0.1)
    records = each_done_once(written, quiet, 4)
    assert any(record["run"]["continued_from"] for record in records)
    assert command("sweep", *chaotic, "name=chaos", "--wait").stdout.strip().endswith("0 to send")
