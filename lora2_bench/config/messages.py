"""Errors of Hydra and OmegaConf, each as one line with what is allowed."""

from __future__ import annotations

import difflib
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from yaml import MarkedYAMLError

from lora2_bench.errors import one_line_of
from lora2_bench.files.paths import CONF
from lora2_bench.tasks.spec import HOW_TO_ADD


def one_line(error: BaseException) -> str:
    """A Hydra or OmegaConf error as one line with what is allowed."""
    return one_line_of(_told(error))


def _told(error: BaseException) -> str:
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark or error.context_mark) is not None:
        place = "/".join(Path(str(mark.name)).parts[-2:])  # of a group's folder
        return f"{place} line {mark.line + 1}: it is no YAML ({error.problem or error.context}): mend it"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_choice(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    quoted = first.split("'")[1::2]
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read ({first}): give NAME=VALUE, as in seed=3"
    if first.startswith("Ambiguous value"):
        return f"{quoted[0]} has several values: give one, or sweep over all of them with -m"
    if first.startswith(("Could not override", "Could not delete")):
        return f"{quoted[0]} is not a setting: {_where_it_is(quoted[0])}"
    text = " ".join(
        line for line in lines if not line.startswith(("full_key", "object_type", "See https", "Set the env"))
    )
    return text.removeprefix("UserError raised while resolving interpolation: ")


def _missing_choice(error: MissingConfigException) -> str:
    """The message for `GROUP=NAME` where conf/GROUP has no NAME."""
    group, _, name = str(error.missing_cfg_file).partition("/")
    if group != "recipe":
        group, _, name = str(error.missing_cfg_file).rpartition("/")  # hydra/sweeper=optuna
        add = f", or {HOW_TO_ADD}" if group == "task" else ""
        return f"{group}={name} is not known: choose one of {', '.join(error.options or ())}{add}"
    model, slash, method = name.partition("/")
    if not slash:
        return f"recipe={name} is not possible: recipe must be MODEL/METHOD, as in recipe=minilm/lora2"
    return (
        f"model={model} with method={method} has no recipe: write conf/recipe/{name}.yaml, or choose another with "
        "recipe=MODEL/METHOD"
    )


# Names of PEFT's and transformers' for what has another here.
_ELSEWHERE = {
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "target_modules": "method.targets",
    "rank": "kr",
    "learning_rate": "train.lr",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size",
    "max_seq_length": "train.max_length",
    "warmup_ratio": "train.warmup",
    "backbone": "model",
    "dataset": "task",
    "output_dir": "results",
}


def _where_it_is(name: str) -> str:
    """Where a setting of that name stands: `train.lr` for `lr`; else where all of them are listed."""
    if name == "experiment":  # no group of the defaults
        return "give -m +experiment=NAME"
    leaf = name.rpartition(".")[2]
    if leaf in _ELSEWHERE:
        return f"did you mean {_ELSEWHERE[leaf]}?"
    config = OmegaConf.load(CONF / "config.yaml")
    methods = [OmegaConf.load(path) for path in sorted((CONF / "method").glob("*.yaml"))]
    if name == f"method.{leaf}" and (whose := [str(one.name) for one in methods if leaf in one and "name" in one]):
        return f"it is one of method={', '.join(whose)}"
    sections = {"train": [config.train], "checkpoint": [config.checkpoint], "method": methods}
    found = [f"{section}.{leaf}" for section, parts in sections.items() if any(leaf in part for part in parts)]
    if not found:  # misspelt
        leaves = {f"{section}.{key}" for section, parts in sections.items() for part in parts for key in part}
        found = difflib.get_close_matches(name, sorted({*leaves, *map(str, config)}), n=1, cutoff=0.7)
    if found:
        return f"did you mean {found[0]}?"
    return "`--cfg job` lists all settings, `--help` the ones most used"
