"""AdaLoRA (Zhang et al., arXiv 2303.10512): a product in the form of an SVD whose singular values share a budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora2_bench.experiment.checks import require_number
from lora2_bench.methods.lora import LoRAOptions
from lora2_bench.methods.lowrank.budget import RankedStacks
from lora2_bench.methods.lowrank.budgeted import BudgetedMethod, RegOptions, deviation
from lora2_bench.methods.lowrank.layers import GatedLinear, normal
from lora2_bench.methods.lowrank.method import GatedMethod
from lora2_bench.methods.lowrank.schedule import BudgetOptions


@dataclass(frozen=True)
class AdaLoRAOptions(LoRAOptions):
    """`r` is every map's initial rank; the low-rank update is scaled by alpha / r throughout."""

    init_std: float
    reg: RegOptions
    budget: BudgetOptions

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("method.init_std", self.init_std, 1e-12, 1e3, "a number above 0")


class AdaLoRALinear(GatedLinear):
    """h = x W0ᵀ + b + (alpha / r) · x (P diag(Λ) Q)ᵀ; P is `B`, Q is `A`, both N(0, init_std²); Λ is `gate`, zero."""

    def __init__(self, base: nn.Linear, options: AdaLoRAOptions, generator: torch.Generator) -> None:
        super().__init__(base, options.dropout, options.scale)
        W = base.weight
        self.A = normal((options.r, base.in_features), options.init_std, W, generator)
        self.gate = nn.Parameter(torch.zeros(options.r, dtype=W.dtype, device=W.device))
        self.B = normal((base.out_features, options.r), options.init_std, W, generator)


class AdaLoRA(GatedMethod[AdaLoRALinear], BudgetedMethod[AdaLoRALinear]):
    """AdaLoRA on every target map, with its regulariser and a budget over the singular values of all maps."""

    Options = AdaLoRAOptions

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> AdaLoRALinear:
        """An AdaLoRA layer over `base`."""
        return AdaLoRALinear(base, self.options, generator)

    def ranked(self) -> RankedStacks:
        """The triplets of eq. 7: a singular value, a row of Q and a column of P."""
        parts = [(stack, 0) for stack in self.stacks["A"]] + [(stack, 1) for stack in self.stacks["B"]]
        return RankedStacks(self.stacks["gate"][0], parts)

    def deviations(self) -> list[Tensor]:
        """Both factors' Gram matrices (r×r) minus the identity (eq. 4)."""
        rows = [A @ A.mT for A in (stack.tensor() for stack in self.stacks["A"])]
        columns = [B.mT @ B for B in (stack.tensor() for stack in self.stacks["B"])]
        return [deviation(gram) for gram in (*columns, *rows)]
