"""The cells behind the paper's tables, read from conf/suite and conf/row, which Hydra's sweeper runs too.

The files are read as plain YAML, without Hydra. A row fixes some settings of a method, the method's own
file others; those that both leave to the recipe may differ between backbones.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from lora2_bench.experiment.plan import measures_of
from lora2_bench.experiment.settings import ABSENT, canonical, flatten, value_at
from lora2_bench.files.paths import CONF
from lora2_bench.records.identity import LEFT_OUT

_BY_VERSION = re.compile(r"\$\{by_version:\w+,(\w+)\}")


@dataclass(frozen=True)
class RowSpec:
    """One row of a table: a method, its size and settings (conf/row).

    Attributes:
        name: the NAME of `row=NAME`.
        method: the method's name.
        size_name: k or r; None for a method without a size.
        size: the value of that option.
        settings: dotted name -> value of the method's settings that the row fixes, the size among them.
        defaults: dotted name -> value of those that the method's own file fixes for every recipe.
    """

    name: str
    method: str
    size_name: str | None
    size: int | None
    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The label of the row's records: `lora2 k=1`."""
        return self.method if self.size is None else f"{self.method} {self.size_name}={self.size}"

    def fits(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell, as a record holds it, has this row's method and settings."""
        method = cell["method"]
        old = LEFT_OUT if cell.get("rng_version", 1) == 1 else {}  # what a default was in earlier versions
        return self.has_settings(method) and all(
            _same(found, old.get(f"method.{name}", value))
            for name, value in self.defaults.items()
            if (found := value_at(method, name)) is not ABSENT
        )

    def has_settings(self, method: Mapping[str, Any]) -> bool:
        """Whether a cell's method is this row's, with the settings that the row fixes."""
        return method["name"] == self.method and not self.contradictions(method)

    def contradictions(self, method: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted name -> value of what the row fixes and a cell of its method has otherwise."""
        return {name: value for name, value in self.settings.items() if not _same(value_at(method, name), value)}


@dataclass(frozen=True)
class Suite:
    """One set of cells (conf/suite): rows × tasks × seeds.

    Attributes:
        name: the NAME of `suite=NAME`.
        model, data: the suite's default choices, which are the paper's.
        rows: names of the rows, in the table's order.
        tasks: names of the tasks, in the table's order.
        seeds: the seeds of every row and task.
        others: name -> values of what else is swept over.
        measures: what its cells are asked for of what they forget (`retention`).
    """

    name: str
    model: str
    data: str
    rows: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    others: Mapping[str, tuple[str, ...]]
    measures: tuple[str, ...]

    @property
    def cells(self) -> int:
        """The number of cells."""
        return len(self.rows) * len(self.tasks) * len(self.seeds) * math.prod(map(len, self.others.values()))

    @property
    def params(self) -> dict[str, str]:
        """Its axes as Hydra's sweeper takes them."""
        axes = {"row": self.rows, "task": self.tasks, **self.others, "seed": tuple(map(str, self.seeds))}
        return {name: ",".join(values) for name, values in axes.items()}


@cache
def suites() -> dict[str, Suite]:
    """Every suite by name."""
    return {path.stem: _suite(path.stem) for path in sorted((CONF / "suite").glob("*.yaml"))}


@cache
def rows() -> dict[str, RowSpec]:
    """Every row by name."""
    return {path.stem: _row(path.stem) for path in sorted((CONF / "row").glob("*.yaml"))}


def fixed_by_rows(method: Mapping[str, Any]) -> set[str]:
    """Dotted names of a cell's method settings that some row of the paper's tables fixes, all as they are."""
    return set(_fixed_by_rows(json.dumps(method, sort_keys=True)))


@cache  # thousands of records have some dozens of methods
def _fixed_by_rows(method: str) -> frozenset[str]:
    values = json.loads(method)
    return frozenset(name for row in rows().values() if row.has_settings(values) for name in row.settings)


def _suite(name: str) -> Suite:
    values = _read("suite", name)
    chosen = _overrides(values)
    params = {key: str(value).split(",") for key, value in values["hydra"]["sweeper"]["params"].items()}
    return Suite(
        name,
        chosen["model"],
        chosen["data"],
        tuple(params["row"]),
        tuple(params["task"]),
        tuple(int(seed) for seed in params["seed"]),
        {name: tuple(values) for name, values in params.items() if name not in ("row", "task", "seed")},
        measures_of(values.get("retention")),
    )


def _row(name: str) -> RowSpec:
    values = _read("row", name)
    method = _overrides(values)["method"]
    method_file = _read("method", method)
    size_name = method_file["size"]
    settings = dict(flatten(values.get("method", {})))
    if size_name is not None:
        settings[size_name] = values["kr"]
    defaults = {
        key: value
        for key, text in flatten(method_file)
        if key not in ("_target_", "name", "size", *settings) and not str(value := _newest(text)).startswith("${")
    }
    return RowSpec(name, method, size_name, values.get("kr"), settings, defaults)


def _newest(value: Any) -> Any:
    """The value of today of one that is by version."""
    match = _BY_VERSION.fullmatch(str(value))
    return match[1] if match else value


def _read(group: str, name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def _overrides(values: Mapping[str, Any]) -> dict[str, str]:
    """Group -> choice of a file's `override /GROUP: CHOICE` lines."""
    return {key.removeprefix("override /"): choice for entry in values["defaults"] for key, choice in entry.items()}


def _same(found: Any, wanted: Any) -> bool:
    """Whether two values are equal settings; the order of a list of names does not count."""
    return bool(found == wanted) or (isinstance(found, list) and canonical(found) == canonical(wanted))
