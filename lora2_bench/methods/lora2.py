"""LoRA² (arXiv 2408.06854): two low-rank levels, an orthogonality regulariser, and a rank budget on the inner level.

The paper's letters disagree between its equations; here A (k×d_in) and D (d_out×k) are the large outer factors,
B (r×k), E (r) and C (k×r) the small inner ones, P = Aᵀ Bᵀ (d_in×r) and Q = Cᵀ Dᵀ (r×d_out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbone import Backbone
from lora2_bench.cell import require, require_choice, require_int, require_number, section
from lora2_bench.methods.base import without_name
from lora2_bench.methods.budget import BudgetAllocator, BudgetOptions, RankedMatrix
from lora2_bench.methods.layers import AdaptedLinear, AdapterMethod, check_adapter_options

TERMS = ("uv", "UV", "PQ")


@dataclass(frozen=True)
class RegOptions:
    """The orthogonality regulariser.

    Attributes:
        on: which terms: `uv` (A and B), `UV` (C and D), `PQ` (P and Q).
        form: `norm_mean`, the mean of the unsquared Frobenius norms; `squared_sum`, the sum of squares (eq. 5).
        gamma: weight in the training loss; 0 switches it off.
    """

    on: list[str]
    form: str
    gamma: float

    def __post_init__(self) -> None:
        known = isinstance(self.on, list | tuple) and all(term in TERMS for term in self.on)
        require(
            known and len(set(self.on)) == len(self.on),
            "method.reg.on",
            self.on,
            f"a list of some of {', '.join(TERMS)}",
        )
        require_choice("method.reg.form", self.form, ("norm_mean", "squared_sum"))
        require_number("method.reg.gamma", self.gamma, 0.0, 1e6, "a number of at least 0")


@dataclass(frozen=True)
class LoRA2Options:
    """`k` is the outer and `r` the inner rank; the addition is scaled by alpha / r."""

    k: int
    r: int
    alpha: float
    dropout: float
    targets: list[str]
    init_std: float
    reg: RegOptions
    score: str
    budget: BudgetOptions

    def __post_init__(self) -> None:
        require_int("method.k", self.k, 1, "an integer of at least 1")
        require_int("method.r", self.r, 1, "an integer of at least 1")
        check_adapter_options(self)
        require_number("method.init_std", self.init_std, 1e-12, 1e3, "a number above 0")
        require_choice("method.score", self.score, ("reduced", "full"))


class LoRA2Linear(AdaptedLinear):
    """h = x W0ᵀ + b + (alpha / r) · (x Aᵀ)(Bᵀ diag(E) Cᵀ) Dᵀ, with E = 0 and the rest N(0, init_std²)."""

    def __init__(self, base: nn.Linear, options: LoRA2Options, generator: torch.Generator) -> None:
        super().__init__(base, options.dropout)
        self.scale = options.alpha / options.r
        k, r = options.k, options.r

        def normal(rows: int, columns: int) -> nn.Parameter:
            drawn = torch.empty(rows, columns, dtype=base.weight.dtype).normal_(
                0.0, options.init_std, generator=generator
            )
            return nn.Parameter(drawn.to(base.weight.device))

        self.A = normal(k, base.in_features)
        self.B = normal(r, k)
        self.E = nn.Parameter(torch.zeros(r, dtype=base.weight.dtype, device=base.weight.device))
        self.C = normal(k, r)
        self.D = normal(base.out_features, k)

    def middle(self) -> Tensor:
        """M = s · Bᵀ diag(E) Cᵀ (k×k): the only product of the small factors that a step needs."""
        return self.scale * (self.B.T * self.E) @ self.C.T

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out), from left to right: no d_in×d_out matrix is ever built."""
        return ((x @ self.A.T) @ self.middle()) @ self.D.T

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (k×d_in) and D·Mᵀ (d_out×k): a plain LoRA of rank k."""
        return self.A.detach(), (self.D @ self.middle().T).detach()

    def deviations(self, terms: list[str]) -> list[Tensor]:
        """Gram minus identity of each factor in `terms`, on the small side: k×k for A, B, C, D and r×r for P, Q."""
        grams: list[Tensor] = []
        outer_in, outer_out = self.A @ self.A.T, self.D.T @ self.D
        if "uv" in terms:
            grams += [outer_in, self.B.T @ self.B]
        if "UV" in terms:
            grams += [self.C @ self.C.T, outer_out]
        if "PQ" in terms:
            grams += [self.B @ outer_in @ self.B.T, self.C.T @ outer_out @ self.C]
        return [gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device) for gram in grams]

    def active_parameters(self, kept: int) -> int:
        """Parameters in use with `kept` ranks: each has one E, a row of B and a column of C; A and D serve them all."""
        outer = self.A.numel() + self.D.numel()
        return kept * (1 + 2 * len(self.A)) + (outer if kept else 0)


class LoRA2(AdapterMethod[LoRA2Linear]):
    """LoRA² on every target map, with its regulariser and a budget over the ranks of all maps."""

    Options = LoRA2Options

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> LoRA2Options:
        """Checked options, nested sections included."""
        nested = {
            "reg": section(RegOptions, values.get("reg", {}), "method.reg"),
            "budget": section(BudgetOptions, values.get("budget", {}), "method.budget"),
        }
        return section(LoRA2Options, {**without_name(values), **nested}, "method")

    @classmethod
    def check(cls, options: LoRA2Options, total_steps: int) -> None:
        """Raise UserError where the budget's schedule does not fit."""
        options.budget.check(total_steps, options.r)

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> LoRA2Linear:
        """A LoRA² layer over `base`."""
        return LoRA2Linear(base, self.options, generator)

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Replace the target maps and set up the budget over their ranks."""
        super().inject(backbone, generator)
        with_shared = self.options.score == "full"
        matrices = [
            RankedMatrix(layer.E, [(layer.B, 0), (layer.C, 1)], (layer.A, layer.D) if with_shared else ())
            for layer in self.layers.values()
        ]
        self.budget = BudgetAllocator(matrices, self.options.budget, self.total_steps)

    def parameters(self) -> dict[str, int]:
        """Counts; `active` leaves out the ranks that the budget has switched off."""
        kept = zip(self.layers.values(), self.budget.kept, strict=True)
        return {**super().parameters(), "active": sum(layer.active_parameters(rank) for layer, rank in kept)}

    def penalty(self) -> Tensor | None:
        """gamma times the regulariser over all layers (eq. 5, or the released code's mean of norms)."""
        reg = self.options.reg
        if reg.gamma == 0 or not reg.on:
            return None
        deviations = [d for layer in self.layers.values() for d in layer.deviations(reg.on)]
        if reg.form == "squared_sum":
            return torch.stack([d.square().sum() for d in deviations]).sum().mul(reg.gamma)
        return torch.stack([d.norm() for d in deviations]).mean().mul(reg.gamma)

    def after_step(self, step: int) -> None:
        """Score the ranks and prune to the budget."""
        self.budget.after_step(step)

    def state_dict(self) -> dict[str, Any]:
        """The budget's masks and running means."""
        return {"budget": self.budget.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.budget.load_state_dict(state["budget"])

    def summary(self) -> dict[str, Any]:
        """Ranks kept per layer and map (the paper's Figure 3), and in all; with score=full, how far eq. 9 agrees."""
        kept = self.budget.kept
        ranks: dict[str, dict[str, int]] = {}
        for (layer, name), rank in zip(self.layers, kept, strict=True):
            ranks.setdefault(str(layer), {})[name] = rank
        summary = {"ranks": ranks, "ranks_kept": sum(kept), "ranks_initial": self.options.r * len(kept)}
        return summary | ({"score_agreement": self.budget.agreement} if self.options.score == "full" else {})
