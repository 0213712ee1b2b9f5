"""Every method of conf/method with the real config's options, shrunk, and tiny backbones in memory."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import torch
from omegaconf import OmegaConf

from lora2_bench.backbones.backbone import Backbone, random_backbone
from lora2_bench.config.compose import CONF
from lora2_bench.methods.base import Method, load_method
from tests.composed import composed
from tests.conftest import ARCHITECTURES, tiny_config

# Sizes that tell dimensions apart, and a schedule for short runs; a method takes those of its options that it has.
SHRUNK: dict[str, Any] = {
    "k": 2,
    "r": 3,
    "alpha": 6,
    "init_std": 0.3,
    "budget.target_r": 1,
    "budget.t_init": 0.2,
    "budget.t_final": 0.25,
    "budget.delta_t": 2,
    "oft_block_size": 4,
    "boft_block_size": 4,
    "block_size": 8,
    "n_frequency": 20,
    "num_vectors": 8,
    "vector_length": 4,
    "length": 4,
    "mlp_width": 20,
    "encoder_width": 14,
    "group_size": 8,
    "group_tokens": 4,
}
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


def make_backbone(architecture: str, num_labels: int = 2, dtype: torch.dtype = torch.float32) -> Backbone:
    """A tiny random backbone in evaluation mode, and torch's generator as making it anew leaves it."""
    backbone, drawn = _made_backbone(architecture, num_labels, dtype)
    torch.set_rng_state(drawn)
    return dataclasses.replace(backbone, model=copy.deepcopy(backbone.model))


@functools.cache
def _made_backbone(architecture: str, num_labels: int, dtype: torch.dtype) -> tuple[Backbone, torch.Tensor]:
    torch.manual_seed(0)
    config = tiny_config(architecture)
    config.num_labels = num_labels
    backbone = random_backbone(config)
    backbone.model.to(dtype).eval()
    return backbone, torch.get_rng_state()


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


def make_batch(rows: int = 5, width: int = 9, num_labels: int = 2) -> dict[str, torch.Tensor]:
    """Random token ids with a padded tail, and labels."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 300, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, width - 3 :] = 0
    labels = torch.randint(0, num_labels, (rows,), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_of_batch(method: Method, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The task loss of a batch, without the penalty."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = method.backbone.model(**inputs).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"])


def train_steps(method: Method, steps: int, lr: float = 1e-2, first: int = 1, optimizer: Any = None) -> Any:
    """A plain loop with the protocol's calls in the order of the real one; returns its optimiser."""
    optimizer = optimizer or torch.optim.AdamW(method.optimizer_groups(0.01), lr=lr)
    for step in range(first, first + steps):
        method.before_step(step)
        loss = loss_of_batch(method, make_batch(rows=4 + step % 3))
        penalty = method.penalty()
        (loss if penalty is None else loss + penalty).backward()
        method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        method.zero_grad(optimizer)
    return optimizer
