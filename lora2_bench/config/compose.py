"""Composed Hydra config -> `Plan`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from lora2_bench.config import resolvers
from lora2_bench.config.arguments import config_folder
from lora2_bench.config.contradictions import (
    check_contradictions,
    check_experiment,
    check_read,
    quoted_ids,
    typed_values,
)
from lora2_bench.config.messages import one_line
from lora2_bench.config.own_tasks import take_own_task
from lora2_bench.config.quicker import quicken
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell, Data, Model, Protocol, Train
from lora2_bench.experiment.checks import MOST_RANKS, require, require_int, require_number, section
from lora2_bench.experiment.maps import in_letters
from lora2_bench.experiment.plan import CheckpointSchedule, Export, Plan, RunOptions, measures_of
from lora2_bench.experiment.recipe import off_recipe
from lora2_bench.experiment.words import quoted
from lora2_bench.files.digests import hash_folder
from lora2_bench.files.paths import CONF, results_folder, shortened, user_path
from lora2_bench.records.schema import Config
from lora2_bench.tasks.own.task import OwnTask
from lora2_bench.tasks.spec import spec_of

# The composed config's sections, which are config groups but for `train`, `checkpoint` and `export`; Hydra's own is not
# in the config that a plan is made from.
_GROUPS = ("model", "task", "method", "data", "protocol", "tracker", "recipe")
_SECTIONS = (*_GROUPS, "train", "checkpoint", "export")
# Groups that only select from other groups, and leave no section of their own in the composed config.
_SELECTORS = ("row", "suite")
_SWITCHES = (
    "seed",
    "kr",
    "init_from",
    "looks",
    "rng_version",
    "config_dir",
    "results",
    "rerun",
    "device",
    "threads",
    "engine",
    "masks",
    "eval_batch_size",
    "predict_test",
    "retention",
    "lr_factor",
    "keep",
)

quicken()
resolvers.register()


def plan_from(config: DictConfig, overrides: tuple[str, ...] = ()) -> Plan:
    """The checked plan of a composed config. Raises UserError for impossible or contradictory values."""
    values = _resolved(config)
    _check_names(values)
    _check_types(values)
    _check_lr_factor(values, overrides)
    _check_single_choices(overrides)
    own = take_own_task(config, values, typed_values(overrides))
    check_contradictions(config, values, overrides)
    values["recipe"] = _recipe_of_method(config, values, overrides)
    cell, run_options = _cell(values, overrides, own), _run_options(values, own)
    check_read(values, overrides)
    return Plan(cell, values["method"]["_target_"], run_options, _cuts(values, cell, overrides), overrides, values)


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Plain data with all interpolations resolved. Raises UserError where a value is missing."""
    try:
        values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except MissingMandatoryValue as error:
        name = str(error).split(": ")[-1].splitlines()[0]
        raise UserError(f"{name} has no value: add {name}=...") from None
    except InterpolationKeyError as error:
        told = one_line(error)
        if (missing := re.search(r"'recipe\.(\w+)'", told)) is not None:
            told = f"the recipe has no {missing[1]}, which method={config.method.name} takes from it"
            raise UserError(f"{told}: give recipe.{missing[1]}=..., or another recipe=MODEL/METHOD") from None
        raise UserError(f"{told}: give the value, or choose a recipe that has it") from None
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from None
    return values


def _check_names(values: Mapping[str, Any]) -> None:
    """Raise UserError unless every section and switch is there, and nothing else is."""
    known = (*_SECTIONS, *_SWITCHES)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(f"{name} is not a setting: " + (f"did you mean {near[0]}?" if near else "leave it out"))
    for name in known:
        if name not in values:
            raise UserError(f"{name} has no value: add {name}=...")


