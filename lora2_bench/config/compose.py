"""Composed Hydra config -> `Plan`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from lora2_bench.config import resolvers
from lora2_bench.config.messages import one_line
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell, Data, Model, Protocol, Train
from lora2_bench.experiment.checks import require, require_int, section
from lora2_bench.experiment.plan import Cadence, Place, Plan
from lora2_bench.files.digests import hash_folder
from lora2_bench.files.paths import CONF, user_path
from lora2_bench.tasks.spec import task_spec

# The composed config's names; `hydra` itself is not among them where a plan is made.
_GROUPS = ("model", "task", "method", "data", "protocol", "tracker", "recipe")
# What only names other choices, and leaves nothing of its own in the composed config.
_NAMES = ("row", "suite")
_SWITCHES = ("seed", "kr", "init_from", "results", "rerun", "device", "threads", "engine", "eval_batch_size")

resolvers.register()


def plan_from(config: DictConfig, overrides: tuple[str, ...] = ()) -> Plan:
    """The checked plan of a composed config. Raises UserError for impossible or contradictory values."""
    try:
        values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except MissingMandatoryValue as error:
        name = str(error).split(": ")[-1].splitlines()[0]
        raise UserError(f"{name} has no value: add {name}=...") from None
    except InterpolationKeyError as error:
        raise UserError(f"{one_line(error)}: give the value, or choose a recipe that has it") from None
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from None

    _check_shape(values)
    for override in overrides:
        group, _, value = override.partition("=")
        # Hydra merges such a list, and its last name wins unseen.
        if group in (*_GROUPS, *_NAMES) and value.startswith("["):
            raise UserError(f"{override} has several values: give one, or sweep over them with -m {group}=A,B")
    method = dict(values["method"])
    implementation, size = method.pop("_target_"), method.pop("size")
    method.pop("recipe", None)
    _check_kr(values["kr"], method, size)
    train = values["train"]
    if "budget" in method:
        method["budget"], train = _scaled(method["budget"], train, values["recipe"], values["task"]["name"])
    model = dict(values["model"])
    package, folder, path = (model.pop(name, None) for name in ("package", "folder", "path"))
    if model.get("source") == "local":
        model["sha256"] = hash_folder(user_path(path, "model.path"))
    data = dict(values["data"])
    data_dir = data.pop("dir", None)

    cell = Cell(
        model=section(Model, model, "model"),
        task=values["task"]["name"],
        method=method,
        size=size,
        data=section(Data, data, "data"),
        train=section(Train, train, "train"),
        protocol=section(Protocol, values["protocol"], "protocol"),
        seed=values["seed"],
        init_from=values["init_from"],
    )
    place = Place(
        results=Path(values["results"]).expanduser(),
        rerun=values["rerun"],
        device=values["device"],
        threads=values["threads"],
        engine=values["engine"],
        eval_batch_size=values["eval_batch_size"],
        data_dir=data_dir,
        model_path=path,
        model_package=package,
        model_folder=folder,
        tracker=values["tracker"],
        checkpoint=section(Cadence, values["checkpoint"], "checkpoint"),
    )
    return Plan(cell, implementation, place, _cuts(values), overrides, values)


def _check_shape(values: Mapping[str, Any]) -> None:
    """Raise UserError unless every section and switch is there, and nothing else is."""
    known = (*_GROUPS, "train", "checkpoint", *_SWITCHES)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(f"{name} is not a setting: " + (f"did you mean {near[0]}?" if near else "leave it out"))
    for name in known:
        if name not in values:
            raise UserError(f"{name} has no value: add {name}=...")
    for name in (*_GROUPS, "train", "checkpoint"):
        require(isinstance(values[name], dict), name, values[name], "a section of settings, as --cfg job shows it")
    for group, name in (("task", "name"), ("method", "name"), ("method", "_target_"), ("tracker", "name")):
        value = values[group].get(name)
        require(isinstance(value, str), f"{group}.{name}", value, "a name")
    size = values["method"].get("size")
    options = [name for name in values["method"] if name not in ("_target_", "name", "size", "recipe")]
    known_size = "size" in values["method"] and (size is None or size in options)
    require(known_size, "method.size", size, f"null, or one of the method's settings: {', '.join(options)}")
    require(isinstance(values["rerun"], bool), "rerun", values["rerun"], "true or false")
    require(isinstance(values["results"], str), "results", values["results"], "a folder")
    folder, path = values["data"].get("dir"), values["model"].get("path")
    require(isinstance(folder, str | None), "data.dir", folder, "a folder, or null")
    if values["model"].get("source") == "local":
        require(isinstance(path, str) and path != "", "model.path", path, "a backbone's folder")


def _check_kr(kr: object, method: Mapping[str, Any], size: str | None) -> None:
    if kr is None:
        return
    if size is None:
        raise UserError(f"kr={kr} does not fit method={method['name']}, which has no size: leave kr out")
    require_int("kr", kr, 1, f"an integer of at least 1 ({size} of {method['name']}), or null")
    require(
        method[size] == kr, f"method.{size}", method[size], f"{kr}, as kr={kr} says: give one of the two settings only"
    )


def _scaled(
    budget: Mapping[str, Any], train: Mapping[str, Any], recipe: Mapping[str, Any], task: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A budget without its `scale`, and the train section; with scale=true, steps as shares of the recipe's own run.

    The recipe's run is its epochs over the task's official rows: a cut run then has the same schedule, only shorter.
    """
    require(isinstance(budget, dict), "method.budget", budget, "a section of settings, as --cfg job shows it")
    budget, train = dict(budget), dict(train)
    scale = budget.pop("scale", False)
    require(isinstance(scale, bool), "method.budget.scale", scale, "true or false")
    if scale:
        whole = recipe["epochs"] * math.ceil(task_spec(task).rows["train"] / recipe["batch_size"])
        for part, name in ((budget, "t_init"), (budget, "t_final"), (budget, "delta_t"), (train, "warmup")):
            if isinstance(value := part.get(name), int | float) and value >= 1:
                part[name] = value / whole
    return budget, train


def _cuts(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that cut a run or move it off its recipe, as `name=value (recipe: value)`."""
    train, data, recipe = values["train"], values["data"], values["recipe"]
    limits = {
        "train.max_steps": train["max_steps"],
        "data.max_train": data["max_train"],
        "data.max_eval": data["max_eval"],
    }
    cuts = [f"{name}={value}" for name, value in limits.items() if value is not None]
    for name in ("epochs", "batch_size", "lr"):
        if train[name] != recipe[name]:
            cuts.append(f"train.{name}={train[name]} (recipe: {recipe[name]})")
    return tuple(cuts)


@contextmanager
def composing() -> Iterator[None]:
    """Within, configs are composed by this process itself, without Hydra's command line."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield


def plan_of(overrides: Sequence[str]) -> Plan:
    """The plan of one cell's overrides, as `python -m lora2_bench` makes it. Raises UserError."""
    with composing():
        return plan_from(compose_config(overrides), tuple(overrides))


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The composed config of some overrides; within `composing`. Raises UserError."""
    try:
        return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from None
