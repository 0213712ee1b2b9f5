"""Composed Hydra config -> `Plan`. The only module that imports Hydra."""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from lora2_bench.errors import CellFailed, Interrupted, UserError, first_line
from lora2_bench.experiment.cell import Cell, Data, Model, Protocol, Train
from lora2_bench.experiment.checks import require, require_int, section
from lora2_bench.experiment.plan import Cadence, Place, Plan
from lora2_bench.files.digests import hash_folder
from lora2_bench.files.paths import CONF
from lora2_bench.multirun import Outcomes
from lora2_bench.tasks.spec import task_spec

# The composed config's names; `hydra` itself is not among them where a plan is made.
_GROUPS = ("model", "task", "method", "data", "protocol", "tracker", "recipe")
# What only names other choices, and leaves nothing of its own in the composed config.
_NAMES = ("row", "suite")
_SWITCHES = ("seed", "kr", "init_from", "results", "rerun", "device", "threads", "engine", "eval_batch_size")


def _by_task(table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The resolver `${by_task:{cola: 1, ...}}`: a recipe's value for the chosen task, or for `default`."""
    task = _root_.task.name
    if task not in table and "default" not in table:
        raise UserError(
            f"task={task} has no recipe for model={_root_.model.name} with method={_root_.method.name}: choose one of "
            f"{', '.join(table)}, or another recipe=MODEL/METHOD"
        )
    return table[task] if task in table else table["default"]


def _first(*values: Any) -> Any:
    """The resolver `${first:a,b}`: the first value that is not null."""
    return next((value for value in values if value is not None), None)


def _in_proportion(value: float | None, now: float, then: float) -> float | None:
    """The resolver `${in_proportion:value,now,then}`: value · now / then, for a value chosen where `now` was `then`."""
    return None if value is None else value if now == then else value * now / then


OmegaConf.register_new_resolver("by_task", _by_task, replace=True)
OmegaConf.register_new_resolver("first", _first, replace=True)
OmegaConf.register_new_resolver("in_proportion", _in_proportion, replace=True)


def _lend_recipes() -> None:
    """Let a method with `recipe: OTHER` in its file train by that method's recipe where it has none of its own."""
    for path in sorted((CONF / "method").glob("*.yaml")):
        lender = OmegaConf.select(OmegaConf.load(path), "recipe")
        for folder in (CONF / "recipe").iterdir() if lender else ():
            if not (folder / path.name).exists():
                lent = {"defaults": [f"/recipe/{folder.name}/{lender}@_here_"]}
                ConfigStore.instance().store(group=f"recipe/{folder.name}", name=path.stem, node=lent)


_lend_recipes()


class _Stopped(BaseException):
    """Ends a multirun of this process from inside a job: Hydra goes on after any Exception."""


class MultirunStart(Callback):
    """Hydra's call at the start of a multirun (conf/config.yaml): only then is the folder of its files known."""

    outcomes = Outcomes()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Take the multirun's folder."""
        self.outcomes.begin(config.hydra.sweep.dir)


def launch(run: Callable[[Plan], object]) -> None:
    """Compose the command line's config and hand its plan to `run`; the process ends with 1 if a cell failed.

    A single run ends at its first error: 2 for bad input, 1 for a failed cell, 3 for one that was told to stop and can
    go on. A multirun goes on with its other cells, whatever its launcher, and lists the failures at the end.
    """
    outcomes = MultirunStart.outcomes = Outcomes()
    composed = False
    ended = ""

    def job(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        settings = HydraConfig.get()
        overrides = OmegaConf.to_container(settings.overrides.task, resolve=False)  # as typed, ${...} and all
        assert isinstance(overrides, list)
        suite = settings.runtime.choices.get("suite")
        if settings.mode is RunMode.RUN:
            try:
                _check_suite(suite, settings.mode, overrides)
                run(plan_from(config, tuple(overrides)))
            except (UserError, CellFailed) as error:
                _stop(str(error), 2 if isinstance(error, UserError) else 1)
            return
        name = " ".join(overrides)
        with outcomes.job(settings.job.num, name) as causes:
            try:
                _check_suite(suite, settings.mode, overrides)
                run(plan_from(config, tuple(overrides)))
            except Interrupted as error:
                causes.append(str(error))
                if "BasicLauncher" in settings.launcher._target_:  # the signal meant the process, and it has all jobs
                    raise _Stopped(str(error)) from None
            except (UserError, CellFailed) as error:
                causes.append(str(error))
            except Exception as error:  # an error of the code's own must not end the other cells
                traceback.print_exc()
                causes.append(f"{type(error).__name__}: {first_line(error)}")
        if causes:
            print(f"failed: {name}: {causes[0]}", file=sys.stderr)

    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function, to be told in one line
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, UserError) as error:
        if traceback_wanted:
            raise
        _stop(_one_line(error), 2)
    except (Interrupted, _Stopped) as error:
        _stop("\n  ".join([str(error), *outcomes.failures()[:-1]]), 3)  # the last is this one
    except Exception as error:
        if traceback_wanted or composed:
            raise
        if outcomes.folder is None or not outcomes.folder.exists():  # no job has begun
            if not isinstance(error, ValueError):
                raise
            # Hydra's own, as for task=null: it names no override
            _stop(f"{' '.join(sys.argv[1:])} is not possible: {_one_line(error)}", 2)
        ended = f"\n  the launcher ended early, and other jobs may still run ({first_line(error)}): run the same again"
    finally:
        if not traceback_wanted:
            del os.environ["HYDRA_FULL_ERROR"]
    failures = outcomes.failures()
    if failures or ended:
        listing = "\n  ".join(failures)
        _stop(f"{len(failures)} of this sweep's cells failed:\n  {listing}{ended}", 1)


def _check_suite(suite: str | None, mode: RunMode | None, overrides: list[Any]) -> None:
    """Raise UserError for a suite that is run as if it were one cell."""
    if suite is None:
        return
    if mode is RunMode.RUN:
        raise UserError(
            f"suite={suite} is many cells: run them with -m suite={suite}, or one with row=... task=... seed=..."
        )
    if not any(str(override).startswith("row=") for override in overrides):  # the sweep was over suites
        raise UserError(f"suite={suite} is one of several suites: give one suite a command")


def _stop(message: str, code: int) -> None:
    if os.environ.get("RANK", "0") != "0":  # the processes of one cell end alike: the main one tells, and the launcher
        time.sleep(30)  # ends the others when it is gone, as it would end the main one if another went first
    else:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _one_line(error: BaseException) -> str:
    """A Hydra or OmegaConf error as one line with what is allowed."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_choice(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    quoted = first.split("'")[1::2]
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read ({first}): give NAME=VALUE, as in seed=3"
    if first.startswith("Ambiguous value"):
        return f"{quoted[0]} has several values: give one, or sweep over all of them with -m"
    if first.startswith("Could not override"):
        return f"{quoted[0]} is not a setting: `--cfg job` lists all settings, `--help` the ones most used"
    told = " ".join(
        line for line in lines if not line.startswith(("full_key", "object_type", "See https", "Set the env"))
    )
    return told.removeprefix("UserError raised while resolving interpolation: ")


def _missing_choice(error: MissingConfigException) -> str:
    """What to say of `GROUP=NAME` where conf/GROUP has no NAME."""
    group, _, name = str(error.missing_cfg_file).partition("/")
    if group != "recipe":
        return f"{group}={name} is not known: choose one of {', '.join(error.options or ())}"
    model, slash, method = name.partition("/")
    if not slash:
        return f"recipe={name} is not possible: recipe must be MODEL/METHOD, as in recipe=minilm/lora2"
    return (
        f"model={model} with method={method} has no recipe: write conf/recipe/{name}.yaml, or choose another with "
        "recipe=MODEL/METHOD"
    )


def plan_from(config: DictConfig, overrides: tuple[str, ...] = ()) -> Plan:
    """The checked plan of a composed config. Raises UserError for impossible or contradictory values."""
    try:
        values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except MissingMandatoryValue as error:
        name = str(error).split(": ")[-1].splitlines()[0]
        raise UserError(f"{name} has no value: add {name}=...") from None
    except InterpolationKeyError as error:
        raise UserError(f"{_one_line(error)}: give the value, or choose a recipe that has it") from None
    except OmegaConfBaseException as error:
        raise UserError(_one_line(error)) from None

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
        model["sha256"] = hash_folder(Path(path).expanduser())
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
        return plan_from(_compose(overrides), tuple(overrides))


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
                    composed = _compose(overrides)
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


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error)) from None


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
        raise UserError(_one_line(error)) from None
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
