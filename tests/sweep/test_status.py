"""Where cells are: every state from what lies on disk, in words and as JSON, quickly and without torch."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from lora2_bench.config.compose import plan_of
from lora2_bench.experiment.sources import sources_digest
from lora2_bench.records.lock import locked
from lora2_bench.records.progress import Progress, read_progress
from lora2_bench.records.store import Store
from lora2_bench.sweep import status
from lora2_bench.sweep.batches import LOCAL, SLURM, Batch, lock_folder, write_failure
from lora2_bench.sweep.cells import mark_requested, plan_cells, requested_cells, sweep_dir_of
from lora2_bench.sweep.states import states
from lora2_bench.training.evaluation import Evaluation
from tests.made_records import make_failed, make_record
from tests.sweep.conftest import planned


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["status", *words])
    status.main()
    return capsys.readouterr().out


def test_every_state(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ("suite=smoke", "seed=0,1", f"results={tmp_path}")
    sweep_dir = sweep_dir_of(overrides, None)
    cells = plan_cells(overrides, sweep_dir)
    done, running, queued, _, noted, killed, gone, _ = (cell.id for cell in cells)
    store = Store(tmp_path)
    store.write(make_record(plan_of(cells[0].overrides).cell))
    store.write(make_failed(plan_of(cells[3].overrides).cell))
    write_failure(sweep_dir, noted, "kr=2 does not fit", killed=False)
    write_failure(sweep_dir, killed, "its process ended by signal 9", killed=True)
    store.running(gone).mkdir(parents=True)
    Progress(store.running(gone)).step(5, 20, [])
    batch = Batch("b-1of1", LOCAL, time.time(), "", str(tmp_path), 1, 1, [{queued: [], done: [], noted: []}])
    path = batch.write(sweep_dir)
    write_failure(sweep_dir, noted, "kr=2 does not fit", killed=False)  # after it was sent: it has been tried
    with locked(store.running(running), "x"), locked(lock_folder(path), "y"):
        progress = Progress(store.running(running))
        progress.step(10, 40, [])
        time.sleep(0.05)
        progress.step(12, 40, [Evaluation(12, 0.5, 0.75, {}), Evaluation(12, 0.5, 0.5, {})])
        shown = told(capsys, monkeypatch, *overrides)
        values = json.loads(told(capsys, monkeypatch, *overrides, "--json"))
    wanted = ["done", "running", "queued", "failed", "failed", "interrupted", "interrupted", "missing"]
    assert [cell["state"] for cell in values["cells"]] == wanted
    assert shown.startswith("smoke: 8 cells: 1 done, 1 running, 1 queued, 2 failed, 2 interrupted, 1 missing\n")
    at = values["cells"][1]
    assert (at["step"], at["total"], at["score"], at["best"], at["pid"]) == (12, 40, 0.5, 0.75, os.getpid())
    assert 0.5 < at["seconds_left"] < 20 and at["host"] == socket.gethostname()
    assert f"step 12/40, score 0.5000 (best 0.7500), 1 s left, on {socket.gethostname()} (process" in shown
    assert "| step 7: the loss is nan" in shown and "| kr=2 does not fit | " in shown
    assert "| no step yet, its process ended by signal 9 | " in shown
    assert "| step 5/20, not scored yet, its process is gone" in shown


def test_cells_by_other_code_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("suite=smoke", "task=rte", "seed=0,1", f"results={tmp_path}")
    cells = [cell.overrides for cell in plan_cells(overrides, tmp_path, keep=False)]
    here = sources_digest(plan_of(cells[0]).implementation)
    for words, sources in zip(cells, (here, "0" * 16, None, "1" * 16), strict=True):
        plan = plan_of(words)
        record = make_record(plan.cell)
        record.run["config"] = plan.config
        if sources is not None:
            record.run["sources"] = sources
        path = Store(tmp_path).write(record)
    path.write_text(path.read_text().replace('"_target_": "', '"_target_": "no.such.'))
    shown = told(capsys, monkeypatch, *overrides)
    assert shown.startswith("smoke: 4 cells: 4 done, ")
    assert "\n1 of the 4 done were made by other code: rerun=true trains a cell anew\n" in shown
    assert json.loads(told(capsys, monkeypatch, *overrides, "--json"))["other_code"] == 1


def test_slurms_words_on_what_is_queued_and_what_a_lost_job_leaves(tmp_path: Path) -> None:
    jobs: list[dict[str, list[str]]] = [{"a": [], "b": []}, {"c": []}, {"d": []}]
    Batch("b-1of1", SLURM, time.time(), "", str(tmp_path), 1, 1, jobs).write(tmp_path / "sweeps" / "x")
    found = states(
        planned("a", "b", "c", "d", "e"),
        tmp_path,
        lambda: {("b-1of1", 0): "PENDING (Priority)", ("b-1of1", 1): "RUNNING", ("other", 2): "RUNNING"},
    )
    assert [state.state for state in found] == ["queued", "queued", "queued", "interrupted", "missing"]
    assert (found[3].reason, found[3].log) == ("its Slurm job ended before its turn", str(tmp_path / "sweeps/x/slurm"))
    shown = status.page("x", found)
    assert shown[1:5] == ["", "queued, in Slurm's words:", "  2 PENDING (Priority)", "  1 RUNNING"]


def test_by_name_are_the_cells_that_were_sent(tmp_path: Path) -> None:
    sweep_dir = tmp_path / "sweeps" / "x"
    one, two = (("method=lora", f"task={task}", f"results={tmp_path}") for task in ("rte", "cola"))
    plan_cells(one, sweep_dir)
    assert requested_cells(sweep_dir) == []
    cells = plan_cells(two, sweep_dir)
    mark_requested(two, sweep_dir)
    mark_requested(two, sweep_dir)
    assert requested_cells(sweep_dir) == cells


def test_a_reader_may_look_at_any_time(tmp_path: Path) -> None:
    (tmp_path / "running" / "a").mkdir(parents=True)
    (tmp_path / "running" / "a" / "progress.json").write_text('{"step": 1')
    assert read_progress(tmp_path / "running" / "a") is None
    (state,) = states(planned("a"), tmp_path, dict)
    assert (state.state, state.step) == ("interrupted", None)
    Progress(tmp_path / "away").step(1, 2, [])  # a folder that is gone, a full disk: the run goes on


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (600, "10 min"), (11_100, "3 h 05 min"), (187_200, "2 d 4 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert status.duration(seconds) == text


def test_a_name_that_sent_nothing_is_told_and_a_study_has_its_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            told(capsys, monkeypatch, *words, f"results={tmp_path}")
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert line("name=mine").startswith(f"error: name=mine has sent no cell below {tmp_path}: give the sweep's name")
    findings = tmp_path / "studies" / "mine" / "FINDINGS.md"
    findings.parent.mkdir(parents=True)
    findings.write_text("# Findings")
    assert line("name=mine") == (f"error: name=mine has sent no cell from here: {findings} says how far the study is\n")
