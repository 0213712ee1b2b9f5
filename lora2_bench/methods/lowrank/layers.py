"""Linear layers whose frozen weight has a low-rank update beside it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from lora2_bench.backbones.joined import is_joined
from lora2_bench.methods.lowrank.fused import Middle, add_low_rank, low_rank_linear
from lora2_bench.methods.lowrank.quantised import QuantisedLinear


class AdaptedLinear(nn.Module):
    """h = x W0ᵀ + b + dropout(x) downᵀ · middle · upᵀ, with W0 and b frozen.

    Attributes:
        fused: compute it by `low_rank_linear`; False for the plain sum of the base and `delta`.
        cached_middle: the middle, where the method has computed those of all layers at once for this forward pass.
    """

    def __init__(self, base: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.dropout = nn.Dropout(dropout)
        self.fused = False
        self.cached_middle: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        if self.fused:
            down, up = self.outer()
            middle = self.middle() if self.cached_middle is None else self.cached_middle
            dropout = self.dropout.p if self.training else 0.0
            if is_joined(self.base):
                return add_low_rank(self.base(x), x, down, middle, up, dropout)
            weight = self.base.dequantise if isinstance(self.base, QuantisedLinear) else self.base.weight
            return low_rank_linear(x, weight, self.base.bias, down, middle, up, dropout)
        base: Tensor = self.base(x)
        return base + self.delta(self.dropout(x))

    @abstractmethod
    def outer(self) -> tuple[Tensor, Tensor]:
        """The outer factors: down (k×d_in) and up (d_out×k)."""

    @abstractmethod
    def middle(self) -> Middle:
        """The factor between them, with the scale: a number, (k,) for a diagonal, or (k×k)."""

    @abstractmethod
    def delta(self, x: Tensor) -> Tensor:
        """The low-rank update as its equation is written: x (..., d_in) -> (..., d_out)."""

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """(lora_A, lora_B) with delta(x) = x lora_Aᵀ lora_Bᵀ, all scales included."""


class RankedLinear(AdaptedLinear):
    """An adapted layer whose ranks can be pruned one by one."""

    @abstractmethod
    def active_parameters(self, kept: int) -> int:
        """Parameters in use with `kept` ranks."""


class GatedLinear(RankedLinear):
    """h = x W0ᵀ + b + scale · (gate ⊙ x Aᵀ) Bᵀ: a rank whose gate is zero adds nothing.

    Attributes:
        A: (r×d_in); gate: (r); B: (d_out×r). The subclass initialises them.
    """

    A: nn.Parameter
    gate: nn.Parameter
    B: nn.Parameter

    def __init__(self, base: nn.Linear, dropout: float, scale: float) -> None:
        super().__init__(base, dropout)
        self.scale = scale

    def outer(self) -> tuple[Tensor, Tensor]:
        """A and B."""
        return self.A, self.B

    def middle(self) -> Tensor:
        """(r,): the gate, scaled."""
        return self.scale * self.gate

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        return ((x @ self.A.T) * self.middle()) @ self.B.T

    def factors(self) -> tuple[Tensor, Tensor]:
        """A and scale·B·diag(gate), without the ranks whose gate is zero."""
        gate = self.gate.detach()
        used = gate != 0
        return self.A.detach()[used], self.scale * self.B.detach()[:, used] * gate[used]

    def active_parameters(self, kept: int) -> int:
        """A rank is a row of A, a gate and a column of B."""
        return kept * (self.A.shape[1] + 1 + len(self.B))


def normal(shape: tuple[int, ...], std: float, like: Tensor, generator: torch.Generator) -> nn.Parameter:
    """A parameter drawn from N(0, std²) on the CPU, with the dtype and device of `like`."""
    return nn.Parameter(torch.empty(shape, dtype=like.dtype).normal_(0.0, std, generator=generator).to(like.device))


def uniform(shape: tuple[int, ...], bound: float, like: Tensor, generator: torch.Generator) -> nn.Parameter:
    """A parameter drawn from U(-bound, bound) on the CPU, with the dtype and device of `like`."""
    drawn = torch.empty(shape, dtype=like.dtype).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(drawn.to(like.device))
