"""What the tables of wrong inputs share: every command's entry in this process, and the proof that no step was made."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from lora2_bench.errors import UserError
from tests.composed import plan_of
from tests.conftest import Told

ENTRIES = {
    "run": "lora2_bench.__main__",
    "sweep": "lora2_bench.sweep.command",
    "status": "lora2_bench.sweep.status",
    "tune": "lora2_bench.tune.command",
    "report": "lora2_bench.report.__main__",
    "publish": "lora2_bench.tracking.publish",
    "bench": "lora2_bench.bench.command",
}


@pytest.fixture
def door(call: Callable[..., Told], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Told]:
    """Call a command as a user would, in this process and a folder of its own, where no training step may be made."""
    from lora2_bench.files.console import console

    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str) -> Told:
        monkeypatch.setattr("lora2_bench.runner.train_cell.run_cell", lambda *_: pytest.fail("a cell was trained"))
        monkeypatch.setattr("lora2_bench.bench.measure.measure", lambda _: pytest.fail("steps were timed"))
        monkeypatch.setattr("lora2_bench.sweep.local.Local.send", lambda *_: pytest.fail("cells were sent"))
        entry = importlib.import_module(ENTRIES[command])
        return call(console()(entry.main), *arguments)

    return run


@pytest.fixture
def one_line(door: Callable[..., Told], tmp_path: Path) -> Callable[..., str]:
    """Call a command that has to end with one line on stderr, exit code 2 and no cell; returns the line."""

    def call(command: str, *arguments: str) -> str:
        told = door(command, *arguments)
        assert told.code == 2, told
        assert told.out == "", told.out
        assert told.err.startswith("error: ") and told.err.count("\n") == 1 and told.err.endswith("\n"), told.err
        assert not list(tmp_path.rglob("cells/*")) and not list(tmp_path.rglob("checkpoints"))
        return told.err.removeprefix("error: ").rstrip("\n")

    return call


PLACES = ("model.path", "data.dir", "results")


@pytest.fixture
def cell(capfd: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """`python -m lora2_bench OVERRIDES` from its plan on, as `bench` tells it: Hydra composes once for many folders."""
    from lora2_bench.runner.run import run

    def call(*overrides: str) -> Told:
        given = [override.partition("=") for override in overrides]
        changes = {name: value.strip('"') for name, _, value in given if name in PLACES}
        kept = [f"{name}=x" if name in PLACES else f"{name}={value}" for name, _, value in given]
        capfd.readouterr()
        try:
            run(plan_of(*kept, changes=changes))
        except UserError as error:
            out, err = capfd.readouterr()
            return Told(2, out, f"{err}error: {error}\n")
        return Told(0, *capfd.readouterr())

    return call
