"""Records -> tables: made records give the golden files, byte by byte.

After a wanted change of layout, `python -m tests.report.test_tables` writes the golden files anew: read the diff.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lora2_bench.records.record import SCHEMA, Record
from lora2_bench.records.store import Store
from lora2_bench.report.records import load_records
from lora2_bench.report.scores import over_seeds, scores
from lora2_bench.report.selection import select
from lora2_bench.report.tables.write import write_tables
from tests.made_records import make_cell, make_failed, make_record
from tests.report.exhibit_records import exhibit_records

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"


def good_records() -> list[Record]:
    """Several methods, tasks, seeds and sources, and what must never meet in one mean."""
    made = [
        make_record(make_cell("rte", "lora2", seed=seed), best, best - 0.01)
        for seed, best in enumerate((0.80, 0.82, 0.87))
    ]
    made += [make_record(make_cell("cola", "lora2", seed=seed), best, best) for seed, best in enumerate((0.2, 0.25))]
    made += [
        make_record(make_cell("rte", "lora", seed=seed), best, best - 0.02) for seed, best in enumerate((0.81, 0.79))
    ]
    made += [make_record(make_cell("stsb", "lora", seed=0), 0.4, -0.1)]
    made += [make_record(make_cell("rte", "full", seed=0), 0.9, 0.9)]
    # One science in two spellings: seeds of one mean.
    made += [make_record(make_cell("qnli", "lora2", seed=0, epochs=5), 0.6, 0.6)]
    made += [
        make_record(
            make_cell("qnli", "lora2", seed=1, epochs=5.0, options={"targets": ["f2", "f1", "o", "v", "k", "q"]}),
            0.8,
            0.8,
        )
    ]
    # Two variants of one method.
    made += [
        make_record(make_cell("mrpc", "lora2", weight_decay=decay), best, best)
        for decay, best in ((0.0, 0.7), (0.1, 0.71))
    ]
    # A quick look.
    made += [make_record(make_cell("rte", "lora2", max_train=64), 0.5, 0.5, cut=("data.max_train=64",))]
    # The checkpoint chosen on held-out rows.
    made += [make_record(make_cell("rte", "lora2", protocol="clean"), 0.78)]
    # A sample of the official rows, the whole official rows, and another backbone.
    made += [make_record(make_cell("rte", "lora2", source="local"), 0.55, 0.54, official=False)]
    made += [make_record(make_cell("rte", "lora2", source="local", seed=1), 0.65, 0.64, official=True)]
    made += [make_record(make_cell("mnli", "lora2", source="hub", model="roberta_base"), 0.86, 0.85)]
    return made


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("results"))


def fill(results: Path) -> Path:
    """A results folder: good records, a failed one, those of the paper's tables, three files that cannot be read."""
    store = Store(results)
    for record in good_records():
        store.write(record)
    store.write(make_failed(make_cell("rte", "full", seed=9)))
    for record in exhibit_records():
        store.write(record)
    for name, text in {
        "aa-truncated": json.dumps(good_records()[0].to_dict())[:500],
        "bb-newer": json.dumps({**good_records()[0].to_dict(), "schema": SCHEMA + 1}),
        "cc-foreign": json.dumps({**good_records()[0].to_dict(), "result": {"score": 1}}),
    }.items():
        path = store.path(name)
        path.parent.mkdir()
        path.write_text(text)
    return results


def tables_below(results: Path) -> dict[str, bytes]:
    folder = results / "tables"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_the_tables_are_the_golden_ones(results: Path) -> None:
    paths = write_tables(results)
    made = tables_below(results)
    assert sorted(path.relative_to(results / "tables").as_posix() for path in paths) == sorted(made)
    golden = {path.relative_to(GOLDEN).as_posix(): path.read_bytes() for path in sorted(GOLDEN.rglob("*.*"))}
    assert sorted(made) == sorted(golden)
    for name, text in golden.items():
        assert made[name].decode() == text.decode(), name


def test_tables_do_not_depend_on_the_order_of_records() -> None:
    one, other = over_seeds(scores(select(good_records()))), over_seeds(scores(select(reversed(good_records()))))
    pd.testing.assert_frame_equal(one, other)


def test_mean_sd_and_seeds_of_a_group() -> None:
    table = over_seeds(scores(select(good_records())))
    row = table[
        (table.task == "rte") & (table.method == "lora2 k=1") & (table.protocol == "paper") & (table.data == "mini")
    ]
    row = row[row.cut == ""].iloc[0]
    values = [80.0, 82.0, 87.0]
    assert math.isclose(row["mean"], statistics.mean(values))
    assert math.isclose(row["sd"], statistics.stdev(values))
    assert (row["n"], row["seeds"]) == (3, "0 1 2")


