"""A cell that was killed or stopped goes on where it was, and ends with the numbers of one that never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora2_bench.errors import CellFailed
from lora2_bench.experiment.plan import CheckpointSchedule
from lora2_bench.records.lock import process_start
from lora2_bench.training.checkpoints import Checkpoints
from tests import forked
from tests.conftest import Told
from tests.methods.helpers import fits, fits_tiny

Bench = Callable[..., Told]
Folders = Callable[[str], Path]
QUICK = (
    "task=rte",
    "data.max_train=64",
    "data.max_eval=20",
    "train.epochs=2",
    "train.batch_size=8",
    "train.eval_steps=3",
    "train.max_length=48",
    "device=cpu",
    "threads=1",
)


class Killed(BaseException):
    """Stands for kill -9: nothing of the loop may handle it."""


def science(results: Path) -> dict[str, Any]:
    """The only record below `results`, without times and places, with its predictions."""
    (path,) = results.glob("cells/*/record.json")
    record = json.loads(path.read_text())
    del record["run"], record["sha256"]  # the digest is of the times too
    return {**record, "predictions": (path.parent / "predictions.json").read_text()}


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Told]) -> None:
    """Run until the optimiser has made `step` steps, and die there."""
    from lora2_bench.training import step as training_step

    backward, made = training_step.backward, 0

    def dying(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made > step:
            raise Killed
        return backward(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training_step, "backward", dying)
        with pytest.raises(Killed):
            run()


# One of each kind of state: none of its own, gates, a budget, drawn ranks, PEFT's layers, a prompt's network.
# That every method goes on from what a checkpoint's file holds of it, tests/methods/test_contract.py says.
@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "sora", "lora2", "dylora", "dora", "prefix"])
def test_a_killed_cell_ends_as_if_it_had_not_been(
    method: str, bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folders("roberta" if method == "sora" or not fits(method, "deberta-v2") else "deberta-v2")
    command = ("model=local", f"model.path={folder}", f"method={method}", *QUICK, *fits_tiny(method))
    assert bench(*command, f"results={tmp_path / 'quiet'}").code == 0
    again = (*command, f"results={tmp_path / 'killed'}", "checkpoint.steps=2")
    killed_at(5, monkeypatch, lambda: bench(*again))
    killed_at(6, monkeypatch, lambda: bench(*again))  # from step 4 on: dies after step 10, in the second epoch
    (running,) = (tmp_path / "killed" / "running").iterdir()
    assert sorted(path.name for path in (running / "checkpoints").iterdir()) == [
        "step-000000008.pt",
        "step-000000010.pt",
    ]
    told = bench(*again)
    assert told.code == 0, told.err
    assert science(tmp_path / "killed") == science(tmp_path / "quiet")
    (path,) = (tmp_path / "killed").glob("cells/*/record.json")
    assert json.loads(path.read_text())["run"]["continued_from"] == 10
    assert list((tmp_path / "killed" / "running").iterdir()) == []  # no checkpoint and no owner is left


def test_a_truncated_checkpoint_is_told_and_the_one_before_is_taken(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", *QUICK)
    assert bench(*command, f"results={tmp_path / 'quiet'}").code == 0
    again = (*command, f"results={tmp_path / 'killed'}", "checkpoint.steps=2")
    killed_at(9, monkeypatch, lambda: bench(*again))
    newest = next((tmp_path / "killed").glob("running/*/checkpoints/step-000000008.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    told = bench(*again)
    assert told.code == 0 and "warning: " in told.err and "step-000000008.pt cannot be read" in told.err
    assert science(tmp_path / "killed") == science(tmp_path / "quiet")


@pytest.mark.parametrize("part", ["trained", "optimizer"])
def test_a_flipped_bit_in_a_checkpoint_is_told_and_the_one_before_is_taken(
    part: str, bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", *QUICK)
    assert bench(*command, f"results={tmp_path / 'quiet'}").code == 0
    again = (*command, f"results={tmp_path / 'killed'}", "checkpoint.steps=2")
    killed_at(9, monkeypatch, lambda: bench(*again))
    newest = next((tmp_path / "killed").glob("running/*/checkpoints/step-000000008.pt"))
    state = torch.load(newest, weights_only=True)["state"]
    tensors = state["trained"] if part == "trained" else state["optimizer"]["state"][0]
    tensor = max(tensors.values(), key=lambda one: one.numel())
    content = bytearray(newest.read_bytes())
    content[content.index(tensor.numpy().tobytes()) + 1] ^= 1
    newest.write_bytes(content)
    told = bench(*again)
    assert told.code == 0 and "step-000000008.pt cannot be read (its content is not what was written)" in told.err
    assert science(tmp_path / "killed") == science(tmp_path / "quiet")


def test_a_checkpoint_of_another_cell_is_not_continued(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", *QUICK, f"results={tmp_path}", "checkpoint.steps=2")
    killed_at(5, monkeypatch, lambda: bench(*command))
    (running,) = (tmp_path / "running").iterdir()
    killed_at(1, monkeypatch, lambda: bench(*command, "seed=7"))
    other = next(path for path in (tmp_path / "running").iterdir() if path != running)
    shutil.copytree(running / "checkpoints", other / "checkpoints", dirs_exist_ok=True)
    told = bench(*command, "seed=7")
    assert told.code == 0 and "is of another run (cell): the cell starts anew" in told.err
    (path,) = tmp_path.glob("cells/*/record.json")
    assert json.loads(path.read_text())["run"]["continued_from"] is None


@pytest.mark.parametrize(("name", "begun", "other"), [("engine", "fast", "plain"), ("masks", "sfc64", "torch")])
def test_a_checkpoint_of_another_engine_or_of_other_masks_is_refused_and_kept(
    name: str,
    begun: str,
    other: str,
    bench: Bench,
    tiny_folders: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", *QUICK, f"results={tmp_path}", "checkpoint.steps=2")
    killed_at(5, monkeypatch, lambda: bench(*command))
    told = bench(*command, f"{name}={other}")
    assert told.code == 2
    assert (
        f"error: {name}={other}: this cell is at step 4 with {name}={begun}: give {name}={begun} to go on" in told.err
    )
    assert bench(*command).code == 0
    (path,) = tmp_path.glob("cells/*/record.json")
    run = json.loads(path.read_text())["run"]
    assert (run["continued_from"], run[name]) == (4, begun)


def test_a_checkpoint_of_other_data_is_not_continued(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", *QUICK, f"results={tmp_path}", "checkpoint.steps=2")
    killed_at(5, monkeypatch, lambda: bench(*command))
    monkeypatch.setattr("lora2_bench.runner.train_cell.__version__", "another")
    told = bench(*command)
    assert told.code == 0 and "is of another run (package): the cell starts anew" in told.err
    (path,) = tmp_path.glob("cells/*/record.json")
    assert json.loads(path.read_text())["run"]["continued_from"] is None


def test_a_failed_cell_keeps_no_checkpoint(
    bench: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise CellFailed(3, "no luck")

    monkeypatch.setattr("lora2_bench.training.state.Progress.add_evaluation", fails)
    command = ("model=local", f"model.path={tiny_folders('bert')}", *QUICK, f"results={tmp_path}", "checkpoint.steps=1")
    assert bench(*command).code == 1
    assert list((tmp_path / "running").iterdir()) == []


def wait_for_checkpoint(results: Path, process: subprocess.Popen[str] | forked.Forked, after: int = 0) -> None:
    for _ in range(600):
        if any(path.name > f"step-{after:09d}.pt" for path in results.glob("running/*/checkpoints/step-*.pt")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    pytest.fail("no checkpoint within a minute")


def newest(running: Path) -> str:
    return max(path.name for path in running.glob("checkpoints/step-*.pt"))


def test_signals_locks_and_a_real_kill(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    folder, results = tiny_folders("bert"), tmp_path / "results"
    long = ("train.epochs=500", "train.eval_steps=2000", "checkpoint.steps=5")  # so many steps that it must be stopped
    quick = (part for part in QUICK if not part.startswith("train.e"))
    command = ("model=local", f"model.path={folder}", f"results={results}", *quick, *long)
    first = forked.Forked(tmp_path, "first", forked.bench, *command)
    wait_for_checkpoint(results, first)
    (running,) = (results / "running").iterdir()
    owner = json.loads((running / "owner.json").read_text())
    assert owner["pid"] == first.pid and owner["born"] == process_start(first.pid)

    second = bench(*command)  # the same cell, while the first one trains it
    assert (second.code, second.out) == (2, "")
    assert f"is being trained by process {first.pid} on" in second.err and second.err.strip().count("\n") == 0

    os.kill(first.pid, signal.SIGKILL)
    first.process.join()
    assert (running / "owner.json").exists()  # a dead owner's file is in nobody's way:
    before = newest(running)
    third = forked.Forked(tmp_path, "third", forked.bench, *command)
    while newest(running) <= before:  # it has taken the folder over, and trains
        assert third.poll() is None, third.communicate()
        time.sleep(0.1)
    assert json.loads((running / "owner.json").read_text())["pid"] == third.pid
    os.kill(third.pid, signal.SIGTERM)
    _, err = third.communicate()
    assert third.poll() == 3, err
    assert "which is kept: run the same command to continue" in err.strip().splitlines()[-1]
    assert not (running / "owner.json").exists() and len(list((running / "checkpoints").iterdir())) == 2
    assert not (results / "cells").exists() or list((results / "cells").iterdir()) == []


def test_the_seconds_of_earlier_processes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def process() -> Checkpoints:
        return Checkpoints(tmp_path, CheckpointSchedule(minutes=None, steps=1), {}, {"sha": None, "dirty": None})

    first = process()
    now = 130.0
    first.save(3, {"x": torch.ones(1)})
    now = 200.0  # what came after the checkpoint is done again
    second = process()
    assert second.load() is not None and second.seconds_before == 30.0
    now = 205.0
    second.save(4, {"x": torch.ones(1)})
    third = process()
    assert third.load() is not None and third.seconds_before == 35.0
