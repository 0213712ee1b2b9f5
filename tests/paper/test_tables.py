"""The paper's printed figures: complete, under the project's own names, and kept as printed."""

from __future__ import annotations

import pytest

from lora2_bench.paper import tables as paper
from lora2_bench.paper.printed import Printed
from lora2_bench.tasks.spec import TASKS

GLUE = ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"]
ROWS = [*paper.table1().values(), *paper.table3().values(), *paper.table4().values()]


def test_table1_has_every_method_and_task_by_the_projects_names() -> None:
    assert list(paper.table1()) == [
        ("full", "full", ""),
        ("K/R=1", "bitfit", ""),
        ("K/R=1", "adalora", "r=2"),
        ("K/R=1", "lora", "r=1"),
        ("K/R=1", "sora", "r=1"),
        ("K/R=1", "lora2", "k=1"),
        ("K/R=8", "adalora", "r=8"),
        ("K/R=8", "lora", "r=8"),
        ("K/R=8", "sora", "r=8"),
        ("K/R=8", "lora2", "k=8"),
    ]
    for row in paper.table1().values():
        assert list(row.scores) == list(paper.COLUMNS)
        assert row.tasks == GLUE
    assert {row.method for row in ROWS} == set(paper.METHODS) - {"vera", "ptuning_v2"}  # of other papers


def test_figures_stay_as_printed() -> None:
    row = paper.table1()["K/R=1", "adalora", "r=2"]
    assert (row.scores["sst2"].text, row.params, row.average.text) == ("95.80", Printed("0.32M"), "88.86")
    assert paper.table1()["K/R=8", "adalora", "r=8"].scores["sst2"].digits == 1
    assert paper.claims()["trainable_share"].printed.text == "0.72%"


def test_every_table_names_its_source_and_every_row_its_size() -> None:
    assert {row.source for row in ROWS} == {f"LoRA², arXiv 2408.06854, Table {n}" for n in (1, 3, 4)}
    assert {claim.source for claim in paper.claims().values()} == {
        f"LoRA², arXiv 2408.06854, {where}" for where in ("abstract", "Section 4.2")
    }
    sizes = {row.label: row.size for row in ROWS}
    assert (sizes["BitFit"], sizes["LoRA r=8"], sizes["LoRA² k=1"], sizes["LoRA² k=1 (Q,K)"]) == (None, 8, 1, 1)


def test_tables_3_and_4_are_keyed_by_their_variants() -> None:
    assert list(paper.table3()) == ["uv", "UV", "uv&UV", "PQ", "all"]
    assert list(paper.table4()) == ["Q,K", "Q,V", "Q,K,V", "all"]
    assert {row.params is None for row in paper.table3().values()} == {True}
    assert [row.params and row.params.text for row in paper.table4().values()] == ["37.4k", "37.4k", "56.2k", "167.6k"]


def test_columns_are_metrics_and_splits_of_the_tasks() -> None:
    for column in paper.COLUMNS.values():
        spec = TASKS[column.task]
        assert column.metric in spec.metrics
        assert column.split in spec.dev_splits
        assert column.rows == spec.rows[column.split]
    assert set(paper.dataset_sizes()) == set(GLUE)
    assert set(paper.table2()) < set(GLUE)


def test_a_task_with_two_columns_is_scored_by_their_mean() -> None:
    row = paper.table1()["K/R=1", "lora2", "k=1"]
    assert float(row.score("qqp").value) == pytest.approx((91.62 + 88.05) / 2)
    assert float(row.score("mnli").value) == pytest.approx((90.19 + 90.38) / 2)
    assert row.score("rte") == row.scores["rte"].range
    with pytest.raises(KeyError, match="Table 1 has no wnli"):
        row.score("wnli")
