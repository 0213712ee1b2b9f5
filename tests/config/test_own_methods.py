"""Methods and configs of one's own, which live outside the package: found, listed, and trained by a borrowed recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def test_a_recipe_of_its_own_goes_before_the_borrowed_one(conf: Path, bench: Callable[..., Any]) -> None:
    (conf / "method" / "apart.yaml").write_text(METHOD.replace("mine", "apart"), encoding="utf-8")
    (conf / "recipe" / "minilm").mkdir(parents=True)
    recipe = "defaults: [/recipe/minilm/lora@_here_, _self_]\nlr: 0.123\n"
    (conf / "recipe" / "minilm" / "apart.yaml").write_text(recipe, encoding="utf-8")
    told = bench(f"--config-dir={conf}", "method=apart", "--cfg", "job", "--resolve")
    assert yaml.safe_load(told.out)["train"]["lr"] == 0.123


def test_help_lists_methods_from_outside(conf: Path, bench: Callable[..., Any]) -> None:
    assert ", mine," in bench("--help", f"--config-dir={conf}").out
    assert ", mine," not in bench("--help").out
