"""`make publish`: finished records to W&B later, each once, with a stand-in for wandb, and once with the real one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.records.store import Store
from lora2_bench.tracking import publish as publishing
from lora2_bench.tracking.publish import publish
from tests.made_records import make_cell, make_failed, make_record


class Runs(types.ModuleType):
    """A stand-in for wandb that keeps what it is told; its `broken`-th run fails at the end."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.broken: int | None = None

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **settings: Any) -> Any:
        run: dict[str, Any] = {**settings, "history": {}, "summary": {}, "exit_code": None}
        self.runs.append(run)
        number = len(self.runs)

        def finish(exit_code: int) -> None:
            if number == self.broken:
                raise ConnectionError("no\nnetwork")
            run["exit_code"] = exit_code

        return types.SimpleNamespace(
            summary=run["summary"], log=lambda values, step: run["history"].update({step: values}), finish=finish
        )


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Runs:
    fake = Runs()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return fake


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three finished cells, a failed one, and one that cannot be read."""
    store = Store(tmp_path / "results")
    for seed in range(3):
        record = make_record(make_cell(seed=seed), best=0.5 + seed / 10, evaluations=EVALUATIONS)
        store.write(record)
    store.write(make_failed(make_cell(seed=3)))
    (store.cells / "broken").mkdir()
    (store.cells / "broken" / "record.json").write_text("{")
    return store.results


EVALUATIONS = [
    {"step": step, "epoch": step / 63, "score": 0.5, "metrics": {"dev": {"accuracy": 0.5}}, "train_loss": 0.7}
    for step in (63, 126)
]


def test_finished_records_are_published_once(wandb: Runs, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(results, "glue") == (3, 0)
    assert "broken/record.json is left out: not JSON" in capsys.readouterr().err
    run = min(wandb.runs, key=lambda run: run["config"]["seed"])
    assert (run["project"], run["mode"], run["exit_code"]) == ("glue", "offline", 0)
    assert (run["id"], run["group"], run["name"]) == (make_cell().id, "rte lora2 k=1", "rte lora2 k=1 seed 0")
    assert run["tags"] == ["rte", "lora2", "minilm", "mini", "paper"]
    assert run["history"][126] == {"step": 126, "epoch": 2.0, "score": 0.5, "train_loss": 0.7, "dev/accuracy": 0.5}
    assert run["summary"]["best"]["score"] == 0.5 and run["summary"]["status"] == "done"
    assert publish(results, "glue") == (0, 3)
    assert len(wandb.runs) == 3
    assert publish(results, "another", group="mine") == (3, 0)
    assert publish(results, "glue") == (0, 3)
    assert {run["group"] for run in wandb.runs[3:]} == {"mine"}


def test_a_replaced_record_is_published_again(wandb: Runs, results: Path) -> None:
    publish(results, "glue")
    Store(results).write(make_record(make_cell(), best=0.9, evaluations=EVALUATIONS))
    assert publish(results, "glue") == (1, 2)
    assert wandb.runs[-1]["id"] == make_cell().id  # the same run at W&B


def test_publishing_that_breaks_goes_on_where_it_was(
    wandb: Runs, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["publish", "--results", str(results)])
    wandb.broken = 2
    with pytest.raises(SystemExit) as stop:
        publishing.main()
    assert stop.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == (
        "error: publishing stopped (ConnectionError: no network): the same command goes on with what is left"
    )
    publishing.main()
    assert capsys.readouterr().out == "lora2-bench: 2 records published, 1 were there already\n"
    done = [run["id"] for run in wandb.runs if run["exit_code"] == 0]
    assert len(done) == len(set(done)) == 3


def test_results_that_are_none_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["publish", "--results", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stop:
        publishing.main()
    assert stop.value.code == 2 and "is no folder: run a cell" in capsys.readouterr().err


def test_the_real_wandb_takes_it_offline_and_learns_nothing_of_the_machine(results: Path) -> None:
    secret = "c" * 40
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_API_KEY": secret, "WANDB_ERROR_REPORTING": "false"}
    command = [sys.executable, "-m", "lora2_bench.publish", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "lora2-bench: 3 records published, 0 were there already"
    files = list(results.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 3
    for told in (str(results), str(Path.home()) + "/", secret, f'"{socket.gethostname()}"', sys.executable):
        for file in files:
            assert told.encode() not in file.read_bytes(), told
