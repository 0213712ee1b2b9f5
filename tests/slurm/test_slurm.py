"""A sweep on a real Slurm, through the user's commands: what is sent, what Slurm is told, and what ends a job."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lora2_bench.sweep.cells import plan_cells
from lora2_bench.sweep.slurm import squeue
from lora2_bench.sweep.states import State, states
from tests.slurm.conftest import ask, facts, jobs, multirun, status, until
from tests.sweep.test_chaos import QUICK, command

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("empty")]
Folders = Callable[[str], Path]
LONG = ("train.epochs=20000", "train.eval_steps=20000", "checkpoint.steps=20", "method=lora", "task=rte")


@pytest.fixture
def words(tiny_folders: Folders, tmp_path: Path) -> tuple[str, ...]:
    """The overrides of quick cells with results of their own."""
    return ("model=local", f"model.path={tiny_folders('bert')}", *QUICK, f"results={tmp_path / 'results'}")


def send(*words: str) -> list[str]:
    """The lines that the user's `sweep cluster=slurm` prints."""
    told = command("sweep", *words, "cluster=slurm")
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()


def test_each_cell_is_sent_once_and_slurm_gets_what_the_user_gives(words: tuple[str, ...], tmp_path: Path) -> None:
    words = (*words, "suite=smoke")
    held = ("cells_per_job=2", "parallel=2", "cpus=2", "slurm.hold=", "slurm.comment=hello", "slurm.gres=gpu:1")
    told = send(*words, *held, "partition=low", "account=lab", "time=7", "memory=300M")
    assert told[0] == "smoke: 4 cells: 4 missing" and told[1].startswith("sent 4 cells: 2 jobs, ")
    first, second = jobs()
    job = facts(first)
    wanted = {
        "Partition": "low",
        "Account": "lab",
        "TimeLimit": "00:07:00",
        "MinMemoryNode": "300M",
        "CPUs/Task": "2",
        "Comment": "hello",
        "TresPerNode": "gres:gpu:1",
        "Requeue": "1",
        "JobState": "PENDING",
        "Reason": "JobHeldUser",
    }
    assert {name: job.get(name) for name in wanted} == wanted
    assert send(*words)[:2] == ["smoke: 4 cells: 4 queued", "0 to send"]
    found = status(*words)
    assert {cell["state"] for cell in found["cells"]} == {"queued"}
    assert {cell["reason"] for cell in found["cells"]} == {"PENDING (JobHeldUser)"}

    ask("scontrol", "release", first, second)
    results, cells = tmp_path / "results", plan_cells(words, tmp_path / "results" / "sweeps" / "smoke")
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.update(state.state for state in states(cells, results, squeue))
        return {"running", "done"} <= seen

    until(all_seen, "a cell that runs and one that is done")
    assert send(*words)[-1] == "0 to send" and jobs("RUNNING")
    waited = command("sweep", *words, "cluster=slurm", "--wait")
    assert waited.returncode == 0 and "4/4" in waited.stderr, waited.stderr
    assert status(*words)["counts"]["done"] == 4
    until(lambda: not jobs(), "the jobs' end")
    assert {line.split("|")[1] for line in ended(first, second)} == {"COMPLETED"}
    assert send(*words)[:2] == ["smoke: 4 cells: 4 done", "0 to send"]


def ended(*names: str) -> list[str]:
    """`id|state` of jobs, by Slurm's accounting, with every time that one was put back."""
    accounts = ask(
        "sacct", "--noheader", "--parsable2", "--duplicates", "-X", "-o", "JobID,State", "-j", ",".join(names)
    )
    return accounts.splitlines()


def test_arrays_fit_the_cluster_and_cancelled_jobs_are_sent_again(words: tuple[str, ...]) -> None:
    words = (*words, "suite=smoke", "seed=0,1,2")
    assert re.search(r"MaxArraySize += 5\n", ask("scontrol", "show", "config"))
    told = send(*words, "slurm.hold=", "array_max=100", "throttle=6")
    assert [line.split(":")[1].split(",")[0] for line in told[1:-1]] == [" 5 jobs", " 5 jobs", " 2 jobs"]
    arrays = [line.split(", ")[1].split("_")[0] for line in told[1:-1]]
    assert Counter(job.split("_")[0] for job in jobs()) == dict(zip(arrays, (5, 5, 2), strict=True))
    assert {facts(job)["ArrayTaskThrottle"] for job in jobs()} == {"2"}
    cancelled = jobs()[:3]
    ask("scancel", *cancelled)
    until(lambda: len(jobs()) == 9, "the end of the cancelled jobs")
    found = status(*words)
    assert found["counts"]["interrupted"] == 3 and found["counts"]["queued"] == 9
    lost = next(cell for cell in found["cells"] if cell["state"] == "interrupted")
    assert lost["reason"] == "its Slurm job ended before its turn" and Path(lost["log"]).is_dir()
    again = send(*words, "slurm.hold=", "array_max=2")
    assert [line.split(":")[0] for line in again[1:-1]] == ["sent 2 cells", "sent 1 cells"]
    assert status(*words)["counts"]["queued"] == 12


