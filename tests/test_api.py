"""`import lora2_bench`: its functions as a script or a notebook calls them."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

import lora2_bench as lb
from lora2_bench.config.grid import expand_grid
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.words import words
from lora2_bench.files.paths import CONF
from lora2_bench.files.writing import write_json
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store, read_record
from lora2_bench.report.comparisons import compare
from lora2_bench.report.frame import FIRST, LAST
from lora2_bench.report.predictions import stored_correctness
from lora2_bench.report.records import load_records
from lora2_bench.report.scores import scores
from lora2_bench.report.selection import select
from lora2_bench.sweep.local import Local
from tests.composed import plan_of
from tests.made_records import make_cell, make_failed, make_record, make_row_record
from tests.report.exhibit_records import exhibit_records
from tests.report.made_results import measured

ROOT = Path(__file__).resolve().parents[1]
GRID = ["row=lora2_k1,lora_r8", "task=rte,mrpc"]
SEEDS = range(6)


def cells_of(*overrides: str) -> list[Cell]:
    return [cell for _, cell, _ in expand_grid(overrides, {})]


def write_all(results: Path, records: list[Record]) -> Path:
    for record in records:
        Store(results).write(record)
    return results


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished cells of GRID, with scores that differ by method, task and seed."""
    made = [
        make_record(cell, 0.8 + 0.01 * cell.seed, 0.7 + shift + (0.013 if (cell.seed + place) % 2 else 0.0))
        for place, cell in enumerate(cells_of(*GRID, "seed=" + ",".join(map(str, SEEDS))))
        for shift in [0.03 if cell.method["name"] == "lora2" else 0.0]
    ]
    return write_all(tmp_path_factory.mktemp("grid") / "results", made)


NO_TORCH = """
import sys
import lora2_bench as lb
assert not {"pandas", "numpy", "hydra", "torch", "yaml"} & set(sys.modules)
results = sys.argv[1]
frame = lb.load(results)
lb.compare(frame, "lora2_k1", "lora_r8")
assert "hydra" not in sys.modules
print(lb.run("row=lora_r8", "task=rte", seed=2, results=results).id)
print(len(lb.sweep(["row=lora_r8", "task=rte"], seed=[0, 1], results=results)))
assert not {"torch", "transformers", "peft", "datasets"} & set(sys.modules)
"""


