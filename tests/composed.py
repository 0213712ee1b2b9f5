"""The real config, composed with Hydra, for tests; and a backbone's folder that only has to exist."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lora2_bench.config.compose import CONF, plan_from
from lora2_bench.experiment.plan import Plan

# The parts of a composed config that can change a result.
SCIENCE = ("model", "task", "method", "data", "train", "protocol", "seed", "init_from", "rng_version")


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=list(overrides))


def composed(*overrides: str) -> DictConfig:
    """The config of `python -m lora2_bench OVERRIDES`, as a copy to change."""
    return copy.deepcopy(_composed(overrides))


def plan_of(*overrides: str, changes: dict[str, Any] | None = None) -> Plan:
    """The plan of a command line; `changes` (by dotted name) are made in the composed config, which is much quicker."""
    config = composed(*overrides)
    for name, value in (changes or {}).items():
        assert name in leaves(config), name
        OmegaConf.update(config, name, value, merge=False)
    return plan_from(config)


def leaves(config: DictConfig) -> list[str]:
    """Dotted names of all values; a list is one value."""

    def walk(values: Any, prefix: str) -> list[str]:
        if not isinstance(values, dict):
            return [prefix]
        return [leaf for name, item in values.items() for leaf in walk(item, f"{prefix}.{name}" if prefix else name)]

    return walk(OmegaConf.to_container(config, resolve=False), "")


def weights_folder(folder: Path, weights: bytes = b"weights") -> Path:
    """A folder that passes for a backbone's as long as nothing is loaded."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder
