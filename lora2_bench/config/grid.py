"""The cells of a multirun's overrides, composed without Hydra's command line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lora2_bench.config.compose import compose_config, composing, plan_from
from lora2_bench.config.messages import one_line
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.checks import require
from lora2_bench.experiment.plan import Place, Plan
from lora2_bench.files.paths import CONF


def grid(words: Sequence[str], params: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], Cell, Place]]:
    """Overrides, cell and place of all cells that `-m` with these overrides would run, in its order.

    `params` (a suite's rows, tasks and seeds, as Hydra writes them) are replaced by what `words` say. Composing takes a
    quarter of a second, so it is done once per choice of all but task and seed: these two are set in the composed
    config, where a task is only a name, and in the cell, where nothing else is made from the seed.
    Raises UserError, which names the cell where the fault is one cell's.
    """
    with composing():
        axes = _axes(words, params)
        tasks = axes.get("task", [])
        quick_tasks = all(_only_a_name(choice) for choice in tasks) and not any(key.startswith("task.") for key in axes)
        inner = [key for key in (("task",) if quick_tasks else ()) + ("seed",) if key in axes]
        known: dict[tuple[str, ...], tuple[DictConfig, bool]] = {}
        plans: dict[tuple[str, ...], Plan] = {}
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            overrides = tuple(f"{key}={value}" for key, value in chosen.items())
            outer = tuple(value for key, value in chosen.items() if key not in inner)
            task = tuple(value for key, value in chosen.items() if key != "seed")
            try:
                if outer not in known:
                    composed = compose_config(overrides)
                    known[outer] = (composed, _uses_seed(composed))
                config, uses_seed = known[outer]
                same = plans.get(task)
                if same is None or uses_seed:
                    if "task" in inner:
                        OmegaConf.update(config, "task.name", chosen["task"])
                    if "seed" in inner:
                        OmegaConf.update(config, "seed", int(chosen["seed"]))
                    same = plans[task] = plan_from(config, overrides)
                cell = replace(same.cell, seed=int(chosen["seed"])) if "seed" in chosen else same.cell
            except UserError as error:
                raise UserError(f"{' '.join(overrides)}: {error}") from None
            yield overrides, cell, same.place


def _axes(words: Sequence[str], params: Mapping[str, str]) -> dict[str, list[str]]:
    """Name of an override -> its values, in the order of Hydra's own sweeper. Raises UserError."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    axes: dict[str, list[str]] = {}
    try:
        for override in parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *words]):
            key = override.get_key_element()
            if key.split("/")[0].split(".")[0] == "hydra":
                raise UserError(f"{override.input_line} is Hydra's own: a sweep has cluster=local or cluster=slurm")
            if override.is_sweep_override():
                if not override.is_discrete_sweep():
                    raise UserError(f"{override.input_line} has no list of values: give {key}=A,B")
                axes[key] = list(dict.fromkeys(str(value) for value in override.sweep_string_iterator()))
            else:
                axes[key] = [override.get_value_element_as_str()]
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


def _only_a_name(task: str) -> bool:
    path = CONF / "task" / f"{task}.yaml"
    return path.is_file() and OmegaConf.to_container(OmegaConf.load(path)) == {"name": task}


def _uses_seed(config: DictConfig) -> bool:
    """Whether any value is made from the seed."""
    return re.search(r"\$\{[^}]*\bseed\b", str(OmegaConf.to_container(config, resolve=False))) is not None