@pytest.mark.slow
def test_nothing_but_training_imports_torch_and_the_import_alone_nothing(grid: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", NO_TORCH, str(grid)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert plan_of("row=lora_r8", "task=rte", "seed=2").cell.id in done.stdout and done.stdout.endswith("\n2\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands(
    grid: Path,
    tiny_folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """But for the backbone of its one training run, which is a tiny one here; the sweep's cells are done."""
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path / "results", list(load_records(grid)))
    text = (ROOT / "docs" / "NOTEBOOK.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    tiny = f'quick = ["model=local", "model.path={tiny_folders("bert")}", "train.max_length=48", '
    assert blocks[0].count("quick = [") == 1
    blocks[0] = blocks[0].replace("quick = [", tiny)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["record"].label == "lora2 k=1" and names["record"].cut[0] == "train.max_steps=4"
    assert names["again"] == names["record"]
    told = capsys.readouterr().out
    assert "lora3 is not known: choose one of" in told and "24 cells, 0 failed" in told
    assert names["table"].loc["lora2 k=1", ("count", "rte")] == 6
    last = names["last"]
    assert list(last.index) == ["mrpc", "rte", "average"] and set(last["n"]) == {6}
    assert last.loc["average", "difference"] == pytest.approx(3.0)
    assert len(names["examples"]) == 32
    score = 1 - len(names["wrong"]) / 32
    assert score == pytest.approx(names["record"].result["best"]["score"])


@pytest.mark.parametrize(
    ("overrides", "settings", "line"),
    [
        (("method=lora3",), {}, r"^method=lora3 is not known: choose one of "),
        (("seed=0,1",), {}, r"^seed=0,1 has several values"),
        (("suite=smoke",), {}, r"^suite=smoke is many cells: give it to sweep\(\[\.\.\.\]\)"),
        (("-m",), {}, r"^-m is an option of the command line"),
        ((3,), {}, r"^3 is no text: give 'NAME=VALUE'"),
        (("tracker.foo=1",), {}, r"foo is not a setting"),
        ((), {"seed": -1}, r"^seed=-1 is not possible"),
        ((), {"seed": object()}, r"^seed is a object: give a number, text"),
        ((), {"results": ""}, r"^results= is empty"),
        (("+recipe.foo=1",), {}, r"^recipe.foo is not a setting"),
    ],
)
def test_what_cannot_be_run_is_a_user_error_and_leaves_hydra_clean(
    overrides: tuple[Any, ...], settings: dict[str, Any], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lb.UserError, match=line) as told:
        lb.run(*overrides, **settings)
    assert "\n" not in str(told.value) and not GlobalHydra.instance().is_initialized()
    assert list(tmp_path.iterdir()) == []


def test_a_call_within_a_program_that_uses_hydra_leaves_it_its_own(grid: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF / "method")):
        found = lb.run("row=lora2_k1", "task=mrpc", seed=1, results=grid)
        assert found == read_record(Store(grid).path(found.id))
        assert compose("full").name == "full"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (1e-05, 1e-05),
        (np.float64(0.5), 0.5),
        (np.int64(7), 7),
        ("1,2", "1,2"),
        (["q", "v"], ["q", "v"]),
        (Path("/a b/it's (1), x=2"), "/a b/it's (1), x=2"),
        (Path("a\\'b"), "a\\'b"),
        (Path("~/x,y"), "~/x,y"),
    ],
)
def test_a_value_is_the_word_that_hydra_reads_back(value: Any, wanted: Any) -> None:
    (word,) = words({"name": value})
    if value == "1,2":  # text stands as it is typed
        assert word == "name=1,2"
        return
    (override,) = OverridesParser.create().parse_overrides([word])
    assert override.value() == wanted


def test_a_sweep_returns_the_records_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("task=rte", "method=lora", f"results={tmp_path}")
    cells = {cell.id: cell for cell in cells_of(*base, "kr=1,2,4")}

    def send(_: Local, batch: Any, path: Path) -> str:
        """A process that finishes the first cell, fails the second, and is killed before the third."""
        for cell_id in batch.jobs[0]:
            cell = cells[cell_id]
            if cell.size_value != 4:
                Store(tmp_path).write(make_record(cell) if cell.size_value == 1 else make_failed(cell))
        path.unlink()
        return "process 1"

    monkeypatch.setattr(Local, "send", send)
    found = lb.sweep([["kr=1", "task=rte"], ["kr=1,2,4", "task=rte"]], method="lora", results=tmp_path)
    assert [(record.label, record.is_done) for record in found] == [("lora r=1", True), ("lora r=2", False)]
    assert "2 of 3 cells are not done" in capsys.readouterr().err
    assert lb.sweep(["kr=1"], method="lora", task="rte", results=tmp_path) == found[:1]
    assert "overrides" in inspect.signature(lb.sweep).parameters
    with pytest.raises(lb.UserError, match="is one text: give a list"):
        lb.sweep("kr=1")
    with pytest.raises(lb.UserError, match="give one of the two"):
        lb.sweep(["kr=1", ["kr=2"]])
    with pytest.raises(lb.UserError, match="cluster=moon is not possible"):
        lb.sweep(["kr=1"], cluster="moon", results=tmp_path)


