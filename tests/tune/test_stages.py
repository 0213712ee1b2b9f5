"""The stages of a study, on made records: equal trials, winners, recipes that count, and what is told of them."""

from __future__ import annotations

import csv
import dataclasses
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.config.compose import plan_of
from lora2_bench.config.grid import plan_points
from lora2_bench.errors import UserError
from lora2_bench.records.record import FAILED
from lora2_bench.records.store import Store
from lora2_bench.report.__main__ import main as report
from lora2_bench.report.records import load_records
from lora2_bench.report.selection import select
from lora2_bench.sweep.options import Options
from lora2_bench.sweep.slurm import Slurm
from lora2_bench.tune.answer import shown_p, told_by_holm
from lora2_bench.tune.command import _send
from lora2_bench.tune.compared import Scores
from lora2_bench.tune.cost import cost_lines
from lora2_bench.tune.differences import differences
from lora2_bench.tune.findings import findings
from lora2_bench.tune.ledger import EXTRA, RECIPE, WIDER, Folder, budgets, trial_lines
from lora2_bench.tune.score_table import score_table
from lora2_bench.tune.space import edges, read_space
from lora2_bench.tune.study import read_study
from tests.conftest import Told
from tests.made_records import make_failed
from tests.sweep.test_sweep import FakeSlurm
from tests.tune.conftest import SMALL, Made

pytestmark = pytest.mark.slow  # trains or simulates much

MIDDLE = {("lora_r1", 0): 70.0, ("lora_r1", 1): 60.0, ("lora_r1", 2): 70.0}
EPOCHS = ("study.settings.tasks={rte: {epochs: 2}, mrpc: {epochs: 2}}",)
MIDDLE |= {("lora2_k1", 0): 75.0, ("lora2_k1", 1): 60.0, ("lora2_k1", 2): 61.0}


