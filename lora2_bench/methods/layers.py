"""A frozen linear map with a low-rank addition beside it, and the method base of all such adapters."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lora2_bench.backbone import MAPS, Backbone, MapKey
from lora2_bench.cell import require, require_number
from lora2_bench.methods.base import Method, freeze_but_head


class AdaptedLinear(nn.Module):
    """h = x W0ᵀ + b + delta(dropout(x)), with W0 and b frozen."""

    def __init__(self, base: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        base: Tensor = self.base(x)
        return base + self.delta(self.dropout(x))

    @abstractmethod
    def delta(self, x: Tensor) -> Tensor:
        """The low-rank addition: x (..., d_in) -> (..., d_out)."""

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """(lora_A, lora_B) with delta(x) = x lora_Aᵀ lora_Bᵀ, all scales included."""


Layer = TypeVar("Layer", bound=AdaptedLinear)


class AdapterMethod(Method, Generic[Layer]):
    """A method that puts an `AdaptedLinear` in the place of every target map."""

    layers: dict[MapKey, Layer]

    @abstractmethod
    def adapt(self, base: nn.Linear, generator: torch.Generator) -> Layer:
        """The adapted layer that takes the place of `base`."""

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Replace the target maps and freeze all but adapters and head."""
        self.backbone = backbone
        self._names = backbone.linear_maps(self.options.targets)
        freeze_but_head(backbone)
        self.layers = {}
        for key, name in self._names.items():
            parent, _, leaf = name.rpartition(".")
            layer = self.adapt(backbone.model.get_submodule(name), generator)
            setattr(backbone.model.get_submodule(parent), leaf, layer)
            self.layers[key] = layer

    def lora_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Module name in the untouched backbone -> (lora_A, lora_B)."""
        return {name: self.layers[key].factors() for key, name in self._names.items()}


def check_adapter_options(options: Any) -> None:
    """Raise UserError unless `targets`, `alpha` and `dropout` are possible."""
    targets = options.targets
    known = isinstance(targets, list | tuple) and len(targets) > 0 and all(target in MAPS for target in targets)
    require(known, "method.targets", targets, f"a list of some of {', '.join(MAPS)}")
    require(len(set(targets)) == len(targets), "method.targets", targets, "a list without repeats")
    require_number("method.alpha", options.alpha, 1e-12, 1e6, "a number above 0")
    require_number("method.dropout", options.dropout, 0.0, 0.99, "a number from 0 to 0.99")
