"""Results folders that lie: each bad file is named once and skipped, by every door, and the good ones are counted."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.config.compose import plan_of
from lora2_bench.errors import UserError
from lora2_bench.files.paths import below
from lora2_bench.files.writing import write_json
from lora2_bench.records.lock import locked, read_holder
from lora2_bench.records.progress import read_progress
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store, read_record
from lora2_bench.report import __main__ as report_entry
from lora2_bench.report.predictions import read_correctness
from lora2_bench.sweep import status
from lora2_bench.sweep.batches import latest_failures, read_batches, write_failure
from lora2_bench.sweep.cells import plan_cells, requested_cells
from lora2_bench.tracking import publish
from tests.conftest import Told
from tests.made_records import make_cell, make_record, make_row_record
from tests.tracking.test_publish import Runs

Damage = Callable[[Path], object]
GOOD = 2


def text(content: str | bytes) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(data)


def value(dotted: str, item: Any) -> Damage:
    def damage(path: Path) -> None:
        values = json.loads(path.read_text())
        *names, last = dotted.split(".")
        inner = values
        for name in names:
            inner = inner[name]
        inner[last] = item
        path.write_text(json.dumps(values))

    return damage


def without(name: str) -> Damage:
    def damage(path: Path) -> None:
        values = json.loads(path.read_text())
        del values[name]
        path.write_text(json.dumps(values))

    return damage


def in_place(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


EDITED = "its content is not what was written: it was edited or damaged since$"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (text(""), "not JSON"),
    "cut": (lambda path: path.write_text(path.read_text()[:700]), "not JSON"),
    "not UTF-8": (text(b'{"schema": 1, "id": "\xff"}'), "not UTF-8"),
    "UTF-16": (text('{"schema": 1}'.encode("utf-16")), "not UTF-8"),
    "a list": (text("[1]"), "no JSON object"),
    "nested": (text("[" * 10**5), "nested too deep"),
    "nested below": (value("cell.method.more", json.loads("[" * 400 + "]" * 400)), "a record of another cell|too deep"),
    "digits": (text('{"schema": 1' + "0" * 5000 + "}"), "not JSON: Exceeds the limit"),
    "infinity": (text('{"schema": Infinity}'), "Infinity is no number"),
    "NaN": (value("result.best.score", float("nan")), "NaN is no number"),
    "half a pair": (value("label", "\ud800"), "not UTF-8"),
    "a folder": (in_place(Path.mkdir), "it is no file"),
    "a loop": (in_place(lambda path: path.symlink_to(path)), "Too many levels of symbolic links|cannot be read"),
    "a pipe": (in_place(os.mkfifo), "it is no file"),
    "schema": (value("schema", 2), "schema 2 is not 1"),
    "huge": (value("result.best.score", 1e308), "result.best.score is out of range"),
    "huge steps": (value("result.steps", 10**400), "result.steps is out of range"),
    "500": (value("result.last.score", 5.0), "result.last.score is out of range"),
    "text": (value("result.evaluations", "none"), "result.evaluations is no list"),
    "a list inside": (value("result.best.metrics", []), "result.best.metrics is no dict"),
    "seconds": (value("run.seconds", "long"), "run.seconds is no float"),
    "esc": (value("cell.model.name", "../../../esc"), "cell.model.name is no plain name"),
    "root": (value("cell.method.name", "/etc/x"), "cell.method.name is no plain name"),
    "dots": (value("cell.data.source", ".."), "cell.data.source is no plain name"),
    "slash": (value("result.backbone.name", "a/b"), "result.backbone.name is no plain name"),
    "task": (value("cell.task", "../rte"), "cell.task is no plain name"),
    "metric": (value("result.main_metric", "<b>"), "result.main_metric is no plain name"),
    "label": (value("label", "lora\x1b[2J"), "label is no line of text"),
    "id": (value("id", "../../x"), "id is no id"),
    "another id": (value("id", "0123456789abcdef"), "a record of another cell: its settings are those of"),
    "other settings": (value("cell.train.lr", 0.5), "a record of another cell: its settings are those of"),
    "a digit": (value("result.best.score", 0.8125), EDITED),
    "a number of steps": (value("result.steps", 125), EDITED),
    "a cut left out": (value("cut", ["train.lr=0.5"]), EDITED),
    "a digest": (value("sha256", "0" * 64), EDITED),
    "no digest": (without("sha256"), EDITED),
    "no files": (without("files"), EDITED),
    "other files": (value("files", {"predictions.json": "0" * 64}), EDITED),
    "a digest of other form": (value("sha256", "0"), "sha256 is no SHA-256"),
}


def spoilt(results: Path) -> dict[str, Path]:
    """Good records, and below other seeds one for each way to damage it; the paths of these."""
    store = Store(results)
    for seed in range(GOOD):
        store.write(good(seed))
    paths = {}
    for number, (name, (damage, _)) in enumerate(DAMAGES.items(), GOOD):
        paths[name] = store.write(good(number))
        damage(paths[name])
    copy = store.folder("0123456789abcdef")
    copy.mkdir()
    (copy / "record.json").write_text(store.path(good(0).id).read_text())
    return {**paths, "copy": copy / "record.json"}


def good(seed: int) -> Record:
    return make_record(make_cell("rte", "lora", seed=seed))


def outside(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("what", ["tables", "figures", "report", "publish"])
def test_each_bad_record_is_named_once_and_the_others_are_read(
    what: str, tmp_path: Path, call: Callable[..., Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    paths = spoilt(results)
    runs = Runs()
    monkeypatch.setitem(sys.modules, "wandb", runs)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    words = ("--results", str(results))
    told = call(publish.main, *words) if what == "publish" else call(report_entry.main, what, *words)
    assert told.code == 0, told.err
    lines = [line for line in told.err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == len(paths)
    assert "Traceback" not in told.err
    for name, path in paths.items():
        (line,) = (line for line in lines if f"{path} " in line)
        wanted = (
            DAMAGES[name][1] if name in DAMAGES else "a record of another cell: .* in the folder of 0123456789abcdef"
        )
        assert re.search(wanted, line), line
    assert outside(tmp_path) == ["results"]
    if what == "publish":
        assert len(runs.runs) == GOOD
    if what == "tables":
        header, *rows = (results / "tables" / "minilm-mini" / "scores.csv").read_text().splitlines()
        assert rows and {row.split(",")[header.split(",").index("n")] for row in rows} == {str(GOOD)}


TINY = ("method=lora", "task=rte")


@pytest.mark.parametrize("damage", ["cut", "nested", "a folder", "a pipe", "NaN", "other settings", "a digit"])
def test_a_look_up_of_a_bad_record_is_one_line(damage: str, tmp_path: Path, bench: Callable[..., Told]) -> None:
    overrides = (*TINY, f"results={tmp_path}")
    path = Store(tmp_path).write(make_record(plan_of(overrides).cell))
    DAMAGES[damage][0](path)
    told = bench(*overrides)
    assert (told.code, told.out) == (2, "")
    (line,) = told.err.splitlines()
    assert "rerun=true" in line and re.search(DAMAGES[damage][1].rstrip("$"), line)


GARBAGE: dict[str, Damage] = {
    **{name: damage for name, (damage, _) in DAMAGES.items() if name in ("cut", "not UTF-8", "a list", "nested")},
    **{name: damage for name, (damage, _) in DAMAGES.items() if name in ("digits", "a folder", "a loop", "a pipe")},
    "empty": text(""),
    "null": text("null"),
    "foreign": text('{"name": "left-pad", "version": "1.0.0"}'),
    "types": text('{"host": [], "pid": "x", "born": {}, "step": "1", "total": null, "cause": 7, "time": "now"}'),
    "ranges": text('{"host": "x", "pid": 1' + "0" * 40 + ', "born": "1", "step": -1, "total": 1e308, "time": -1}'),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_note_that_is_garbage_is_none(garbage: str, tmp_path: Path, call: Callable[..., Told]) -> None:
    overrides = ("suite=smoke", "row=lora_r1", "task=rte", "seed=0", f"results={tmp_path}")
    sweep = tmp_path / "sweeps" / "smoke"
    (cell,) = (one.id for one in plan_cells(overrides, sweep, keep=False))
    running = Store(tmp_path).running(cell)
    files = [running / "owner.json", running / "progress.json", sweep / "plan.json"]
    files += [sweep / "batches" / "b-1of1.json", sweep / "failed" / f"{cell}.json"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"some": "thing"} | {str(number): "x" * 50 for number in range(20)}))
        GARBAGE[garbage](path)
    before = sorted(tmp_path.rglob("*"))
    told = call(status.main, *overrides)
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("smoke: 1 cells: 0 done, 0 running, 0 queued, 0 failed, 1 interrupted, 0 missing")
    assert sorted(tmp_path.rglob("*")) == before
    assert requested_cells(sweep) == [] and read_batches(tmp_path) == {} and latest_failures(tmp_path) == {}
    assert read_progress(running) is None and read_holder(running) is None
    with locked(running, "x"):  # a dead lock
        holder = read_holder(running)
        assert holder is not None and holder.pid == os.getpid()
    assert not (running / "owner.json").exists()


def test_status_and_the_audit_need_no_results_folder_and_status_makes_none(
    tmp_path: Path, call: Callable[..., Told]
) -> None:
    nowhere = tmp_path / "nope"
    told = call(status.main, "suite=smoke", f"results={nowhere}")
    assert told.code == 0 and " missing" in told.out
    for what in ("tables", "figures", "report"):
        told = call(report_entry.main, what, "--results", str(nowhere))
        assert told.code == 2 and len(told.err.splitlines()) == 1
    assert call(publish.main, "--results", str(nowhere)).code == 2
    assert not nowhere.exists()
    assert call(report_entry.main, "audit", "--results", str(nowhere)).code == 0
    assert (nowhere / "audit" / "audit.md").is_file()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", "a/b", "a\0b"])
def test_no_path_leaves_results(name: str, tmp_path: Path) -> None:
    for make in (Store(tmp_path).folder, Store(tmp_path).running, lambda one: below(tmp_path, "x", one)):
        with pytest.raises(UserError, match="is no name of a file below"):
            make(name)


def test_a_failure_note_has_what_status_reads(tmp_path: Path) -> None:
    write_failure(tmp_path / "sweeps" / "x", "ab" * 8, "no luck", killed=True)
    assert latest_failures(tmp_path)["ab" * 8]["cause"] == "no luck"


@pytest.mark.parametrize("setting", ["model.name=../../../esc", "model.name=a/b", "model.name=.hidden"])
def test_a_name_that_no_record_may_have_is_refused_before_training(setting: str, bench: Callable[..., Told]) -> None:
    told = bench(*TINY, setting)
    assert told.code == 2 and len(told.err.splitlines()) == 1


def test_a_record_in_another_order_or_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = Store(tmp_path).write(good(0))
    values = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(values.items()))))
    assert read_record(path) == good(0) and read_record(path).files == {}
    path.write_text(json.dumps({name: value for name, value in values.items() if name not in ("files", "sha256")}))
    assert read_record(path) == good(0) and read_record(path).files is None


def test_changed_predictions_are_named_once_and_not_compared(tmp_path: Path, call: Callable[..., Told]) -> None:
    splits = {"dev": {"labels": [0, 1], "best": [[1.0, 0.0], [0.0, 1.0]], "last": [[1.0, 0.0], [0.0, 1.0]]}}
    paths = {}
    for method, row in (("lora", "lora_r1"), ("lora2", "lora2_k1")):
        record = make_row_record(row, "rte")
        paths[method] = Store(tmp_path).write(record, lambda folder: write_json(folder / "predictions.json", splits))
    held = {method: (read_record(path).files or {})["predictions.json"] for method, path in paths.items()}
    file = paths["lora"].with_name("predictions.json")
    assert held["lora"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_correctness(file, held["lora"]) is not None
    file.write_text(file.read_text().replace("1.0", "0.5", 1))
    told = call(report_entry.main, "tables", "--results", str(tmp_path))
    assert told.code == 0 and told.err == f"warning: {file} is skipped: its content is not what its record says\n"
    (table,) = tmp_path.glob("tables/*/comparisons.csv")
    with table.open() as stream:
        assert {line["mcnemar_seeds"] for line in csv.DictReader(stream)} == {"0"}
