"""Composed Hydra config -> `Plan`. The only module that imports Hydra."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from lora2_bench.cell import Cell, Data, Model, Protocol, Train, require, require_int, section
from lora2_bench.errors import CellFailed, UserError
from lora2_bench.plan import Place, Plan

_PACKAGE = Path(__file__).resolve().parent
# An installed wheel carries conf/ inside the package; a checkout has it at the top level.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def _by_task(table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The resolver `${by_task:{cola: 1, ...}}`: a recipe's value for the chosen task."""
    task = _root_.task.name
    if task not in table:
        raise UserError(
            f"task={task} has no recipe for model={_root_.model.name} with method={_root_.method.name}: choose one of "
            f"{', '.join(table)}, or another recipe=MODEL/METHOD"
        )
    return table[task]


def _first(*values: Any) -> Any:
    """The resolver `${first:a,b}`: the first value that is not null."""
    return next((value for value in values if value is not None), None)


OmegaConf.register_new_resolver("by_task", _by_task, replace=True)
OmegaConf.register_new_resolver("first", _first, replace=True)


def launch(run: Callable[[Plan], None]) -> None:
    """Compose the command line's config and hand its plan to `run`; the process ends with 1 if a cell failed.

    A single run ends at its first error (2 for bad input, 1 for a failed cell). A multirun goes on with its other
    cells and lists the failures at the end.
    """
    failures: list[str] = []

    def job(config: DictConfig) -> None:
        try:
            run(plan_from(config, tuple(HydraConfig.get().overrides.task)))
        except (UserError, CellFailed) as error:
            settings = HydraConfig.get()
            if settings.mode is RunMode.RUN:
                _stop(str(error), 2 if isinstance(error, UserError) else 1)
            if "BasicLauncher" not in settings.launcher._target_:
                raise  # another process: the launcher itself carries the failure home
            failures.append(f"{' '.join(settings.overrides.task)}: {error}")
            print(f"failed: {failures[-1]}", file=sys.stderr)

    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function, to be told in one line
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, UserError) as error:
        if traceback_wanted:
            raise
        _stop(_one_line(error), 2)
    if failures:
        listing = "\n  ".join(failures)
        _stop(f"{len(failures)} of this sweep's cells failed:\n  {listing}", 1)


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _one_line(error: BaseException) -> str:
    """A Hydra or OmegaConf error as one line with what is allowed."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        if group == "recipe":
            model, _, method = name.partition("/")
            return (
                f"model={model} with method={method} has no recipe: write conf/recipe/{name}.yaml, or choose another "
                "with recipe=MODEL/METHOD"
            )
        return f"{group}={name} is not known: choose one of {', '.join(error.options or ())}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Could not override"):
        name = lines[0].split("'")[1]
        return f"{name} is not a setting: `--cfg job` lists all settings, `--help` the ones most used"
    told = " ".join(line for line in lines if not line.startswith(("full_key", "object_type", "See https", "Set the env")))
    return told.removeprefix("UserError raised while resolving interpolation: ")


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

    method = dict(values["method"])
    implementation, size = method.pop("_target_"), method.pop("size")
    _check_kr(values["kr"], method, size)
    model = dict(values["model"])
    package, folder, path = model.pop("package"), model.pop("folder"), model.pop("path")
    if model["source"] == "local":
        model["sha256"] = hash_folder(Path(path).expanduser())
    data = dict(values["data"])
    data_dir = data.pop("dir")

    cell = Cell(
        model=section(Model, model, "model"),
        task=values["task"]["name"],
        method=method,
        size=size,
        data=section(Data, data, "data"),
        train=section(Train, values["train"], "train"),
        protocol=section(Protocol, values["protocol"], "protocol"),
        seed=values["seed"],
    )
    place = Place(
        results=Path(values["results"]).expanduser(),
        rerun=values["rerun"],
        device=values["device"],
        threads=values["threads"],
        eval_batch_size=values["eval_batch_size"],
        data_dir=data_dir,
        model_path=path,
        model_package=package,
        model_folder=folder,
        tracker=values["tracker"],
    )
    return Plan(cell, implementation, place, _cuts(values), overrides)


def _check_kr(kr: object, method: Mapping[str, Any], size: str | None) -> None:
    if kr is None:
        return
    if size is None:
        raise UserError(f"kr={kr} does not fit method={method['name']}, which has no size: leave kr out")
    require_int("kr", kr, 1, f"an integer of at least 1 ({size} of {method['name']}), or null")
    require(
        method[size] == kr, f"method.{size}", method[size], f"{kr}, as kr={kr} says: give one of the two settings only"
    )


def _cuts(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that cut a run or move it off its recipe, as `name=value (recipe: value)`."""
    train, data, recipe = values["train"], values["data"], values["recipe"]
    limits = {"train.max_steps": train["max_steps"], "data.max_train": data["max_train"], "data.max_eval": data["max_eval"]}
    cuts = [f"{name}={value}" for name, value in limits.items() if value is not None]
    for name in ("epochs", "batch_size", "lr"):
        if train[name] != recipe[name]:
            cuts.append(f"train.{name}={train[name]} (recipe: {recipe[name]})")
    return tuple(cuts)


def hash_folder(path: Path) -> str:
    """SHA-256 over the model, tokenizer and config files of a backbone's folder (names and contents)."""
    if not path.is_dir():
        raise UserError(f"model.path={path.name} is not a folder: give one with config.json, tokenizer files and weights")
    if not any((path / name).is_file() for name in _WEIGHTS):
        raise UserError(f"model.path={path.name} has no model.safetensors: save the weights with save_pretrained first")
    digest = hashlib.sha256()
    kinds = (".json", ".txt", ".model", ".safetensors")
    for file in sorted(file for file in path.iterdir() if file.suffix in kinds):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
