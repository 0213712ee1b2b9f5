"""OmegaConf resolvers that conf/ uses, and recipes that are no file of conf/: shared ones, and those of studies."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lora2_bench.errors import UserError
from lora2_bench.experiment.recipe import Tuned
from lora2_bench.files.digests import Stamped, stamped
from lora2_bench.files.paths import CONF, results_folder
from lora2_bench.tasks.spec import ALL_TASKS


def _by_task(table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The resolver `${by_task:{cola: 1, ...}}`: a recipe's value for the chosen task, or for `default`.

    A user's own task with `recipe_of: TASK` has that task's.
    """
    if (name := OmegaConf.select(_root_, "task.name")) is None:
        raise UserError("task.name has no value: the task's file begins with name: NAME, which is its own")
    task = OmegaConf.select(_root_, "task.recipe_of") or name
    if task not in table and "default" not in table:
        own = (
            "" if name in ALL_TASKS else f" add recipe_of: {next(iter(table))} to its file, whose recipe it then takes;"
        )
        raise UserError(
            f"task={task} has no recipe for model={_root_.model.name} with method={_root_.method.name}:{own} choose "
            f"one of {', '.join(table)}, or another recipe=MODEL/METHOD"
        )
    return table[task] if task in table else table["default"]


def _first(*values: Any) -> Any:
    """The resolver `${first:a,b}`: the first value that is not null."""
    return next((value for value in values if value is not None), None)


def _in_proportion(value: float | None, now: float, then: float) -> float | None:
    """The resolver `${in_proportion:value,now,then}`: value · now / then, for a value that was chosen with `then`."""
    return None if value is None else value if now == then else value * now / then


def _times(value: float | None, factor: float) -> float | None:
    """The resolver `${times:value,factor}`: value · factor, to two digits; the value itself for a factor of 1."""
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (value, factor))
    return value if not numbers or value is None or factor == 1 else float(f"{value * factor:.2g}")


def _by_version(old: Any, new: Any, *, _root_: DictConfig) -> Any:
    """The resolver `${by_version:OLD,NEW}`: OLD under rng_version=1, which stands for the cells of earlier versions."""
    return old if OmegaConf.select(_root_, "rng_version") == 1 else new


def _by_option(name: str, table: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """The resolver `${by_option:NAME,{a: 1, ...}}`: a recipe's value for the method's option; None without one."""
    return table.get(str(OmegaConf.select(_root_, f"method.{name}")))


def _tuner_name(target: str) -> str:
    """The resolver `${tuner_name:peft.LoHaConfig}`: the name of a PEFT tuner as a method, loha here."""
    return target.rpartition(".")[2].removesuffix("Config").lower()


def _choices(group: str, *first: str) -> str:
    """The resolver `${choices:GROUP,FIRST,...}`: what the group has, one's own files too, in lines for the help."""
    loader = GlobalHydra.instance().config_loader()
    found = set(loader.get_group_options(group))
    names = [*(name for name in first if name in found), *sorted(found - {*first})]
    return "\n".join(textwrap.wrap(", ".join(names), 106, subsequent_indent=" " * 12))


def share_recipes(conf: Path = CONF) -> None:
    """Register the recipes that are borrowed, for the methods and models of the package and of `conf`.

    A model with `recipe: OTHER` has OTHER's where it has none of its own, and a method with `recipe: OTHER` has OTHER's
    for each model where there is none.
    """
    roots = list(dict.fromkeys((CONF, conf)))
    lenders = {model: _lender(path) for root in roots for model, path in _files(root / "model").items()}
    methods = {name: _lender(path) for root in roots for name, path in _files(root / "method").items()}
    made = {
        model: {name for root in roots for name in _files(root / "recipe" / model)}
        for model in {*lenders, *(folder.name for folder in (CONF / "recipe").iterdir())}
    }
    for model, own in made.items():
        lender = lenders.get(model)
        lent = made.get(lender, set()) - own if lender else set()
        for name in lent:
            _share(model, name, f"{lender}/{name}")
        for name, other in methods.items():
            if other and (own or lent) and name not in own | lent:
                _share(model, name, f"{model}/{other}")


def share_own(folder: Path) -> None:
    """Register the recipes of the user's own configs, which is done again where a file of them has changed.

    Raises UserError for a file that is not UTF-8, whose name Hydra does not tell.
    """
    _share_own(folder, stamped(path for path in sorted(folder.rglob("*.yaml")) if path.is_file()))


@lru_cache(maxsize=1)  # the last folder alone: another's recipes may have had the same names
def _share_own(folder: Path, files: Stamped) -> None:
    for path, _, _ in files:
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x}): save it as UTF-8") from None
    share_recipes(folder)


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _lender(path: Path) -> str | None:
    """The model or method whose recipes the one of this file borrows; None for one that borrows none."""
    values = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # OmegaConf takes ten times as long, at every start
    found = values.get("recipe") if isinstance(values, dict) else None
    return None if found is None else str(found)


