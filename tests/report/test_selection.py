"""One selection: a method's score on a task is one number in tables, figures, comparisons and on the page."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.experiment.sources import sources_digest
from lora2_bench.records.record import Record, result_line
from lora2_bench.records.store import Store
from lora2_bench.report.figures.chart import Plot
from lora2_bench.report.figures.data import plots
from lora2_bench.report.figures.files import write_figures
from lora2_bench.report.page.page import write_report
from lora2_bench.report.records import load_records
from lora2_bench.report.runs import Run, machine_name
from lora2_bench.report.selection import select
from lora2_bench.report.submission.choice import Wanted
from lora2_bench.report.tables.write import write_tables
from tests.made_records import make_cell, make_record, make_row_record

LABEL, FOLDER = "lora2 k=1", "deberta_v3_base-hub"
OLDER: dict[str, Any] = {"finished": "2024-01-01T00:00:00+00:00"}
OFF_RECIPE: dict[str, Any] = {"config": {"recipe": {"alpha": 16}}}


def whole(record: Record, score: float) -> Record:
    """With a learning curve that ends at its last score, and ranks."""
    (first, second) = record.result["evaluations"]
    first["score"], second["score"] = score / 100, score / 100 - 0.01
    ranks = {"ranks": {"0": {"q": round(score) % 8}}, "ranks_initial": 8}
    return dataclasses.replace(record, result={**record.result, **ranks})


def made(points: float, seed: int, **more: Any) -> Record:
    return whole(make_row_record(more.pop("row", "lora2_k1"), "rte", seed, points, points - 1, **more), points)


def rows_of(record: Record) -> dict[str, Any]:
    return {"data": {**record.result["data"], "sha256": "00"}}


GOOD = [made(points, seed, run={"sources": "ab"}) for seed, points in enumerate((80.0, 82.0))]
ASTRAY = {
    "off the recipe": [made(99.0, seed, options={"alpha": 32}, run=OFF_RECIPE) for seed in (0, 1, 2)],
    "a quick look": [made(99.0, seed, max_train=64, cut=("data.max_train=64",)) for seed in (0, 1, 2)],
    "other rows": [made(99.0, seed, run=OLDER, result=rows_of(GOOD[0])) for seed in (2, 3, 4)],
    "other weights": [
        made(99.0, seed, run=OLDER, result={"backbone": {"name": "x", "sha256": "00"}}) for seed in (2, 3, 4)
    ],
    "another major version": [made(99.0, seed, run={**OLDER, "versions": {"lora2_bench": "7.0"}}) for seed in (2, 3)],
    "other code": [made(99.0, seed, run={**OLDER, "sources": "cd"}) for seed in (2, 3, 4)],
    "other masks": [made(99.0, seed, run={**OLDER, "masks": "sfc64"}) for seed in (2, 3, 4)],
    "other targets, a row of Table 4": [made(99.0, seed, row="targets_qk") for seed in (0, 1, 2)],
    "another setting with fewer seeds": [made(99.0, 2, max_length=512)],
}


@pytest.fixture(scope="module", params=ASTRAY, ids=str)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds that count, others that do not and have 99 points, and a baseline; tables and page written, once."""
    folder = tmp_path_factory.mktemp("results")
    baseline = [made(70.0 + seed, seed, row="lora_r1") for seed in (0, 1, 2, 3, 4)]
    for record in [*GOOD, *ASTRAY[request.param], *baseline]:
        Store(folder).write(record)
    write_tables(folder)
    write_report(folder)
    return folder


