"""Which runs count in a table, and by which marks the others show."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from lora2_bench.experiment.recipe import off_recipe
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.report.predictions import LARGEST_FILE, BoundedReader
from lora2_bench.report.records import load_records
from lora2_bench.report.runs import Run
from lora2_bench.report.selection import FAILED, MISSING, NOT_COMPARABLE, OK, STALE, select
from lora2_bench.report.tables.commands import filling
from lora2_bench.report.tables.exhibits import Filled, fill_exhibits
from lora2_bench.report.tables.grid import Entry, Grid
from lora2_bench.report.tables.layouts import exhibits
from lora2_bench.report.tables.render import markdown
from lora2_bench.report.tables.sheets import name_of, sheets
from lora2_bench.report.tables.slots import EARLY, SEEDS, UNEVEN, slot_of
from lora2_bench.report.tables.step_times import ratio
from tests.composed import plan_of
from tests.made_records import make_cell, make_failed, make_row_record
from tests.report.exhibit_records import exhibit_records


def filled(records: list[Record], model: str = "deberta_v3_base", data: str = "hub") -> Filled:
    selection = select(records)
    own = [run for run in selection.runs if (run.model, run.data) == (model, data)]
    return fill_exhibits(model, data, own, selection.stale)


def grid_of(records: list[Record], protocol: str = "paper", name: str = "table1") -> Grid:
    return next(grid for grid in filled(records).grids[name] if grid.protocol == protocol)


def entry(grid: Grid, row: str, column: str) -> Entry:
    return next(made.entries[column] for made in grid.rows if made.line.spec.name == row)


@pytest.fixture(scope="module")
def table() -> Grid:
    return grid_of(exhibit_records())


@pytest.mark.parametrize(
    ("row", "column", "marks", "n"),
    [
        ("bitfit", "rte", (MISSING,), 0),
        ("lora_r1", "cola", (), 6),
        ("lora_r1", "sst2", (FAILED, SEEDS), 3),
        ("lora_r1", "mrpc", (FAILED,), 0),
        ("lora_r1", "qqp_f1", (STALE,), 0),
        ("lora_r1", "stsb", (STALE,), 0),
        ("lora_r1", "mnli_m", (STALE,), 0),
        ("lora_r1", "qnli", (NOT_COMPARABLE,), 0),
        ("lora_r1", "rte", (NOT_COMPARABLE,), 0),
        ("lora_r1", "average", (MISSING,), 0),
        ("sora_r1", "rte", (NOT_COMPARABLE, SEEDS), 2),
        ("lora2_k1", "rte", (SEEDS,), 4),
        ("lora2_k1", "average", (UNEVEN,), 6),
        ("full", "rte", (SEEDS,), 7),
        ("lora2_k8", "mrpc", (EARLY,), 6),
        ("lora2_k8", "average", (EARLY,), 6),
    ],
)
def test_every_state_has_its_mark(table: Grid, row: str, column: str, marks: tuple[str, ...], n: int) -> None:
    found = entry(table, row, column)
    assert (found.marks, len(found.seeds)) == (marks, n)
    assert (found.mean is None) == (n == 0)


def test_the_average_counts_every_task_once_and_has_no_sd_over_different_seeds(table: Grid) -> None:
    whole = entry(table, "lora2_k8", "average")
    assert whole.mean == pytest.approx((70 + 7 * 90) / 8)
    assert whole.sd == pytest.approx(entry(table, "lora2_k8", "rte").sd)
    uneven = entry(table, "lora2_k1", "average")
    assert uneven.sd is None
    assert uneven.n == "4-6"


def test_settings_with_most_seeds_count_and_never_the_better_ones(table: Grid) -> None:
    assert entry(table, "sora_r1", "rte").mean == pytest.approx(80.2)


def test_qqp_and_mnli_stand_in_the_columns_of_their_metric_and_split(table: Grid) -> None:
    row = {name: entry(table, "lora2_k1", name).mean for name in ("qqp_acc", "qqp_f1", "mnli_m", "mnli_mm")}
    assert row == pytest.approx({"qqp_acc": 88.5, "qqp_f1": 89.5, "mnli_m": 88.5, "mnli_mm": 89.5})


def test_best_and_second_are_ranked_within_a_group_and_equals_share(table: Grid) -> None:
    ranks = {row.line.spec.name: row.entries["cola"].rank for row in table.rows}
    assert ranks["lora2_k1"] == 1
    assert ranks["lora_r1"] == 2
    assert (ranks["adalora_r8"], ranks["lora2_k8"]) == (1, 1)
    assert (ranks["full"], ranks["bitfit"]) == (0, 0)


def test_table_3_takes_its_row_of_all_terms_from_table_1() -> None:
    grid = grid_of(exhibit_records(), name="table3")
    assert entry(grid, "lora2_k1", "mnli_mm").mean == pytest.approx(89.5)
    assert entry(grid, "reg_cd", "mnli_mm").n == "1"


def test_a_printed_average_that_its_cells_do_not_give_is_not_judged(table: Grid) -> None:
    found = entry(table, "lora2_k8", "average").verdict
    assert found is not None
    assert found.word == "not comparable"
    assert "89.43" in found.reason
    uneven = entry(table, "adalora_r8", "average").verdict
    assert uneven is not None
    assert uneven.reason == "its tasks have different sets of seeds"
    even = grid_of([record for record in exhibit_records() if record.cell["seed"] < 6])
    other = entry(even, "adalora_r8", "average").verdict
    assert other is not None
    assert other.word != "not comparable"


def test_the_last_and_the_clean_scores_are_no_counterpart_of_printed_figures() -> None:
    for protocol in ("last", "clean"):
        grid = grid_of(exhibit_records(), protocol)
        assert words(grid) == {"not comparable"}
    assert entry(grid_of(exhibit_records(), "clean"), "lora2_k1", "rte").mean == pytest.approx(86.2)


def words(grid: Grid) -> set[str]:
    return {made.verdict.word for row in grid.rows for made in row.entries.values() if made.verdict}


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("minilm", "hub", "with minilm in place of deberta_v3_base"),
        ("deberta_v3_base", "mini", "on generated data: not GLUE"),
        ("deberta_v3_base", "local-sample", "not GLUE scores"),
        ("deberta_v3_base", "hub-init_from", "from another cell's adapter"),
    ],
)
def test_only_the_papers_backbone_on_glues_rows_carries_the_tables_name(model: str, data: str, said: str) -> None:
    title = name_of("Table 1", "GLUE dev scores", "deberta_v3_base", model, data)
    assert title.startswith("Layout of Table 1, ")
    assert said in title
    assert name_of("Table 1", "GLUE dev scores", "deberta_v3_base", "deberta_v3_base", "hub").startswith("Table 1: ")


def test_without_the_tables_name_no_printed_figure_stands_beside_ours() -> None:
    grids = filled(exhibit_records(), "minilm", "mini").grids["table1"]
    text = "".join(markdown(sheet) for sheet in sheets(grids))
    assert "Layout of Table 1" in text
    assert "Table 1:" not in text
    assert "printed |" not in text
    assert "89.06" not in text
    assert all(words(grid) == {"not comparable"} for grid in grids)


def test_a_table_that_cells_started_from_anothers_adapter_is_apart() -> None:
    origin = {"cell": "0" * 16, "task": "mnli"}
    plain, warm = make_row_record("lora_r1", "rte", 0), make_row_record("lora_r1", "rte", 1)
    warm.cell["init_from"] = "0" * 16
    warm.result["init_from"] = origin
    assert Run.of(warm).data == "hub-init_from"
    grid = filled([plain, warm], data="hub-init_from").grids["table1"][0]
    assert entry(grid, "lora_r1", "rte").seeds == (1,)
    assert not grid.is_papers
    assert all("init_from=CELL" in command for command in filling(grid))


def test_newer_rows_weights_or_major_version_make_the_older_runs_stale() -> None:
    old = {"finished": "2024-01-01T00:00:00+00:00"}
    newest = make_row_record("lora_r1", "rte", 0)
    rows = {**newest.result["data"], "sha256": "00"}
    runs = {
        "same": make_row_record("lora_r1", "rte", 1, run=old),
        "rows": make_row_record("lora_r1", "rte", 2, run=old, result={"data": rows}),
        "weights": make_row_record("lora_r1", "rte", 3, run=old, result={"backbone": {"name": "x", "sha256": "00"}}),
        "version": make_row_record("lora_r1", "rte", 4, run={**old, "versions": {"lora2_bench": "1.0"}}),
        "no version": make_row_record("lora_r1", "rte", 5, run={**old, "versions": {}}),
        "other task": make_row_record("lora_r1", "cola", 2, run=old, result={"data": rows}),
    }
    stale = select([newest, *runs.values()]).stale
    assert {name for name, record in runs.items() if record.id in stale} == {"rows", "weights", "version"}


def test_settings_off_the_recipe_are_found_where_the_record_has_its_config() -> None:
    plan = plan_of("row=adalora_r8", "task=rte")
    assert off_recipe(plan.cell.to_dict(), plan.config) == []
    plan = plan_of("row=lora2_k1", "task=rte", "method.alpha=32", "train.max_length=64", "method.budget.target_r=null")
    found = off_recipe(plan.cell.to_dict(), plan.config)
    assert sorted(text.split("=")[0] for text in found) == [
        "method.alpha",
        "method.budget.target_r",
        "train.max_length",
    ]
    assert off_recipe(plan.cell.to_dict(), {}) == []


def test_a_slot_tells_missing_failed_and_done_seeds_apart() -> None:
    assert set(slot_of([], range(5), {}).states.values()) == {MISSING}
    failed = Run.of(make_failed(make_cell("rte", row="lora_r1", seed=1)))
    assert slot_of([failed], range(3), {}).states == {0: MISSING, 1: FAILED, 2: MISSING}
    done = Run.of(make_row_record("lora_r1", "rte", 1))
    assert slot_of([done], range(3), {}).states == {0: MISSING, 1: OK, 2: MISSING}


def test_a_reason_that_rows_share_is_told_once() -> None:
    made = [
        make_failed(make_cell("rte", row=row, model="deberta_v3_base", source="hub")) for row in ("lora_r1", "lora_r8")
    ]
    made += [make_row_record("sora_r1", "rte", 0, cut=("train.max_steps=40", "data.max_train=64"), max_steps=40)]
    scores = sheets([grid_of(made)])[0]
    assert [note for note in scores.notes if note.startswith("Runs that do not count")] == [
        "Runs that do not count: LoRA r=1, LoRA r=8, rte: failed: the loss is nan; "
        "SoRA r=1, rte: not comparable: train.max_steps=40, data.max_train=64."
    ]


def test_the_commands_below_a_table_are_the_cells_that_do_not_count(table: Grid) -> None:
    states = {
        (row.line.spec.name, task, seed): state
        for row in table.rows
        for task, slot in row.slots.items()
        for seed, state in slot.states.items()
    }
    found = set()
    for command in filling(table):
        values = dict(word.split("=") for word in shlex.split(command) if "=" in word)
        assert (values["model"], values["data"]) == ("deberta_v3_base", "hub")
        tasks, seeds = values["task"].split(","), values["seed"].split(",")
        cells = {(values["row"], task, int(seed)) for task in tasks for seed in seeds}
        assert (" -m row=" in command) == (len(cells) > 1)
        assert ("rerun=true" in command) == ({states[cell] for cell in cells} == {STALE})
        found |= cells
    assert found == {cell for cell, state in states.items() if state != OK}


def test_a_command_below_a_table_composes_to_the_missing_cell() -> None:
    plan = plan_of("row=lora2_k1", "task=rte", "seed=4", "model=deberta_v3_base", "data=hub")
    spec = next(line.spec for line in exhibits()["table1"].lines if line.spec.name == "lora2_k1")
    assert spec.fits(plan.cell.to_dict())
    assert plan.cut == ()


def test_seconds_are_compared_on_one_machine_only() -> None:
    times = filled(exhibit_records()).times
    assert ratio(times, "cola") == pytest.approx(1.0)
    assert ratio(times, "rte") is None, "one of AdaLoRA's runs is from another machine"


def test_large_predictions_are_passed_over_and_counted(tmp_path: Path) -> None:
    one = {"dev": {"labels": [0, 1], "best": [[1.0, 0.0], [0.0, 1.0]], "last": [[1.0, 0.0], [1.0, 0.0]]}}
    for name in ("small", "large"):
        path = tmp_path / "cells" / name / "predictions.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(one) + " " * (LARGEST_FILE if name == "large" else 0))
    reader = BoundedReader(tmp_path, {})
    small = reader("small")
    assert small is not None
    assert small.right["last"].tolist() == [True, False]
    assert (reader("large"), reader("none")) == (None, None)
    assert reader.passed_over == {"large"}


def test_a_copied_folder_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_row_record("lora_r1", "rte", 0)
    store = Store(tmp_path)
    store.write(record)
    copy = store.path("zz-copy")
    copy.parent.mkdir()
    copy.write_text(store.path(record.id).read_text())
    assert [one.id for one in load_records(tmp_path)] == [record.id]
    assert f"a record of another cell: {record.id}, in the folder of zz-copy" in capsys.readouterr().err
