"""Frozen linear maps of a backbone whose products several models form together, over the rows of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import mix_in


class Joint(Protocol):
    """What forms the products of several models, which share their frozen weights."""

    def product(self, base: nn.Linear, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out), as `base` computes it."""


class JoinedLinear(nn.Module):
    """Mixed into a frozen linear map: while it trains, its products are those of its `joint`."""

    joint: Joint

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        out: Tensor = self.joint.product(self, x) if is_joined(self) else super().forward(x)  # type: ignore[arg-type]
        return out


def is_joined(module: nn.Module) -> bool:
    """Whether a module's next product is formed with others': in a forward pass of training."""
    return isinstance(module, JoinedLinear) and module.training and torch.is_grad_enabled()


@contextmanager
def joined(model: nn.Module, joint: Joint) -> Iterator[None]:
    """A context in which `joint` forms the products of every plain linear map of `model` that is frozen."""
    maps = [module for module in model.modules() if type(module) is nn.Linear and not _trains(module)]
    for module in maps:
        mix_in(JoinedLinear, module)
        module.joint = joint  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in maps:
            module.__class__ = nn.Linear
            del module.joint


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
