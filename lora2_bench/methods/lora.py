"""LoRA (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora2_bench.experiment.checks import MOST_RANKS, require_int
from lora2_bench.methods.lowrank.layers import AdaptedLinear, uniform
from lora2_bench.methods.lowrank.method import AdapterMethod, check_adapter_options


@dataclass(frozen=True)
class LoRAOptions:
    """`r` is the rank; the low-rank update is scaled by alpha / r."""

    r: int
    alpha: float
    dropout: float
    targets: list[str]

    def __post_init__(self) -> None:
        require_int("method.r", self.r, 1, "an integer of at least 1", MOST_RANKS)
        check_adapter_options(self)

    @property
    def scale(self) -> float:
        """alpha / r."""
        return float(self.alpha / self.r)


class LoRALinear(AdaptedLinear):
    """h = x W0ᵀ + b + (alpha / r) · x Aᵀ Bᵀ, with A (r×d_in) uniform as torch's linear layers and B (d_out×r) zero."""

    def __init__(self, base: nn.Linear, options: LoRAOptions, generator: torch.Generator) -> None:
        super().__init__(base, options.dropout)
        self.scale = options.scale
        W = base.weight
        self.A = uniform((options.r, base.in_features), 1 / math.sqrt(base.in_features), W, generator)
        self.B = nn.Parameter(torch.zeros(base.out_features, options.r, dtype=W.dtype, device=W.device))

    def outer(self) -> tuple[Tensor, Tensor]:
        """A and B."""
        return self.A, self.B

    def middle(self) -> float:
        """alpha / r."""
        return self.scale

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        return self.scale * (x @ self.A.T) @ self.B.T

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r×d_in) and scale·B (d_out×r)."""
        return self.A.detach(), self.scale * self.B.detach()


class LoRA(AdapterMethod[LoRALinear]):
    """A trainable product of rank r beside every target map."""

    Options = LoRAOptions

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> LoRALinear:
        """A LoRA layer over `base`."""
        return LoRALinear(base, self.options, generator)
