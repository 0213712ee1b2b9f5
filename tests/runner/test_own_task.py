"""A user's own task through every door: trained, then read from its records alone."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lora2_bench
from lora2_bench.__main__ import main
from lora2_bench.files.paths import CONF
from lora2_bench.records.store import Store, read_record, record_paths
from lora2_bench.tasks.sources import load_task
from tests.conftest import Told

Call = Callable[..., Told]

YAML = """
name: weather
columns: [text]
labels: [wet, dry, windy]
metrics: [accuracy, macro_f1]
main: [accuracy, macro_f1]
files: {train: train.csv, dev: dev.csv}
"""


def write_task(folder: Path) -> Path:
    """A folder for `--config-dir` with one task, whose files lie beside it."""
    (folder / "task").mkdir(parents=True)
    (folder / "task" / "weather.yaml").write_text(YAML, encoding="utf-8")
    texts = load_task("rte", "mini").splits["train"].texts["sentence1"]  # words that tiny tokenizers know
    for split, part in (("train", texts[:24]), ("dev", texts[30:39])):
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = [(text, ("wet", "dry", "windy", "dry")[at % 4]) for at, text in enumerate(part)]
            csv.writer(file).writerows([("text", "label"), *rows])
    return folder


QUICK = ("train.max_steps=2", "train.batch_size=4", "train.max_length=16", "device=cpu", "threads=1")


@pytest.mark.slow
def test_an_own_task_goes_through_every_door(
    call: Call, tiny_folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = write_task(tmp_path / "own")
    backbone = ("model=local", f"model.path={tiny_folders('bert')}")
    monkeypatch.chdir(tmp_path)
    words = ("method=lora", "task=weather", "data.dir=own", *backbone, *QUICK)
    told = call(main, "--config-dir=own", "-m", *words, "seed=0,1")
    assert told.code == 0, told.err
    assert told.last.startswith(
        "weather (own-weather) | local | lora r=1 | seed 1 | mean of accuracy and macro_f1 best "
    )
    told = call(main, "sweep", "--config-dir", "own", *words, "seed=0,1,2", "parallel=1", "--wait")
    assert told.code == 0 and told.out.startswith("cells: 3 cells: 2 done, 1 missing"), told.err
    third = lora2_bench.run(*words, config_dir="own", seed=2)
    assert len(record_paths(tmp_path / "results")) == 3 and str(tmp_path) not in json.dumps(third.to_dict())
    shutil.rmtree(tmp_path / "results" / "cells" / third.id)
    shutil.rmtree(conf)  # what follows reads records alone

    store = Store(tmp_path / "results")
    records = [read_record(path) for path in record_paths(store.results)]
    assert all(any(word.startswith("config_dir=") for word in record.run["command"]) for record in records)
    assert [record.spec.labels for record in records] == [("wet", "dry", "windy")] * 2
    assert records[0].spec.rows == {"train": 24, "dev": 9} == records[0].result["data"]["rows"]
    assert records[0].result["data"]["labels"] == {"train": [6, 12, 6], "dev": [3, 4, 2]}
    assert str(tmp_path) not in json.dumps(records[0].to_dict())

    assert call(main, "tables").code == 0
    table = (tmp_path / "results" / "tables" / "local-own-weather" / "scores.md").read_text(encoding="utf-8")
    always_dry = 50 * (4 / 9 + (2 * 4 / 13) / 3)
    assert f"| majority class | 0 | {always_dry:.2f} |" in table
    assert "A task of its own, not of GLUE: text; labels wet, dry, windy; 24 rows of train, 9 rows of dev." in table
    assert call(main, "report").code == 0
    page = (tmp_path / "results" / "report" / "index.html").read_text(encoding="utf-8")
    assert "own-weather" in page
    assert call(main, "figures").code == 0

    frame = lora2_bench.load("results")
    assert list(frame["task"]) == ["weather", "weather"] and list(frame["data"]) == ["own-weather"] * 2
    assert frame["best"].tolist() == pytest.approx(
        [(a + f) / 2 for a, f in zip(frame["best_dev_accuracy"], frame["best_dev_macro_f1"], strict=True)]
    )
    assert len(lora2_bench.predictions(frame["id"][0])) == 9

    made = call(main, "export", records[0].id, "--base", str(tiny_folders("bert")), "--out", "made")
    assert made.code == 0, made.err
    card = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert "files of its own (24 train, 9 dev rows)" in card and "glue" not in card.lower()

    packed = call(main, "submit", "results")
    assert packed.code == 0, packed.err
    assert call(main, "load", packed.last.removeprefix("written: "), "--results", "theirs").code == 0
    assert [path.parent.name for path in record_paths(tmp_path / "theirs")] == [record.id for record in records]
    again = call(main, "rescore", "--results", "theirs")
    assert (again.code, again.err) == (0, "")
    assert [read_record(path).result for path in record_paths(tmp_path / "theirs")] == [one.result for one in records]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("task=imdb",), "task=imdb is not known: choose one of bare, broken, cola, "),
        (("task=imdb",), "or add one of your own as DIR/task/NAME.yaml with --config-dir=DIR (docs/OWN_TASKS.md)"),
        (("task=weather",), "there is no file train.csv below "),
        (("task=weather", "data=mini"), "has files of its own and is not in data=mini: leave data=mini out"),
        (("task=weather", "data=hub"), "task=weather has files of its own and is not in data=hub: leave data=hub out"),
        (("task=weather", "data.seed=3"), "data.seed=3 is of data=mini alone"),
        (("task=weather", "data.dir=own", "predict_test=true"), "predict_test=true does not fit task=weather"),
        (("task=weather", "data.dir=nowhere"), "there is no file nowhere/train.csv below "),
        (("task=weather", "data.dir=own", "task.metrics=[f1]"), "task.metrics=f1 is not possible"),
        (("task=weather", "data.dir=own", "+task.lable=x"), "task.lable is not a setting: did you mean task.label?"),
        (("task=weather", "data.dir=own", "model=roberta_base"),
         "task=weather has no recipe for model=roberta_base with method=lora2: add recipe_of: cola to its file"),
        (("task=glue",), "task=glue has name: rte in its file: give both one name"),
        (("task=broken",), "task/broken.yaml line 2: it is no YAML ("),
        (("task=nameless",), "task.name has no value: the task's file begins with name: NAME"),
        (("task=bare",), "task=bare is a name alone: its file lacks columns, labels, metrics, files ("),
        (("task=rte", "+task.labels=[a,b]"), "task.labels is not for task.name=rte, a task of the package"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_before_training(
    words: tuple[str, ...], wanted: str, bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = write_task(tmp_path / "own")
    files = {
        "glue": "name: rte\n",
        "broken": "name: a\n b: [\n",
        "nameless": YAML.partition("\n")[2].partition("\n")[2],
    }
    for name, text in {**files, "bare": "name: bare\n"}.items():
        (conf / "task" / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    told = bench("--config-dir=own", *words)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1), told.err
    assert wanted in told.err
    assert not (tmp_path / "results").exists()


def test_an_own_task_has_an_id_of_its_files_and_a_budget_of_their_rows(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora2_bench.config.launch import launch
    from lora2_bench.experiment.plan import Plan

    conf = write_task(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    plans: list[Plan] = []

    def plan(*words: str) -> Any:
        told = call(lambda: launch(plans.append), "--config-dir=own", "task=weather", "data.dir=own", *words)
        assert told.code == 0, told.err
        return plans[-1].cell

    first = plan()
    assert first.id == "9116a59d20573f73" and first.data.source == "local"
    (conf / "moved").mkdir()
    for name in ("train.csv", "dev.csv"):
        (conf / name).rename(conf / "moved" / name)
    assert plan("data.dir=own/moved").id == first.id
    assert plan("data.dir=own/moved", "+task.recipe_of=cola", "model=roberta_base").train.lr != first.train.lr
    scaled = plan("data.dir=own/moved", "method.budget.delta_t=10", "method.budget.scale=true")
    assert scaled.method["budget"]["delta_t"] == 10 / (3 * 1)  # 24 rows are one batch of each of the recipe's epochs
    text = (conf / "moved" / "dev.csv").read_text(encoding="utf-8")
    (conf / "moved" / "dev.csv").write_text(text.replace("wet", "dry", 1), encoding="utf-8")
    assert plan("data.dir=own/moved").id != first.id


def test_a_record_of_an_unknown_task_without_its_definition_is_none(tmp_path: Path) -> None:
    from lora2_bench.records.record import Record
    from tests.made_records import make_cell, make_record

    values = make_record(make_cell()).to_dict()
    values["cell"]["task"] = "weather"
    with pytest.raises(
        ValueError, match=r"cell\.task is no task of this package, and the cell has no definition of it"
    ):
        Record.from_dict(values)
    definition = {"columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy"], "main": ["accuracy"],
                  "rows": {"train": 9, "dev": 9}, "sha256": {"train": "0" * 64, "dev": "1" * 64}}  # fmt: skip
    values["cell"]["definition"] = definition
    assert Record.from_dict(values).spec.labels == ("a", "b")
    for change in (
        {"labels": ["a"]},
        {"rows": {"train": -1, "dev": 9}},
        {"sha256": {"train": "x", "dev": "y"}},
        {"more": 1},
    ):
        values["cell"]["definition"] = {**definition, **change}
        with pytest.raises(ValueError, match=r"cell\.definition"):
            Record.from_dict(values)
    values["cell"].update(task="rte", definition=definition)
    with pytest.raises(ValueError, match=r"task\.name=rte is not possible: task\.name must be a name of your own"):
        Record.from_dict(values)


def test_a_planned_sweep_is_planned_anew_where_the_files_have_changed(tmp_path: Path) -> None:
    from lora2_bench.sweep.cells import plan_cells

    (tmp_path / "CB").mkdir()
    for split in ("train", "val"):
        rows = [{"premise": f"{split} {at}", "hypothesis": "It is.", "label": "neutral", "idx": at} for at in range(4)]
        (tmp_path / "CB" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def ids() -> list[str]:
        words = ["method=lora", "task=superglue_cb", f"data.dir={tmp_path}", "seed=0,1"]
        return [cell.id for cell in plan_cells(words, tmp_path / "sweep")]

    before = ids()
    assert len(before) == 2 and ids() == before
    (tmp_path / "CB" / "val.jsonl").write_text(json.dumps({"premise": "", "hypothesis": "", "label": "entailment"}))
    assert not {*ids()} & {*before}


def test_the_default_backbone_s_recipes_have_values_for_a_task_that_they_do_not_know() -> None:
    for model in ("minilm", "local"):
        for path in (CONF / "recipe" / model).glob("*.yaml"):
            tables = re.findall(r"by_task:\{[^}]*\}", path.read_text(encoding="utf-8"))
            assert all("default:" in table for table in tables), path
