"""The grid of cells that a multirun's overrides stand for, composed without Hydra's command line."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lora2_bench.config.compose import compose_config, composing, plan_from
from lora2_bench.config.contradictions import quoted_ids
from lora2_bench.config.messages import one_line
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.checks import require
from lora2_bench.experiment.plan import Plan, RunOptions
from lora2_bench.files.paths import CONF


def expand_grid(
    overrides: Sequence[str], suite_params: Mapping[str, str]
) -> Iterator[tuple[tuple[str, ...], Cell, RunOptions]]:
    """Overrides, cell and run options of every job that `-m` with these overrides would run, in its order.

    `suite_params` are a suite's rows, tasks and seeds, as Hydra's sweeper params; the overrides replace them. Raises
    UserError, which names the job where the fault is one job's.
    """
    with composing():
        axes = _axes(overrides, suite_params)
        planner = _Planner(axes)
        for values in itertools.product(*axes.values()):
            choices = dict(zip(axes, values, strict=True))
            job_overrides = tuple(f"{key}={value}" for key, value in choices.items())
            try:
                cell, run_options = planner.plan(choices, job_overrides)
            except UserError as error:
                raise UserError(f"{' '.join(job_overrides)}: {error}") from None
            yield job_overrides, cell, run_options


def plan_points(points: Sequence[Sequence[str]]) -> Iterator[Plan]:
    """The plan of each point, the overrides of one cell; what `python -m lora2_bench` makes of them.

    A config is composed once for all points that differ in task, seed and numbers of the recipe alone, which are then
    set in a copy. Raises UserError, which names the point.
    """
    configs: dict[tuple[str, ...], DictConfig] = {}
    with composing():
        for point in points:
            try:
                later = {key: value for key, value in map(_later, point) if key}
                key = tuple(override for override in point if not _later(override)[0])
                if key not in configs:
                    configs[key] = compose_config(key)
                config = copy.deepcopy(configs[key])
                for name, value in later.items():
                    if not _has(config, name):
                        raise UserError(f"{name} is not in the recipe {' '.join(key)}: leave it out")
                    OmegaConf.update(config, name, value, merge=False)
                plan = plan_from(config, tuple(point))
            except UserError as error:
                raise UserError(f"{' '.join(point)}: {error}") from None
            yield plan


def _later(override: str) -> tuple[str, Any]:
    """Name and value of an override that can be set in a composed config; an empty name for any other."""
    key, _, text = override.partition("=")
    if key == "task" and _is_name_only(text):
        return "task.name", text
    if key == "seed" and text.isdecimal():
        return key, int(text)
    if key.startswith("recipe.") and key.count(".") == 1:
        for kind in (int, float):
            with suppress(ValueError):
                return key, kind(text)
    return "", None


def _has(config: DictConfig, name: str) -> bool:
    """Whether the config has this setting, be its value null or what another task has alone."""
    section, _, last = name.rpartition(".")
    part = OmegaConf.select(config, section) if section else config
    return part is not None and last in part.keys()  # noqa: SIM118 - `in` would resolve the value


class _Planner:
    """Plans the jobs of a grid, composing as few configs as possible: Hydra takes a quarter of a second for each.

    A config is composed once for all tasks and seeds. The task is then set in the composed config, where its section is
    a name only; the seed is set in the cell, where no other value is interpolated from it.
    """

    def __init__(self, axes: Mapping[str, Sequence[str]]) -> None:
        task_is_name = all(_is_name_only(task) for task in axes.get("task", ()))
        task_is_name = task_is_name and not any(key.startswith("task.") for key in axes)
        self._set_later = ("task", "seed") if task_is_name else ("seed",)
        self._configs: dict[tuple[str, ...], tuple[DictConfig, bool]] = {}
        self._plans: dict[tuple[str, ...], Plan] = {}

    def plan(self, choices: Mapping[str, str], overrides: tuple[str, ...]) -> tuple[Cell, RunOptions]:
        """The cell and run options of one job. Raises UserError."""
        config, uses_seed = self._config(choices, overrides)
        all_but_seed = tuple(value for key, value in choices.items() if key != "seed")
        plan = self._plans.get(all_but_seed)
        if plan is None or uses_seed:
            if "task" in choices and "task" in self._set_later:
                OmegaConf.update(config, "task.name", choices["task"])
            if "seed" in choices:
                OmegaConf.update(config, "seed", int(choices["seed"]))
            plan = self._plans[all_but_seed] = plan_from(config, overrides)
        cell = replace(plan.cell, seed=int(choices["seed"])) if "seed" in choices else plan.cell
        return cell, plan.run_options

    def _config(self, choices: Mapping[str, str], overrides: tuple[str, ...]) -> tuple[DictConfig, bool]:
        """The composed config of all choices but those that are set later, and whether it interpolates the seed."""
        key = tuple(value for name, value in choices.items() if name not in self._set_later)
        if key not in self._configs:
            config = compose_config(overrides)
            self._configs[key] = (config, _uses_seed(config))
        return self._configs[key]


def _axes(overrides: Sequence[str], suite_params: Mapping[str, str]) -> dict[str, list[str]]:
    """Name of an override -> its values, in the order of Hydra's own sweeper. Raises UserError."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    try:
        parsed = parser.parse_overrides(
            [*(f"{key}={value}" for key, value in suite_params.items()), *quoted_ids(overrides)]
        )
        axes = dict(_axis(override) for override in parsed)
    except HydraException as error:
        raise UserError(one_line(error)) from None
    for key in ("suite", "results", "rerun", "seed"):
        values = axes.get(key, [])
        if key in ("suite", "results") and len(values) > 1:
            raise UserError(f"{key}={','.join(values)} has several values: give one a sweep")
        if key == "rerun" and values != ["false"] and values:
            raise UserError("rerun=true is not for a sweep, which drops finished cells: use python -m lora2_bench -m")
        for value in values if key == "seed" else ():
            require(value.isdecimal(), "seed", value, "an integer of at least 0")
    return axes


def _axis(override: Override) -> tuple[str, list[str]]:
    """An override's name and its values: several for a sweep, else one. Raises UserError."""
    key = override.get_key_element()
    if key.split("/")[0].split(".")[0] == "hydra":
        raise UserError(f"{override.input_line} is Hydra's own: a sweep has cluster=local or cluster=slurm")
    if not override.is_sweep_override():
        return key, [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line} has no list of values: give {key}=A,B")
    return key, list(dict.fromkeys(str(value) for value in override.sweep_string_iterator()))


def _is_name_only(task: str) -> bool:
    """Whether the task's config sets its name and nothing else."""
    path = CONF / "task" / f"{task}.yaml"
    return path.is_file() and OmegaConf.to_container(OmegaConf.load(path)) == {"name": task}


def _uses_seed(config: DictConfig) -> bool:
    """Whether any value of the config is interpolated from the seed."""
    return re.search(r"\$\{[^}]*\bseed\b", str(OmegaConf.to_container(config, resolve=False))) is not None
