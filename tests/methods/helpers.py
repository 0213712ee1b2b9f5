"""Every method of conf/method with the real config's options, shrunk, and tiny backbones in memory."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from omegaconf import OmegaConf

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.config.compose import CONF
from lora2_bench.contract.subject import SHRUNK, Subject, loss_of_batch, make_backbone, make_batch, train_steps
from lora2_bench.methods.base import Method, load_method
from tests.composed import composed
from tests.conftest import ARCHITECTURES

__all__ = ["loss_of_batch", "make_backbone", "make_batch", "train_steps"]

# What fits the tiny widths 24 and 40, or the method's own rules, and no other value does.
SHRUNK_FOR: dict[str, dict[str, Any]] = {
    "hra": {"r": 4},
    "miss": {"r": 4},
    "oft": {"r": 0},
    "qlora": {"block_size": 64},
    "qalora": {"r": 3},
}
# Needs settings that have no default.
UNSET = {"peft"}
METHODS = sorted({path.stem for path in (CONF / "method").glob("*.yaml")} - UNSET)


@functools.cache
def _shrunk_options(name: str) -> dict[str, Any]:
    config = composed(f"method={name}")
    for key, value in (SHRUNK | SHRUNK_FOR.get(name, {})).items():
        if OmegaConf.select(config.method, key) is not None:
            OmegaConf.update(config.method, key, value)
    options = OmegaConf.to_container(config.method, resolve=True)
    assert isinstance(options, dict)
    options.get("budget", {}).pop("scale", None)
    return {str(key): value for key, value in options.items() if key not in ("_target_", "name", "size", "recipe")}


def options_of(name: str, **changes: Any) -> dict[str, Any]:
    """The composed config's options of a method, shrunk; `reg__form=...` changes a nested one."""
    options = copy.deepcopy(_shrunk_options(name))
    for key, value in changes.items():
        *sections, last = key.split("__")
        functools.reduce(lambda part, section: part[section], sections, options)[last] = value
    return options


@functools.cache
def method_class(name: str) -> type[Method]:
    """The class that conf/method names."""
    return load_method(composed(f"method={name}").method._target_)


def is_by_peft(name: str) -> bool:
    """Whether conf/method/<name>.yaml is a few lines over one of PEFT's tuners."""
    return str(OmegaConf.load(CONF / "method" / f"{name}.yaml")._target_).startswith("peft.")


# Tuners of PEFT share their code: one goes through all that the methods of this package go through.
OWN_AND_ONE_TUNER = [name for name in METHODS if not is_by_peft(name)] + ["dora"]


def fits(name: str, architecture: str) -> bool:
    """Whether a method says that it runs on an architecture."""
    return architecture in method_class(name).encoders


# Every method on every architecture that it says it fits.
PAIRS = [(name, architecture) for name in METHODS for architecture in ARCHITECTURES if fits(name, architecture)]


def fits_tiny(name: str) -> tuple[str, ...]:
    """Overrides with which a method fits the tiny backbones' widths."""
    values = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    sizes = ("oft_block_size", "boft_block_size", "n_frequency", "num_vectors", "vector_length", "group_size")
    sizes = (*sizes, "block_size") if is_by_peft(name) else sizes
    shrunk = {key: SHRUNK[key] for key in sizes if key in values} | SHRUNK_FOR.get(name, {})
    raw: Any = OmegaConf.to_container(values, resolve=False)
    return tuple(f"method.{key}={value}" for key, value in shrunk.items() if raw.get(key) != value)


def subject_of(name: str) -> Subject:
    """The method as the contract tries it."""
    return Subject(name, method_class(name), options_of(name))


def make_method(
    name: str, backbone: Backbone, total_steps: int = 20, engine: str = "fast", seed: int = 1, **changes: Any
) -> Method:
    """The method `name` injected into `backbone`; `seed` is of what it draws."""
    kind = method_class(name)
    options = kind.parse(options_of(name, **changes))
    kind.check(options, total_steps)
    method = kind(options, total_steps, engine)
    method.inject(backbone, torch.Generator().manual_seed(seed))
    return method
