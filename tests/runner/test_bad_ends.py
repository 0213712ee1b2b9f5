"""Bad ends: each leaves a clear line, no half record, and all finished work."""

from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora2_bench.errors import Interrupted, UserError
from lora2_bench.experiment.plan import CheckpointSchedule
from lora2_bench.files.writing import write_json
from lora2_bench.records.store import Store, read_record
from lora2_bench.training import memory, step
from lora2_bench.training.checkpoints import Checkpoints
from tests.made_records import make_cell, make_failed, make_record
from tests.training.test_resume import QUICK, Bench, Folders, killed_at, science

pytestmark = pytest.mark.slow  # trains or simulates much

FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


def out_of_host_memory(*_: Any, **__: Any) -> Any:
    return torch.zeros(10**14)  # the real allocator's own error


def out_of_gpu_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ...")


def out_of_cublas_memory(*_: Any, **__: Any) -> Any:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def full_disk(*_: Any, **__: Any) -> Any:
    raise FULL_DISK


@pytest.fixture
def command(tiny_folders: Folders, tmp_path: Path) -> tuple[str, ...]:
    """A small cell below `tmp_path`, kept every second step."""
    where = ("model=local", f"model.path={tiny_folders('bert')}", f"results={tmp_path / 'results'}")
    return (*where, "method=lora2", *QUICK, "checkpoint.steps=2")


@pytest.fixture
def quiet(command: tuple[str, ...], bench: Bench, tmp_path: Path) -> dict[str, Any]:
    """What the cell gives where nothing happens."""
    told = bench(*command, f"results={tmp_path / 'quiet'}")
    assert told.code == 0, told.err
    return science(tmp_path / "quiet")


def error_line(err: str) -> str:
    """The one line that a run ended with."""
    line = err.strip().splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in err
    return line


