"""Records that were found whole are not checked again, and every change to a file has it checked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lora2_bench.records import verified
from lora2_bench.records.store import Store, read_record
from lora2_bench.report.records import load_records
from tests.made_records import make_cell, make_record


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The ids of the records that are checked; files count as settled at once."""
    monkeypatch.setenv("LORA2_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "_SETTLED", -1.0)
    found: list[str] = []

    def noting(path: Path) -> object:
        found.append(path.parent.name)
        return read_record(path)

    monkeypatch.setattr(verified, "read_record", noting)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    for seed in range(3):
        store.write(make_record(make_cell("rte", seed=seed)))
    return store


def test_a_record_is_checked_once_and_read_from_its_file_each_time(store: Store, checked: list[str]) -> None:
    first = list(load_records(store.results))
    assert len(checked) == 3
    again = list(load_records(store.results))
    assert again == first and [one.files for one in again] == [one.files for one in first] and len(checked) == 3
    (kept,) = Path(os.environ["LORA2_BENCH_CACHE"], "verified").iterdir()
    assert first[0].label not in kept.read_text()  # no value of a record is kept


def _same_size(path: Path) -> None:
    changed = path.read_text().replace('"seconds": 12.34', '"seconds": 99.99')
    stat = path.stat()
    path.write_text(changed)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if nobody had been there


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_text(path.read_text().replace('"status": "done"', '"status": "gone"'))
    other.replace(path)


@pytest.mark.parametrize("change", [_same_size, _replaced, lambda path: path.write_text("{}")])
def test_an_edited_record_is_found_out(
    change: Callable[[Path], None], store: Store, checked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [one.id for one in load_records(store.results)]
    checked.clear()
    change(store.path(ids[1]))
    assert [one.id for one in load_records(store.results)] == [ids[0], ids[2]]
    assert checked == [ids[1]] and "is skipped" in capsys.readouterr().err
    assert [one.id for one in load_records(store.results)] == [ids[0], ids[2]]  # and it stays out


def test_a_file_that_was_just_written_is_checked_again(
    store: Store, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "_SETTLED", 3600.0)
    for _ in range(2):
        assert len(list(load_records(store.results))) == 3
    assert len(checked) == 6


@pytest.mark.parametrize("broken", ["", "[]", "[1, 2]", '{"a": [1]}', '{"a": 1}'])
def test_what_is_kept_may_be_broken_or_of_other_checks(
    broken: str, store: Store, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(load_records(store.results))
    (kept,) = Path(os.environ["LORA2_BENCH_CACHE"], "verified").iterdir()
    whole = json.loads(kept.read_text())
    kept.write_text(broken)
    checked.clear()
    assert list(load_records(store.results)) == first and len(checked) == 3
    assert json.loads(kept.read_text()) == whole
    monkeypatch.setattr(verified, "_checks", lambda: "other code")
    assert list(load_records(store.results)) == first and len(checked) == 6


def test_nothing_is_kept_where_the_cache_cannot_be_written(
    store: Store, checked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORA2_BENCH_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert len(list(load_records(store.results))) == 3
    assert len(checked) == 6
