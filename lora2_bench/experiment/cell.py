"""`Cell`: the settings of one run that can change its result, checked and frozen; their hash is the cell's id."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora2_bench.experiment.checks import (
    MOST_ROWS,
    MOST_SEED,
    require,
    require_choice,
    require_int,
    require_number,
    require_plain_name,
    require_steps,
    section,
)
from lora2_bench.records.identity import id_of
from lora2_bench.records.record import TUNE
from lora2_bench.records.schema import CellSettings
from lora2_bench.tasks.spec import TaskSpec, check_source, spec_of


@dataclass(frozen=True)
class Model:
    """The backbone: its name and what pins its weights (never a path)."""

    name: str
    source: str
    sha256: str | None
    hub_id: str | None
    revision: str | None

    def __post_init__(self) -> None:
        require_plain_name("model.name", self.name)
        require_choice("model.source", self.source, ("package", "hub", "local"))
        if self.source == "hub":
            require(bool(self.hub_id and self.revision), "model.revision", self.revision, "a pinned commit of the hub")


@dataclass(frozen=True)
class Data:
    """The rows.

    Attributes:
        source: mini, local or hub.
        seed: seed of the generator (mini only).
        max_train, max_eval: the largest number of rows per train and per evaluation split; None = all.
    """

    source: str
    seed: int | None
    max_train: int | None
    max_eval: int | None

    def __post_init__(self) -> None:
        require_choice("data.source", self.source, ("mini", "local", "hub"))
        if self.source == "mini":
            require_int("data.seed", self.seed, 0, "an integer of at least 0", MOST_SEED)
        for name, value in (("data.max_train", self.max_train), ("data.max_eval", self.max_eval)):
            if value is not None:
                require_int(name, value, 1, "an integer of at least 1, or null for all rows")


@dataclass(frozen=True)
class Train:
    """The training: each optimiser step takes `batch_size` rows, in `accumulate` forward and backward passes.

    `head_lr` is the head's learning rate, on the schedule of `lr`; None = `lr`.

    The splits that choose the checkpoint are scored every `eval_steps` steps (None = once an epoch) and at the end, or
    `looks` times in all, evenly spread and the last time at the end.
    """

    epochs: float
    max_steps: int | None
    batch_size: int
    accumulate: int
    lr: float
    weight_decay: float
    schedule: str
    warmup: float
    max_grad_norm: float
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    max_length: int
    cls_dropout: float | None
    eval_steps: int | None
    precision: str
    looks: int | None = None
    head_lr: float | None = None

    def __post_init__(self) -> None:
        require_number("train.epochs", self.epochs, 1e-9, 1e6, "a number above 0")
        for name, value in (("max_steps", self.max_steps), ("eval_steps", self.eval_steps), ("looks", self.looks)):
            if value is not None:
                require_int(f"train.{name}", value, 1, "an integer of at least 1, or null")
        alone = self.looks is None or self.eval_steps is None
        require(alone, "train.eval_steps", self.eval_steps, f"null beside looks={self.looks}: give one of the two")
        require_int("train.batch_size", self.batch_size, 1, "an integer of at least 1", MOST_ROWS)
        require_int("train.accumulate", self.accumulate, 1, "an integer of at least 1")
        require(
            self.batch_size % self.accumulate == 0,
            "train.accumulate",
            self.accumulate,
            f"a divisor of train.batch_size={self.batch_size}",
        )
        require_number("train.lr", self.lr, 1e-12, 10.0, "a number above 0, at most 10")
        if self.head_lr is not None:
            require_number("train.head_lr", self.head_lr, 1e-12, 10.0, "a number above 0, at most 10, or null")
        require_number("train.weight_decay", self.weight_decay, 0.0, 10.0, "a number from 0 to 10")
        require_choice("train.schedule", self.schedule, ("linear", "cosine", "constant"))
        require_steps("train.warmup", self.warmup)
        require_number("train.max_grad_norm", self.max_grad_norm, 0.0, 1e6, "a number of at least 0 (0 = no clipping)")
        require_number("train.adam_beta1", self.adam_beta1, 0.0, 1 - 1e-9, "a number from 0 to under 1")
        require_number("train.adam_beta2", self.adam_beta2, 0.0, 1 - 1e-9, "a number from 0 to under 1")
        require_number("train.adam_eps", self.adam_eps, 1e-30, 1.0, "a number above 0, at most 1")
        require_int("train.max_length", self.max_length, 8, "an integer of at least 8 (tokens)", 2**16)
        if self.cls_dropout is not None:
            require_number("train.cls_dropout", self.cls_dropout, 0.0, 0.99, "a number from 0 to 0.99, or null")
        require_choice("train.precision", self.precision, ("fp32", "bf16"))

    def total_steps(self, train_rows: int) -> int:
        """Optimiser steps of a run over `train_rows` rows; the last batch of an epoch may be smaller."""
        steps = max(1, math.ceil(self.epochs * self.steps_per_epoch(train_rows)))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def evaluates(self, step: int, total: int, per_epoch: int) -> bool:
        """Whether the model is scored after `step` of `total`, with `per_epoch` steps in an epoch."""
        if self.looks is None:
            return step % (self.eval_steps or per_epoch) == 0 or step == total
        return step * self.looks // total > (step - 1) * self.looks // total

    def steps_per_epoch(self, train_rows: int) -> int:
        """Optimiser steps of one epoch."""
        return math.ceil(train_rows / self.batch_size)


@dataclass(frozen=True)
class Protocol:
    """The checkpoint's selection: on dev (`paper`), or on a held-out share of train (`clean`; `tune` scores no dev)."""

    name: str
    held_out: float
    split_seed: int

    def __post_init__(self) -> None:
        require_choice("protocol.name", self.name, ("paper", "clean", TUNE))
        if self.name == "paper":
            require(self.held_out == 0, "protocol.held_out", self.held_out, "0 under protocol=paper")
        else:
            require_number("protocol.held_out", self.held_out, 1e-6, 0.5, "a share of train above 0, at most 0.5")
        require_int("protocol.split_seed", self.split_seed, 0, "an integer of at least 0", MOST_SEED)


