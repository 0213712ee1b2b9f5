"""LoRA² (arXiv 2408.06854): two low-rank levels, an orthogonality regulariser, and a rank budget on the inner level.

The paper's letters disagree between its equations; here A (k×d_in) and D (d_out×k) are the large outer factors,
B (r×k), E (r) and C (k×r) the small inner ones, P = Aᵀ Bᵀ (d_in×r) and Q = Cᵀ Dᵀ (r×d_out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.experiment.checks import MOST_RANKS, require, require_choice, require_int, require_number
from lora2_bench.methods.lowrank.budget import RankedStacks
from lora2_bench.methods.lowrank.budgeted import BudgetedMethod, RegOptions, deviation
from lora2_bench.methods.lowrank.layers import RankedLinear, normal
from lora2_bench.methods.lowrank.method import check_adapter_options
from lora2_bench.methods.lowrank.schedule import BudgetOptions
from lora2_bench.methods.lowrank.stack import map_layers

TERMS = ("uv", "UV", "PQ")


@dataclass(frozen=True)
class LoRA2RegOptions(RegOptions):
    """`on` lists the terms: `uv` (A and B), `UV` (C and D), `PQ` (P and Q); none switches it off.

    Attributes:
        mean_over: of the form norm_mean. `all` divides by the number of norms of all three terms, so that a term weighs
            the same alone and beside others; `chosen` by those of the terms in `on`.
    """

    on: list[str]
    mean_over: str

    def __post_init__(self) -> None:
        super().__post_init__()
        known = isinstance(self.on, list | tuple) and all(term in TERMS for term in self.on)
        require(
            known and len(set(self.on)) == len(self.on),
            "method.reg.on",
            self.on,
            f"a list of some of {', '.join(TERMS)}",
        )
        require_choice("method.reg.mean_over", self.mean_over, ("all", "chosen"))

    @property
    def mean_share(self) -> float:
        """The chosen terms' share of the norms in the mean."""
        return len(self.on) / len(TERMS) if self.mean_over == "all" else 1.0


@dataclass(frozen=True)
class LoRA2Options:
    """`k` is the outer and `r` the inner rank; the low-rank update is scaled by alpha / r."""

    k: int
    r: int
    alpha: float
    dropout: float
    targets: list[str]
    init_std: float
    reg: LoRA2RegOptions
    score: str
    budget: BudgetOptions

    def __post_init__(self) -> None:
        require_int("method.k", self.k, 1, "an integer of at least 1", MOST_RANKS)
        require_int("method.r", self.r, 1, "an integer of at least 1", MOST_RANKS)
        check_adapter_options(self)
        require_number("method.init_std", self.init_std, 1e-12, 1e3, "a number above 0")
        require_choice("method.score", self.score, ("reduced", "full"))

    @property
    def scale(self) -> float:
        """alpha / r."""
        return float(self.alpha / self.r)


class LoRA2Linear(RankedLinear):
    """h = x W0ᵀ + b + (alpha / r) · (x Aᵀ)(Bᵀ diag(E) Cᵀ) Dᵀ, with E = 0 and the rest N(0, init_std²)."""

    def __init__(self, base: nn.Linear, options: LoRA2Options, generator: torch.Generator) -> None:
        super().__init__(base, options.dropout)
        self.scale = options.scale
        k, r, W, std = options.k, options.r, base.weight, options.init_std
        self.A = normal((k, base.in_features), std, W, generator)
        self.B = normal((r, k), std, W, generator)
        self.E = nn.Parameter(torch.zeros(r, dtype=W.dtype, device=W.device))
        self.C = normal((k, r), std, W, generator)
        self.D = normal((base.out_features, k), std, W, generator)

    def outer(self) -> tuple[Tensor, Tensor]:
        """A and D."""
        return self.A, self.D

    def middle(self) -> Tensor:
        """M = s · Bᵀ diag(E) Cᵀ (k×k): the only product of the small factors that a step needs."""
        return self.scale * (self.B.T * self.E) @ self.C.T

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out), from left to right: no d_in×d_out matrix is ever built."""
        return ((x @ self.A.T) @ self.middle()) @ self.D.T

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (k×d_in) and D·Mᵀ (d_out×k): a plain LoRA of rank k."""
        return self.A.detach(), (self.D @ self.middle().T).detach()

    def active_parameters(self, kept: int) -> int:
        """Parameters in use with `kept` ranks: each has one E, a row of B and a column of C; all share A and D."""
        outer = self.A.numel() + self.D.numel()
        return kept * (1 + 2 * len(self.A)) + (outer if kept else 0)


class LoRA2(BudgetedMethod[LoRA2Linear]):
    """LoRA² on every target map, with its regulariser and a budget over the ranks of all maps."""

    Options = LoRA2Options

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> LoRA2Linear:
        """A LoRA² layer over `base`."""
        return LoRA2Linear(base, self.options, generator)

    def middles(self) -> Tensor:
        """M of every layer (layers×k×k)."""
        (B,), (E,), (C,) = (self.stacks[name] for name in "BEC")
        scale = float(self.options.scale)
        return scale * (B.tensor().mT * E.tensor()[:, None]) @ C.tensor().mT

    def ranked(self) -> RankedStacks:
        """E is the gate; a row of B and a column of C belong to one rank; all ranks share A and D (eq. 8 and 9)."""
        shared = [*self.stacks["A"], *self.stacks["D"]] if self.options.score == "full" else []
        return RankedStacks(self.stacks["E"][0], [(self.stacks["B"][0], 0), (self.stacks["C"][0], 1)], shared)

    def deviations(self) -> list[Tensor]:
        """Gram minus identity of each factor in `reg.on`, on the small side: k×k for A, B, C, D and r×r for P, Q."""
        terms = self.options.reg.on
        if not terms:
            return []
        B, C = self.stacks["B"][0].tensor(), self.stacks["C"][0].tensor()
        outer_in = map_layers(self.stacks["A"], lambda A: A @ A.mT)
        outer_out = map_layers(self.stacks["D"], lambda D: D.mT @ D)
        grams: list[Tensor] = []
        if "uv" in terms:
            grams += [outer_in, B.mT @ B]
        if "UV" in terms:
            grams += [C @ C.mT, outer_out]
        if "PQ" in terms:
            grams += [B @ outer_in @ B.mT, C.mT @ outer_out @ C]
        return [deviation(gram) for gram in grams]

    def summary(self) -> dict[str, Any]:
        """Ranks kept per layer and map; with score=full also how far eq. 9 agrees with eq. 8 at every allocation."""
        agreement = {"score_agreement": self.budget.agreement} if self.options.score == "full" else {}
        return {**super().summary(), **agreement}
