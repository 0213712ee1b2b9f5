"""Records of a study in one file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lora2_bench.records.compact import compact_paths, read_compact, write_compact
from lora2_bench.records.store import Store
from lora2_bench.report.records import load_records
from tests.made_records import make_cell, make_failed, make_record


def test_what_is_written_is_read_without_its_config(tmp_path: Path) -> None:
    records = [make_record(make_cell(seed=seed)) for seed in range(3)] + [make_failed(make_cell("mrpc"))]
    records[0].run["config"] = {"method": {"name": "lora2"}}
    path = tmp_path / "studies" / "mine" / "records.jsonl"
    path.parent.mkdir(parents=True)
    write_compact(path, reversed(records))
    assert compact_paths(tmp_path) == [path]
    found = read_compact(path)
    assert [one.id for one in found] == sorted(one.id for one in records)
    del records[0].run["config"]
    assert sorted(records, key=lambda one: one.id) == found
    first = path.read_bytes()
    write_compact(path, found)
    assert path.read_bytes() == first


def test_a_cells_own_record_goes_before_the_studys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = make_record(make_cell(), best=0.9), make_record(make_cell(seed=1))
    Store(tmp_path).write(own)
    path = tmp_path / "studies" / "mine" / "records.jsonl"
    path.parent.mkdir(parents=True)
    write_compact(path, [make_record(make_cell(), best=0.1), other])
    assert list(load_records(tmp_path)) == [own, other]
    path.write_text(path.read_text() + "{}\n")
    skipped: list[Path] = []
    assert list(load_records(tmp_path, skipped)) == [own] and skipped == [path]
    assert "line 3" in capsys.readouterr().err


def test_a_line_of_another_cell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_compact(path, [dataclasses.replace(make_record(make_cell()), id="ab" * 8)])
    with pytest.raises(ValueError, match="line 1: a record of another cell: its settings are those of"):
        read_compact(path)
