"""Records that version 1a0174b wrote give the tables and the figures that it made of them.

`records_1a0174b/cells` holds 19 real records: a tiny backbone under all six methods (the clean protocol, runs off the
recipe and a failed one among them), and MiniLM's LoRA and LoRA² on generated RTE. `tables` and `figures.json` are what
1a0174b itself made of exactly these files.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from lora2_bench.records.store import Store
from lora2_bench.report.figures.data import plots
from lora2_bench.report.records import load_records
from lora2_bench.report.scores import scores
from lora2_bench.report.tables.write import write_tables

OLD = Path(__file__).resolve().parent / "records_1a0174b"
PATHS = sorted(OLD.glob("cells/*/record.json"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    shutil.copytree(OLD / "cells", folder / "cells")
    return folder


def test_every_old_record_is_read_without_a_word(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(load_records(results)) == len(PATHS) == 19
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.parent.name)
def test_an_old_record_is_written_as_the_bytes_it_had(path: Path, tmp_path: Path) -> None:
    record = Store(OLD).read(path.parent.name)
    assert record is not None
    assert Store(tmp_path).write(record).read_bytes() == path.read_bytes()


def test_old_records_give_their_old_tables(results: Path) -> None:
    write_tables(results)
    golden = {path.relative_to(OLD / "tables"): path.read_text() for path in (OLD / "tables").rglob("*.*")}
    folder = results / "tables"
    made = {path.relative_to(folder): path.read_text() for path in folder.rglob("*.*") if path.suffix != ".tex"}
    assert sorted(made) == sorted(golden)
    for name, text in golden.items():
        assert made[name] == text, name


def test_old_records_give_their_old_figures(results: Path) -> None:
    records = load_records(results)
    made = {f"{plot.folder}/{plot.name}": dataclasses.asdict(plot) for plot in plots(records, scores(records))}
    golden = json.loads((OLD / "figures.json").read_text())
    assert json.loads(json.dumps(made)) == golden


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.parent.name)
def test_an_old_record_names_no_home_and_no_host(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r'["=~ ]/\w|/(home|root|Users)/', text), "an absolute path"
    assert set(json.loads(text)["run"]["hardware"]) == {"machine", "processor", "cores", "threads", "gpu"}
