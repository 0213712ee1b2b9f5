"""Where a cell leaves its recipe: every value that is not the recipe file's, as `train.lr=0.1 (recipe: 0.001)`.

A recipe that a study has tuned, `recipe=MODEL/tuned/STUDY/ROW-TASK`, is a recipe of its model, row and task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2_bench.experiment.settings import ABSENT, canonical, typed, value_at
from lora2_bench.experiment.suites import fixed_by_rows, rows
from lora2_bench.files.paths import below
from lora2_bench.records.forms import PLAIN_NAME
from lora2_bench.records.schema import CellSettings, Config

_BUDGET = "method.budget"


@dataclass(frozen=True)
class Tuned:
    """The name of a tuned recipe.

    Attributes:
        model: the backbone's, as in `recipe/MODEL`.
        study: the study that chose its values.
        row: the row (conf/row) that it was tuned for; `task` likewise.
    """

    model: str
    study: str
    row: str
    task: str

    @classmethod
    def of(cls, name: str) -> Tuned | None:
        """The parts of a recipe's name; None for one that no study has made."""
        found = re.fullmatch(r"([^/]+)/tuned/([^/]+)/([^/]+)-([^/-]+)", name)
        return cls(*found.groups()) if found and all(map(PLAIN_NAME.matches, found.groups())) else None

    @property
    def name(self) -> str:
        """What `recipe=` takes."""
        return f"{self.model}/tuned/{self.study}/{self.row}-{self.task}"

    def path(self, results: Path) -> Path:
        """Its file below a results folder."""
        return below(results / "studies", self.study, "recipes", f"{self.row}-{self.task}.yaml")

    def fits(self, cell: CellSettings) -> bool:
        """Whether it was made for this cell's backbone, row and task."""
        model, row = cell["model"], rows().get(self.row)
        same = row is not None and row.fits(cell) and self.task == cell["task"]
        return same and self.model in (model["name"], model["source"])


def tuned_of(command: Sequence[str]) -> Tuned | None:
    """The tuned recipe that these overrides choose; None without one."""
    chosen = [value for key, _, value in (override.partition("=") for override in command) if key == "recipe"]
    return Tuned.of(chosen[-1]) if chosen else None


def off_recipe(cell: CellSettings, config: Config, command: Sequence[str] = ()) -> list[str]:
    """Differences of a cell from the recipe file that its model and method have.

    Args:
        cell: the science, as `Cell.to_dict`.
        config: the composed config, of which the recipe and a scaled schedule are read; nothing is found without one.
        command: the overrides that were typed: those of the recipe itself are differences as they stand.
    """
    recipe = config.get("recipe", {})
    parts = _parts(cell, config)
    fixed = {f"method.{name}" for name in fixed_by_rows(cell["method"])}
    fixed |= {f"method.{cell['size']}"}  # which the label names
    if cell["train"].get("looks") is not None:  # it stands for the recipe's eval_steps
        fixed.add("train.eval_steps")
    found = []
    for name, wanted in recipe.items():
        for part, values in parts.items():
            place = f"{part}.{name}"
            if name in values and place not in fixed:
                expected = _in_proportion(wanted, cell, recipe) if place == f"{_BUDGET}.target_r" else wanted
                found += _difference(place, values[name], expected)
    if recipe and "head_lr" not in recipe:  # most have none: the head then has the rate of all
        found += _difference("train.head_lr", cell["train"].get("head_lr"), None)
    return [*found, *_own_recipe(cell, command)]


def with_unmarked(cut: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """What a record marks, and of the differences found what it does not, as records of earlier versions."""
    marked = {_name(mark) for mark in cut}
    return (*cut, *(mark for mark in found if _name(mark) not in marked))


def _name(mark: str) -> str:
    return mark.partition("=")[0]


def _parts(cell: CellSettings, config: Config) -> dict[str, Mapping[str, Any]]:
    """Dotted name -> section of settings that a recipe's values go to; a scaled schedule as it stood before scaling."""
    train: dict[str, Any] = {**cell["train"]}
    method: dict[str, Any] = {**cell["method"]}
    if value_at(config, f"{_BUDGET}.scale") is True:
        method["budget"], warmup = value_at(config, _BUDGET), value_at(config, "train.warmup")
        train = {name: value for name, value in train.items() if name != "warmup"}
        train |= {} if warmup is ABSENT else {"warmup": warmup}
    sections = {f"method.{name}": value for name, value in method.items() if isinstance(value, dict)}
    return {"train": train, "method": method, **sections}


def _in_proportion(target_r: Any, cell: CellSettings, recipe: Mapping[str, Any]) -> Any:
    """The recipe's average rank at the end, for the r that the cell starts with where r is its size (AdaLoRA)."""
    r, then = value_at(cell["method"], "r"), recipe.get("r")
    numbers = all(isinstance(value, int | float) for value in (target_r, r, then))
    if cell["size"] != "r" or not numbers or not then or r == then:
        return target_r
    return canonical(target_r * r / then)


def _difference(place: str, value: Any, wanted: Any) -> list[str]:
    return [] if canonical(value) == canonical(wanted) else [f"{place}={typed(value)} (recipe: {typed(wanted)})"]


def _own_recipe(cell: CellSettings, command: Sequence[str]) -> list[str]:
    """The overrides that choose another recipe than the model's and method's own, or change a value of it."""
    model, method = cell["model"], cell["method"]["name"]
    own = {f"{model['name']}/{method}", f"{model['source']}/{method}"}  # model=local may have a name of its own
    found: dict[str, str] = {}
    for override in command:
        key, _, value = override.lstrip("+").partition("=")
        tuned = Tuned.of(value)
        is_own = value in own or (tuned is not None and tuned.fits(cell))
        if key.startswith(("recipe.", "~recipe.")) or (key == "recipe" and not is_own):
            found[key] = f"{key}={value}" if value or key == "recipe" else key
    return list(found.values())
