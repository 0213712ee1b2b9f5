"""An account whose home cannot be written, or that has none, and a W&B that does not answer: a cell still ends."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.files.paths import cache_folder
from tests.conftest import Told
from tests.runner.test_run import QUICK, Folders, records_of, tiny

CACHES = ("HF_HOME", "XDG_CACHE_HOME", "LORA2_BENCH_CACHE", "MPLCONFIGDIR", "WANDB_API_KEY", "WANDB_CACHE_DIR")


@pytest.mark.slow
def test_a_cell_ends_where_home_cannot_be_written(tiny_folders: Folders, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in CACHES}
    environment |= {"HOME": "/proc/nope", "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "lora2_bench", *tiny(tiny_folders("bert")), *QUICK, "method=bitfit"]
    done = subprocess.run(
        [*command, f"results={tmp_path}", "tracker=wandb"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in records_of(tmp_path)] == ["done"]
    lines = [line for line in done.stderr.splitlines() if line and not re.search("step/s|s/step", line)]
    assert lines and all(re.match(r"warning: .+ cannot be written .+: the next cell tokenises again", x) for x in lines)


def test_an_account_without_a_home_caches_nothing(
    bench: Callable[..., Told], tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> Any:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "LORA2_BENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    assert cache_folder() is None
    told = bench(*tiny(tiny_folders("bert")), *QUICK, "method=bitfit", f"results={tmp_path / 'r'}")
    assert told.code == 0, told.err
    assert "warning: this account has no home: tokens are not cached\n" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_wandb_that_does_not_answer_costs_ten_seconds_at_most(results_of_one: Path) -> None:
    """Online, at a port where nobody listens: the start is given up, with a line."""
    environment = {**os.environ, "WANDB_MODE": "online", "WANDB_API_KEY": "c" * 40, "WANDB_ERROR_REPORTING": "false"}
    environment["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    command = [sys.executable, "-c", ASKED, str(results_of_one)]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1 and time.monotonic() - started < 45  # a start on a busy machine; unbounded it is 92 s
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "publishing stopped" in line and "connection refused" in line


ASKED = """
import sys
from lora2_bench.tracking import publish, wandb_runs
assert wandb_runs.START_SECONDS <= 8
wandb_runs.START_SECONDS = 2.0
sys.argv = ["publish", "--results", sys.argv[1]]
publish.main()
"""


@pytest.fixture
def results_of_one(tmp_path: Path) -> Path:
    from lora2_bench.records.store import Store
    from tests.made_records import make_cell, make_record

    Store(tmp_path / "r").write(make_record(make_cell()))
    return tmp_path / "r"