def lines(results: Path, name: str) -> list[dict[str, str]]:
    with (results / "tables" / FOLDER / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def figure(results: Path, name: str) -> Plot:
    (found,) = (plot for plot in plots(select(load_records(results))) if plot.name == name)
    return found


@pytest.mark.parametrize(("protocol", "mean"), [("paper", 81.0), ("last", 80.0)])
def test_tables_figures_comparisons_and_page_show_one_number(results: Path, protocol: str, mean: float) -> None:
    wanted = {"row": "lora2_k1", "column": "rte", "protocol": protocol}
    (exhibit,) = (line for line in lines(results, "table1.csv") if wanted.items() <= line.items())
    assert (float(exhibit["mean"]), exhibit["seeds"]) == (mean, "0 1")

    counted = {"method": LABEL, "cut": "", "task": "rte", "protocol": protocol}
    means = [float(line["mean"]) for line in lines(results, "scores.csv") if counted.items() <= line.items()]
    assert mean in means  # beside other settings on their recipe, which it names as such

    for name in ("parameters", "seconds"):
        (point,) = (one for one in figure(results, f"{name}-{protocol}").panels[0].means if one.label == LABEL)
        assert (point.y, point.n) == (pytest.approx(mean), 2)

    wanted = {"method": LABEL, "other": "lora r=1", "task": "rte", "protocol": protocol}
    (compared,) = (line for line in lines(results, "comparisons.csv") if wanted.items() <= line.items())
    assert float(compared["difference"]) == pytest.approx(mean - (70.5 if protocol == "paper" else 69.5))

    text = (results / "report" / "index.html").read_text()
    tasks = text[text.index('<section id="tasks"') : text.index('<section id="compare"')]
    (block,) = (part for part in tasks.split("<div data-place=") if f'-{protocol}">' in part)
    (shown,) = re.findall(r"<td>LoRA² k=1</td>(.*?)</tr>", block)
    assert f">{mean:.2f} ± 12.71 (2)</td>" in shown  # half of Student's interval of two seeds


def test_curves_and_ranks_are_of_the_runs_that_count(results: Path) -> None:
    (curve,) = (one for one in figure(results, "learning-paper").panels[0].curves if one.label == LABEL)
    assert [tuple(y for _, y in seed) for seed in curve.seeds] == [(80.0, 79.0), (82.0, 81.0)]
    (ranks,) = figure(results, "ranks-paper-lora2-k1").panels
    assert (ranks.title, ranks.values) == ("RTE (2 seeds)", ((1.0,),))


def test_no_mean_holds_a_run_that_does_not_count(results: Path) -> None:
    whole_means = {"paper": {99.0, 81.0, 72.0}, "last": {98.0, 80.0, 71.0}}
    for line in lines(results, "scores.csv"):
        assert float(line["mean"]) in whole_means[line["protocol"]]


def test_the_figure_of_learning_rates_has_runs_off_the_recipe_says_so_and_has_no_stale_ones(tmp_path: Path) -> None:
    astray = [made(60.0 + seed, seed, lr=1e-2, cut=("train.lr=0.01 (recipe: 0.001)",)) for seed in (0, 1)]
    stale = [made(99.0, seed, lr=1e-4, run=OLDER, result=rows_of(GOOD[0])) for seed in (0, 1)]
    found = {plot.name: plot for plot in plots(select([*GOOD, *astray, *stale]))}
    (curve,) = found["lr-paper"].panels[0].curves
    assert curve.mean == ((1e-3, pytest.approx(81.0)), (1e-2, pytest.approx(60.5)))
    assert "Runs off the recipe are in it" in found["lr-paper"].note
    assert [point.y for point in found["parameters-paper"].panels[0].means] == [pytest.approx(81.0)]


def test_where_no_run_counts_there_is_no_figure_and_a_line_that_says_why(tmp_path: Path) -> None:
    for record in ASTRAY["a quick look"]:
        Store(tmp_path).write(record)
    (path,) = write_figures(tmp_path)
    assert path.read_text().startswith("None of 3 finished cells is on its recipe.")


def test_a_method_with_no_row_in_table_1_is_shown_by_its_setting_with_most_seeds() -> None:
    one = [made(80.0, seed, options={"k": 3}) for seed in (0, 1)]
    other = [made(99.0, 0, options={"k": 3}, max_length=512)]
    shown = select([*other, *one]).shown()
    assert [(run.label, run.seed, run.scores["paper"]) for run in shown] == [("lora2 k=3", at, 80.0) for at in (0, 1)]


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        ({"gpu": "GPU X", "processor": "CPU", "threads": 4}, "GPU X"),
        ({"gpu": None, "processor": "CPU", "threads": 1}, "CPU, 1 thread"),
        ({"processor": "CPU", "threads": 4}, "CPU, 4 threads"),
        ({"processor": "CPU"}, "CPU"),
        ({}, "not recorded"),
    ],
)
def test_the_name_of_a_machine(hardware: Any, name: str) -> None:
    assert machine_name(hardware) == name
    record = made(80.0, 0, run={"hardware": json.loads(json.dumps(hardware))})
    assert Run.of(record).machine == name


