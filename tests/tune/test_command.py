"""`python -m lora2_bench.tune` as a user gives it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from lora2_bench.config.compose import plan_of
from lora2_bench.config.grid import plan_points
from lora2_bench.experiment import suites
from lora2_bench.files.paths import CONF
from lora2_bench.records.store import Store
from lora2_bench.runner.run import run
from lora2_bench.runner.setup import check_fit
from lora2_bench.sharing.check import check_records
from lora2_bench.sweep.batches import Batch
from lora2_bench.sweep.local import Local
from lora2_bench.sweep.status import main as status
from lora2_bench.tune.command import main
from lora2_bench.tune.space import draw, read_space
from lora2_bench.tune.study import read_study
from tests.composed import weights_folder
from tests.conftest import Told

STUDIES = sorted(path.stem for path in (CONF / "study").glob("*.yaml"))


@pytest.fixture
def tune(call: Callable[..., Told]) -> Callable[..., Told]:
    """Call the command in this process."""
    return partial(call, main)


def run_here(_: Local, batch: Batch, path: Path) -> str:
    """Run a batch's cells one after another, as its process would."""
    for cell_id, overrides in batch.jobs[0].items():
        plan = plan_of(overrides)
        assert plan.cell.id == cell_id and path.is_file()
        run(plan)
    return "this process"