def _share(model: str, name: str, source: str) -> None:
    shared = {"defaults": [f"/recipe/{source}@_here_"]}
    ConfigStore.instance().store(group=f"recipe/{model}", name=name, node=shared)


def share_tuned(overrides: Sequence[str]) -> None:
    """Register the tuned recipes below the results folder that these overrides choose, one or a list to sweep over.

    Raises UserError for one that is not there, and for a file that holds anything but plain values.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    for name in given.get("recipe", "").split(","):
        if (tuned := Tuned.of(name)) is None or (CONF / "recipe" / f"{name}.yaml").is_file():
            continue
        path = tuned.path(results_folder(given.get("results", "results").strip("'\"")))
        node = _tuned_values(path, tuned)
        group, _, last = tuned.name.rpartition("/")
        ConfigStore.instance().store(group=f"recipe/{group}", name=last, node=node)


def _tuned_values(path: Path, tuned: Tuned) -> dict[str, Any]:
    """A tuned recipe's own recipe and values, plain ones: what is read from a results folder must not interpolate."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"recipe={tuned.name} is not there ({path}): make it with python -m lora2_bench.tune study={tuned.study}, "
            "or give the results=DIR that has it"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): make it again, stage=winners") from None
    plain = isinstance(values, dict) and all(
        (key == "defaults" and _is_base(value, tuned.model)) or (_is_key(key) and _is_plain(value))
        for key, value in values.items()
    )
    if not plain or "defaults" not in values:
        raise UserError(f"{path} is no tuned recipe of {tuned.model}: make it again with stage=winners")
    found: dict[str, Any] = values
    return found


def _is_base(value: Any, model: str) -> bool:
    """Whether `value` names one recipe of the model, which the tuned one changes."""
    base = rf"/recipe/{re.escape(model)}/\w+@_here_"
    return isinstance(value, list) and len(value) == 1 and re.fullmatch(base, str(value[0])) is not None


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier()


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | None) or (isinstance(value, str) and re.fullmatch(r"\w*", value) is not None)


def _store_itself(_: dict[int, Any]) -> ConfigStore:
    """What a deep copy of Hydra's store is: the store, of which every node that is loaded is a copy."""
    return ConfigStore.instance()


def register() -> None:
    """Register the resolvers with OmegaConf and the shared recipes with Hydra."""
    # Hydra copies its whole store whenever it looks up a group, a hundred times for --help.
    vars(ConfigStore.instance())["__deepcopy__"] = _store_itself
    OmegaConf.register_new_resolver("by_task", _by_task, replace=True)
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver("in_proportion", _in_proportion, replace=True)
    OmegaConf.register_new_resolver("times", _times, replace=True)
    OmegaConf.register_new_resolver("by_version", _by_version, replace=True)
    OmegaConf.register_new_resolver("by_option", _by_option, replace=True)
    OmegaConf.register_new_resolver("tuner_name", _tuner_name, replace=True)
    OmegaConf.register_new_resolver("choices", _choices, replace=True)
    share_recipes()