def test_runs_of_older_random_streams_are_never_averaged_with_newer_ones(tmp_path: Path) -> None:
    old = [made(99.0, seed, run=OLDER) for seed in (0, 1, 2)]
    new = [made(points, seed, rng_version=2) for seed, points in enumerate((80.0, 82.0))]
    for record in [*old, *new]:
        Store(tmp_path).write(record)
    write_tables(tmp_path)
    wanted = {"row": "lora2_k1", "column": "rte", "protocol": "paper"}
    (exhibit,) = (line for line in lines(tmp_path, "table1.csv") if wanted.items() <= line.items())
    assert (float(exhibit["mean"]), exhibit["seeds"]) == (81.0, "0 1")
    reason = "stale: rng_version=1, older random streams than those of the runs that count"
    assert reason in (tmp_path / "tables" / FOLDER / "table1.md").read_text()
    shown = {
        line["variant"]: float(line["mean"]) for line in lines(tmp_path, "scores.csv") if line["protocol"] == "paper"
    }
    assert shown == {"rng_version=1": 99.0, "rng_version=2": 81.0}
    assert {run.id for run in select([*old, *new]).shown()} == {record.id for record in new}


def test_runs_of_one_version_count_whichever_it_is() -> None:
    old = [made(80.0, seed) for seed in (0, 1)]
    other = [made(70.0, seed, row="lora_r1", rng_version=2) for seed in (0, 1)]
    assert len(select([*old, *other]).shown()) == 4
    assert select([made(80.0, 0)]).shown()[0].science == Run.of(spelled_out(made(80.0, 1))).science


def spelled_out(record: Record) -> Record:
    """As a version that names its random streams writes the cell of one that does not."""
    return dataclasses.replace(record, cell={**record.cell, "rng_version": 1, "init_from": None})


def test_a_trial_is_no_run() -> None:
    """It is scored on rows of train: neither tables nor GLUE's server may have it."""
    trial = make_record(make_cell(protocol="tune", source="hub"))
    assert trial.is_trial and trial.scorings() == {}
    assert select([trial, make_record(make_cell())]).runs == select([make_record(make_cell())]).runs
    assert Wanted("minilm", "lora2").fits(make_record(make_cell(source="hub")))
    assert not Wanted("minilm", "lora2").fits(trial)
    assert "of 2 looks at held-out rows, last 0.7500" in result_line(trial, "p")


def test_runs_of_one_method_by_one_older_code_count_and_are_marked_everywhere(
    results_by_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(results_by_code)
    assert {line["method"]: line["cut"] for line in lines(results_by_code, "scores.csv")} == {LABEL: "", "lora r=1": ""}
    text = (results_by_code / "tables" / FOLDER / "scores.md").read_text()
    assert re.search(rf"\| {LABEL} \|.*\)°", text) and not re.search(r"\| lora r=1 \|.*°", text)
    assert "° stale code: all runs of the method are by code that has changed since" in text
    (slot,) = (line for line in lines(results_by_code, "table1.csv") if SLOT.items() <= line.items())
    assert float(slot["mean"]) == 80.0 and "older code" in slot["marks"]
    write_report(results_by_code)
    assert "has changed since" in (results_by_code / "report" / "index.html").read_text()

    now = sources_digest("lora2_bench.methods.lora2.LoRA2")
    fresh = made(80.0, 1, row="lora2_k1", run={"sources": now, "config": LORA2})
    found = select([*load_records(results_by_code), fresh])  # the newer code's runs leave no place for the older one's
    assert list(found.stale.values()) == ["other code than is here"]
    assert not any(run.older for run in found.runs)
    monkeypatch.setattr("lora2_bench.report.selection.sources_digest", lambda _: None)  # the method's own is not here
    assert not any(run.older for run in select(load_records(results_by_code)).runs)


LORA2 = {"method": {"_target_": "lora2_bench.methods.lora2.LoRA2"}}
SLOT = {"row": "lora2_k1", "column": "rte", "protocol": "paper"}


@pytest.fixture
def results_by_code(tmp_path: Path) -> Path:
    """One run by other code than is here, one by the code that is, each the only one of its method."""
    targets = {"lora2_k1": "lora2_bench.methods.lora2.LoRA2", "lora_r1": "lora2_bench.methods.lora.LoRA"}
    for row, sources in (("lora2_k1", "0" * 16), ("lora_r1", sources_digest(targets["lora_r1"]))):
        config = {"method": {"_target_": targets[row]}}
        Store(tmp_path).write(made(80.0, 0, row=row, run={"sources": sources, "config": config}))
    return tmp_path
