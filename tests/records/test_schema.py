"""The schema of a record: what is wrong is named by its place, whatever is wrong, and nothing else is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora2_bench.records.record import DONE, FAILED, Record
from lora2_bench.records.store import Store, read_status
from lora2_bench.tasks.metrics import main_name
from lora2_bench.tasks.spec import TASKS
from tests.made_records import make_cell, make_failed, make_record, make_row_record

Place = tuple[str | int, ...]
FREE = ("method", "config", "memory", "versions")  # dicts whose keys are not the schema's


def places(values: Any, at: Place = ()) -> Iterator[Place]:
    """Every place of a record that the schema names."""
    if at:
        yield at
    if isinstance(values, dict) and not set(FREE) & set(at):
        for name, item in values.items():
            yield from places(item, (*at, name))
    if isinstance(values, list):
        for index, item in enumerate(values):
            yield from places(item, (*at, index))


def changed(place: Place, value: Any, values: dict[str, Any] | None = None) -> dict[str, Any]:
    found: Any = copy.deepcopy(values or WHOLE)
    inner = found
    for name in place[:-1]:
        inner = inner[name]
    if value is Ellipsis:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return found


WHOLE = make_row_record("lora2_k1", "mnli", result={"ranks": {"0": {"q": 8}}, "ranks_kept": 8}).to_dict()
PLACES = [place for place in places(WHOLE) if place != ("schema",)]
NEEDED = [
    *(("id",), ("label",), ("cell", "model", "name"), ("cell", "train", "lr"), ("cell", "method", "name")),
    *(("result", "main_metric"), ("result", "best", "score"), ("result", "last"), ("result", "evaluations")),
    *(("result", "parameters", "active"), ("result", "data", "official"), ("run", "finished"), ("run", "seconds")),
]


def told_of(values: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as told:
        Record.from_dict(values)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_another_type_is_named_by_its_place(place: Place) -> None:
    dotted = ".".join(map(str, place))
    assert f"not a record of this package: {dotted} is no " in told_of(changed(place, object()))


@pytest.mark.parametrize("place", NEEDED, ids=lambda place: ".".join(map(str, place)))
def test_a_missing_key_is_named(place: Place) -> None:
    dotted = ".".join(map(str, place))
    assert told_of(changed(place, ...)) == f"not a record of this package: {dotted} is missing"


@pytest.mark.parametrize(
    ("place", "value", "allowed"),
    [
        (("result", "best", "score"), 5.0, "-1 to 1"),
        (("result", "best", "score"), -0.1, "0 to 1"),
        (("result", "evaluations", 1, "score"), -0.1, "0 to 1"),
        (("result", "best", "score"), math.nan, "-1 to 1"),
        (("result", "last", "metrics", "dev_matched", "accuracy"), 1.5, "0 to 1"),
        (("result", "last", "metrics", "dev_matched", "loss"), math.inf, "finite"),
        (("result", "parameters", "adapter"), -1, "0 or more, and finite"),
        (("result", "parameters", "adapter"), 10**400, "0 or more, and finite"),
        (("result", "ranks", "0", "q"), -1, "0 or more, and finite"),
        (("run", "seconds"), -0.5, "0 or more, and finite"),
        (("cell", "train", "lr"), math.inf, "finite"),
    ],
)
def test_a_number_outside_its_range_is_named(place: Place, value: float, allowed: str) -> None:
    told = told_of(changed(place, value))
    assert f": {'.'.join(map(str, place))} is out of range: " in told
    assert told.endswith(f" is not {allowed}")


def test_correlations_may_be_negative() -> None:
    values = make_record(make_cell("cola"), best=-0.2, last=-1).to_dict()
    assert Record.from_dict(values).result["best"]["score"] == -0.2


def test_a_bool_is_no_number_and_an_int_is_a_float() -> None:
    assert "cell.seed is no int: True" in told_of(changed(("cell", "seed"), True))
    assert Record.from_dict(changed(("cell", "train", "lr"), 1)).cell["train"]["lr"] == 1


def test_keys_beyond_the_schema_are_kept() -> None:
    values = changed(("run", "later"), {"any": [1]})
    assert Record.from_dict(values).to_dict() == values


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("status",), "halfway", "status is neither done nor failed"),
        (("cell", "task"), "chess", "cell.task is no task of this package"),
        (("result", "last"), None, "result.last is missing"),
    ],
)
def test_parts_that_do_not_go_together_are_named(place: Place, value: object, told: str) -> None:
    assert told in told_of(changed(place, value))


def test_a_failed_record_needs_its_error_and_no_scores() -> None:
    values = make_failed(make_cell()).to_dict()
    assert "best" not in Record.from_dict(values).result
    assert "error is missing" in told_of({**values, "error": None})


def test_deep_nesting_is_told_in_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(make_record(make_cell()))
    path.write_text("[" * 100_000)
    with pytest.raises(Exception, match="nested too deep"):
        store.read(path.parent.name)
    assert read_status(path) is None


def in_folder(results: Path, cell_id: str) -> Path:
    (results / cell_id).mkdir()
    return results / cell_id / "record.json"


@pytest.mark.parametrize("indent", [1, None])
@pytest.mark.parametrize("record", [make_record(make_cell()), make_failed(make_cell())], ids=[DONE, FAILED])
def test_the_status_is_read_from_the_first_bytes(tmp_path: Path, record: Record, indent: int | None) -> None:
    path = in_folder(tmp_path, record.id)
    text = json.dumps(record.to_dict(), indent=indent)
    path.write_text(text[:300])  # a record is written whole; what lies behind is not looked at
    assert read_status(path) == record.status


def test_a_record_that_begins_otherwise_has_its_status_read_from_the_whole(tmp_path: Path) -> None:
    values = make_failed(make_cell()).to_dict()
    path = in_folder(tmp_path, values["id"])
    path.write_text(json.dumps({"run": {**values.pop("run"), "status": DONE}, **values}))
    assert read_status(path) == FAILED
    path.write_text('{"note": {"status": "done"}}')
    assert read_status(path) is None
    assert read_status(tmp_path / "none.json") is None


@pytest.mark.parametrize("task", TASKS)
def test_every_tasks_own_record_is_read_back(task: str, tmp_path: Path) -> None:
    """QQP's deciding number is called `mean of accuracy and f1`."""
    record = make_record(make_cell(task), main_metric=main_name(TASKS[task]))
    store = Store(tmp_path)
    store.write(record)
    assert store.read(record.id) == record
