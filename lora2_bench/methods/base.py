"""The method protocol: all that the training loop calls of a method."""

from __future__ import annotations

import importlib
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import ENCODERS, Backbone
from lora2_bench.errors import UserError, first_line
from lora2_bench.experiment.checks import section
from lora2_bench.files.paths import shortened

EXPORTS = ("lora", "peft", "weights", "none")
"""What a finished cell keeps: a folder of PEFT's LoRA (`lora_factors`) or of another tuner of PEFT's (`peft_adapter`),
either with the trained weights, which `init_from` reads, beside it; those weights alone; or nothing, where they are as
large as the backbone."""


class Method(ABC):
    """A way to fine-tune a backbone.

    A subclass names its `Options`, a frozen dataclass that checks its own values, and implements `inject`. The head is
    trained by every method. Steps are optimiser steps, counted from 1. `engine` says how an adapter is computed: fast,
    or plain, as its equations are written; other methods have one way.
    """

    Options: ClassVar[type[Any]]
    starts_as_backbone: ClassVar[bool] = True
    """Promise: the untrained method leaves the backbone's outputs as they are, up to rounding."""
    exports: ClassVar[str] = "weights"
    """Promise: what a finished cell keeps of the method, one of `EXPORTS`."""
    merges: ClassVar[bool] = False
    """Promise: `merge` puts what was learnt into the backbone's own maps. Others refuse, in one line."""
    encoders: ClassVar[tuple[str, ...]] = ENCODERS
    """The types of encoder that it fits; `inject` raises UserError for others."""

    def __init__(self, options: Any, total_steps: int, engine: str = "fast") -> None:
        self.options = options
        self.total_steps = total_steps
        self.engine = engine
        self.backbone: Backbone

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Any:
        """Checked options of a cell's `method` (without its name). Raises UserError."""
        return section(cls.Options, without_name(values), "method")

    @classmethod
    def check(cls, options: Any, total_steps: int) -> None:
        """Raise UserError where `options` do not fit a run of `total_steps`."""

    @abstractmethod
    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Make the backbone trainable in this method's way; new weights are drawn from `generator` (on the CPU)."""

    def param_groups(self, weight_decay: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """AdamW's groups of all trained parameters; biases and norms are not decayed.

        With `head_lr` the head's parameters are in groups of their own, which have that learning rate.
        """
        head = set() if head_lr is None else set(self.backbone.head_parameters())
        parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.trainable().items():
            is_plain = parameter.ndim < 2 or name.endswith("bias")
            parts.setdefault((name in head, is_plain), []).append(parameter)
        return [
            {
                "params": parts[own_rate, is_plain],
                "weight_decay": 0.0 if is_plain else weight_decay,
                **({"lr": head_lr} if own_rate else {}),
            }
            for own_rate, is_plain in sorted(parts)
        ]

    def optimizer_groups(self, weight_decay: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """The groups that the optimiser gets; called once, when the model is on its device."""
        return self.param_groups(weight_decay, head_lr)

    def zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Clear the gradients, after each step."""
        optimizer.zero_grad()

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of all trained parameters, head included."""
        return {name: p for name, p in self.backbone.model.named_parameters() if p.requires_grad}

    def penalty(self) -> Tensor | None:
        """A scalar added to the training loss once per step, never to an evaluation loss."""
        return None

    def saved(self) -> dict[str, Tensor]:
        """Name -> every tensor of a saved state: what trains, and what the method has added and keeps frozen.

        What a method draws and freezes, as a parameter or as a buffer, belongs to what it has learnt: another seed
        draws it otherwise.
        """
        tensors = [*self.backbone.model.named_parameters(), *self.backbone.model.named_buffers()]
        return {name: tensor for name, tensor in tensors if tensor.requires_grad or not self.backbone.owns(tensor)}

    def before_step(self, step: int) -> None:
        """Called before the step's first forward pass."""

    def after_backward(self, step: int) -> None:
        """Called when the step's gradients are complete and clipped, before the optimiser's step."""

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step, before its gradients are cleared."""

    def finish(self) -> None:
        """Called when training is over. Raises ValueError where the method has not done what it guarantees."""

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint beside weights and optimiser, as tensors and plain data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""

    def parameters(self) -> dict[str, int]:
        """Counts: `adapter` (the paper's #Params), `head`, and `active` (what of the adapter survives pruning)."""
        head = set(self.backbone.head_parameters())
        adapter = sum(p.numel() for name, p in self.trainable().items() if name not in head)
        return {
            "adapter": adapter,
            "head": sum(p.numel() for p in self.backbone.head_parameters().values()),
            "active": adapter,
        }

    def at_scoring(self) -> dict[str, Any]:
        """Facts of the weights of this moment, to stand beside their score: `active` as in `parameters`, and more."""
        return {"active": self.parameters()["active"]}

    def summary(self) -> dict[str, Any]:
        """Facts of the trained method for the record, beside its counts (kept ranks, for example)."""
        return {}

    def lora_factors(self) -> dict[str, tuple[Tensor, Tensor]] | None:
        """Module name -> (lora_A (r×d_in), lora_B (d_out×r)), with ΔW = lora_B·lora_A exactly; None without such.

        Names are those of `Backbone.linear_maps`: the export puts the row blocks of a fused map together.
        """
        return None

    def peft_adapter(self) -> tuple[Any, dict[str, Tensor]] | None:
        """A config of PEFT and the adapter's tensors by PEFT's own names; None where PEFT has no such tuner."""
        return None

    def prompt_of_peft(self, base: Backbone) -> tuple[Any, dict[str, Tensor]] | None:
        """A config of PEFT's prompts and its tensors, which compute the method on `base`; None where PEFT cannot.

        `base` is an untouched backbone with the trained head, and may be changed for it. For methods that `exports`
        promises no adapter of: a folder of its own is made of them on request.
        """
        return None

    def whole_modules(self) -> list[str]:
        """Names of the backbone's own modules that train as they are, beside the head's; exported with an adapter."""
        return []

    def replaced_weights(self) -> dict[str, Tensor]:
        """Name in the untouched backbone -> what the method computes with in place of this frozen weight."""
        return {}

    def merge(self) -> None:
        """Put what was learnt into the backbone's own maps: no layer of the method is left.

        Raises UserError, also before `inject`, in a method that does not promise it.
        """
        raise UserError(f"{type(self).__name__} cannot be merged into the backbone's maps: keep it beside them")

    def ranks(self) -> Sequence[int]:
        """The ranks that one training serves: each is scored at its end, and exported on demand; none for most."""
        return ()

    def at_rank(self, rank: int) -> AbstractContextManager[None]:
        """A context in which the method computes and is exported at `rank`, one of `ranks`. Raises ValueError."""
        raise ValueError(f"{type(self).__name__} serves no rank but its own")


def at_rank(method: Method, rank: int | None) -> AbstractContextManager[None]:
    """A context in which the method computes and is exported at one of its `ranks`; as it is without one."""
    return nullcontext() if rank is None else method.at_rank(rank)


def load_method(implementation: str) -> type[Method]:
    """The class with the dotted name `implementation`, or that of a config of PEFT. Raises UserError for others."""
    module, _, name = implementation.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a user's module may fail in any way
        raise UserError(
            f"method._target_={shortened(implementation)} cannot be imported ({_why(error)}): give MODULE.CLASS"
        ) from error
    if module == "peft":
        return _tuner(found)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(
            f"method._target_={implementation} is not a Method: derive it from lora2_bench.methods.base.Method"
        )
    if missing := sorted(found.__abstractmethods__):
        raise UserError(
            f"method._target_={implementation} is abstract: give a class that has {', '.join(missing)}, not a base"
        )
    if found.exports not in EXPORTS:
        raise UserError(
            f"method._target_={implementation} has exports={shortened(str(found.exports))}: give one of "
            f"{', '.join(EXPORTS)}"
        )
    if not hasattr(found, "Options"):
        raise UserError(f"method._target_={implementation} has no Options: give it a frozen dataclass of that name")
    return found


def _why(error: Exception) -> str:
    """An import's error, with the place of a mistake in the module."""
    if isinstance(error, ImportError | AttributeError):
        return first_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    at = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (frames[-1].filename, frames[-1].lineno)
    place = f" at {at[0]}:{at[1]}" if len(frames) > 2 or isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {first_line(error)}{place}"


def _tuner(config: Any) -> type[Method]:
    from lora2_bench.methods.peft_tuner import tuner  # PEFT's import takes a second, and other methods need none of it

    return tuner(config)


def require_encoder(told: str, backbone: Backbone, encoders: Sequence[str], because: str) -> None:
    """Raise UserError unless the backbone is of one of the types `encoders`; `told` says what fits them."""
    if (kind := backbone.known_type()) not in encoders:
        raise UserError(
            f"model={backbone.name} is of type {kind}: {told} {', '.join(encoders)} encoders, {because}: give another "
            "model or method"
        )


def without_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's `method` mapping without its name."""
    return {key: value for key, value in values.items() if key != "name"}


def freeze_but_head(backbone: Backbone) -> None:
    """Freeze all parameters but the head's."""
    backbone.model.requires_grad_(False)
    for parameter in backbone.head_parameters().values():
        parameter.requires_grad_(True)
