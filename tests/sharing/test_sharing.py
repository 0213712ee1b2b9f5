"""Records that travel: `lora2-bench submit`, `load` and `rescore`."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora2_bench.__main__ import main
from lora2_bench.files.writing import write_json
from lora2_bench.records.record import Record
from lora2_bench.records.retention import write_retention
from lora2_bench.records.store import Store, read_record
from lora2_bench.sharing import archive
from lora2_bench.sharing.rescore import rescored
from lora2_bench.sharing.scoring import metrics_of
from lora2_bench.tasks.metrics import METRICS, glue_metric
from lora2_bench.tasks.spec import TASKS
from lora2_bench.training.evaluation import loss_of, predictions_of
from tests.conftest import Told
from tests.made_records import make_cell, make_failed, make_record
from tests.report.test_retention import retention_of

Call = Callable[..., Told]


def sound(store: Store, task: str = "rte", method: str = "lora2", seed: int = 0, **more: Any) -> Record:
    """A finished cell whose predictions give its scores."""
    spec, draws = TASKS[task], np.random.default_rng([seed, *map(ord, task + method)])
    splits: dict[str, Any] = {}
    for name in spec.dev_splits:
        labels = draws.uniform(0, 5, 30) if spec.is_regression else draws.integers(0, spec.num_labels, 30)
        logits = {when: draws.normal(size=(30, spec.num_labels)).round(4).tolist() for when in ("best", "last")}
        splits[name] = {"labels": labels.tolist(), **logits}
    record = make_record(make_cell(task, method, seed=seed, **more))
    store.write(record, lambda folder: write_json(folder / "predictions.json", splits))
    record = rescored(record, store.folder(record.id))
    store.write(record, lambda folder: write_json(folder / "predictions.json", splits))
    return read_record(store.path(record.id))


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    """Four sound records, one of them of a failed cell."""
    store = Store(tmp_path / "theirs")
    for task, method in (("rte", "lora2"), ("mnli", "lora"), ("stsb", "full")):
        sound(store, task, method)
    store.write(make_failed(make_cell("cola", "full")))
    return store


def submitted(call: Call, store: Store, *more: str) -> Path:
    told = call(main, "submit", str(store.results), *more)
    assert (told.code, told.err) == (0, ""), told.err
    return Path(told.last.removeprefix("written: "))


@pytest.mark.parametrize("task", TASKS)
def test_scores_of_predictions_are_those_of_a_run(task: str) -> None:
    spec, draws = TASKS[task], np.random.default_rng(1)
    logits = draws.normal(0, 3, (200, spec.num_labels)).astype(np.float32)
    labels = draws.uniform(0, 5, 200) if spec.is_regression else draws.integers(0, spec.num_labels, 200)
    out, references = torch.from_numpy(logits), torch.tensor(labels)
    wanted = glue_metric(spec).compute(predictions=predictions_of(out), references=labels.tolist())
    assert metrics_of(spec, labels, logits) == pytest.approx(
        {**wanted, "loss": loss_of(out, references).item()}, rel=1e-6
    )


def test_records_travel_whole(call: Call, theirs: Store, tmp_path: Path) -> None:
    path = submitted(call, theirs)
    assert path.parent == theirs.results / "shared" and path.name.startswith("lora2-bench-records-")
    first = path.read_bytes()
    assert submitted(call, theirs).read_bytes() == first, "the same records are the same file"
    named = submitted(call, theirs, "--output", str(tmp_path / "x.zip"))
    assert named.read_bytes() == first
    ours = Store(tmp_path / "ours")
    told = call(main, "load", str(path), "--results", str(ours.results))
    assert told == Told(0, "4 added\n", "")
    for record in theirs.cells.iterdir():
        for file in record.iterdir():
            assert (ours.cells / record.name / file.name).read_bytes() == file.read_bytes()
    assert [one.name for one in ours.results.iterdir()] == ["cells"]
    assert call(main, "load", str(path), "--results", str(ours.results)).out == "4 there already\n"


def test_what_was_forgotten_travels_and_reaches_a_record_without_it(call: Call, theirs: Store, tmp_path: Path) -> None:
    ours = Store(tmp_path / "ours")
    before = submitted(call, theirs, "--output", str(tmp_path / "before.zip"))
    assert call(main, "load", str(before), "--results", str(ours.results)).code == 0
    rte, stsb = (sound(theirs, task, method) for task, method in (("rte", "lora2"), ("stsb", "full")))
    write_retention(theirs.retention(rte.id), retention_of(rte, 0.5, 0.6))
    after = submitted(call, theirs, "--output", str(tmp_path / "after.zip"))
    told = call(main, "load", str(after), "--results", str(ours.results))
    assert told.code == 0
    assert set(told.out.strip().split("; ")) == {"1 there already, and now with what was forgotten", "3 there already"}
    assert ours.retention(rte.id).read_bytes() == theirs.retention(rte.id).read_bytes()
    write_retention(theirs.retention(rte.id), retention_of(rte, 0.1, 0.2))  # ours stays
    again = submitted(call, theirs, "--output", str(tmp_path / "again.zip"))
    assert call(main, "load", str(again), "--results", str(ours.results)).out == "4 there already\n"
    assert json.loads(ours.retention(rte.id).read_bytes())["sts"]["after"] == pytest.approx(0.36)
    ours.retention(rte.id).write_text("{}")  # damaged: told, and not replaced
    told = call(main, "load", str(again), "--results", str(ours.results))
    assert (
        told.out.startswith("3 there already; 1 not added") and "retention.json cannot be used" in told.out + told.err
    )
    assert ours.retention(rte.id).read_text() == "{}"
    new = Store(tmp_path / "new")
    assert call(main, "load", str(again), "--results", str(new.results)).out == "4 added\n"
    assert json.loads(new.retention(rte.id).read_bytes())["sts"]["after"] == pytest.approx(0.76)

    secret = {**retention_of(rte, 0.5, 0.6), "missing": {"mlm": "no head in /home/ada/models"}}
    write_retention(theirs.retention(rte.id), secret)
    theirs.retention(stsb.id).write_text(theirs.retention(rte.id).read_text())
    told = call(main, "submit", str(theirs.results))
    assert told.code == 2 and f"{rte.id}: retention.json.missing.mlm holds a path" in told.err
    assert f"{stsb.id}: retention.json cannot be used: it is of cell {rte.id}" in told.err


def test_no_finished_record_is_replaced(call: Call, theirs: Store, tmp_path: Path) -> None:
    path, ours = submitted(call, theirs), Store(tmp_path / "ours")
    records = {record.cell["task"]: record for record in map(read_record, theirs.cells.glob("*/record.json"))}
    rte, mnli, stsb, cola = (records[task] for task in ("rte", "mnli", "stsb", "cola"))
    ours.write(dataclasses.replace(rte, run={**rte.run, "seconds": 99.0}))  # the same cell, run here too
    ours.write(dataclasses.replace(mnli, result={**mnli.result, "steps": 7}))
    ours.write(make_failed(make_cell("stsb", "full")))
    ours.write(make_record(make_cell("cola", "full")))
    told = call(main, "load", str(path), "--results", str(ours.results))
    assert told.code == 1
    assert (
        told.err.startswith(f"not added: {mnli.id}: ") and "has other results" in told.err and told.err.count("\n") == 1
    )
    assert set(told.out.strip().split("; ")) == {
        "1 there already, of another run with the same numbers",
        "1 not added",
        "1 added",
        "1 there already",
    }
    assert read_record(ours.path(rte.id)).run["seconds"] == 99.0
    assert read_record(ours.path(mnli.id)).result["steps"] == 7
    assert read_record(ours.path(stsb.id)) == stsb and read_record(ours.path(cola.id)).is_done


def edit(path: Path, change: Callable[[Any], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def move_logit(values: Any) -> None:
    values["dev"]["best"][0][0] += 1e-3  # no score changes


def forge(folder: Path, change: Callable[[Any], None]) -> None:
    """Predictions that are changed, and a record that is written with them."""
    record = read_record(folder / "record.json")
    values = json.loads((folder / "predictions.json").read_text())
    change(values)
    Store(folder.parents[1]).write(record, lambda new: write_json(new / "predictions.json", values))


def raise_score(values: Any) -> None:
    values["result"]["best"]["score"] = values["result"]["best"]["metrics"]["dev"]["accuracy"] = 0.99


def test_a_record_that_is_not_sound_does_not_travel(call: Call, tmp_path: Path) -> None:
    cases: list[tuple[str, Callable[[Path], object], str]] = [
        ("schema", lambda at: edit(at / "record.json", lambda v: v.update(schema=9)), "its record cannot be read: "),
        (
            "seed",
            lambda at: edit(at / "record.json", lambda v: v["cell"].update(seed=8)),
            "its record cannot be read: ",
        ),
        ("predictions", lambda at: (at / "predictions.json").unlink(), "it has no predictions.json"),
        ("garbage", lambda at: (at / "predictions.json").write_text("{"), "predictions.json does not fit its record: "),
        (
            "edit",
            lambda at: edit(at / "predictions.json", move_logit),
            "is not the file that the record was written with",
        ),
        ("split", lambda at: forge(at, lambda v: v.update(x=v["dev"])), "predictions of dev, x are not"),
        ("last", lambda at: forge(at, lambda v: v["dev"].pop("last")), "no predictions of the last"),
        ("label", lambda at: edit(at / "predictions.json", lambda v: v["dev"]["labels"].insert(0, 7)), "its labels 31"),
    ]
    for name, damage, problem in cases:
        store = Store(tmp_path / name)
        record = sound(store)
        damage(store.folder(record.id))
        told = call(main, "submit", str(store.results))
        assert (told.code, told.out) == (2, "") and told.err.startswith("error: 1 problems:"), name
        assert f"  {record.id}: " in told.err and problem in told.err, told.err
        assert not (store.results / "shared").exists()


def test_a_trial_of_a_study_stays_at_home(call: Call, tmp_path: Path) -> None:
    store = Store(tmp_path)
    sound(store)
    trial = make_record(make_cell(protocol="tune"))
    store.write(trial, lambda folder: write_json(folder / "predictions.json", {}))
    told = call(main, "submit", str(tmp_path))
    assert "1 records are sound, 0 of failed cells; 1 trials of studies are left out" in told.out
    with zipfile.ZipFile(Path(told.last.removeprefix("written: "))) as packed:
        assert not any(trial.id in name for name in packed.namelist())
    assert call(main, "rescore", "--results", str(tmp_path)).out.startswith("1 records have these scores; 0 would")


def test_scores_that_predictions_do_not_give_do_not_travel(call: Call, tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = sound(store)
    values = record.to_dict()
    raise_score(values)
    forged = dataclasses.replace(record, result=values["result"])
    predictions = (store.folder(record.id) / "predictions.json").read_bytes()
    store.write(forged, lambda folder: (folder / "predictions.json").write_bytes(predictions) and None)
    told = call(main, "submit", str(tmp_path))
    assert told.code == 2 and "its predictions give other scores: best.dev.accuracy 0.99 -> " in told.err


@pytest.mark.parametrize(
    "text", ["/data/alice/glue/", "results=~/mine/", "hf_abcdefghijklmnop", "api_key=sesame1", "job on wombat7"]
)
def test_a_path_a_secret_or_a_name_does_not_travel(
    text: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "wombat7")
    store = Store(tmp_path)
    record = sound(store)
    told_of = dataclasses.replace(record, run={**record.run, "command": ["task=rte", text]})
    predictions = (store.folder(record.id) / "predictions.json").read_bytes()
    store.write(told_of, lambda folder: (folder / "predictions.json").write_bytes(predictions) and None)
    told = call(main, "submit", str(tmp_path))
    assert told.code == 2 and "run.command.1 holds a path, a name or a secret: " in told.err
    assert text not in told.err


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], **options: Any) -> Path:
    """A zip with its files changed."""
    with zipfile.ZipFile(path) as source:
        files = {name: source.read(name) for name in source.namelist()}
    change(files)
    made = path.with_name("made.zip")
    with zipfile.ZipFile(made, "w", **options) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return made


def other_file(files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.endswith("record.json"))
    files[name] = files[name][:-1] + b" "


REFUSED: list[tuple[Callable[[dict[str, bytes]], Any], str]] = [
    (lambda files: files.update({"../x": b""}), r"'../x' is no file of a record"),
    (lambda files: files.update({"/etc/x": b""}), r"'/etc/x' is no file of a record"),
    (lambda files: files.update({"cells/0123456789abcdef/../record.json": b""}), "is no file of a record"),
    (lambda files: files.update({"cells/0123456789abcdef/x.py": b""}), "is no file of a record"),
    (lambda files: files.update({"cells/0123456789abcdef/record.json": b""}), "is in the zip or in contents.json"),
    (lambda files: files.pop("contents.json"), "it has no contents.json"),
    (lambda files: files.update({"contents.json": b"[]"}), "contents.json does not list files"),
    (lambda files: files.update({"contents.json": b"[" * 10**5}), "contents.json does not list files"),
    (lambda files: files.update({"contents.json": b'{"lora2_bench_records": 9, "files": {}}'}), "format 9 is not 1"),
    (other_file, "is not the file that its contents list"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_a_zip_that_submit_has_not_made_is_refused_whole(
    number: int, call: Call, theirs: Store, tmp_path: Path
) -> None:
    change, line = REFUSED[number]
    made = rewritten(submitted(call, theirs), change)
    ours = tmp_path / "ours"
    told = call(main, "load", str(made), "--results", str(ours))
    assert (told.code, told.out) == (2, "") and line in told.err and told.err.count("\n") == 1
    assert list((ours / "cells").iterdir()) == [] and [one.name for one in ours.iterdir()] == ["cells"]


def test_sizes_are_bounded(call: Call, theirs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = submitted(call, theirs)
    for name, value, line in (
        ("MOST_FILES", 2, "files, more than 2"),
        ("MOST_BYTES", 100, "bytes, more than 100"),
        ("MOST_BYTES_ALL", 1000, "bytes, more than 1000"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(archive, name, value)
            told = call(main, "load", str(path), "--results", str(tmp_path / "ours"))
        assert told.code == 2 and line in told.err, told
    assert list((tmp_path / "ours" / "cells").iterdir()) == []


def test_a_damaged_zip_is_refused_in_one_line_or_gives_what_was_sent(call: Call, theirs: Store, tmp_path: Path) -> None:
    path, draws = submitted(call, theirs), random.Random(0)
    whole = path.read_bytes()
    for number in range(60):
        broken = bytearray(whole)
        for _ in range(3):
            broken[draws.randrange(len(broken))] = draws.randrange(256)
        made = tmp_path / "broken.zip"
        made.write_bytes(bytes(broken[: draws.randrange(len(broken))] if number % 4 == 0 else broken))
        ours = tmp_path / f"ours{number}"
        told = call(main, "load", str(made), "--results", str(ours))
        if told.code == 2:
            assert told.err.count("\n") == 1 and "Traceback" not in told.err, told.err
            assert list((ours / "cells").iterdir()) == []
        else:
            assert told.out == "4 added\n"
            for record in theirs.cells.glob("*/record.json"):
                assert (ours / record.relative_to(theirs.results)).read_bytes() == record.read_bytes()


def test_a_zip_of_records_that_are_not_sound_adds_nothing(call: Call, tmp_path: Path) -> None:
    store = Store(tmp_path / "theirs")
    good, bad = sound(store), sound(store, seed=1)
    (store.folder(bad.id) / "predictions.json").unlink()
    path = archive.pack(store, [good.id, bad.id], tmp_path / "x.zip")
    told = call(main, "load", str(path), "--results", str(tmp_path / "ours"))
    assert told.code == 2 and f"{bad.id}: it has no predictions.json" in told.err and "nothing is added" in told.err
    assert list((tmp_path / "ours" / "cells").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["submit"], "the following arguments are required: results"),
        (["submit", "."], "has no records in cells"),
        (["load", "none.zip"], "none.zip is no file: give one of lora2-bench submit"),
        (["load", "text.zip"], "text.zip is no zip of records"),
        (["rescore", "--results", "none"], "--results none is no folder"),
        (["rescore", "--wirte"], "--wirte is not an option: did you mean --write?"),
    ],
)
def test_wrong_words(words: list[str], line: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.zip").write_text("PK")
    told = call(main, *words)
    assert (told.code, told.out) == (2, "") and line in told.err and told.err.count("\n") == 1


def test_rescore_after_a_metric_was_mended(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    rte, cola = sound(store), sound(store, "cola")
    store.write(make_failed(make_cell("sst2", "full")))
    weights = store.folder(cola.id) / "adapter" / "x.bin"
    weights.parent.mkdir()
    weights.write_bytes(b"1")
    told = call(main, "rescore", "--results", str(tmp_path))
    assert told == Told(
        0, "2 records have these scores; 0 would change (--write changes them); 0 cannot be scored\n", ""
    )
    monkeypatch.setitem(METRICS, "matthews_correlation", lambda *_: 0.25)
    before = cola.result["best"]["score"]
    told = call(main, "rescore", "--results", str(tmp_path))
    assert f"{cola.id} cola lora2 k=1: best.dev.matthews_correlation {before} -> 0.25" in told.out and told.code == 0
    assert read_record(store.path(cola.id)) == cola, "nothing is written without --write"
    told = call(main, "rescore", "--results", str(tmp_path), "--write")
    assert told.last == "1 records have these scores; 1 rewritten; 0 cannot be scored"
    now = read_record(store.path(cola.id))
    assert now.result["best"]["score"] == 0.25 and now.result["last"]["metrics"]["dev"]["matthews_correlation"] == 0.25
    assert now.result["best"]["metrics"]["dev"]["accuracy"] == cola.result["best"]["metrics"]["dev"]["accuracy"]
    assert [one["score"] for one in now.result["evaluations"]] == [0.25, 0.25]
    assert "rescored" in now.run and weights.read_bytes() == b"1" and read_record(store.path(rte.id)) == rte
    assert call(main, "rescore", "--results", str(tmp_path)).last.startswith(
        "2 records have these scores; 0 would change"
    )


def test_rescore_leaves_what_it_cannot_score(call: Call, tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = sound(store), sound(store, seed=1)
    (store.folder(one.id) / "predictions.json").unlink()
    shutil.copy(store.path(one.id), store.path(two.id).with_name("predictions.json"))
    told = call(main, "rescore", "--results", str(tmp_path), "--write")
    assert told.code == 1 and told.out == "0 records have these scores; 0 rewritten; 2 cannot be scored\n"
    assert f"{one.id} is left as it is: it has no predictions" in told.err and two.id in told.err


def test_a_real_cell_travels(bench: Call, call: Call, tiny_folders: Callable[[str], Path], tmp_path: Path) -> None:
    quick = ("data.max_train=32", "data.max_eval=24", "train.max_steps=4", "train.max_length=48", "device=cpu")
    tiny = ("model=local", f"model.path={tiny_folders('bert')}", "method=lora", *quick, f"results={tmp_path / 'a'}")
    for words in (("task=mrpc",), ("task=rte", "protocol=clean")):
        assert bench(*tiny, *words).code == 0
    path = submitted(call, Store(tmp_path / "a"))
    assert call(main, "load", str(path), "--results", str(tmp_path / "b")).out == "2 added\n"
    told = bench(*tiny[:-1], f"results={tmp_path / 'b'}", "task=mrpc")
    assert told.code == 0 and "step/s" not in told.err, "a merged record is a finished cell"
