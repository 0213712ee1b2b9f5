"""AdaLoRA (Zhang et al., arXiv 2303.10512): a product in the form of an SVD whose singular values share a budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora2_bench.cell import require_int, require_number
from lora2_bench.methods.budget import BudgetOptions, RankedMatrix
from lora2_bench.methods.budgeted import BudgetedMethod, RegOptions, deviation
from lora2_bench.methods.layers import RankedLinear, check_adapter_options, normal


@dataclass(frozen=True)
class AdaLoRAOptions:
    """`r` is the rank that every map starts with; the addition is scaled by alpha / r throughout."""

    r: int
    alpha: float
    dropout: float
    targets: list[str]
    init_std: float
    reg: RegOptions
    budget: BudgetOptions

    def __post_init__(self) -> None:
        require_int("method.r", self.r, 1, "an integer of at least 1")
        check_adapter_options(self)
        require_number("method.init_std", self.init_std, 1e-12, 1e3, "a number above 0")


class AdaLoRALinear(RankedLinear):
    """h = x W0ᵀ + b + (alpha / r) · x (P diag(E) Q)ᵀ; P (d_out×r) and Q (r×d_in) are N(0, init_std²), E (r) is zero."""

    def __init__(self, base: nn.Linear, options: AdaLoRAOptions, generator: torch.Generator) -> None:
        super().__init__(base, options.dropout)
        self.scale = options.alpha / options.r
        W = base.weight
        self.Q = normal((options.r, base.in_features), options.init_std, W, generator)
        self.E = nn.Parameter(torch.zeros(options.r, dtype=W.dtype, device=W.device))
        self.P = normal((base.out_features, options.r), options.init_std, W, generator)

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        return ((x @ self.Q.T) * (self.scale * self.E)) @ self.P.T

    def factors(self) -> tuple[Tensor, Tensor]:
        """Q and scale·P·diag(E), without the ranks whose singular value is zero."""
        used = self.E.detach() != 0
        return self.Q.detach()[used], self.scale * self.P.detach()[:, used] * self.E.detach()[used]

    def active_parameters(self, kept: int) -> int:
        """A rank is a column of P, a singular value and a row of Q."""
        return kept * (len(self.P) + 1 + self.Q.shape[1])


class AdaLoRA(BudgetedMethod[AdaLoRALinear]):
    """AdaLoRA on every target map, with its regulariser and a budget over the singular values of all maps."""

    Options = AdaLoRAOptions

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> AdaLoRALinear:
        """An AdaLoRA layer over `base`."""
        return AdaLoRALinear(base, self.options, generator)

    def ranked(self, layer: AdaLoRALinear) -> RankedMatrix:
        """The triplets of eq. 7: a singular value, a row of Q and a column of P."""
        return RankedMatrix(layer.E, [(layer.Q, 0), (layer.P, 1)])

    def deviations(self, layer: AdaLoRALinear) -> list[Tensor]:
        """Both factors' Gram matrices (r×r) less the identity (eq. 4)."""
        return [deviation(layer.P.T @ layer.P), deviation(layer.Q @ layer.Q.T)]
