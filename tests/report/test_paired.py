"""The comparisons of Table 1: which is primary, what Holm's family is, what is claimed, and what is no worse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lora2_bench.experiment.suites import suites
from lora2_bench.records.record import Record
from lora2_bench.report.comparisons import AVERAGE
from lora2_bench.report.scores import scores
from lora2_bench.report.selection import select
from lora2_bench.report.statistics.power import seeds_needed
from lora2_bench.report.statistics.significance import holm, non_inferiority_test
from lora2_bench.report.tables.exhibits import fill_exhibits
from lora2_bench.report.tables.paired import IN_FAMILY, IS_NO_WORSE, IS_PRIMARY, MARGIN, paired
from lora2_bench.report.tables.paired_sheets import paired_sheets
from lora2_bench.report.tables.render import markdown
from tests.made_records import make_row_record

TABLE1 = suites()["table1"]
GAIN = {"lora2_k1": 0.6, "lora2_k8": 1.2, "lora_r8": 0.5}


def table(records: list[Record]) -> pd.DataFrame:
    selection = select(records)
    places = {(run.model, run.data) for run in selection.runs}
    grids = [
        grid for place in places for grid in fill_exhibits(*place, selection.runs, selection.stale).grids["table1"]
    ]
    return paired(scores(selection), grids, None)


@pytest.fixture(scope="module")
def whole() -> pd.DataFrame:
    """All of Table 1 with made scores: six seeds of every row and task."""
    rng = np.random.default_rng(0)
    return table(
        [
            make_row_record(row, task, seed, *(85 + GAIN.get(row, 0.0) + rng.normal(0, 0.5, 2)))
            for row in TABLE1.rows
            for task in TABLE1.tasks
            for seed in TABLE1.seeds
        ]
    )


def test_one_comparison_is_primary_and_outside_holms_family(whole: pd.DataFrame) -> None:
    (primary,) = whole[whole["role"] == IS_PRIMARY].to_dict("records")
    assert (primary["method"], primary["other"]) == ("lora2 k=1", "lora r=1")
    assert (primary["protocol"], primary["task"], primary["n"]) == ("last", AVERAGE, 6)
    assert np.isnan(primary["holm_p"])
    assert primary["t_p"] < 0.05


def test_the_averages_and_the_single_tasks_of_a_protocol_are_a_family_each(whole: pd.DataFrame) -> None:
    family = whole[whole["role"] == IN_FAMILY]
    sizes = family.groupby(["protocol", family["task"] == AVERAGE])["family"].agg(["size", "min", "max"])
    assert sizes.to_numpy().tolist() == [[72, 72, 72], [8, 8, 8], [72, 72, 72], [9, 9, 9]]
    for _, part in family.groupby(["protocol", family["task"] == AVERAGE]):
        assert part["holm_p"].tolist() == pytest.approx(holm(part["t_p"].tolist()))


def test_claims_are_by_the_printed_cells_and_the_refuted_average_stands_beside(whole: pd.DataFrame) -> None:
    averages = whole[(whole["task"] == AVERAGE) & (whole["protocol"] == "paper") & (whole["role"] == IN_FAMILY)]
    rows = {(row["method"], row["other"]): row for row in averages.to_dict("records")}
    sora = rows["lora2 k=8", "sora r=8"]
    assert sora["claimed"] == pytest.approx(0.07375)
    assert sora["claimed_printed"] == pytest.approx(0.32)
    assert sora["seeds_needed"] == seeds_needed(0.07375, sora["sd"])
    assert sora["seeds_needed_printed"] == seeds_needed(0.32, sora["sd"])
    assert np.isnan(rows["lora2 k=1", "sora r=1"]["claimed_printed"]), "its averages follow from its cells"
    text = "".join(markdown(sheet) for sheet in paired_sheets(whole, "deberta_v3_base", "hub", 0))
    assert f"0.07 (0.32) | {sora['seeds_needed']} ({sora['seeds_needed_printed']}) |" in text


def test_an_average_over_some_tasks_claims_what_the_cells_of_those_tasks_give() -> None:
    made = [make_row_record(row, task, 0) for row in ("lora2_k1", "lora_r1") for task in ("cola", "rte")]
    found = table(made)
    (row,) = found[(found["task"] == AVERAGE) & (found["protocol"] == "last")].to_dict("records")
    assert row["claimed"] == pytest.approx((70.63 - 68.60 + 89.53 - 81.29) / 2)


def test_no_worse_is_the_one_sided_test_against_the_margin(whole: pd.DataFrame) -> None:
    rows = whole[whole["role"] == IS_NO_WORSE].to_dict("records")
    assert [(row["method"], row["other"], row["task"], row["margin"]) for row in rows] == [
        ("lora2 k=1", "lora r=8", AVERAGE, MARGIN)
    ] * 2
    for row in rows:
        shape = np.array([-1.0, -1, -1, 1, 1, 1])
        alike = row["difference"] + row["sd"] * shape / shape.std(ddof=1)  # the same mean and sd
        assert row["no_worse_p"] == pytest.approx(non_inferiority_test(alike, MARGIN))
        assert row["seeds_needed"] == seeds_needed(MARGIN, row["sd"])
        assert (row["no_worse_p"] < 0.025) == (row["low"] > -MARGIN)
    text = "".join(markdown(sheet) for sheet in paired_sheets(whole, "deberta_v3_base", "hub", 0))
    assert text.count("| no worse |") + text.count("| not shown |") == 2
    assert text.count("exactly the functions of LoRA r=1") == 2, "said wherever the two are compared"


def test_unequal_looks_are_told_below_comparisons() -> None:
    made = [make_row_record(row, "rte", seed) for row in ("lora2_k1", "lora_r1") for seed in range(2)]
    for record in made[:2]:
        record.result["evaluations"] *= 5
    text = "".join(markdown(sheet) for sheet in paired_sheets(table(made), "deberta_v3_base", "hub", 0))
    assert text.count("In 1 of 1 comparisons looks at dev are unequal") == 1, "of the best scores alone"


def test_without_runs_there_is_nothing_to_compare() -> None:
    assert table([make_row_record("lora2_k1", "rte")]).empty
