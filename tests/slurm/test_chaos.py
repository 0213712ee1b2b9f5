"""Forty cells on a real Slurm, disturbed at random: in the end everything is done once, and right."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lora2_bench.records.lock import read_holder
from lora2_bench.sweep.cells import plan_cells
from lora2_bench.sweep.slurm import squeue
from lora2_bench.sweep.states import count, states
from tests.conftest import Told
from tests.slurm.conftest import ask, jobs, until
from tests.sweep.test_chaos import QUICK, Written, command, each_done_once, kill

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("empty")]
CELLS = ("method=lora,lora2", "task=rte,cola", "seed=range(0,10)", "train.epochs=6")
JOBS = ("cells_per_job=4", "parallel=2", "cpus=2")  # ten jobs, two at once
MOST = 1500.0
"""Seconds after which the test gives up, for a busy machine: it takes a few minutes."""


class Chaos:
    """Disturbances in a random order that a seed repeats; each one hits a cell that has a checkpoint."""

    def __init__(self, seed: int, results: Path) -> None:
        self.chance = random.Random(seed)
        self.results = results
        self.to_come = ["kill"] * 6 + ["scancel"] * 3 + ["requeue"] * 3 + ["preempt"] * 2
        self.chance.shuffle(self.to_come)

    def strike(self) -> None:
        """The next one, if there is something to hit."""
        folders = {path.parent.parent for path in self.results.glob("running/*/checkpoints/step-*.pt")}
        alive = [
            holder for folder in sorted(folders) if (holder := read_holder(folder)) is not None and holder.is_alive
        ]
        running = jobs("RUNNING")
        if not (self.to_come and alive and running):
            return
        time.sleep(self.chance.uniform(0, 0.3))
        if self.does(self.to_come[0], self.chance.choice(alive).pid, self.chance.choice(running)):
            self.to_come.pop(0)

    def does(self, what: str, worker: int, job: str) -> bool:
        """Whether it hit: a worker or a job may have ended a moment before."""
        if what == "kill":
            return kill(worker)
        if what == "preempt":
            ask("sbatch", "--partition=high", "--cpus-per-task=3", "--output=/dev/null", "--wrap=sleep 2")
            return True
        words: Sequence[str] = ["scancel", job] if what == "scancel" else ["scontrol", "requeue", job]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_forty_cells_and_fourteen_disturbances(
    bench: Callable[..., Told], tiny_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    quiet, results = tmp_path / "quiet", tmp_path / "results"
    words = ("model=local", f"model.path={tiny_folders('bert')}", *QUICK, *CELLS)
    assert bench("-m", *words, f"results={quiet}").code == 0

    chaotic = (*words, "checkpoint.steps=6", f"results={results}")
    chaos, sent, deadline = Chaos(5, results), 0, time.monotonic() + MOST
    written = Written(results)
    while True:
        told = command("sweep", *chaotic, *JOBS, "cluster=slurm", "name=chaos")
        assert told.returncode == 0, told.stderr
        sent += "sent" in told.stdout
        cells = plan_cells(chaotic, results / "sweeps" / "chaos")
        while True:
            chaos.strike()
            counts = count(states(cells, results, squeue))
            written.look()
            if not counts["running"] and not counts["queued"]:
                break
            assert time.monotonic() < deadline, command("status", *chaotic, "name=chaos").stdout
            time.sleep(0.3)
        if counts["done"] == 40:
            break
    until(lambda: not ask("squeue", "--noheader"), "an empty queue")  # a job may still look for what is left to do

    assert not chaos.to_come and sent >= 2
    records = each_done_once(written, quiet, 40)
    assert sum(record["run"]["continued_from"] is not None for record in records) >= 3
    assert command("sweep", *chaotic, "name=chaos", "cluster=slurm").stdout.strip().endswith("0 to send")