def test_waiting_ends_with_1_where_a_cell_fails_and_only_that_is_sent_again(words: tuple[str, ...]) -> None:
    words = (*words, "method=lora", "task=rte", "train.warmup=0.06,1000", "name=fails")
    waited = command("sweep", *words, "cluster=slurm", "cells_per_job=2", "--wait")
    assert waited.returncode == 1 and "sent 2 cells: 1 jobs" in waited.stdout
    assert re.search(r"failed: .*: train\.warmup=1000 steps must be under .*/logs/\w+\.log\n", waited.stderr)
    assert "error: 1 of 2 cells are not done" in waited.stderr
    until(lambda: not jobs(), "the job's end")
    told = send(*words, "slurm.hold=")
    assert told[0] == "fails: 2 cells: 1 done, 1 failed" and told[1].startswith("sent 1 cells: 1 jobs, ")


def test_signals_of_slurm_keep_a_cell_and_it_continues(words: tuple[str, ...], tmp_path: Path) -> None:
    """A time limit, a preemption and scancel, one after another, of a cell that is much longer than all of them."""
    words = (*words, *LONG)
    results = tmp_path / "results"
    (cell,) = plan_cells(words, results / "sweeps" / "cells")

    def state() -> State:
        return states([cell], results, squeue)[0]

    def kept() -> int:
        """The newest checkpoint's step."""
        steps = results.glob(f"running/{cell.id}/checkpoints/step-*.pt")
        return max((int(path.stem.removeprefix("step-")) for path in steps), default=0)

    def goes_on(job: str, after: int) -> None:
        """It trains beyond a step; its log tells where it began."""
        until(lambda: jobs("RUNNING") == [job] and state().state == "running" and kept() > after, f"step {after}", 180)

    def is_back(job: str, restarts: int) -> int:
        """The job is queued again, and the cell let go of and kept; returns its step."""
        until(lambda: facts(job)["Restarts"] == str(restarts), f"restart {restarts} of {job}", 180)
        until(lambda: jobs("PENDING") == [job], f"{job} in the queue")
        found = state()
        assert found.state == "queued" and str(found.reason).startswith("PENDING")
        assert send(*words)[-1] == "0 to send"
        assert not list(results.glob("running/*/owner.json"))
        return kept()

    send(*words, "time=3")
    (job,) = jobs()
    goes_on(job, 0)
    before = kept()
    step = is_back(job, 1)  # SIGUSR2, a minute to a minute and a half after its start
    assert step >= before > 0
    goes_on(job, step)

    other = ask("sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    before, step = step, is_back(job, 2)
    assert step >= before
    assert [line.split("|")[1] for line in ended(job)][:2] == ["REQUEUED", "PREEMPTED"]
    until(lambda: not ask("squeue", "--noheader", "--partition=high"), f"the end of {other}")
    goes_on(job, step)

    ask("scancel", job)
    until(lambda: not jobs(), f"the end of {job}")
    found, step = state(), kept()
    assert found.state == "interrupted" and found.reason == "its process is gone"
    assert [line.split("|")[1] for line in ended(job)][-1].startswith("CANCELLED")
    assert send(*words)[1].startswith("sent 1 cells: 1 jobs, ")
    goes_on(*jobs(), step)
    log = (results / "sweeps" / "cells" / "logs" / f"{cell.id}.log").read_text()
    assert log.count("process ") == 4 and "Traceback" not in log


def test_hydras_own_launcher(words: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=low", "hydra.launcher.timeout_min=5")
    told = multirun(*words, *launcher, "method=lora", "task=rte", "train.warmup=0.06,1000")
    assert told.returncode == 1, told.stderr
    assert re.search(r"train\.warmup=1000: train\.warmup=1000 steps must be under the run's", told.stderr)
    (record,) = (tmp_path / "results").glob("cells/*/record.json")
    assert json.loads(record.read_text())["status"] == "done"