@pytest.mark.slow
def test_a_study_runs_to_its_findings_though_it_is_killed(
    tune: Callable[..., Told],
    call: Callable[..., Told],
    tiny_folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first process is killed with the cell at hand; the rest of the cells run in this process, which has torch."""
    short = ("study.settings.all={max_length: 48}", "study.settings.tasks={rte: {epochs: 0.1}}")
    short += ("study.tasks={rte: [lora_r1, lora2_k1]}", "study.seeds=[11]")
    words = ("study=smoke", "model=local", f"model.path={tiny_folders('bert')}", f"results={tmp_path}", *short)
    begun = tune(*words, "parallel=1")
    assert begun.code == 0, begun.err
    assert "smoke: 4 cells: 4 missing" in begun.out and "follow: python -m lora2_bench.status" in begun.out
    job = int(re.search(r"process (\d+)", begun.out)[1])  # type: ignore[index]
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("cells/*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(job, signal.SIGKILL)
    os.waitpid(job, 0)
    told = call(status, "name=smoke", f"results={tmp_path}").out
    assert re.search(r"smoke: 4 cells: [1-3] done", told), told
    text = (tmp_path / "studies" / "smoke" / "FINDINGS.md").read_text()
    assert "0 of 4 trials and 0 of 2 runs are in." in text

    monkeypatch.setattr("lora2_bench.sweep.local.Local.send", run_here)
    ended = tune(*words, "parallel=1", "--wait")
    assert ended.code == 0, ended.err
    plan = json.loads((tmp_path / "studies" / "smoke" / "plan.json").read_text())
    assert str(tmp_path) not in json.dumps(plan)  # no path of this machine
    ledger = list(csv.DictReader((tmp_path / "studies" / "smoke" / "ledger.csv").open()))
    assert len(ledger) == len(plan["trials"]) in (4, 6)  # 6: a winner lay at an edge
    assert {line["status"] for line in ledger} == {"done"}
    store = Store(tmp_path)
    for one in plan["trials"]:
        record = store.read(one["id"])
        assert record is not None
        scored = {split for evaluation in record.result["evaluations"] for split in evaluation["metrics"]}
        assert scored == {"held_out"} and set(record.result["data"]["rows"]) == {"train", "held_out"}
        assert set(json.loads((store.folder(one["id"]) / "predictions.json").read_text())) == {"held_out"}
    runs = [store.read(one["id"]) for one in plan["runs"]]
    assert len(runs) == 2 and all(run is not None and run.is_done and run.cut == [] for run in runs)
    text = (tmp_path / "studies" / "smoke" / "FINDINGS.md").read_text()
    assert "2 of 2 runs are in. Budgets are equal" in text and "LoRA² k=1 minus LoRA r=1, over rte: " in text
    figures = {path.name for path in (tmp_path / "studies" / "smoke" / "figures").iterdir()}
    assert {"expected-best-trials.svg", "expected-best-seconds.png", "score-over-lr.svg"} <= figures
    lines = (tmp_path / "studies" / "smoke" / "records.jsonl").read_text().splitlines()
    assert len(lines) == len(ledger) + 2 and max(map(len, lines)) < 6000
    assert check_records(tmp_path).problems == []
    again = tune(*words)
    assert again.code == 0 and "sent" not in again.out
    assert (tmp_path / "studies" / "smoke" / "FINDINGS.md").read_text() == text


def test_a_dry_run_tells_what_would_be_sent(tune: Callable[..., Told], tmp_path: Path) -> None:
    told = tune("study=smoke", "--dry-run", f"results={tmp_path}")
    assert told.code == 0 and told.out.endswith("8 to send\n"), told
    assert not (tmp_path / "studies").exists() and not (tmp_path / "sweeps" / "smoke").exists()


@pytest.mark.parametrize(("name", "seconds"), [("deberta_v3_base", None), ("roberta_base", 0.1)])
def test_a_study_for_a_cluster_tells_its_gpu_hours_before_it_is_run(
    name: str, seconds: float | None, tune: Callable[..., Told], tmp_path: Path
) -> None:
    rows = "study.tasks={cola: [full, lora_r1, lora2_k1, head], rte: [lora_r1, lora2_k1]}"
    backbone = ("model=local", f"model.path={weights_folder(tmp_path / 'tiny')}", "data=mini")
    given = [] if seconds is None else [f"study.seconds_per_step={seconds}"]
    told = tune(
        f"study={name}", "stage=plan", rows, "study.secondary=[]", *backbone, f"results={tmp_path / 'r'}", *given
    )
    assert told.code == 0, told.err
    found = re.search(r"66 cells \(30 trials, 36 runs\), (\d+) steps", told.out)
    assert found is not None, told.out
    if seconds is None:
        assert "hours are unknown for 6 (row, task): give study.seconds_per_step=SECONDS" in told.out
    else:
        assert f"{int(found[1]) * seconds / 3600:.1f} hours of one worker (GPU-hours" in told.out
    assert not (tmp_path / "r" / "studies").exists()


@pytest.mark.parametrize("name", STUDIES)
def test_every_studys_settings_fit_the_methods_schedules(name: str) -> None:
    """On its shortest and its longest task, for every kind of schedule that a recipe has."""
    study = read_study(name)
    rows = {"lora_r1", "adalora_r2", "lora2_k1"} & set(study.rows) or set(study.rows)
    points = [
        study.trial(row, task, {}) for row, task in study.places if row in rows and task in ("cola", "rte", "mnli")
    ]
    assert len(points) >= 3
    for plan in plan_points(points):
        check_fit(plan)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "study=nowhere",
            r"study=nowhere is not known: choose one of deberta_v3_base, minilm_glue, minilm_methods",
        ),
        ("stage=plan", r"study=null is not possible: study must be a study, as in study=smoke"),
        ("study=smoke stage=all", r"stage=all is not possible: stage must be one of plan, trials"),
        ("study=smoke seed=3", r"seed=3 is the study's to say"),
        ("study=smoke recipe.lr=1", r"recipe.lr=1 is the study's to say"),
        ("study=smoke study.trails=3", r"study\.trails is not a setting of a study: did you mean study\.trials\?"),
        ("study=smoke study.trials=0", r"study\.trials=0 is not possible: .* an integer of at least 1"),
        ("study=smoke study.seeds=[11,1000]", r"none of them the tuning seed 1000"),
        ("study=smoke study.tasks.rte=[lora_r2]", r"study\.tasks\.rte=lora_r2 is not possible"),
        ("study=smoke study.primary=[lora_r1,full]", r"two rows of lora2_k1, lora_r1"),
        ("study=smoke study.primary=[lora_r1,lora_r1]", r"different rows that share a task"),
        ("study=smoke study.settings.tasks.colaa.epochs=3", r"study\.settings\.tasks=colaa is not possible"),
        ("study=smoke study.settings.rows.lora_r9.lr=3", r"study\.settings\.rows=lora_r9 is not possible"),
        ("study=smoke study.seconds_per_step=0", r"study\.seconds_per_step=0 is not possible"),
        ("study=smoke study.settings.all={alhpa:3}", r"study\.settings"),
        ("study=smoke study.settings.all.alpah=3", r"recipe\.alpah is not in the recipe"),
        ("study=smoke cluster=nowhere", r"cluster=nowhere is not possible"),
    ],
)
def test_bad_input_is_one_line(words: str, said: str, tune: Callable[..., Told], tmp_path: Path) -> None:
    told = tune(*words.split(), f"results={tmp_path / 'r'}")
    assert told.code == 2 and told.out == ""
    assert told.err.count("\n") == 1 and re.search(said, told.err), told.err
    assert not (tmp_path / "r" / "cells").exists()


@pytest.mark.parametrize("stage", ["", "stage=tables"])
def test_results_that_cannot_be_written_are_one_line(stage: str, tune: Callable[..., Told]) -> None:
    told = tune("study=smoke", *stage.split(), "results=/proc/nope")
    wanted = "cannot be read or written (No such file or directory): give another results=DIR"
    assert (told.code, told.err) == (2, f"error: /proc/nope {wanted}\n")


@pytest.mark.parametrize("name", ["minilm_glue", "minilm_methods", "minilm_parts"])
def test_the_frozen_plan_is_what_the_docs_say(name: str) -> None:
    """A plan was written before the study's first trial: the study's file may not drift from it."""
    docs = CONF.parent / "docs"
    if name == "minilm_glue":
        text = (docs / "STUDY.md").read_text(encoding="utf-8")
    else:
        text = (docs / "STUDY_MORE.md").read_text(encoding="utf-8").split(f"## {name}\n")[1].split("\n## ")[0]
    values = yaml.safe_load((CONF / "study" / f"{name}.yaml").read_text(encoding="utf-8"))
    table = {
        cells[0].strip("`"): cells[1:]
        for line in text.splitlines()
        if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 3
    }
    assert list(table) == list(values["tasks"])
    for task, rows in values["tasks"].items():
        epochs, named = table[task]
        assert float(epochs) == values["settings"]["tasks"][task]["epochs"]
        assert re.findall(r"`(\w+)`", named) == rows
    assert re.search(rf"N = {values['trials']}\b", text)
    assert f"uning seed {values['tuning_seed']}" in text
    assert ", ".join(map(str, values["seeds"])) in text
    pairs = re.findall(r"^- `(\w+)` against `(\w+)`", text, re.MULTILINE)
    assert [list(pair) for pair in pairs] == [values["primary"], *values["secondary"]]
    assert name != "minilm_glue" or f"t most {values['settings']['all']['max_length']} tokens" in text


def test_the_spaces_are_those_that_the_trials_were_drawn_from() -> None:
    """The plan's factors of five and of four, and the draws themselves: made again they are the committed ones."""
    plan = json.loads((CONF.parent / "results" / "studies" / "minilm_glue" / "plan.json").read_text(encoding="utf-8"))
    recipes = {(one["row"], one["task"]): one["values"] for one in plan["trials"] if one["kind"] == "recipe"}
    drawn = [one for one in plan["trials"] if one["kind"] in ("draw", "extra")]
    for one in drawn:
        recipe = recipes[one["row"], one["task"]]
        space = read_space(suites.rows()[one["row"]].method)
        assert {name.name: name.range(100.0) for name in space} == {
            "lr": pytest.approx((20.0, 500.0)),
            **({"alpha": pytest.approx((25.0, 400.0))} if "alpha" in recipe else {}),
        }
        assert draw(space, recipe, plan["study"], one["row"], one["task"], one["number"]) == one["values"]
    assert len(drawn) > 100
