"""The store: a record is there whole, or not at all; and what cannot be read or written is told in one line."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

from lora2_bench.errors import UserError
from lora2_bench.files.writing import write_json, write_text
from lora2_bench.records.record import SCHEMA, Record
from lora2_bench.records.store import Store
from lora2_bench.report.records import load_records
from tests.made_records import make_cell, make_failed, make_record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def record() -> Record:
    return make_record(make_cell(), best=0.8)


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_is_written_is_read_again(store: Store, record: Record) -> None:
    path = store.write(record)
    assert path == store.results / "cells" / record.id / "record.json"
    assert store.read(record.id) == record
    assert names_below(store.cells) == [record.id, f"{record.id}/record.json"]


def test_a_cell_without_a_record_is_none(store: Store) -> None:
    assert store.read("0" * 16) is None
    assert not store.results.exists()


def test_extra_files_stand_beside_the_record(store: Store, record: Record) -> None:
    store.write(record, lambda folder: write_json(folder / "predictions.json", {"dev": [1, 2]}))
    folder = store.folder(record.id)
    assert json.loads((folder / "predictions.json").read_text()) == {"dev": [1, 2]}
    assert names_below(folder) == ["predictions.json", "record.json"]


def test_a_record_reads_as_unicode_in_plain_json(store: Store, record: Record) -> None:
    path = store.write(dataclasses.replace(record, label="LoRA² k=1"))
    assert "LoRA² k=1" in path.read_text(encoding="utf-8")


def killed(folder: Path) -> None:
    (folder / "half").write_text("half")
    raise KeyboardInterrupt


def test_a_killed_writer_leaves_nothing(store: Store, record: Record) -> None:
    with pytest.raises(KeyboardInterrupt):
        store.write(record, killed)
    assert names_below(store.cells) == []
    assert store.read(record.id) is None


def test_a_killed_writer_leaves_the_old_record(store: Store, record: Record) -> None:
    store.write(record, lambda folder: write_text(folder / "extra", "old"))
    before = names_below(store.cells)
    with pytest.raises(KeyboardInterrupt):
        store.write(make_record(make_cell(), best=0.1), killed)
    assert store.read(record.id) == record
    assert names_below(store.cells) == before
    assert (store.folder(record.id) / "extra").read_text() == "old"


def test_a_new_folder_that_cannot_be_put_in_place_leaves_the_old_record(
    store: Store, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(record)
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        # The new folder alone has a record of 0.1, so only its move breaks.
        if (self / "record.json").is_file() and target == store.folder(record.id):
            known = json.loads((self / "record.json").read_text())
            if known["result"]["best"]["score"] == 0.1:
                raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="Input/output"):
        store.write(make_record(make_cell(), best=0.1))
    assert store.read(record.id) == record
    assert names_below(store.cells) == [record.id, f"{record.id}/record.json"]


def test_a_record_is_replaced_as_a_whole(store: Store, record: Record) -> None:
    store.write(record, lambda folder: write_text(folder / "only-in-the-old-one", "x"))
    new = make_record(make_cell(), best=0.9)
    store.write(new, lambda folder: write_text(folder / "only-in-the-new-one", "x"))
    assert store.read(record.id) == new
    assert names_below(store.folder(record.id)) == ["only-in-the-new-one", "record.json"]


def test_a_failed_record_can_be_replaced_by_a_finished_one(store: Store, record: Record) -> None:
    store.write(make_failed(make_cell()))
    assert not store.read(record.id).is_done  # type: ignore[union-attr]
    store.write(record)
    assert store.read(record.id).is_done  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_never_reach_a_record(store: Store, record: Record, value: float) -> None:
    store.write(record)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write(make_record(make_cell(), best=value))
    assert store.read(record.id) == record
    assert names_below(store.cells) == [record.id, f"{record.id}/record.json"]


BROKEN = {
    "empty": ("", "not JSON"),
    "foreign": ('{"schema": 1, "name": "x"}', "not a record of this package"),
    "a list": ("[1, 2]", "not a record of this package"),
    "newer": (f'{{"schema": {SCHEMA + 1}}}', f"schema {SCHEMA + 1} is not {SCHEMA}"),
    "without schema": ("{}", f"schema None is not {SCHEMA}"),
}


@pytest.mark.parametrize(("text", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_record_is_named_with_reason_and_fix(store: Store, text: str, reason: str) -> None:
    path = store.path("0" * 16)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError) as told:
        store.read("0" * 16)
    message = str(told.value)
    assert str(path) in message
    assert reason in message
    assert "rerun=true" in message
    assert "\n" not in message


def test_a_truncated_record_is_refused_wherever_it_is_cut(store: Store, record: Record) -> None:
    path = store.write(record)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not JSON"):
            store.read(record.id)


def test_bytes_that_are_no_text_are_refused(store: Store, record: Record) -> None:
    path = store.write(record)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        store.read(record.id)


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    results = tmp_path / "file" / "results"
    with pytest.raises(UserError, match=f"results={results} cannot be written") as told:
        Store(results).check_writable()
    assert "results=DIR" in str(told.value)
    assert "\n" not in str(told.value)


def test_checking_leaves_no_file(store: Store) -> None:
    store.check_writable()
    assert names_below(store.results) == ["cells"]


def test_text_is_replaced_whole_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "n²w\n")
    assert path.read_bytes() == "n²w\n".encode()
    assert names_below(tmp_path) == ["a.txt"]


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert names_below(tmp_path) == ["a.txt"]


def test_a_text_that_cannot_be_put_in_place_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "a.txt", "x")
    assert names_below(tmp_path) == ["a.txt"]


def test_what_a_hard_killed_writer_left_is_no_record(
    store: Store, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write(record)
    left = store.cells / f".{record.id}.abc123"
    left.mkdir()
    (left / "record.json").write_text(store.path(record.id).read_text())
    half = store.cells / f".{record.id}.def456.old"
    half.mkdir()
    (half / "record.json").write_text("{")
    assert list(load_records(store.results)) == [record]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_written_files_have_the_permissions_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {"a": 1})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o666 & ~umask