def test_the_frame_has_one_row_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [
        measured("rte", "lora2", 0, 0.75),
        measured("rte", "lora2", 0, 0.6, protocol="clean"),
        measured("rte", "lora", 1, 0.3, max_train=64, cut=("data.max_train=64",)),
        make_failed(make_cell("rte", "full", seed=9)),
        make_row_record("lora2_k1", "mnli", 3, 84.0, 83.0, run={"memory": {"process_bytes": 5, "gpu_bytes": 7}}),
    ]
    write_all(tmp_path, made)
    (tmp_path / "cells" / "broken").mkdir()
    (tmp_path / "cells" / "broken" / "record.json").write_text("{")
    frame = lb.load(tmp_path).set_index("id")
    assert "broken" in capsys.readouterr().err and len(frame) == 5
    columns = ["id", *frame.columns]
    assert columns[: len(FIRST)] == list(FIRST) and columns[-len(LAST) :] == list(LAST)
    one, clean, cut, failed, mnli = (frame.loc[record.id] for record in made)
    assert (one["best"], one["last"], one["looks"], one["size"]) == (76.0, 75.0, 3, 1)
    assert (one["method"], one["label"], one["data"], one["seconds"]) == ("lora2", "lora2 k=1", "mini", 12.34)
    assert (one["seconds_per_step"], one["parameters"], one["head"], one["active"]) == (1.1, 120, 50, 100)
    assert one["best_dev_accuracy"] == 76.0 and one["last_dev_accuracy"] == 75.0
    assert (clean["protocol"], clean["best"]) == ("clean", 61.0)
    assert np.isnan(clean["last"]) and pd.isna(clean["looks"])
    assert cut["cut"] == "data.max_train=64" and one["cut"] == one["stale"] == ""
    assert (failed["status"], failed["cause"]) == ("failed", "the loss is nan") and np.isnan(failed["best"])
    assert (mnli["rows"].split()[0], mnli["memory"], mnli["path"]) == (
        "lora2_k1",
        7,
        str(Store(tmp_path).path(made[4].id)),
    )
    assert mnli["best_dev_matched_accuracy"] != mnli["best_dev_mismatched_accuracy"]
    assert np.mean([mnli[f"best_dev_{part}_accuracy"] for part in ("matched", "mismatched")]) == pytest.approx(84)


def test_an_empty_folder_is_an_empty_frame_and_none_is_an_error(tmp_path: Path) -> None:
    frame = lb.load(tmp_path)
    assert len(frame) == 0 and list(frame.columns) == [*FIRST, *LAST]
    with pytest.raises(lb.UserError, match="is no folder: run a cell, or name its results"):
        lb.load(tmp_path / "none")
    with pytest.raises(lb.UserError, match="is no row, label or method here"):
        lb.compare(frame, "lora2", "lora")


def test_a_comparison_is_that_of_the_tables(tmp_path: Path) -> None:
    write_all(tmp_path, exhibit_records())
    selection = select(load_records(tmp_path))
    told = compare(scores(selection), "lora2 k=1", correctness=stored_correctness(tmp_path, {}), margin=0.5)
    told = told[told["other"] == "lora r=8"].reset_index(drop=True)
    frame = lb.load(tmp_path)
    assert (frame["stale"] != "").any() and (frame["cut"] != "").any()
    by_label = lb.compare(frame, "lora2 k=1", "lora r=8", margin=0.5)
    pd.testing.assert_frame_equal(by_label.reset_index(drop=True), told)
    by_row = lb.compare(frame, "lora2_k1", "lora_r8", margin=0.5)
    average = by_row[(by_row["task"] == "average") & (by_row["protocol"] == "last")].iloc[0]
    assert (average["method"], average["other"], average["n"], average["tasks"]) == (
        "lora2_k1",
        "lora_r8",
        6,
        "cola sst2",
    )
    assert 0 < average["no_worse_p"] < 1


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (("lora2_k1", "vera_r256"), r"^vera_r256: the frame has no run of this row: of the paper's rows it has "),
        (("lora2_k1", "lora_r80"), r"^lora_r80 is no row, label or method here: did you mean lora_r8"),
        (("lora2_k1", "lora2"), r"^lora2_k1 and lora2 are both cell "),
    ],
)
def test_names_that_cannot_be_compared(names: tuple[str, str], line: str, grid: Path) -> None:
    with pytest.raises(lb.UserError, match=line):
        lb.compare(lb.load(grid), *names)


