"""A sweep of cells that take no time: their worker is a small script that obeys what a cell's overrides say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora2_bench.files.writing import write_json
from lora2_bench.sweep import workers
from lora2_bench.sweep.batches import LOCAL, Batch
from lora2_bench.sweep.cells import SweepCell
from tests.made_records import make_cell, make_record

STUB = """
import json, os, signal, sys, time
from pathlib import Path
told = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda received, frame: told.append(received))
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR2))
def run(job):
    results, ways = Path(job["overrides"][0]), job["overrides"][1:]
    ran = results / "ran" / job["id"]
    ran.parent.mkdir(exist_ok=True)
    first = not ran.exists()
    with ran.open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    state, cause = "done", None
    if "die" in ways and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if "fail" in ways:
        state, cause = "failed", "step 3: no luck"
    if "wait" in ways and first:
        while not told:
            time.sleep(0.02)
        state, cause = "interrupted", "stopped after step 5"
    if state == "done":
        folder = results / "cells" / job["id"]
        folder.mkdir(parents=True, exist_ok=True)
        record = json.loads(Path(__file__).with_name("record.json").read_text())
        (folder / "record.json").write_text(json.dumps({**record, "id": job["id"]}, indent=1))
    return {"id": job["id"], "state": state, "cause": cause}
for line in sys.stdin:
    pack = json.loads(line)
    with (Path(pack[0]["overrides"][0]) / "packs").open("a") as stream:
        stream.write(" ".join(cell["id"] for cell in pack) + "\\n")
    print(json.dumps([run(job) for job in pack]), flush=True)
    if told:
        break
"""


def write_stub(script: Path) -> None:
    """Write the small script, and beside it the record that each of its cells ends with."""
    script.write_text(STUB)
    write_json(script.with_name("record.json"), make_record(make_cell()).to_dict())


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers are the small script; returns it."""
    script = tmp_path / "stub.py"
    write_stub(script)
    monkeypatch.setattr(workers, "WORKER_ARGUMENTS", (str(script),))
    return script


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., Path]:
    """`batch(results, {"a": ["fail"]}, ...)` -> the file of a batch with one job of these cells."""

    def make(
        results: Path, cells: dict[str, list[str]], *, parallel: int = 2, cluster: str = LOCAL, pack: int = 1
    ) -> Path:
        jobs = [{cell: [str(results), *ways] for cell, ways in cells.items()}]
        sweep_dir = results / "sweeps" / "x"
        return Batch("x-1of1", cluster, time.time(), str(tmp_path), str(results), parallel, None, jobs, pack).write(
            sweep_dir
        )

    return make


def planned(*ids: str) -> list[SweepCell]:
    """Cells that were never composed."""
    return [SweepCell(id_, (f"seed={number}",)) for number, id_ in enumerate(ids)]


def runs(results: Path) -> dict[str, int]:
    """Cell's id -> how often a worker began it."""
    return {path.name: len(path.read_text().split()) for path in sorted((results / "ran").iterdir())}


def note(results: Path, cell: str) -> dict[str, object]:
    """A cell's failure note."""
    values: dict[str, object] = json.loads((results / "sweeps" / "x" / "failed" / f"{cell}.json").read_text())
    return values
