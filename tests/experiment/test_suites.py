"""Rows and suites: what the tables read of conf/ is what Hydra composes and sweeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from lora2_bench.config.compose import plan_of as made_plan
from lora2_bench.experiment.suites import rows, suites
from lora2_bench.files.paths import CONF
from lora2_bench.paper.tables import released, table1, table3, table4, vera_table2
from lora2_bench.report.tables.layouts import exhibits
from lora2_bench.tasks.spec import TASKS
from tests.composed import plan_of
from tests.conftest import Told


@pytest.mark.parametrize("name", sorted(rows()))
def test_a_rows_cell_fits_its_row_and_no_other(name: str) -> None:
    for model in ("minilm", "roberta_large"):
        plan = made_plan([f"row={name}", f"model={model}", "task=rte", "data=hub"])
        cell = plan.cell
        assert plan.cut == ()
        assert [other for other, spec in rows().items() if spec.fits(cell.to_dict())] == [name]
        assert cell.method_label == rows()[name].label


def test_a_row_is_short_for_its_settings_and_leaves_nothing_in_the_id() -> None:
    plain = plan_of("method=lora2", "kr=1", "task=rte")
    assert plan_of("row=lora2_k1", "task=rte").cell.id == plain.cell.id
    assert plan_of("row=reg_cd", "task=rte").cell.id == plan_of("task=rte", "kr=1", "method.reg.on=[UV]").cell.id
    assert plan_of("row=lora_r8_qv").cell.id == plan_of("method=lora", "kr=8", "method.targets=[v,q]").cell.id


def test_a_suite_is_the_papers_backbone_unless_another_is_given() -> None:
    assert plan_of("suite=table1").cell.model.name == "deberta_v3_base"
    assert plan_of("suite=table1").cell.data.source == "hub"
    assert plan_of("suite=roberta_large").cell.model.name == "roberta_large"
    other = plan_of("suite=table1", "model=minilm", "data=mini", "row=lora_r1", "task=rte").cell
    assert other.id == plan_of("row=lora_r1", "task=rte").cell.id


def test_suites_name_rows_tasks_and_six_seeds_that_there_are() -> None:
    for name, suite in suites().items():
        assert set(suite.rows) <= set(rows()), name
        assert set(suite.tasks) <= set(TASKS), name
        seeds = {"smoke": (0,), "forgetting": (0, 1, 2, 3, 4)}
        assert suite.seeds == seeds.get(name, (0, 1, 2, 3, 4, 5)), name
        assert len(set(suite.rows)) == len(suite.rows)
    control = {"head", "lora2_k8_noreg", "lora2_k8_eq8"}  # of the studies, in no table of the paper
    assert {row for suite in suites().values() for row in suite.rows} | control == set(rows())


def test_only_the_smoke_suite_and_that_of_forgetting_leave_recipes() -> None:
    more = {"smoke": {"train"}, "forgetting": {"train", "retention"}}
    for name in suites():
        keys = set(yaml.safe_load((CONF / "suite" / f"{name}.yaml").read_text(encoding="utf-8")))
        assert keys == {"defaults", "hydra"} | more.get(name, set()), name


def test_the_help_names_every_row_and_suite(bench: Callable[..., Told]) -> None:
    words = {word.strip(",()") for word in bench("--help").out.split()}
    assert set(rows()) | set(suites()) <= words


def test_every_printed_row_has_its_line_in_the_papers_order() -> None:
    made = exhibits()
    assert [line.printed for line in made["table1"].lines] == list(table1().values())
    assert [line.printed for line in made["table3"].lines] == list(table3().values())
    assert [line.printed for line in made["table4"].lines] == list(table4().values())
    for name in ("table1", "table3", "table4"):
        columns = [column.name for column in made[name].columns]
        assert all(list(line.printed.scores) == columns for line in made[name].lines if line.printed)
        assert tuple(dict.fromkeys(column.task for column in made[name].columns)) == made[name].suite.tasks
    others = {(name, line.spec.method) for name in ("vera_table2", "vera_table2_large") for line in made[name].lines}
    assert set(vera_table2()) == others - {("vera_table2_large", "lora")}  # whose figures are not at hand
    for name, method in vera_table2():
        row = vera_table2()[name, method]
        assert tuple(row.scores) == ("cola", "sst2", "mrpc", "stsb", "qnli", "rte")
        assert row.printed_average is None and tuple(row.tasks) == made[name].suite.tasks
    for (name, method), row in released().items():
        assert [(line.spec.method, line.printed) for line in made[name].lines] == [(method, row)]
        assert row.printed_average is None and tuple(row.tasks) == made[name].suite.tasks
    assert [line.label for line in made["ptuning_v2_rte"].lines] == ["P-Tuning v2 length=128"]
    assert [line.label for line in made["roberta_large"].lines] == ["LoRA r=8 (Q,V)", "LoRA² k=1"]


def test_a_cell_of_other_settings_is_no_row() -> None:
    for override in ("method.score=full", "method.reg.form=squared_sum", "method.targets=[q]", "method.reg.on=[]"):
        cell = plan_of("row=lora2_k1", override, "task=rte").cell.to_dict()
        assert not any(spec.fits(cell) for spec in rows().values()), override


def test_a_penaltys_form_is_a_rows_with_the_random_streams_of_its_version() -> None:
    """What was the default in earlier versions is no row of today's, and with their random numbers it is."""
    for row, override in (("lora2_k1", "method.reg.mean_over=chosen"), ("sora_r1", "method.l1_form=mean")):
        for words, fits in (((override,), False), (("rng_version=1",), True), ((), True)):
            cell = plan_of(f"row={row}", *words, "task=rte").cell.to_dict()
            assert rows()[row].fits(cell) == fits, words