def test_two_spellings_of_one_science_are_seeds_of_one_mean() -> None:
    table = over_seeds(scores(select(good_records())))
    rows = table[(table.task == "qnli") & (table.protocol == "paper")]
    assert rows[["seeds", "variant"]].to_numpy().tolist() == [["0 1", ""]]


def test_settings_that_differ_never_share_a_mean_and_are_told_apart() -> None:
    table = over_seeds(scores(select(good_records())))
    rows = table[(table.task == "mrpc") & (table.protocol == "last")]
    assert sorted(zip(rows["variant"], rows["mean"].round(2), strict=True)) == [
        ("train.weight_decay=0", 70.0),
        ("train.weight_decay=0.1", 71.0),
    ]


def test_samples_cut_runs_and_other_protocols_stand_apart() -> None:
    table = over_seeds(scores(select(good_records())))
    rte = table[(table.task == "rte") & (table.method == "lora2 k=1")]
    found = {(row.model, row.data, row.protocol, row.cut): row.n for row in rte.itertuples()}
    quick = "data.max_train=64"
    assert found == {
        ("minilm", "mini", "paper", ""): 3,
        ("minilm", "mini", "last", ""): 3,
        ("minilm", "mini", "clean", ""): 1,
        ("minilm", "mini", "paper", quick): 1,
        ("minilm", "mini", "last", quick): 1,
        ("minilm", "local-sample", "paper", ""): 1,
        ("minilm", "local-sample", "last", ""): 1,
        ("minilm", "local", "paper", ""): 1,
        ("minilm", "local", "last", ""): 1,
    }


def test_a_failed_cell_is_in_no_mean() -> None:
    failed = make_failed(make_cell("rte", "full", seed=9))
    assert scores(select([failed])).empty
    assert len(scores(select([*good_records(), failed]))) == len(scores(select(good_records())))


def test_unreadable_records_are_named_with_reason_and_the_others_stay(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = list(load_records(results))
    assert len(records) == len(good_records()) + len(exhibit_records()) + 1
    truncated, newer, foreign = capsys.readouterr().err.splitlines()
    assert "aa-truncated" in truncated
    assert "not JSON" in truncated
    assert "bb-newer" in newer
    assert f"schema {SCHEMA + 1}" in newer
    assert "cc-foreign" in foreign
    assert "not a record of this package: result.main_metric is missing" in foreign


@pytest.mark.parametrize("records", [[], [make_failed(make_cell())]], ids=["nothing", "a failed cell"])
def test_without_a_finished_cell_the_page_says_what_to_run(tmp_path: Path, records: list[Record]) -> None:
    for record in records:
        Store(tmp_path).write(record)
    (path,) = write_tables(tmp_path)
    assert "python -m lora2_bench method=lora2 task=rte" in path.read_text()
    Store(tmp_path).write(make_record(make_cell()))
    write_tables(tmp_path)
    assert not path.exists()


@pytest.mark.slow
def test_writing_twice_gives_the_same_files(tmp_path: Path) -> None:
    fill(tmp_path)
    write_tables(tmp_path)
    before = tables_below(tmp_path)
    write_tables(tmp_path)
    assert tables_below(tmp_path) == before


REPORT_AND_MODULES = """
import runpy, sys
sys.argv = ["lora2_bench.report", *sys.argv[1:]]
try:
    runpy.run_module("lora2_bench.report", run_name="__main__", alter_sys=True)
finally:
    print("HEAVY", *sorted({"torch", "transformers", "accelerate", "peft", "hydra", "omegaconf"} & set(sys.modules)))
"""


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", REPORT_AND_MODULES, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)


def test_the_command_prints_the_tables_and_loads_nothing_heavy(tmp_path: Path) -> None:
    done = report("tables", "--results", str(fill(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert [line.split(" is skipped: ")[0] for line in done.stderr.splitlines()] == [
        f"warning: {tmp_path}/cells/{name}/record.json" for name in ("aa-truncated", "bb-newer", "cc-foreign")
    ]
    assert done.stdout.splitlines()[-1] == "HEAVY"
    for path in GOLDEN.rglob("scores.md"):
        assert path.read_text() in done.stdout


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("")
    done = report("tables", "--results", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/tables cannot be written (File exists)\n"


def test_a_results_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    done = report("tables", "--results", str(tmp_path / "typo"))
    assert done.returncode == 2
    assert done.stderr == f"error: --results {tmp_path}/typo is no folder: run a cell, or name its results\n"
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_tables(fill(Path(folder)))
        shutil.rmtree(GOLDEN, ignore_errors=True)
        shutil.copytree(Path(folder) / "tables", GOLDEN)
