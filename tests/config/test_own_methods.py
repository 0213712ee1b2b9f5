"""Methods and configs of one's own, which live outside the package: found, listed, and trained by a borrowed recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lora2_bench.config.calls import plan_of_call
from lora2_bench.config.compose import plan_of
from lora2_bench.config.launch import launch
from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.experiment.words import quoted, words
from lora2_bench.files.paths import CONF
from lora2_bench.sweep.cells import plan_cells
from lora2_bench.sweep.options import parse

METHOD = """
_target_: lora2_bench.methods.lora.LoRA
name: mine
size: r
recipe: lora
r: ${first:${kr},${recipe.r}}
alpha: ${recipe.alpha}
dropout: ${recipe.dropout}
targets: ${recipe.targets}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A folder for `--config-dir`, with one method."""
    folder = tmp_path / "own"
    (folder / "method").mkdir(parents=True)
    (folder / "method" / "mine.yaml").write_text(METHOD, encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", ["--config-dir=DIR", "--config-dir DIR", "-cd DIR"])
def test_a_method_from_outside_borrows_a_recipe_like_those_inside(
    form: str, conf: Path, bench: Callable[..., Any]
) -> None:
    option = form.replace("DIR", str(conf)).split(" ")
    told = bench(*option, "method=mine", "--cfg", "job", "--resolve")
    assert told.code == 0, told.err
    inside = bench("method=lora", "--cfg", "job", "--resolve")
    values, lora = yaml.safe_load(told.out), yaml.safe_load(inside.out)
    assert (values["recipe"], values["train"]) == (lora["recipe"], lora["train"])
    assert values["method"]["alpha"] == lora["method"]["alpha"]


@pytest.mark.parametrize("name", ["own,c", "own b", "it's", "e=f", "ü", "g[h]", "i#j"])
def test_a_folder_may_have_any_name(name: str, conf: Path, bench: Callable[..., Any]) -> None:
    folder = conf.rename(conf.parent / name)
    told = bench(f"--config-dir={folder}", "method=mine", "--cfg", "job", "--resolve")
    assert told.code == 0, told.err
    by_call = plan_of_call([*words({"config_dir": folder}), "method=mine"])
    _, overrides = parse([f"--config-dir={folder}", "method=mine", f"results={quoted(str(folder.parent / 'r'))}"])
    (cell,) = plan_cells(overrides, folder.parent / "sweep")
    assert plan_of(cell.overrides).cell.id == cell.id == by_call.cell.id
    with pytest.raises(UserError, match=r"^config_dir='x cannot be read: give config_dir='DIR', quotes included$"):
        plan_of_call(["config_dir='x", "method=mine"])


@pytest.mark.parametrize("group", ["task", "method"])
def test_a_file_that_is_not_utf8_is_named(group: str, conf: Path, bench: Callable[..., Any]) -> None:
    (conf / group).mkdir(exist_ok=True)
    (conf / group / "old.yaml").write_bytes(b"# caf\xe9\nname: old\n")
    line = f"{conf / group / 'old.yaml'} is not UTF-8 (byte 0xe9): save it as UTF-8"
    told = bench(f"--config-dir={conf}", f"{group}=old")
    assert (told.code, told.err) == (2, f"error: {line}\n")
    with pytest.raises(UserError, match=re.escape(line)):
        plan_of([f"config_dir={quoted(str(conf))}", f"{group}=old"])


def test_recipes_are_shared_anew_where_a_file_has_changed(conf: Path) -> None:
    words = [f"config_dir={quoted(str(conf))}", "method=mine"]
    before = plan_of(words).cell
    (conf / "method" / "mine.yaml").write_text(METHOD.replace("recipe: lora", "recipe: adalora"), encoding="utf-8")
    after, adalora = plan_of(words).cell, plan_of(["method=adalora"]).cell
    assert (after.train.lr, after.method["r"]) == (adalora.train.lr, adalora.method["r"])
    assert (before.train.lr, before.method["r"]) != (after.train.lr, after.method["r"])


def test_a_recipe_of_its_own_goes_before_the_borrowed_one(conf: Path, bench: Callable[..., Any]) -> None:
    (conf / "method" / "apart.yaml").write_text(METHOD.replace("mine", "apart"), encoding="utf-8")
    (conf / "recipe" / "minilm").mkdir(parents=True)
    recipe = "defaults: [/recipe/minilm/lora@_here_, _self_]\nlr: 0.123\n"
    (conf / "recipe" / "minilm" / "apart.yaml").write_text(recipe, encoding="utf-8")
    told = bench(f"--config-dir={conf}", "method=apart", "--cfg", "job", "--resolve")
    assert yaml.safe_load(told.out)["train"]["lr"] == 0.123


def test_help_lists_methods_from_outside(conf: Path, bench: Callable[..., Any]) -> None:
    def methods(*words: str) -> set[str]:
        return {word.strip(",") for word in bench("--help", *words).out.split()}

    assert methods(f"--config-dir={conf}") - methods() >= {"mine"}


def test_a_recipe_of_its_own_may_have_keys_that_its_method_takes(conf: Path, call: Callable[..., Any]) -> None:
    own = (
        METHOD.replace("lora2_bench.methods.lora.LoRA", "my_module.Mine")
        .replace("recipe: lora\n", "")
        .replace("mine", "deep")
    )
    (conf / "method" / "deep.yaml").write_text(f"{own}depth: ${{recipe.depth}}\n", encoding="utf-8")
    (conf / "recipe" / "minilm").mkdir(parents=True)
    recipe = conf / "recipe" / "minilm" / "deep.yaml"
    recipe.write_text("defaults: [/recipe/minilm/lora@_here_, _self_]\ndepth: 3\n", encoding="utf-8")
    plans: list[Plan] = []
    words = (f"--config-dir={conf}", "method=deep")
    told = call(lambda: launch(plans.append), *words)
    assert (told.code, told.err, plans[0].cell.method["depth"]) == (0, "", 3)
    assert call(lambda: launch(plans.append), *words, "recipe.depth=4").code == 0
    assert plans[1].cell.method["depth"] == 4
    recipe.write_text(f"{recipe.read_text()}epoch: 3\n", encoding="utf-8")  # nobody takes it
    told = call(lambda: launch(plans.append), *words)
    assert (told.code, len(plans)) == (2, 2)
    assert told.err == "error: recipe.epoch is not a setting: did you mean recipe.epochs?\n"


@pytest.mark.parametrize(("model", "lender"), [("ettin_17m", "minilm"), ("deberta_v3_small", "deberta_v3_base")])
@pytest.mark.parametrize(("method", "recipe"), [("lora2", "lora2"), ("longlora", "longlora"), ("dora", "lora")])
def test_a_model_borrows_the_recipes_of_another(
    model: str, lender: str, method: str, recipe: str, bench: Callable[..., Any]
) -> None:
    told = bench(f"model={model}", f"method={method}", "--cfg", "job", "--resolve")
    owner = recipe if (CONF / "recipe" / lender / f"{recipe}.yaml").exists() else "lora"
    lent = bench("model=minilm", f"method={method}", f"recipe={lender}/{owner}", "--cfg", "job", "--resolve")
    assert told.code == lent.code == 0, told.err + lent.err
    assert yaml.safe_load(told.out)["recipe"] == yaml.safe_load(lent.out)["recipe"]


def test_a_model_from_outside_borrows_recipes_or_is_told_what_to_give(conf: Path, bench: Callable[..., Any]) -> None:
    (conf / "model").mkdir()
    text = (CONF / "model" / "deberta_v3_base.yaml").read_text(encoding="utf-8").replace("deberta_v3_base", "near")
    (conf / "model" / "near.yaml").write_text(f"{text}recipe: roberta_base\n", encoding="utf-8")
    (conf / "model" / "far.yaml").write_text(text.replace("near", "far"), encoding="utf-8")
    own = (f"--config-dir={conf}", "method=mine")
    told = bench(*own, "model=near", "--cfg", "job", "--resolve")
    lent = bench(*own, "model=roberta_base", "--cfg", "job", "--resolve")
    assert told.code == 0 and yaml.safe_load(told.out)["recipe"] == yaml.safe_load(lent.out)["recipe"], told.err
    told = bench(*own, "model=far")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "model=far with method=mine has no recipe: write conf/recipe/far/mine.yaml, or choose another" in told.err


@pytest.mark.parametrize("group", ["model", "method"])
def test_whose_recipes_are_borrowed_is_no_setting(group: str, bench: Callable[..., Any]) -> None:
    told = bench("model=ettin_17m", "method=dora", f"{group}.recipe=lora2")
    assert told.code == 2
    assert (
        told.err
        == f"error: {group}.recipe=lora2 chooses no recipe: give recipe=MODEL/METHOD, as in recipe=minilm/lora2\n"
    )