def _check_types(values: Mapping[str, Any]) -> None:
    """Raise UserError for a value of the wrong type, among those that no dataclass checks later."""
    for name in _SECTIONS:
        require(isinstance(values[name], dict), name, values[name], "a section of settings, as --cfg job shows it")
    method, model, data = values["method"], values["model"], values["data"]
    for group, name in (("task", "name"), ("method", "name"), ("method", "_target_"), ("tracker", "name")):
        value = values[group].get(name)
        require(isinstance(value, str), f"{group}.{name}", value, "a name")
    size = method.get("size")
    options = [name for name in method if name not in ("_target_", "name", "size", "recipe")]
    names_option = "size" in method and (size is None or size in options)
    require(names_option, "method.size", size, f"null, or one of the method's settings: {', '.join(options)}")
    for option in {size, "r", "k"} & set(options):  # the method checks the rest: to import it takes seconds
        value = method[option]
        if isinstance(value, int):
            name = "kr" if option == size and value == values["kr"] else f"method.{option}"
            require(value <= MOST_RANKS, name, value, f"at most {MOST_RANKS}")
    for name in ("rerun", "predict_test"):
        require(isinstance(values[name], bool), name, values[name], "true or false")
    require(isinstance(values["results"], str), "results", values["results"], "a folder")
    require(isinstance(data.get("dir"), str | None), "data.dir", data.get("dir"), "a folder, or null")
    if model.get("source") == "local":
        path = model.get("path")
        require(isinstance(path, str) and path != "", "model.path", path, "a backbone's folder")


