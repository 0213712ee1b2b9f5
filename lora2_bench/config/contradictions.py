"""Settings given by hand that contradict what would run: a record made with them would lie."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import require, require_number
from lora2_bench.experiment.settings import typed, value_at
from lora2_bench.experiment.suites import rows
from lora2_bench.files.paths import CONF
from lora2_bench.tasks.own.task import KEYS

_IDENTITY = ("source", "package", "folder", "hub_id", "revision")  # `sha256` is compared with the files themselves
_IDS = ("init_from", "model.revision", "model.sha256")


def quoted_ids(overrides: Sequence[str]) -> list[str]:
    """The overrides with ids and digests in quotes: Hydra takes those of digits, or 12e4, for numbers."""
    return [_quoted(override) for override in overrides]


def _quoted(override: str) -> str:
    key, _, value = override.partition("=")
    if key.lstrip("+") not in _IDS:
        return override
    return f"{key}=" + re.sub(r"(?<![^,(\s])[0-9a-f]{16,}(?![^,)\s])", lambda found: f"'{found[0]}'", value)


def typed_names(overrides: Sequence[str]) -> set[str]:
    """The names of what is overridden."""
    return {override.lstrip("+~").partition("=")[0] for override in overrides}


def typed_values(overrides: Sequence[str]) -> dict[str, str]:
    """Name -> value of what is overridden, as it was typed."""
    return dict(override.lstrip("+~").partition("=")[::2] for override in overrides)


def check_experiment(name: str | None, params: Mapping[str, str] | None, overrides: Sequence[str]) -> None:
    """Raise UserError where one cell is asked for of an experiment that sweeps (`params`, hydra.sweeper's)."""
    if name is None or not params:
        return
    if left := [key for key in params if key not in typed_names(overrides)]:
        one = " ".join(f"{key}=..." for key in left)
        raise UserError(
            f"+experiment={name} is many cells: run them with -m +experiment={name}, or one of them with {one}"
        )


def check_contradictions(config: DictConfig, values: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise UserError for an override that contradicts what runs; warn of a recipe that was made for another model.

    What conf/ composes without overrides within a section goes together, and is not looked at. `values` are those of
    `config`, resolved.
    """
    given = typed_values(overrides)
    _check_row(values, given)
    if any(_within("method", name, given) for name in ("name", "size", "_target_")):
        _check_method(values["method"], given)
    if any(_within("model", name, given) for name in (*_IDENTITY, "name", "path", "sha256")):
        _check_model(values["model"], given)
    for group in ("model", "method"):
        if (name := f"{group}.recipe") in given:
            raise UserError(
                f"{name}={given[name]} chooses no recipe: give recipe=MODEL/METHOD, as in recipe=minilm/lora2"
            )
    _check_data(values["data"], given)
    _check_peft(values["method"])
    _check_keys(config, values)
    task = values["task"]["name"]
    if given.get("task", task) != task and "task.name" in given:
        raise UserError(f"task.name={task} contradicts task={given['task']}: give task={task} alone")
    _warn_of_recipe(values, given)


def _check_keys(config: DictConfig, values: Mapping[str, Any]) -> None:
    """Raise UserError for a key of a section that no file of its group has and no value takes: nobody would read it.

    A recipe of one's own may have keys that the file of one's own method takes, as `${recipe.NAME}`. A task of the
    package has its name alone; a user's own was checked as a whole.
    """
    for key in sorted(set(values["task"]) - {*KEYS}):
        raise UserError(f"task.{key} is not a setting: give one of name")
    for group in ("recipe", "tracker"):
        files = sorted((CONF / group).rglob("*.yaml"))
        unknown = set(values[group])
        for path in files:  # a few explain every key, and to read all takes a third of a second
            if not unknown:
                break
            unknown -= _keys(path)
        if unknown:
            text = str(OmegaConf.to_container(config, resolve=False))
            unknown -= set(re.findall(rf"\$\{{{group}\.(\w+)", text))
        known = {key for path in files for key in _keys(path)} if unknown else set()
        for key in sorted(unknown):
            near = difflib.get_close_matches(key, known, n=1)
            told = f"did you mean {group}.{near[0]}?" if near else f"give one of {', '.join(sorted(known))}"
            raise UserError(f"{group}.{key} is not a setting: {told}")


@cache
def _keys(path: Path) -> frozenset[str]:
    return frozenset(str(key) for key in OmegaConf.load(path) if key != "defaults")


def _within(section: str, name: str, given: Mapping[str, str]) -> bool:
    """Whether a setting was typed, alone or in a section as `method={name: x}`."""
    return f"{section}.{name}" in given or given.get(section, "").startswith("{")


def _check_row(values: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Raise UserError where a row's method, size or settings are overridden: the cell would be none of that row."""
    name, method = given.get("row", ""), values["method"]
    if (row := rows().get(name)) is None:
        return
    if method["name"] != row.method:
        raise UserError(f"method={method['name']} contradicts row={name} of method={row.method}: leave one of them out")
    for setting, wanted in row.contradictions(method).items():
        place = "kr" if setting == row.size_name and "kr" in given else f"method.{setting}"
        found = typed(value_at(method, setting))
        raise UserError(f"{place}={found} contradicts row={name}, which fixes {typed(wanted)}: leave one of them out")


def _check_method(method: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Raise UserError where name, size and class are not those of one method: each of the package's has its own."""
    name = method["name"]
    if own := _files("method").get(name):
        if given.get("method") == "peft" and "method.name" not in given:
            raise UserError(
                f"method._target_={method['_target_']} would be named as method={name}, which is here already: give "
                f"method={name}, or a method.name of your own beside it"
            )
        _require_own("method", ("_target_", "size"), method, own, given)
        return
    for other, file in _files("method").items():
        target = file["_target_"]
        allowed = f"{other}, since {target} runs: leave it out, or give a class of your own as method._target_"
        require(method["_target_"] != target, "method.name", name, allowed)


def _check_model(model: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Raise UserError where a backbone's name and what pins its weights are not of one backbone."""
    name, source = model.get("name"), model.get("source")
    require(isinstance(name, str) and name != "", "model.name", name, "a name")
    if source != "local" and model.get("path") is not None:
        raise UserError(f"model.path={model['path']} is read by model=local alone, not by {name}: give model=local")
    if source == "local":
        for key in ("package", "folder"):
            require(model.get(key) is None, f"model.{key}", model.get(key), "null for model=local, which has a path")
        allowed = f"a name of your own: {name} is the pinned backbone's, and model.path may hold any other"
        require(name == "local" or name not in _files("model"), "model.name", name, allowed)
        return
    if source == "hub":
        is_commit = re.fullmatch(r"[0-9a-f]{40}", str(model.get("revision"))) is not None
        require(is_commit, "model.revision", model.get("revision"), "a commit (40 hex digits): names move")
    if own := _files("model").get(str(name)):
        _require_own("model", _IDENTITY, model, own, given)
        return
    for other, file in _files("model").items():
        same = all(model.get(key) == file.get(key) for key in _IDENTITY)
        require(not same, "model.name", name, f"{other}, whose weights these are: leave it out")


def _check_data(data: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Raise UserError for a folder or a seed that the source of the rows does not read."""
    source, folder, seed = data.get("source"), data.get("dir"), data.get("seed")
    if _within("data", "dir", given) and source != "local" and folder is not None:
        raise UserError(f"data.dir={folder} is read by data=local alone: leave it out, or give data=local")
    if any(_within("data", name, given) for name in ("seed", "source")) and source != "mini" and seed is not None:
        raise UserError(
            f"data.seed={seed} is of data=mini alone, and data.source={source} has rows of its own: leave it out"
        )


def check_read(values: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise UserError for a typed setting that nothing of this protocol or method reads: it would make a new cell."""
    given = typed_values(overrides)
    protocol, method = values["protocol"], values["method"]
    is_squared_sum = value_at(method, "reg.form") == "squared_sum"
    has_no_schedule = "xi_schedule" in method and value_at(method, "xi_schedule.max_xi") is None
    of_schedule = "is of a schedule, which method.xi_schedule.max_xi=... begins"
    unread = [
        ("protocol.split_seed", protocol.get("name") == "paper", "is of protocols that hold rows of train out"),
        ("method.reg.mean_over", is_squared_sum, "is of method.reg.form=norm_mean alone"),
        ("method.xi_schedule.stages", has_no_schedule, of_schedule),
        ("method.xi_schedule.first", has_no_schedule, of_schedule),
    ]
    for name, is_unread, told in unread:
        if is_unread and name in given:
            raise UserError(f"{name}={given[name]} {told}: leave it out")


def _check_peft(method: Mapping[str, Any]) -> None:
    """Raise UserError for a value that PEFT takes, and with which its tuner does not train as it says."""
    target, alpha, r = str(method["_target_"]), method.get("lora_alpha"), method.get("r")
    if not target.startswith("peft."):
        return
    if alpha is not None:
        require_number("method.lora_alpha", alpha, 1e-12, 1e6, "a number above 0")
    if target == "peft.HRAConfig" and isinstance(r, int):
        require(r % 2 == 0, "method.r", r, "even: an odd number of reflections does not start as the backbone")


def _require_own(
    section: str, names: Sequence[str], values: Mapping[str, Any], own: Mapping[str, Any], given: Mapping[str, str]
) -> None:
    """Raise UserError unless these values are those of the file that has the section's name."""
    whose = values["name"]
    for name in names:
        value, wanted = values.get(name), own.get(name)
        if value == wanted:
            continue
        if f"{section}.name" in given:
            raise UserError(
                f"{section}.name={whose} contradicts {section}.{name}={typed(value)}, which is not {whose}'s: leave "
                f"{section}.name out, or give a name of your own"
            )
        allowed = f"{typed(wanted)} for {section}={whose}: leave it out, or give your own a {section}.name too"
        require(False, f"{section}.{name}", value, allowed)


def _warn_of_recipe(values: Mapping[str, Any], given: Mapping[str, str]) -> None:
    recipe, model = given.get("recipe", ""), values["model"]
    made_for, slash, _ = recipe.partition("/")
    if slash and made_for not in (model.get("name"), model.get("source")):
        print(f"warning: recipe={recipe} was made for model={made_for}: the result is marked", file=sys.stderr)


@cache
def _files(group: str) -> dict[str, dict[str, Any]]:
    """Name -> the unresolved settings of every file of a config group."""
    files = [OmegaConf.load(path) for path in sorted((CONF / group).glob("*.yaml"))]
    plain: list[dict[str, Any]] = [OmegaConf.to_container(file, resolve=False) for file in files]  # type: ignore[misc]
    return {values["name"]: values for values in plain}
