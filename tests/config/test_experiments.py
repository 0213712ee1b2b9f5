"""conf/experiment: the cells of a question, swept by -m, in the package and outside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lora2_bench.config.compose import plan_of
from lora2_bench.config.grid import plan_points
from lora2_bench.config.launch import launch
from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.files.paths import CONF

CELLS = {
    "cola_lora_vs_lora2": [
        ("task=cola", f"row={row}", f"seed={seed}") for row in ("lora_r1", "lora_r8", "lora2_k1") for seed in range(5)
    ],
    "rte_rank_of_lora": [
        ("task=rte", "method=lora", f"kr={kr}", f"seed={seed}") for kr in (1, 2, 4, 8, 16) for seed in range(3)
    ],
    "mrpc_smallest": [
        ("task=mrpc", f"method={method}", f"seed={seed}")
        for method in ("head", "bitfit", "ln_tuning", "ia3", "vera")
        for seed in range(3)
    ],
}


def test_each_is_tested_here() -> None:
    assert {path.stem for path in (CONF / "experiment").iterdir()} == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_its_file_says_these_cells(name: str) -> None:
    params = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    axes = [[f"{key}={value}" for value in str(params[key]).split(",")] for key in params]
    assert list(itertools.product(*axes)) == [cell[-len(axes) :] for cell in CELLS[name]]


@pytest.mark.parametrize("name", CELLS)
def test_its_cells_are_those_typed_by_hand_and_values_typed_beside_it_replace_its_own(
    name: str, call: Callable[..., Any], tmp_path: Path
) -> None:
    plans: list[Plan] = []
    typed = ["seed=0", *(["kr=4"] if name == "rte_rank_of_lora" else [])]
    told = call(lambda: launch(plans.append), "-m", f"+experiment={name}", *typed, f"results={tmp_path}")
    assert (told.code, told.err) == (0, "")
    wanted = list(plan_points([cell for cell in CELLS[name] if {*typed} <= {*cell}]))
    assert [(plan.cell.id, plan.cut) for plan in plans] == [(plan.cell.id, plan.cut) for plan in wanted]


def test_one_cell_needs_a_value_of_each_that_is_swept(call: Callable[..., Any]) -> None:
    plans: list[Plan] = []
    told = call(lambda: launch(plans.append), "+experiment=cola_lora_vs_lora2", "seed=3")
    wanted = (
        "+experiment=cola_lora_vs_lora2 is many cells: run them with -m +experiment=cola_lora_vs_lora2, or one of them "
        "with row=..."
    )
    assert (told.code, told.err, plans) == (2, f"error: {wanted}\n", [])
    with pytest.raises(UserError) as refused:
        plan_of(["+experiment=cola_lora_vs_lora2", "seed=3"])
    assert str(refused.value) == wanted
    whole = ["+experiment=cola_lora_vs_lora2", "row=lora2_k1", "seed=3"]
    assert call(lambda: launch(plans.append), *whole).code == 0
    assert plans[0].cell.id == plan_of(whole).cell.id == plan_of(["task=cola", "row=lora2_k1", "seed=3"]).cell.id


def test_one_outside_the_package_and_one_that_is_not_there(
    bench: Callable[..., Any], call: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nhydra: {sweeper: {params: {seed: '5,6'}}}\n"
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(text, encoding="utf-8")
    own, plans = f"--config-dir={tmp_path / 'own'}", []
    told = call(lambda: launch(plans.append), own, "-m", "+experiment=mine", f"results={tmp_path}")
    assert told.code == 0 and [plan.cell.seed for plan in plans] == [5, 6]
    shown = bench("--help", own).out
    assert all(name in shown for name in (*CELLS, "mine"))
    assert bench("+experiment=nothing").err.startswith("error: experiment=nothing is not known: choose one of cola_")
    assert bench("experiment=mrpc_smallest").err == "error: experiment is not a setting: give -m +experiment=NAME\n"
