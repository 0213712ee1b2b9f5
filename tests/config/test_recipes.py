"""Every recipe: it makes cells that fit, says where its values are from, and has none that nothing uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora2_bench.config import compose
from lora2_bench.config.compose import CONF, plan_from
from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import in_steps
from lora2_bench.runner.setup import check_fit
from lora2_bench.tasks.spec import TASKS
from tests.composed import composed, plan_of, weights_folder

# Those with recipes of their own, and one that borrows all of them: what is borrowed is the same file.
MODELS = sorted({path.parent.name for path in (CONF / "recipe").glob("*/*.yaml")} | {"ettin_17m"})
METHODS = sorted({path.stem for path in (CONF / "method").glob("*.yaml")} - {"peft"})  # which needs a tuner
RECIPES = sorted((CONF / "recipe").glob("*/*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_makes_a_cell_that_fits(model: str, method: str, tmp_path: Path) -> None:
    config = composed(f"model={model}", f"method={method}", "data=hub")
    config.model.path = str(weights_folder(tmp_path / "mine"))
    without: list[str] = []
    own = (
        CONF / "recipe" / model / f"{method}.yaml"
    ).exists()  # what is borrowed has its owner's values for every task
    for task in TASKS if own else ("rte", "wnli"):
        config.task.name = task
        try:
            plan = plan_from(config)
        except UserError as error:
            assert f"task={task} has no recipe for model={model} with method={method}" in str(error)
            without.append(task)
            continue
        check_fit(plan)
        assert plan.cut == ()
        assert (plan.cell.task, plan.cell.model.name, plan.cell.method["name"]) == (task, model, method)
    assert without in ([], ["wnli"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_says_where_its_values_are_from(path: Path) -> None:
    head = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert head is not None, "a recipe begins with a comment"
    assert re.search(r"Source: |chosen: ", head[0])


@pytest.mark.parametrize("method", METHODS)
def test_every_value_of_a_recipe_is_used(method: str) -> None:
    texts = [(CONF / "config.yaml").read_text(), (CONF / "method" / f"{method}.yaml").read_text()]
    used = {name for text in texts for name in re.findall(r"[{:]recipe\.(\w+)\}", text)}
    for model in MODELS:
        if not (CONF / "recipe" / model / f"{method}.yaml").exists():
            continue  # a recipe that is borrowed has what its owner uses
        unused = set(composed(f"model={model}", f"method={method}", "data=hub").recipe) - used
        assert unused == set(), f"recipe/{model}/{method}.yaml"


def test_a_recipe_of_another_task_follows_the_task() -> None:
    config = composed("model=deberta_v3_base", "task=cola", "data=hub")
    values = {}
    for task in ("cola", "mrpc"):
        config.task.name = task
        cell = plan_from(config).cell
        values[task] = (cell.train.lr, cell.train.epochs, cell.train.warmup, cell.method["budget"]["target_r"])
    assert values == {"cola": (8e-4, 25, 100, 3), "mrpc": (1e-3, 30, 0.1, 1)}


def test_another_size_keeps_the_share_that_the_budget_leaves() -> None:
    for kr, target in ((None, 1), (2, 1), (8, 4)):
        assert plan_of("method=adalora", changes={"kr": kr}).cell.method["budget"]["target_r"] == target
    assert (
        plan_of("method=adalora", changes={"kr": 8, "recipe.target_r": None}).cell.method["budget"]["target_r"] is None
    )


PUBLISHED = ("model=deberta_v3_base", "task=mrpc", "data=hub")


def test_a_published_schedule_that_a_cut_run_breaks_says_so_and_scales_on_demand() -> None:
    whole = plan_of(*PUBLISHED)
    check_fit(whole)
    assert [whole.cell.method["budget"][name] for name in ("t_init", "t_final", "delta_t")] == [600, 1800, 1]
    cut = {"train.epochs": 3}
    with pytest.raises(UserError, match=r"must be under the run's 345 steps: .*method\.budget\.scale=true"):
        check_fit(plan_of(*PUBLISHED, changes=cut))
    scaled = plan_of(*PUBLISHED, changes={**cut, "method.budget.scale": True})
    check_fit(scaled)
    budget = scaled.cell.method["budget"]
    total = scaled.cell.train.total_steps(3668)
    assert (round(budget["t_init"] * total), round(budget["t_final"] * total)) == (
        60,
        180,
    )  # of 345, as 600, 1800 of 3450
    assert "scale" not in budget
    assert scaled.cell.id != whole.cell.id


def test_scaling_changes_no_schedule_of_a_whole_run() -> None:
    plain, scaled = plan_of(*PUBLISHED).cell, plan_of(*PUBLISHED, changes={"method.budget.scale": True}).cell
    total = plain.train.total_steps(plain.spec.rows["train"])
    for name in ("t_init", "t_final", "delta_t"):
        steps = [in_steps(cell.method["budget"][name], total) for cell in (plain, scaled)]
        assert steps[0] == steps[1], name


def test_a_warm_up_in_steps_scales_with_the_budget() -> None:
    command = ("model=deberta_v3_base", "task=cola", "data=hub")
    with pytest.raises(UserError, match=r"train\.warmup=100 steps must be under the run's 60 steps"):
        check_fit(plan_of(*command, changes={"train.max_steps": 60, "method.budget.target_r": None}))
    scaled = plan_of(*command, changes={"train.max_steps": 670, "method.budget.scale": True}).cell
    assert in_steps(scaled.train.warmup, 670) == 10


@pytest.mark.parametrize("method", ["adalora", "lora2"])
def test_the_sister_methods_values_are_a_recipe_that_is_marked(method: str) -> None:
    recipe = f"recipe=roberta_large/{method}_of_dcft"
    told = {}
    for task, command in ((task, (recipe, f"task={task}")) for task in TASKS if task != "wnli"):
        plan = compose.plan_of(["model=roberta_large", f"method={method}", "data=hub", *command])
        check_fit(plan)
        assert plan.cut == (recipe,)
        told[task] = (plan.cell.train.lr, plan.cell.train.epochs, plan.cell.train.batch_size)
        assert (plan.cell.method["r"], plan.cell.method["budget"]["target_r"]) == (8, 2)
    assert (told["qnli"], told["qqp"], told["stsb"]) == ((5e-4, 5, 16), (8e-4, 30, 32), (2.2e-3, 25, 32))