def test_a_comparison_wants_the_frame_of_load(grid: Path) -> None:
    frame = lb.load(grid)
    with pytest.raises(lb.UserError, match="the frame has no column settings"):
        lb.compare(frame.drop(columns="settings"), "lora2_k1", "lora_r8")
    with pytest.raises(lb.UserError, match="margin=-1 is not possible"):
        lb.compare(frame, "lora2_k1", "lora_r8", margin=-1)
    some = lb.compare(frame[frame["task"] == "rte"], "lora2_k1", "lora_r8")
    assert set(some["task"]) == {"rte"}


def predicted(results: Path, cell: Cell, values: Any) -> str:
    Store(results).write(make_record(cell), lambda folder: write_json(folder / "predictions.json", values))
    return cell.id


def test_predictions_are_one_row_an_example(tmp_path: Path) -> None:
    two = {"labels": [0, 1], "best": [[2.0, 1.0, 0.0], [0.5, 0.1, 3.0]], "last": [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]}
    one = {"labels": [2], "best": [[0.0, 0.0, 1.0]], "last": [[1.0, 0.0, 0.0]]}
    frame = lb.predictions(
        predicted(tmp_path, make_cell("mnli"), {"dev_matched": two, "dev_mismatched": one}), tmp_path
    )
    assert list(frame["split"]) == ["dev_matched", "dev_matched", "dev_mismatched"]
    assert [list(frame[name]) for name in ("row", "label", "best", "last")] == [
        [0, 1, 0],
        [0, 1, 2],
        [0, 2, 2],
        [1, 1, 0],
    ]
    assert frame["best_logit_2"].tolist() == [0.0, 3.0, 1.0]
    scored = {"dev": {"labels": [0.5, 4.0], "best": [[0.25], [3.5]]}}
    frame = lb.predictions(predicted(tmp_path, make_cell("stsb", protocol="clean"), scored), str(tmp_path))
    assert list(frame.columns) == ["split", "row", "label", "best"] and frame["best"].tolist() == [0.25, 3.5]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], "no JSON object"),
        ({"dev": {"best": []}}, "'dev' has no labels"),
        ({"dev": {"labels": [0, 1], "best": [[0.0, 1.0]]}}, "dev.best has 1 rows, its labels 2"),
        ({"dev": {"labels": [0, 1], "best": [[0.0, 1.0], [0.0]]}}, "dev.best is no table of numbers"),
        ({"dev": {"labels": ["a"], "best": [[0.0]]}}, "dev.labels is no list of numbers"),
        ({}, "holds no split"),
    ],
)
def test_predictions_that_are_none(values: Any, line: str, tmp_path: Path) -> None:
    with pytest.raises(lb.UserError, match=re.escape(line)):
        lb.predictions(predicted(tmp_path, make_cell(), values), tmp_path)


def test_a_cell_without_predictions(tmp_path: Path) -> None:
    with pytest.raises(lb.UserError, match="is no cell in"):
        lb.predictions("0123456789abcdef", tmp_path)
    failed = make_failed(make_cell())
    write_all(tmp_path, [failed])
    with pytest.raises(lb.UserError, match="a failed cell predicts nothing"):
        lb.predictions(failed.id, tmp_path)


def test_a_failed_training_raises_and_what_is_not_offered_is_no_attribute(
    tiny_folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["data.max_train=32", "data.max_eval=16", "train.max_steps=4", "train.max_length=48", "device=cpu"]
    quick += ["model=local", f"model.path={tiny_folders('bert')}"]
    monkeypatch.setattr("lora2_bench.training.step.loss_of", lambda logits, labels: logits.sum() * float("inf"))
    for _ in range(2):  # calls repeat
        with pytest.raises(lb.CellFailed, match="the training loss is "):
            lb.run("method=lora", "task=rte", *quick, results=tmp_path)
    assert list(lb.load(tmp_path)["status"]) == ["failed"]
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        lb.trian  # noqa: B018
    assert {*lb.__all__} <= {*dir(lb)}