@dataclass(frozen=True)
class Cell:
    """One (backbone, task, method, size, recipe, data, protocol, seed).

    Attributes:
        method: the method's name and options, as its own `Options` checks them.
        size: the option that the paper's K/R setting names (k, r), or None.
        init_from: id of the finished cell whose adapter this one starts from, or None for the untouched backbone.
        definition: what a user's own task is, with the digests of its rows (`TaskSpec.definition`); None for others.
        rng_version: 2 for independent random streams (training/streams.py), 1 for the numbers of earlier versions.
    """

    model: Model
    task: str
    method: Mapping[str, Any]
    size: str | None
    data: Data
    train: Train
    protocol: Protocol
    seed: int
    init_from: str | None = None
    rng_version: int = 1
    definition: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_source(self.spec, self.data.source)
        require_plain_name("method.name", self.method.get("name"))
        if self.init_from is not None:
            is_id = isinstance(self.init_from, str) and re.fullmatch(r"[0-9a-f]{16}", self.init_from) is not None
            require(is_id, "init_from", self.init_from, "a cell's id (16 digits, as in its record's path), or null")
        require_int("seed", self.seed, 0, "an integer of at least 0", 2**63)
        require(self.seed < 2**32, "seed", self.seed, "under 2**32")
        known = type(self.rng_version) is int and self.rng_version in (1, 2)
        require(known, "rng_version", self.rng_version, "2, or 1 for the random numbers of earlier versions")

    @property
    def spec(self) -> TaskSpec:
        """The task's columns, labels and metrics."""
        return spec_of(self.task, self.definition)

    @property
    def size_value(self) -> int | None:
        """The paper's K/R setting: k for LoRA², r for the baselines, None where a method has none."""
        return None if self.size is None else self.method[self.size]

    @property
    def quotient(self) -> float | None:
        """k / r where a method has both."""
        return self.method["k"] / self.method["r"] if {"k", "r"} <= set(self.method) else None

    @property
    def method_label(self) -> str:
        """The method with its size, as tables name it: `lora2 k=1`."""
        name = self.method["name"]
        return name if self.size is None else f"{name} {self.size}={self.size_value}"

    def to_dict(self) -> CellSettings:
        """The cell as plain data, as a record holds it."""
        values: CellSettings = json.loads(json.dumps(dataclasses.asdict(self)))
        if self.definition is None:
            del values["definition"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        """The inverse of `to_dict`. Raises UserError for unknown, missing or impossible values."""
        sections = {"model": Model, "data": Data, "train": Train, "protocol": Protocol}
        filled: dict[str, Any] = {
            name: section(kind, values[name], name) for name, kind in sections.items() if name in values
        }
        return section(cls, {**values, **filled}, "cell")

    @property
    def id(self) -> str:
        """16 hex digits of SHA-256 over all fields: equal settings have the same id on any machine."""
        return id_of(self.to_dict())