def _check_lr_factor(values: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise UserError for an impossible factor, and for one beside a learning rate that was given by hand."""
    factor = values["lr_factor"]
    require_number("lr_factor", factor, 1e-6, 1e6, "a number above 0, which the recipe's learning rate is times")
    if factor != 1 and any(override.lstrip("+").startswith("train.lr=") for override in overrides):
        raise UserError(f"lr_factor={factor} and train.lr={values['train'].get('lr')}: give one of the two")


def _check_single_choices(overrides: Sequence[str]) -> None:
    """Raise UserError for a group with a list of choices, which Hydra merges so that the last one silently wins."""
    for override in overrides:
        group, _, value = override.partition("=")
        if group in (*_GROUPS, *_SELECTORS) and value.startswith("["):
            raise UserError(f"{override} has several values: give one, or sweep over them with -m {group}=A,B")


def _recipe_of_method(config: DictConfig, values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe without the values that a method which borrows it sets itself, as (IA)³ its targets."""
    recipe: dict[str, Any] = values["recipe"]
    if values["method"].get("recipe") is None:
        return recipe
    raw: dict[str, Any] = OmegaConf.to_container(config.method, resolve=False)  # type: ignore[assignment]
    typed = {override.lstrip("+").partition("=")[0] for override in overrides}
    own = {name for name, value in raw.items() if "{recipe." not in str(value) and f"method.{name}" not in typed}
    return {name: value for name, value in recipe.items() if name not in own}


def _with_looks(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The train section; `looks` takes the place of the recipe's eval_steps. Raises UserError for both by hand."""
    train = dict(values["train"])
    if train.get("looks") is None:
        return train
    given = any(override.lstrip("+").startswith("train.eval_steps=") for override in overrides)
    if given or train.get("eval_steps") != values["recipe"].get("eval_steps"):
        raise UserError(f"looks={train['looks']} and train.eval_steps={train['eval_steps']}: give one of the two")
    return {**train, "eval_steps": None}


def _cell(values: Mapping[str, Any], overrides: Sequence[str], own: OwnTask | None) -> Cell:
    method, size = dict(values["method"]), values["method"]["size"]
    for name in ("_target_", "size", "recipe"):
        method.pop(name, None)
    _check_kr(values["kr"], method, size)
    if "targets" in method:
        method["targets"] = in_letters(method["targets"])
    train = _with_looks(values, overrides)
    task, definition = values["task"]["name"], None if own is None else own.read().spec.definition
    if "budget" in method:
        rows = spec_of(task, definition).rows["train"]
        method["budget"], train = _scaled_budget(method["budget"], train, values["recipe"], rows)
    model = _without(values["model"], "package", "folder", "path", "recipe")
    if model.get("source") == "package":  # to look up a part of a package would import the whole
        package = values["model"].get("package")
        require(isinstance(package, str) and package.isidentifier(), "model.package", package, "the name of a package")
    if model.get("source") == "local":
        digest, wanted = hash_folder(user_path(values["model"]["path"], "model.path")), model.get("sha256")
        require(wanted in (None, digest), "model.sha256", wanted, f"{digest}, the digest of this model.path, or null")
        model["sha256"] = digest
    return Cell(
        model=section(Model, model, "model"),
        task=task,
        method=method,
        size=size,
        data=section(Data, _without(values["data"], "dir"), "data"),
        train=section(Train, train, "train"),
        protocol=section(Protocol, values["protocol"], "protocol"),
        seed=values["seed"],
        init_from=values["init_from"],
        rng_version=values["rng_version"],
        definition=definition,
    )


def _run_options(values: Mapping[str, Any], own: OwnTask | None) -> RunOptions:
    return RunOptions(
        results=results_folder(values["results"]),
        rerun=values["rerun"],
        device=values["device"],
        threads=values["threads"],
        engine=values["engine"],
        masks=values["masks"],
        eval_batch_size=values["eval_batch_size"],
        data_dir=values["data"].get("dir"),
        own_task=own,
        model_path=values["model"].get("path"),
        model_package=values["model"].get("package"),
        model_folder=values["model"].get("folder"),
        tracker=values["tracker"],
        checkpoint=section(CheckpointSchedule, values["checkpoint"], "checkpoint"),
        export=section(Export, values["export"], "export"),
        predict_test=values["predict_test"],
        retention=measures_of(values["retention"]),
        keep=values["keep"],
    )


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _check_kr(kr: object, method: Mapping[str, Any], size: str | None) -> None:
    if kr is None:
        return
    if size is None:
        raise UserError(f"kr={kr} does not fit method={method['name']}, which has no size: leave kr out")
    require_int("kr", kr, 1, f"an integer of at least 1 ({size} of {method['name']}), or null", MOST_RANKS)
    require(
        method[size] == kr, f"method.{size}", method[size], f"{kr}, as kr={kr} says: give one of the two settings only"
    )


def _scaled_budget(
    budget: Mapping[str, Any], train: Mapping[str, Any], recipe: Mapping[str, Any], rows: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The budget without its `scale`, and the train section; scale=true turns steps into shares of the recipe's run.

    The recipe's run is its epochs over the task's official `rows` of train: a shorter run then keeps the shape of the
    schedule.
    """
    require(isinstance(budget, dict), "method.budget", budget, "a section of settings, as --cfg job shows it")
    budget, train = dict(budget), dict(train)
    scale = budget.pop("scale", False)
    require(isinstance(scale, bool), "method.budget.scale", scale, "true or false")
    if scale:
        recipe_steps = recipe["epochs"] * math.ceil(rows / recipe["batch_size"])
        for part, name in ((budget, "t_init"), (budget, "t_final"), (budget, "delta_t"), (train, "warmup")):
            if isinstance(value := part.get(name), int | float) and value >= 1:
                part[name] = value / recipe_steps
    return budget, train


def _cuts(values: Mapping[str, Any], cell: Cell, overrides: Sequence[str]) -> tuple[str, ...]:
    """The limits of a run, as `name=value`, and its differences from the recipe, as `off_recipe` names them."""
    limits = {
        "train.max_steps": cell.train.max_steps,
        "data.max_train": cell.data.max_train,
        "data.max_eval": cell.data.max_eval,
    }
    cuts = [f"{name}={value}" for name, value in limits.items() if value is not None]
    config: Config = {"recipe": values["recipe"], "method": values["method"], "train": values["train"]}
    return (*cuts, *off_recipe(cell.to_dict(), config, overrides))


@contextmanager
def composing() -> Iterator[None]:
    """A context in which `compose_config` works: Hydra is initialised without its command line.

    Whoever calls may use Hydra too: what it had initialised is put back.
    """
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            yield
    finally:
        GlobalHydra.instance().hydra = before


def plan_of(overrides: Sequence[str]) -> Plan:
    """The plan of one cell's overrides, as `python -m lora2_bench` makes it. Raises UserError."""
    with composing():
        return plan_from(compose_config(overrides), tuple(overrides))


def _searched(overrides: Sequence[str]) -> list[str]:
    """The override that lets Hydra look into the folder of `config_dir`. Raises UserError where there is none."""
    folder = config_folder(overrides)
    if folder is None:
        return []
    resolvers.share_own(folder)
    return [f"hydra.searchpath=[{quoted(f'file://{folder}')}]"]


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The composed config of these overrides, within `composing`. Raises UserError."""
    resolvers.share_tuned(overrides)
    found = _searched(overrides)
    swept = any(override.startswith("+experiment=") for override in overrides)
    try:
        config = compose("config", overrides=[*quoted_ids(overrides), *found], return_hydra_config=swept)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from None
    except Exception as error:  # Hydra's own checks, which name no override, and names that the system cannot look up
        raise UserError(f"{shortened(' '.join(overrides), 200)} is not possible: {one_line(error)}") from None
    if swept:
        with open_dict(config):
            hydra = config.pop("hydra")
        check_experiment(hydra.runtime.choices.get("experiment"), hydra.sweeper.get("params"), overrides)
    return config
