"""A user's own task in a composed config: its YAML's section, and rows that are its files'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lora2_bench.errors import UserError
from lora2_bench.tasks.own.task import KEYS, OwnTask
from lora2_bench.tasks.spec import ALL_TASKS, PAGE, check_source

_GLUE_FOLDER = "${oc.env:GLUE_DIR,"


def take_own_task(config: DictConfig, values: dict[str, Any], given: Mapping[str, str]) -> OwnTask | None:
    """The user's own task of `config`, whose resolved `values` then have its files as data; None for another task.

    `given` is name -> value of the overrides. Raises UserError for a task that is none or bears a taken name, and for
    another source of rows.
    """
    section = values["task"]
    name, keys = section["name"], sorted({*section} & {*KEYS} - {"name"})
    if (
        (chosen := given.get("task", name).rpartition("/")[2]) != name
        and "task.name" not in given
        and chosen[:1] != "{"
    ):
        raise UserError(f"task={chosen} has name: {name} in its file: give both one name")
    if not keys:
        if name not in ALL_TASKS and "task.name" not in given:
            raise UserError(f"task={name} is a name alone: its file lacks columns, labels, metrics, files ({PAGE})")
        return None
    if name in ALL_TASKS:
        raise UserError(
            f"task.{keys[0]} is not for task.name={name}, a task of the package: give your own task another name"
        )
    raw: dict[str, Any] = OmegaConf.to_container(config.data, resolve=False)  # type: ignore[assignment]
    data = dict(values["data"])
    if str(raw.get("dir")).startswith(_GLUE_FOLDER):
        data["dir"] = None
    task = OwnTask.of(section, data.get("dir"))
    if {"data", "data.source"} & given.keys() or data.get("source") == "hub":
        check_source(task.spec, str(data.get("source")))
    seed = data.get("seed") if "data.seed" in given else None  # which is then told to be of data=mini alone
    values["data"] = {**data, "source": "local", "seed": seed}
    return task
