"""Several processes train one cell: the numbers of one, and bad ends, also through the real `accelerate launch`.

Where the launcher itself is not what is tested, processes are forked with the environment that it gives.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from lora2_bench.errors import CellFailed
from lora2_bench.training.ranks import SINGLE_PROCESS
from tests import forked
from tests.conftest import Told
from tests.training import faulty_ranks
from tests.training.test_resume import QUICK, Bench, Folders, newest, science, wait_for_checkpoint

pytestmark = pytest.mark.slow  # many processes, or every method trained

# 57 rows: the last batch of an epoch has a single row, and the second process has none of it.
SMALL = (*(part for part in QUICK if not part.startswith("data.max_train")), "data.max_train=57")

FAULTY = """
from tests.training.faulty_ranks import out_of_memory

out_of_memory()
"""


def begun(*arguments: str, script: Path | None = None) -> subprocess.Popen[str]:
    """The user's command in two processes, started; device=cpu keeps them off any GPU."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--multi_gpu"]
    what = ["-m", "lora2_bench"] if script is None else [str(script)]
    return subprocess.Popen(
        [*launch, "--main_process_port", "0", *what, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def ended(launcher: subprocess.Popen[str]) -> Told:
    """What a started command leaves."""
    out, err = launcher.communicate(timeout=300)
    return Told(launcher.returncode, out, err)


def two(folder: Path, *arguments: str, action: forked.Action = forked.bench) -> Told:
    """The user's command in two processes, to its end; the code is the main one's, with which the other must agree."""
    codes, out, err = forked.run_ranks(folder, *arguments, action=action)
    assert codes == [codes[0]] * 2, err
    return Told(codes[0], out, err)


def run_of(results: Path) -> dict[str, Any]:
    """What the only record says of its run."""
    (path,) = results.glob("cells/*/record.json")
    run: dict[str, Any] = json.loads(path.read_text())["run"]
    return run


def logits_of(results: Path) -> dict[str, list[list[float]]]:
    """The dev logits at the best and the last step."""
    (path,) = results.glob("cells/*/predictions.json")
    dev = json.loads(path.read_text())["dev"]
    return {name: dev[name] for name in ("best", "last")}


def kept_tensors(results: Path) -> set[str]:
    """Names of what the only cell keeps of its method."""
    (path,) = results.glob("cells/*/trained.safetensors")
    return set(load_file(path))


@pytest.mark.parametrize(("method", "parts"), [("lora2", 1), ("adalora", 2), ("full", 1)])
def test_two_processes_give_what_one_gives_with_twice_the_parts(
    method: str, parts: int, bench: Bench, tiny_folders: Folders, tmp_path: Path
) -> None:
    folder = tiny_folders("bert")
    lr = "train.lr=2e-2" if method != "full" else "train.lr=1e-3"
    command = ("model=local", f"model.path={folder}", f"method={method}", *SMALL, lr)
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert bench(*command, f"train.accumulate={2 * parts}", f"results={alone}").code == 0
    told = two(tmp_path, *command, f"train.accumulate={parts}", f"results={both}")
    assert told.code == 0, told.err
    assert told.out.count("record.json") == 1 and "warning: " not in told.err
    assert run_of(both)["processes"] == 2 and run_of(alone)["processes"] == 1
    one, other = science(alone)["result"], science(both)["result"]
    assert other.get("ranks") == one.get("ranks")
    for mine, theirs in zip(one["evaluations"], other["evaluations"], strict=True):
        assert mine["step"] == theirs["step"] and mine["score"] == pytest.approx(theirs["score"])
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-4)
    if method != "full":
        assert kept_tensors(both) == kept_tensors(alone)
    for when, rows in logits_of(alone).items():
        for row, twin in zip(rows, logits_of(both)[when], strict=True):
            assert row == pytest.approx(twin, abs=1e-4)


def test_two_processes_end_alike_and_continue_alike(tiny_folders: Folders, tmp_path: Path) -> None:
    """One of two runs out of memory; with dropout, the run that continues ends with the numbers of a quiet one."""
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    command = ("model=local", f"model.path={tiny_folders('bert')}", *SMALL, "checkpoint.steps=3")
    quiet, results = tmp_path / "quiet", tmp_path / "results"
    assert two(tmp_path, *command, f"results={quiet}").code == 0

    told = ended(begun(*command, f"results={results}", script=script))
    assert told.code == 1
    assert told.err.count("error: ") == 1 and told.err.count("error: step 8: out of memory with ") == 1
    assert re.search(r"rank +: 0 ", told.err)  # the launcher, too, reports the process that printed the error
    (path,) = results.glob("cells/*/record.json")
    assert json.loads(path.read_text())["error"]["step"] == 8
    assert not list(results.glob("running/*/owner.json"))

    assert two(tmp_path, *command, f"results={results}").code == 0
    assert run_of(results)["continued_from"] == 6
    assert science(results) == science(quiet)
    assert list((results / "running").iterdir()) == []

    again = two(tmp_path, *command, f"results={results}")  # finished: told once, trained by none
    assert again.code == 0 and again.out.count("record.json") == 1 and "step/s" not in again.err


def test_sigterm_to_all_or_to_one_stops_all_at_one_step(tiny_folders: Folders, tmp_path: Path) -> None:
    """First the launcher is told, which tells both; then the second process alone. Each time the next run goes on."""
    changed = ("train.epochs=25", "train.eval_steps=100")
    kept = (word for word in SMALL if word.partition("=")[0] not in ("train.epochs", "train.eval_steps"))
    long = (*kept, *changed, "checkpoint.steps=10")
    command = ("model=local", f"model.path={tiny_folders('bert')}", *long)
    quiet, results = tmp_path / "quiet", tmp_path / "results"
    assert two(tmp_path, *command, f"results={quiet}").code == 0

    kept = 0
    for told_one in ("launcher", "second"):
        launcher = begun(*command, f"results={results}")
        wait_for_checkpoint(results, launcher, after=kept)
        ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(launcher.pid if told_one == "launcher" else int(ranks[1]), signal.SIGTERM)
        told = ended(launcher)
        assert told.code != 0 and not any(Path(f"/proc/{rank}").exists() for rank in ranks)
        (step,) = re.findall(r"stopped after step (\d+), which is kept: run the same command to continue", told.err)
        (running,) = (results / "running").iterdir()
        assert newest(running) == f"step-{int(step):09d}.pt" and int(step) > kept
        assert not (running / "owner.json").exists()
        kept = int(step)

    assert two(tmp_path, *command, f"results={results}").code == 0
    assert run_of(results)["continued_from"] == kept
    assert science(results) == science(quiet)


def test_a_loss_that_is_no_number_in_one_and_bad_input_end_all(tiny_folders: Folders, tmp_path: Path) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", *SMALL, f"results={tmp_path}")
    told = two(tmp_path, *command, action=faulty_ranks.loss_is_nan)
    assert told.code == 1 and told.err.count("error: step 8: the training loss is nan") == 1
    told = two(tmp_path, *command, "init_from=0123456789abcdef")
    assert told.code == 2 and told.err.count("error: init_from=0123456789abcdef is no finished cell") == 1
    (tmp_path / "file").write_text("")
    told = two(tmp_path, *command[:-1], f"results={tmp_path / 'file'}")
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert "file is no folder but a file: give a folder" in told.err
    told = ended(begun(*command, "train.lr=-1"))  # found before the processes know of each other
    assert told.code != 0 and told.err.count("error: ") == 1 and "error: train.lr=-1" in told.err
    assert told.err.index("error: train.lr=-1") < told.err.index("Traceback")  # the launcher's own page


def test_a_checkpoint_of_two_processes_is_continued_by_one(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    command = ("model=local", f"model.path={tiny_folders('bert')}", *SMALL, "checkpoint.steps=3")
    results = tmp_path / "results"
    assert two(tmp_path, *command, f"results={results}", action=faulty_ranks.out_of_memory).code == 1
    told = bench(*command, f"results={results}")
    assert told.code == 0, told.err
    assert "warning: 2 processes trained 6 steps and 1 go on: dropout differs" in told.err
    assert run_of(results)["continued_from"] == 6


def test_alone_nothing_is_exchanged() -> None:
    assert (
        SINGLE_PROCESS.is_main
        and SINGLE_PROCESS.on_main(lambda: 3) == 3
        and SINGLE_PROCESS.any(True)
        and not SINGLE_PROCESS.any(False)
    )
    assert SINGLE_PROCESS.all_gather("x") == ["x"]
    with pytest.raises(CellFailed, match="no luck"), SINGLE_PROCESS.raise_on_all():
        raise CellFailed(1, "no luck")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_whose_others_do_not_come_ends_with_one_line(rank: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    alone["LORA2_BENCH_JOIN_SECONDS"] = "2"
    process = forked.Forked(tmp_path, rank, forked.bench, "device=cpu", "results=r", **alone)
    out, err = process.communicate(60)
    assert (process.poll(), out, err.count("\n")) == (2, "", 1), err
    place = f"at 127.0.0.1:{port} within 2 s ("
    assert err.startswith(f"error: WORLD_SIZE=2: process {rank} did not find the others {place}")