@pytest.mark.parametrize("out_of_memory", [out_of_host_memory, out_of_gpu_memory, out_of_cublas_memory])
def test_a_step_without_memory_says_what_to_set_and_loses_nothing(
    out_of_memory: Callable[..., Any],
    command: tuple[str, ...],
    quiet: dict[str, Any],
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backward, made = step.backward, 0

    def greedy(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        return out_of_memory() if made == 8 else backward(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(step, "backward", greedy)
        told = bench(*command)
    assert told.code == 1
    line = error_line(told.err)
    assert "step 8: out of memory with 8 rows of " in line and " tokens: set train.accumulate=2 (the batch" in line
    assert "or lower train.max_length=48" in line
    (path,) = (tmp_path / "results").glob("cells/*/record.json")
    assert json.loads(path.read_text())["status"] == "failed"
    again = bench(*command)  # on a larger device, say
    assert again.code == 0, again.err
    assert science(tmp_path / "results") == quiet
    assert json.loads(path.read_text())["run"]["continued_from"] == 6
    assert list((tmp_path / "results" / "running").iterdir()) == []


def test_the_advice_keeps_parts_that_divide_the_batch() -> None:
    settings = make_cell(batch_size=12, accumulate=2).train
    assert memory.how_to_save_memory(settings).startswith(
        "set train.accumulate=4 (the batch stays the same), or lower "
    )
    settings = dataclasses.replace(settings, accumulate=12)
    assert memory.how_to_save_memory(settings) == "lower train.max_length=128"


def test_scoring_without_memory_says_what_to_set_and_goes_on(
    command: tuple[str, ...], quiet: dict[str, Any], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertForSequenceClassification

    forward = BertForSequenceClassification.forward

    def greedy(self: Any, *arguments: Any, **options: Any) -> Any:
        small = self.training or len(options["input_ids"]) <= 10
        return forward(self, *arguments, **options) if small else out_of_host_memory()

    monkeypatch.setattr(BertForSequenceClassification, "forward", greedy)
    told = bench(*command, "train.eval_steps=6")
    assert told.code == 1
    line = error_line(told.err)
    assert "step 6: out of memory with 20 rows of " in line and " while scoring dev: set eval_batch_size=10" in line
    again = bench(*command, "train.eval_steps=6", "eval_batch_size=10")
    assert again.code == 0, again.err
    assert science(tmp_path / "results")["result"]["last"]["score"] == quiet["result"]["last"]["score"]


def test_other_errors_are_no_lack_of_memory(
    command: tuple[str, ...], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(step, "backward", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        bench(*command)


@pytest.mark.parametrize("error", [FULL_DISK, RuntimeError("[enforce fail at inline_container.cc:672] . \nframe 0")])
def test_a_checkpoint_that_cannot_be_written_stops_nothing(
    error: Exception,
    command: tuple[str, ...],
    quiet: dict[str, Any],
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def save(*_: Any) -> None:
        raise error

    monkeypatch.setattr("lora2_bench.training.checkpoints.torch.save", save)
    told = bench(*command)
    assert told.code == 0, told.err
    (first, *_) = [line for line in told.err.splitlines() if "step-000000002.pt cannot be written" in line]
    assert "warning: " in first and "none is kept so far, and training goes on" in first
    assert science(tmp_path / "results") == quiet


def test_a_stop_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointSchedule(1, None), {}, {"sha": None, "dirty": None})
    checkpoints.save(3, {})
    monkeypatch.setattr("lora2_bench.training.checkpoints.torch.save", full_disk)
    checkpoints.save(4, {})
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-000000003.pt"]
    told = str(Interrupted(4, checkpoints.newest_step))
    assert told == "stopped after step 4, step 3 is kept: run the same command to continue"
    assert str(Interrupted(4, 4)) == "stopped after step 4, which is kept: run the same command to continue"
    assert str(Interrupted(4, 0)) == "stopped after step 4, no checkpoint is kept: the same command starts anew"


def test_a_record_that_cannot_be_written_is_written_later_without_training(
    command: tuple[str, ...], quiet: dict[str, Any], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("lora2_bench.runner.train_cell.write_json", full_disk)
        told = bench(*command)
    assert told.code == 1 and told.out == ""
    line = error_line(told.err)
    assert "the record cannot be written below results=" in line and "(No space left on device)" in line
    assert "step 16 is kept: free some space and run the same command to go on from it" in line
    assert list((tmp_path / "results" / "cells").iterdir()) == []
    monkeypatch.setattr(step, "backward", lambda *_: pytest.fail("it was trained again"))
    again = bench(*command)
    assert again.code == 0, again.err
    assert science(tmp_path / "results") == quiet
    assert list((tmp_path / "results" / "running").iterdir()) == []


def test_a_failed_record_that_cannot_be_written_keeps_its_cause(
    command: tuple[str, ...], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "loss_of", lambda logits, labels: logits.sum() * float("inf"))
    monkeypatch.setattr("lora2_bench.records.store.write_json", full_disk)
    line = error_line(bench(*command).err)
    assert "step 1: the training loss is " in line and "; the record cannot be written below results=" in line


def test_weights_that_cannot_be_written_are_an_os_error_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora2_bench.runner.export import save_tensors

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_results_that_cannot_be_written_are_refused_before_training(
    code: int, command: tuple[str, ...], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    monkeypatch.setattr("lora2_bench.runner.train_cell.run_cell", lambda *_: pytest.fail("it was trained"))
    told = bench(*command)
    assert told.code == 2 and told.err.count("\n") == 1
    assert f"cannot be written ({os.strerror(code)}): give another results=DIR" in error_line(told.err)


RECORD = make_record(make_cell(), best=0.8)


def die(folder: Path) -> None:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def in_another_process(target: Callable[..., None], *arguments: Any) -> None:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join()


def test_what_a_killed_writer_left_is_cleared_by_the_next_owner(tmp_path: Path) -> None:
    store = Store(tmp_path)
    in_another_process(lambda: store.write(RECORD, die))
    (left,) = store.cells.iterdir()
    assert left.name.startswith(f".{RECORD.id}.")
    other = store.cells / ".0123456789abcdef.abc"
    other.mkdir()
    store.tidy(RECORD.id)
    assert list(store.cells.iterdir()) == [other]


def test_what_a_live_writer_writes_is_left_to_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(RECORD, lambda _: in_another_process(store.tidy, RECORD.id))
    assert store.read(RECORD.id) == RECORD


def test_a_record_that_a_killed_writer_had_moved_aside_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.write(RECORD)
    rename = Path.rename

    def deadly(self: Path, target: Path) -> Path:
        if target == store.folder(RECORD.id):
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", deadly)
        in_another_process(store.write, make_record(make_cell(), best=0.1))
    assert store.read(RECORD.id) is None and len(list(store.cells.iterdir())) == 2
    store.tidy(RECORD.id)
    assert store.read(RECORD.id) == RECORD
    assert [path.name for path in store.cells.iterdir()] == [RECORD.id]


def test_a_finished_record_that_appears_meanwhile_stays_but_for_a_rerun(tmp_path: Path) -> None:
    store, mine = Store(tmp_path), make_record(make_cell(), best=0.1)

    def another(_: Path) -> None:
        store.write(RECORD)

    store.write(mine, another, over_finished=False)
    assert store.read(RECORD.id) == RECORD
    store.write(mine, another)
    assert store.read(RECORD.id) == mine
    store.write(make_failed(make_cell()))
    store.write(RECORD, over_finished=False)
    assert store.read(RECORD.id) == RECORD
    assert [path.name for path in store.cells.iterdir()] == [RECORD.id]


@pytest.mark.parametrize(("over_finished", "stays"), [(False, 0.8), (True, 0.1)])
def test_two_writers_at_the_same_moment_leave_one_whole_record(
    over_finished: bool, stays: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mine = Store(tmp_path), make_record(make_cell(), best=0.1)
    rename, done = Path.rename, False

    def crossed(self: Path, target: Path) -> Path:
        nonlocal done
        if target == store.folder(mine.id) and not done:
            done = True
            store.write(RECORD)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crossed)
    store.write(mine, over_finished=over_finished)
    assert read_record(store.path(mine.id)).result["best"]["score"] == stays
    assert [path.name for path in store.cells.iterdir()] == [mine.id]


def test_a_record_of_another_version_is_named_with_its_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    values = {**RECORD.to_dict(), "schema": 99}
    values["run"]["versions"] = {"lora2_bench": "7.5"}
    store.folder(RECORD.id).mkdir(parents=True)
    write_json(store.path(RECORD.id), values)
    with pytest.raises(UserError) as told:
        store.read(RECORD.id)
    assert "(schema 99 is not 1, the one this version reads, written by lora2_bench 7.5): use the version that" in str(
        told.value
    )
    with pytest.raises(UserError):  # nor is it replaced by a run that did not ask for it
        store.write(RECORD, over_finished=False)
    assert json.loads(store.path(RECORD.id).read_text())["schema"] == 99


def test_a_cell_trained_by_two_commits_names_both(
    command: tuple[str, ...], quiet: dict[str, Any], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = ({"sha": digit * 40, "dirty": digit == "a"} for digit in "ab")
    monkeypatch.setattr("lora2_bench.runner.train_cell.code_state", lambda: old)
    killed_at(5, monkeypatch, lambda: bench(*command))
    monkeypatch.setattr("lora2_bench.runner.train_cell.code_state", lambda: new)
    told = bench(*command)
    assert told.code == 0
    assert "was trained by commit aaaaaaaaaa with changes, commit bbbbbbbbbb goes on with it" in told.err
    assert science(tmp_path / "results") == quiet
    (path,) = (tmp_path / "results").glob("cells/*/record.json")
    run = json.loads(path.read_text())["run"]
    assert (run["code"], run["code_before"]) == (new, [old])