def test_trials_are_ordinary_cells_equally_many_for_all(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    trials = study.stages.begun.trials
    assert [(one.row, one.number) for one in trials] == [(row, n) for row in ("lora_r1", "lora2_k1") for n in range(3)]
    assert len({one.id for one in trials}) == 6
    for one in trials:
        plan = plan_of(one.overrides)
        assert plan.cell.id == one.id
        assert (plan.cell.protocol.name, plan.cell.seed, plan.cell.train.looks) == ("tune", 1000, 1)
        assert (plan.cell.train.lr, plan.cell.method["alpha"]) == (one.values["lr"], one.values["alpha"])
        assert plan.cell.train.epochs == 2 and one.steps == 100  # 1,600 of 2,000 rows, 32 a step
    recipe = plan_of(["row=lora_r1", "task=rte"]).cell
    assert trials[0].kind == RECIPE and trials[0].values == {"lr": recipe.train.lr, "alpha": recipe.method["alpha"]}
    before = (study.stages.folder.path / "plan.json").read_bytes()
    study.again()
    study.stages.plan_trials()
    assert (study.stages.folder.path / "plan.json").read_bytes() == before


def test_a_tie_goes_to_the_lower_trial_and_the_winner_is_a_recipe(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    with pytest.raises(UserError, match="6 of 6 trials have not ended: run stage=trials first"):
        study.stages.write_winners()
    study.finish(study.stages.begun.trials, MIDDLE)
    found = study.stages.write_winners()
    assert {place[0]: one.trial.number for place, one in found.items()} == {"lora_r1": 0, "lora2_k1": 0}
    path = study.results / "studies" / "smoke" / "recipes" / "lora_r1-rte.yaml"
    text = path.read_text()
    assert text.startswith("# Tuned: study smoke, lora_r1 on rte: trial 0 (recipe) of 3, held-out accuracy 70.00\n")
    assert found["lora_r1", "rte"].trial.id in text
    recipe = ("recipe=minilm/tuned/smoke/lora_r1-rte", f"results={study.results}")
    plan = plan_of(["row=lora_r1", "task=rte", *recipe])
    assert plan.cut == () and plan.cell.train.epochs == 2
    assert plan_of(["row=lora_r1", "task=cola", *recipe]).cut != ()  # it is the recipe of its own task alone
    assert any(mark.startswith("recipe=") for mark in plan_of(["row=bitfit", "task=rte", "recipe=minilm/full"]).cut)


def test_a_winner_at_an_edge_gives_every_row_one_more_trial(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    begun = study.stages.begun
    # A draw that lies at an edge must win; those of this study that do are found here, not assumed.
    space, first = read_space("lora"), begun.of("lora_r1", "rte")[0].values
    at_edge = [one for one in begun.of("lora_r1", "rte") if edges(space, first, one.values)]
    if not at_edge:  # move one there, as if it had been drawn
        old = begun.of("lora_r1", "rte")[1]
        values = {**old.values, "lr": 4.9e-3}
        overrides = list(study.study.trial("lora_r1", "rte", values))
        at_edge = [dataclasses.replace(old, values=values, overrides=overrides, id=plan_of(overrides).cell.id)]
        begun.trials[begun.trials.index(old)] = at_edge[0]
    best = at_edge[0]
    study.finish(begun.trials, {**MIDDLE, ("lora_r1", best.number): 90.0})
    study.stages.plan_trials()
    extra = [one for one in begun.trials if one.number == 3]
    assert [(one.row, one.kind) for one in extra] == [("lora_r1", WIDER), ("lora2_k1", EXTRA)]
    assert any("1 of 2 winners lie at an edge" in line for line in study.told)
    hit = edges(space, first, best.values)[0].split()[0]
    low, high = next(one for one in space if one.name == hit).range(first[hit])
    assert extra[0].values[hit] < low * 1.01 or extra[0].values[hit] > high * 0.99
    assert {
        name: value
        for name, value in extra[0].values.items()
        if f"{name} (" not in " ".join(edges(space, first, best.values))
    } == {
        name: value
        for name, value in best.values.items()
        if f"{name} (" not in " ".join(edges(space, first, best.values))
    }
    study.finish(extra, {("lora_r1", 3): 95.0, ("lora2_k1", 3): 1.0})
    study.stages.plan_trials()
    assert len(begun.trials) == 8  # one round
    assert study.stages.winners()["lora_r1", "rte"].trial == extra[0]
    records = study.stages.folder.records(begun.cells)
    text = "\n".join(findings(study.study, begun, records))
    where = " and ".join(edges(space, first, extra[0].values))
    told = f"Chosen at an edge of its space: LoRA r=1 on rte, {where}"
    assert f"{told}, beyond which a better value may lie." in text
    records[extra[0].id].result["last"]["score"] = 0.12  # now the draw at the edge wins, and the one beyond it is known
    text = "\n".join(findings(study.study, begun, records))
    where, beyond = (
        " and ".join(edges(space, first, best.values)),
        ", ".join(f"{name} {value:g}" for name, value in extra[0].values.items()),
    )
    told = f"Chosen at an edge of its space: LoRA r=1 on rte, {where}; the one trial beyond it ({beyond}) scored 12.00"
    assert f"{told} on the held-out rows, the winner 90.00." in text


def test_the_plan_tells_the_hours_that_are_left(made: Callable[..., Made]) -> None:
    study = made(changes=(*SMALL, "study.seconds_per_step=3600"))
    study.stages.plan_trials()
    begun = study.stages.begun
    done, runs = begun.trials[:2], len(study.study.seeds) * sum(begun.run_steps.values())
    left = runs + sum(one.steps for one in begun.trials[2:])
    study.finish(done, MIDDLE)
    records = {
        cell: dataclasses.replace(record, run={**record.run, "seconds_per_step": 3600.0})
        for cell, record in study.stages.folder.records(done).items()
    }
    assert "left" not in "\n".join(cost_lines(study.study, begun, {}))
    assert cost_lines(study.study, begun, records)[-1] == f"{left:.1f} of them are left"


def test_unequal_budgets_are_told_in_one_line(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    trials = study.stages.begun.trials
    assert budgets(trials, {}) == (
        "Budgets are equal as planned, 3 trials for each of 2 (row, task), and 6 of 6 have not ended."
    )
    study.finish(trials, MIDDLE)
    records = study.stages.folder.records(trials)
    assert budgets(trials, records) == "Budgets are equal: 3 trials for each of 2 (row, task), all ended."
    assert budgets(trials[1:], records) == "Budgets are unequal: 3 trials, but lora_r1 on rte 2."


def test_a_failed_trial_is_in_the_ledger_and_never_wins(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    trials = study.stages.begun.trials
    study.finish(trials, MIDDLE)
    store = Store(study.results)
    record = store.read(trials[0].id)
    assert record is not None
    result = {key: value for key, value in record.result.items() if key not in ("best", "last", "evaluations")}
    error = {"step": 3, "cause": "the loss is not finite"}
    store.write(dataclasses.replace(record, status=FAILED, result=result, error=error))  # type: ignore[arg-type]
    assert study.stages.winners()["lora_r1", "rte"].trial.number == 2
    study.stages.tell()
    lines = list(csv.DictReader((study.stages.folder.path / "ledger.csv").open()))
    failed = next(line for line in lines if line["cell"] == trials[0].id)
    assert (failed["status"], failed["score"], failed["cause"]) == ("failed", "", "the loss is not finite")
    text = (study.stages.folder.path / "FINDINGS.md").read_text()
    assert "1 failed (ledger.csv and runs.csv have the causes)" in text


def test_a_place_whose_trials_all_failed_has_no_runs_and_holds_up_no_other(made: Callable[..., Made]) -> None:
    rows = "study.tasks={rte: [lora_r1, lora2_k1], mrpc: [lora_r1]}"
    study = made(changes=("study.trials=1", "study.seeds=[11,12]", rows, *EPOCHS))
    stages = study.stages
    stages.plan_trials()
    study.finish(stages.begun.trials, {("lora_r1", 0): 70.0, ("lora2_k1", 0): 75.0})
    failed = next(one for one in stages.begun.trials if one.task == "mrpc")
    cell = next(plan_points([(*failed.overrides, f"results={study.results}")])).cell
    Store(study.results).write(make_failed(cell))
    assert set(stages.write_winners()) == {("lora_r1", "rte"), ("lora2_k1", "rte")}
    assert study.told[-1] == "no trial of lora_r1 on mrpc has finished, so it has no runs: ledger.csv has the causes"
    stages._send = lambda *_: True  # type: ignore[method-assign]
    assert stages.send_runs() and stages.send_runs()
    assert [(run.row, run.task, run.seed) for run in stages.begun.runs] == [
        (row, "rte", seed) for row in ("lora_r1", "lora2_k1") for seed in (11, 12)
    ]
    study.finish(stages.begun.runs, {(run.row, run.seed): 70.0 + run.seed for run in stages.begun.runs})
    stages.tell()
    text = (stages.folder.path / "FINDINGS.md").read_text()
    assert "4 of 4 runs are in" in text and "under way" not in text and "Planned: " not in text
    assert "| lora_r1 | mrpc | – | – | – | all trials failed | | 1 |\n" in text
    assert "on average over rte?" in text  # mrpc has one of the two rows
    assert "One seed, or equal differences: their spread is not known, and there is no test." in text


def test_the_findings_name_the_data_and_the_command_as_they_were_given(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    changed = read_study("smoke", study.changes, ("data=glue", "train.max_steps=30"), "mine")
    text = "\n".join(findings(changed, study.stages.begun, {}))
    assert "data glue; scores" in text
    command = re.search(r"made by `(python -m lora2_bench\.tune [^`]+)`", text)
    assert command is not None
    words = shlex.split(command[1])[3:]
    assert words[:3] == ["study=smoke", "name=mine", "stage=tables"] and words[-2:] == list(changed.extra)
    again = read_study("smoke", [word for word in words if word.startswith("study.")], changed.extra, "mine")
    assert again == changed


def test_runs_that_are_not_alike_get_no_verdict_and_those_that_learnt_nothing_are_counted(
    made: Callable[..., Made],
) -> None:
    study = made(changes=("study.trials=1", "study.seeds=[11,12,13,14,15,16]", *CHANGED))
    stages = study.choose({("lora_r1", 0): 70.0, ("lora2_k1", 0): 75.0})
    runs = study.plan_runs()
    points = {(run.row, run.seed): 60.0 + run.seed + (run.row == "lora2_k1") * (3 + run.seed % 2) for run in runs}
    points["lora_r1", 12] = 40.0
    study.finish(runs, points)
    records = stages.folder.records(runs)
    counts = {"train": [900, 1100], "dev": [100, 300]}  # one class for every row scores 75
    for record in records.values():
        record.result["data"]["labels"] = counts
    for record in records.values():
        record.result["last"]["active"] = record.result["parameters"]["adapter"] = 41_472
    records[runs[0].id].result["last"]["active"] = 0  # of six
    text = "\n".join(findings(study.study, stages.begun, records))
    shrunk = "| 41k → 35k |"
    assert text.count(shrunk) == 1 and text.count("| 41k |") == 1
    low = [sum(points[row, seed] <= 75 for seed in range(11, 17)) for row in ("lora_r1", "lora2_k1")]
    assert low[0] > low[1] > 0
    told = f"LoRA r=1 on rte {low[0]}, LoRA² k=1 on rte {low[1]}"
    assert f"Runs that ended no better than one answer for every row: {sum(low)} ({told}); they count like all" in text
    assert "**LoRA² k=1 is better than LoRA r=1" in text or "**The two are not told apart" in text
    for run in (run for run in runs if run.row == "lora_r1"):
        records[run.id].run["masks"] = "torch"
    text = "\n".join(findings(study.study, stages.begun, records))
    assert "**Runs of LoRA r=1, LoRA² k=1 are not of one version" in text and "told apart (p" not in text
    for run in runs[1:]:
        records[run.id].run["masks"] = "sfc64"
    text = "\n".join(findings(study.study, stages.begun, records))
    assert "**Runs of LoRA r=1 are not of one version of the code and one stream of masks.**" in text
    assert "Runs by processor" not in text
    for run, processor in zip(runs, ["B", *["A"] * (len(runs) - 1)], strict=True):
        records[run.id].run["hardware"] = {"processor": processor, "gpu": None}
    text = "\n".join(findings(study.study, stages.begun, records))
    first = f"{'LoRA r=1' if runs[0].row == 'lora_r1' else 'LoRA² k=1'} on rte"
    assert f"- Runs by processor: A {len(runs) - 1}, B 1 ({first})." in text
    assert "Their runs are not alike: there is no verdict." in text and "told apart (p" not in text
    assert "is better than LoRA r=1 (p" not in text


def test_trials_that_learnt_nothing_are_counted(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    begun = study.stages.begun
    study.finish(begun.trials, {**MIDDLE, ("lora2_k1", 2): 0.0})
    records = study.stages.folder.records(begun.trials)
    one_class = [{"accuracy": 0.6, "f1": 0.75}, {"accuracy": 0.6, "f1": 0.0}, {"accuracy": 0.6, "f1": 0.7}]
    for trial, metrics in zip(begun.of("lora_r1", "rte"), one_class, strict=True):
        records[trial.id].result["last"]["metrics"] = {"held_out": metrics}
    lines = "\n".join(findings(study.study, begun, records)).splitlines()
    counts = {line.split(" | ")[0]: line.split(" | ")[-1] for line in lines if " | rte | " in line}
    assert counts == {"| lora_r1": "2 |", "| lora2_k1": "1 |"}


def test_a_summary_names_the_secondary_comparisons_that_holm_leaves() -> None:
    study = read_study("minilm_glue", (), (), "minilm_glue")
    scores: Scores = {
        row: {task: {seed: 50.0 + seed % 3 for seed in study.seeds} for task in study.tasks if row in study.tasks[task]}
        for row in study.rows
    }
    wiggle = [0.1, -0.1, 0.2, -0.2, 0.15, -0.15]
    for task in scores["head"]:
        scores["head"][task] = {seed: 40.0 + seed % 3 + part for seed, part in zip(study.seeds, wiggle, strict=True)}
    (line,) = told_by_holm(study, scores)
    assert line == "Of 8 secondary comparisons, under 0.05 by Holm: LoRA² k=1 − head +10.00."
    assert told_by_holm(study, dict.fromkeys(scores, scores["full"]))[0].endswith("under 0.05 by Holm: none.")


def test_letters_wait_until_a_column_is_whole() -> None:
    study = read_study("minilm_glue", (), (), "minilm_glue")
    seeds: dict[str, Any] = {
        row: {
            task: {seed: 50.0 + at + seed % 3 for seed in study.seeds}
            for task in study.tasks
            if row in study.tasks[task]
        }
        for at, row in enumerate(study.rows)
    }
    head, _, *lines = score_table(study, seeds)
    assert head == "| method | cola | stsb | mrpc | mean of cola, stsb | mean of cola, stsb, mrpc |"
    cells = {
        line.split(" | ")[0].strip("| "): [cell.strip(" |") for cell in line.split(" | ")[1:]] for line in lines[:-3]
    }
    assert (
        all(cell.rstrip()[-1].isalpha() for cell in cells["LoRA r=1"])
        and cells["BitFit"][2] == cells["BitFit"][4] == "–"
    )
    del seeds["bitfit"]["stsb"][11]
    lines = score_table(study, seeds)[2:]
    cells = {
        line.split(" | ")[0].strip("| "): [cell.strip(" |") for cell in line.split(" | ")[1:]] for line in lines[:-3]
    }
    assert [cell[-1].isalpha() for cell in cells["LoRA r=1"]] == [True, False, True, False, True]
    del seeds["bitfit"]
    assert not any("BitFit" in line for line in score_table(study, seeds))


def test_a_recipe_of_another_row_of_the_same_method_is_marked(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    study.finish(study.stages.begun.trials, MIDDLE)
    study.stages.write_winners()
    words = ["task=rte", "recipe=minilm/tuned/smoke/lora_r1-rte", f"results={study.results}"]
    assert plan_of(["row=lora_r1", *words]).cut == ()
    assert plan_of(["method=lora", "method.r=1", *words]).cut == ()
    assert any(mark.startswith("recipe=minilm/tuned/") for mark in plan_of(["row=lora_r8", *words]).cut)


def test_a_cluster_gets_what_has_not_ended_and_nothing_twice(made: Callable[..., Made]) -> None:
    study, slurm = made(), FakeSlurm()
    options = Options(cluster="slurm", name="smoke", cells_per_job=2)
    study.stages.options, study.stages.squeue = options, slurm.squeue
    study.stages.launcher = Slurm(options, slurm.executor)
    study.stages.plan_trials()
    trials = study.stages.begun.trials
    study.finish(trials[:1], MIDDLE)
    assert not study.stages.send_trials()
    ((name, jobs),) = slurm.arrays.items()
    assert jobs == 3 and [one for job in slurm.cells[name] for one in job] == [one.id for one in trials[1:]]
    assert not study.stages.send_trials() and len(slurm.arrays) == 1  # they are queued
    slurm.queued.clear()
    study.finish(trials[1:4], MIDDLE)
    assert not study.stages.send_trials() and list(slurm.arrays.values()) == [3, 1]
    study.finish(trials[4:], MIDDLE)
    slurm.queued.clear()
    assert study.stages.send_trials() and len(slurm.arrays) == 2


def test_the_runs_of_the_primary_comparison_are_sent_first(made: Callable[..., Made]) -> None:
    rows = "study.tasks={rte: [full, lora_r1, lora2_k1], mrpc: [full, lora_r1, lora2_k1]}"
    study, slurm = made(changes=("study.trials=1", "study.seeds=[11,12]", rows, *EPOCHS)), FakeSlurm()
    study.stages.options = options = Options(cluster="slurm", name="smoke", cells_per_job=12)
    study.stages.squeue, study.stages.launcher = slurm.squeue, Slurm(options, slurm.executor)
    study.stages.plan_trials()
    study.finish(study.stages.begun.trials, dict.fromkeys([("full", 0), ("lora_r1", 0), ("lora2_k1", 0)], 70.0))
    study.stages.write_winners()
    stages = study.stages
    assert not stages.send_runs()
    row_of = {run.id: run.row for run in stages.begun.runs}
    (job,) = (job for jobs in slurm.cells.values() for job in jobs)
    assert [row_of[one] for one in job] == [*["lora_r1", "lora_r1", "lora2_k1", "lora2_k1"] * 2, *["full"] * 4]

    slurm.queued.clear()
    runs = stages.begun.runs
    study.finish(runs, {(run.row, run.seed): 70.0 for run in runs})
    assert stages.send_runs()
    first = next(plan_points([(*runs[0].overrides, f"results={study.results}")])).cell
    Store(study.results).write(make_failed(first))
    assert not stages.send_runs()
    assert [one for jobs in list(slurm.cells.values())[-1:] for job in jobs for one in job] == [runs[0].id]


def test_curves_are_of_the_draws_and_the_recipe_stands_beside_them(made: Callable[..., Made]) -> None:
    """The draws of LoRA r=1 scored 60 and 70: of two, the best is 60 in one case of four. Its recipe scored 70."""
    study = made()
    study.stages.plan_trials()
    study.finish(study.stages.begun.trials, MIDDLE)
    study.stages.tell()
    folder = study.stages.folder.path
    lines = [line for line in csv.DictReader((folder / "curves.csv").open()) if line["row"] == "lora_r1"]
    assert [(line["n"], float(line["expected"]), float(line["sd"])) for line in lines] == [
        ("1", 65.0, 5.0),
        ("2", 67.5, pytest.approx(18.75**0.5, abs=1e-4)),
    ]
    assert [(line["seconds"], line["recipe"], line["draws"]) for line in lines] == [
        ("12.3", "70.0000", "2"),
        ("24.7", "70.0000", "2"),
    ]
    rates = list(csv.DictReader((folder / "rates.csv").open()))
    assert len(rates) == 6 and {line["lr"] for line in rates} == {
        str(t.values["lr"]) for t in study.stages.begun.trials
    }
    drawn = folder / "figures" / "expected-best-trials.svg"
    before = drawn.stat().st_mtime_ns
    study.stages.tell()
    assert drawn.stat().st_mtime_ns == before


def test_runs_count_in_exhibits_of_their_own_and_the_findings_say_what_they_show(
    made: Callable[..., Made], call: Callable[..., Told], tmp_path: Path
) -> None:
    study = made(changes=("study.trials=1", "study.seeds=[11,12,13,14,15,16]", *CHANGED))
    stages = study.choose({("lora_r1", 0): 70.0, ("lora2_k1", 0): 75.0})
    stages.tell()
    text = (stages.folder.path / "FINDINGS.md").read_text()
    assert "2 of 2 trials and 0 of 12 runs are in." in text and "**The study is under way" in text
    assert "No seed has finished on all tasks of both" in text
    assert not (stages.folder.path / "figures" / "differences.svg").exists()
    progress = (stages.folder.path / "summary.md").read_text()
    assert progress.startswith("2 of 2 trials and 0 of 12 runs are in.") and progress.count("\n") == 1
    runs = study.plan_runs()
    points = {("lora_r1", seed): 70.0 + seed % 3 for seed in range(11, 17)}
    points |= {("lora2_k1", seed): 72.0 + (seed + 1) % 3 for seed in range(11, 17)}
    study.finish(runs, points)
    stages.tell()
    text = (stages.folder.path / "FINDINGS.md").read_text()
    assert "2 of 2 trials and 12 of 12 runs are in. Budgets are equal: 1 trial for" in text
    assert "under way" not in text
    differences = [points["lora2_k1", seed] - points["lora_r1", seed] for seed in range(11, 17)]
    assert f"LoRA² k=1 minus LoRA r=1, over rte: {sum(differences) / 6:+.2f} points (6 seeds)" in text
    assert "**LoRA² k=1 is better than LoRA r=1 (p under 0.05).**" in text
    summary = (stages.folder.path / "summary.md").read_text().splitlines()
    assert summary[2].startswith("LoRA² k=1 minus LoRA r=1, over rte: ")
    assert summary[3].startswith("**LoRA² k=1 is better")
    assert summary[5] == "| method | parameters | rte | mean of rte |" and set(summary) <= {"", *text.splitlines()}
    assert "The letters below, of all pairs of a column, tell the two apart on rte." in text
    assert "- Runs train for 2 epochs (rte): how far methods come" in text and "No run ended as low" not in text
    drawn = (stages.folder.path / "figures" / "differences.svg").read_text()
    assert ">LoRA² k=1 − LoRA r=1<" in drawn and "study smoke" in drawn
    assert "| 71.00 ± 0.89 (6) b | 71.00 ± 0.89 (6) b |" in text

    selection = select(load_records(study.results))
    assert len(selection.runs) == 12 and all(not run.obstacles for run in selection.runs)
    assert {run.folder for run in selection.runs} == {"minilm-mini-tuned-smoke"}
    fresh = tmp_path / "fresh"  # what git has of it
    shutil.copytree(study.results / "studies", fresh / "studies")
    assert call(report, "tables", "--results", str(fresh)).code == 0
    scores = (fresh / "tables" / "minilm-mini-tuned-smoke" / "scores.md").read_text()
    assert "lora2 k=1" in scores and "cut" not in scores
    assert not (fresh / "tables" / "minilm-mini-tuned-smoke" / "comparisons.md").exists()
    assert call(report, "report", "--results", str(fresh)).code == 0
    page = (fresh / "report" / "index.html").read_text()
    assert "Findings of the study smoke" in page and "score-over-lr.svg" in page and "0 unreadable" in page
    answers = re.findall(r'<p class="answer">.*?</p>', page, re.DOTALL)
    assert answers and all("LoRA² k=1 is better than LoRA r=1 (p under 0.05)." in one for one in answers)
    asked = "<span>Is LoRA² k=1 better than LoRA r=1, each by its recipe, on average over rte?</span>"
    assert all("That comparison was planned" in one and asked in one for one in answers)
    again = Made(fresh, study.changes)
    before = (fresh / "studies" / "smoke" / "FINDINGS.md").read_bytes()
    again.stages.tell()
    assert (fresh / "studies" / "smoke" / "FINDINGS.md").read_bytes() == before == text.encode()


CHANGED = ("study.tasks={rte: [lora_r1, lora2_k1]}", "study.settings.tasks={rte: {epochs: 2}}")


def test_the_figure_has_the_planned_comparisons_that_can_be_made_and_the_primary_ones_tasks() -> None:
    study = read_study("minilm_glue", (), (), "minilm_glue")
    seeds: dict[str, Any] = {
        "lora2_k1": {"cola": {11: 20.0, 12: 22.0}, "mrpc": {11: 80.0, 12: 80.0}},
        "lora_r1": {"cola": {11: 18.0, 12: 19.0}, "mrpc": {11: 79.0, 12: 80.0}},
        "bitfit": {"cola": {11: 25.0}},
    }
    found = differences(study, seeds)
    assert [(one.label, one.n, one.is_chief, one.is_part) for one in found] == [
        ("LoRA² k=1 − LoRA r=1", 2, True, False),
        ("cola", 2, False, True),
        ("mrpc", 2, False, True),
        ("LoRA² k=1 − BitFit", 1, False, False),
    ]
    assert [one.estimate for one in found] == [1.5, 2.5, 0.5, -5.0]
    low, high = found[1].low, found[1].high  # of 2 and 3: 2.5 ± t(0.975, 1) · 0.7071 / √2
    assert (low, high) == (pytest.approx(2.5 - 12.7062 * 0.5, abs=1e-3), pytest.approx(2.5 + 12.7062 * 0.5, abs=1e-3))
    assert found[3].low is None and found[3].high is None
    assert differences(study, {}) == ()
    del seeds["lora_r1"]["mrpc"][11], seeds["lora2_k1"]["mrpc"][12]  # no seed has finished for both: no part of it
    assert [one.label for one in differences(study, seeds)] == ["LoRA² k=1 − BitFit"]


def test_rows_of_one_method_and_size_keep_their_names_and_no_figure_is_printed_for_a_variant(
    made: Callable[..., Made],
) -> None:
    pair = "[lora2_k8, lora2_k8_noreg]"
    rows = (f"study.tasks={{rte: {pair}}}", f"study.primary={pair}")
    study = made(changes=("study.trials=1", "study.seeds=[11]", *rows, CHANGED[1]))
    stages = study.choose({("lora2_k8", 0): 70.0, ("lora2_k8_noreg", 0): 71.0})
    study.finish(study.plan_runs(), {("lora2_k8", 11): 70.0, ("lora2_k8_noreg", 11): 71.0})
    stages.tell()
    text = (stages.folder.path / "FINDINGS.md").read_text()
    assert "is LoRA² k=8 better than LoRA² k=8 (lora2_k8_noreg), each by its recipe, on average" in text
    assert re.search(r"^\| LoRA² k=8 \(lora2_k8_noreg\) \| \d+ \| 71\.00 \(1\) a \|", text, re.MULTILINE)
    assert "| rte | -1.00 | – | 1 | – |" in text
    drawn = (stages.folder.path / "figures" / "score-over-lr.svg").read_text()
    assert ">lora2 k=8<" in drawn and ">lora2 k=8 (lora2_k8_noreg)<" in drawn


def test_runs_wait_for_the_extra_trials_and_nothing_is_planned_after_the_first_run(made: Callable[..., Made]) -> None:
    study = made()
    stages = study.stages
    stages.plan_trials()
    at_edge = max((t for t in stages.begun.trials if t.row == "lora_r1"), key=lambda t: t.values["lr"])
    study.finish(
        stages.begun.trials, MIDDLE | {("lora_r1", n): 60.0 for n in range(3)} | {("lora_r1", at_edge.number): 90.0}
    )
    assert any(one.at_edge for one in stages.winners().values())
    with pytest.raises(UserError, match=r"^2 of 8 trials have not ended: run stage=trials first$"):
        _send(stages, "runs")
    assert not stages.begun.runs


def test_records_without_their_plan_are_never_written_over(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    study.finish(study.stages.begun.trials, MIDDLE)
    study.stages.tell()
    folder = study.stages.folder.path
    before = (folder / "records.jsonl").read_bytes()
    (folder / "plan.json").unlink()
    study.again()
    with pytest.raises(UserError, match=r"has 6 records and no plan.json: put it back"):
        study.stages.tell()
    assert (folder / "records.jsonl").read_bytes() == before


def test_two_trials_of_the_same_values_are_two_lines_of_the_ledger(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    first, second, *_ = study.stages.begun.trials
    study.stages.begun.trials[1] = dataclasses.replace(second, id=first.id, values=first.values)
    _, lines = trial_lines(study.stages.begun.trials, {})
    assert len(lines) == 6 and [line.split(",")[2] for line in lines.values()] == ["0", "1", "2"] * 2


@pytest.mark.parametrize(
    ("p", "told"), [(0.0004, "under 0.001"), (0.0497, "0.0497"), (0.0503, "0.0503"), (0.2, "0.200"), (1.0, "1.000")]
)
def test_three_digits_never_hide_on_which_side_of_a_twentieth_a_p_is(p: float, told: str) -> None:
    assert shown_p(p) == told


def test_another_study_in_the_same_folder_is_refused(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    with pytest.raises(UserError, match=r"study=smoke was begun with trials=3, not 4 .*: give the same, or name=NAME"):
        Made(study.results, ("study.trials=4", *study.changes[1:]))
    told = Made(study.results, ("study.seconds_per_step=0.5", *study.changes))  # changes no cell
    assert len(told.stages.begun.trials) == 6


def test_a_tuned_recipe_holds_plain_values_alone(made: Callable[..., Made]) -> None:
    study = made()
    path = study.results / "studies" / "smoke" / "recipes" / "lora_r1-rte.yaml"
    words = ["row=lora_r1", "task=rte", "recipe=minilm/tuned/smoke/lora_r1-rte", f"results={study.results}"]
    with pytest.raises(UserError, match=r"recipe=minilm/tuned/smoke/lora_r1-rte is not there .*: make it with python"):
        plan_of(words)
    path.parent.mkdir(parents=True)
    base = 'defaults: ["/recipe/minilm/lora@_here_"]\n'
    for text in (
        "lr: 0.1\n",
        base + "lr: ${oc.env:HOME}\n",
        base + "lr: [1]\n",
        "- 1\n",
        "defaults: [/data/hub@_here_]\n",
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="is no tuned recipe of minilm: make it again with stage=winners"):
            plan_of(words)
    path.write_text("lr: [\n")
    with pytest.raises(UserError, match="cannot be read"):
        plan_of(words)
    path.write_text(base + "lr: 0.125\n")
    assert plan_of(words).cell.train.lr == 0.125


def test_a_ledger_that_cannot_be_read_is_one_line(made: Callable[..., Made]) -> None:
    study = made()
    study.stages.plan_trials()
    folder = study.stages.folder.path
    (folder / "records.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"records\.jsonl cannot be read \(line 1: .*put it back as it was committed"):
        Folder(study.results, "smoke").record("ab" * 8)
    (folder / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"plan\.json cannot be read \(study is missing\): put it back"):
        study.again()
