"""SoRA (Ding et al., arXiv 2311.11696): LoRA with a gate per rank that a proximal step drives to exact zeros."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import in_steps, require_choice, require_int, require_number, require_steps
from lora2_bench.methods.lora import LoRAOptions
from lora2_bench.methods.lowrank.layers import GatedLinear, normal, uniform
from lora2_bench.methods.lowrank.method import GatedMethod

SCRIPT_GATES = 576  # of the released scripts: r = 8 on the 72 maps of DeBERTaV3-base


@dataclass(frozen=True)
class ScheduleOptions:
    """The sparsifying schedule (Algorithm 1): ξ grows from `xi` to `max_xi` in equal steps.

    Attributes:
        max_xi: the last threshold; None = no schedule.
        stages: thresholds in all, the first one included.
        first: steps of the first stage, under 1 a share of all steps; the others share the rest evenly.
    """

    max_xi: float | None
    stages: int
    first: float

    def __post_init__(self) -> None:
        if self.max_xi is not None:
            require_number("method.xi_schedule.max_xi", self.max_xi, 0.0, 1e3, "a number of at least 0, or null")
        require_int("method.xi_schedule.stages", self.stages, 2, "an integer of at least 2")
        require_steps("method.xi_schedule.first", self.first)


@dataclass(frozen=True)
class SoRAOptions(LoRAOptions):
    """`r` is every map's initial rank; the low-rank update is scaled by alpha / r throughout.

    Attributes:
        xi: threshold of the proximal step, taken after every optimiser step.
        l1: weight in the training loss of the gates' absolute values.
        l1_form: `sum`, their sum over the number of gates in the released scripts, which pulls a gate alike whatever
            r and the number of maps are; or `mean`, as the scripts have it: in their own setting the same.
    """

    xi: float
    l1: float
    l1_form: str
    xi_schedule: ScheduleOptions

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("method.xi", self.xi, 0.0, 1e3, "a number of at least 0")
        require_choice("method.l1_form", self.l1_form, ("sum", "mean"))
        require_number("method.l1", self.l1, 0.0, 1e6, "a number of at least 0")


class SoRALinear(GatedLinear):
    """h = x W0ᵀ + b + (alpha / r) · (g ⊙ x Aᵀ) Bᵀ; A as LoRA's, the gate g N(0, 1), B zero."""

    def __init__(self, base: nn.Linear, options: SoRAOptions, generator: torch.Generator) -> None:
        super().__init__(base, options.dropout, options.scale)
        W = base.weight
        self.A = uniform((options.r, base.in_features), base.in_features**-0.5, W, generator)
        self.gate = normal((options.r,), 1.0, W, generator)
        self.B = nn.Parameter(torch.zeros(base.out_features, options.r, dtype=W.dtype, device=W.device))


def soft_threshold(value: Tensor, xi: float) -> Tensor:
    """prox of ξ·|·|: sign(g)·max(|g| - ξ, 0)."""
    return value.sign() * (value.abs() - xi).clamp(min=0)


class SoRA(GatedMethod[SoRALinear]):
    """SoRA on every target map."""

    Options = SoRAOptions

    @classmethod
    def check(cls, options: SoRAOptions, total_steps: int) -> None:
        """Raise UserError where the sparsifying schedule does not fit."""
        schedule = options.xi_schedule
        if schedule.max_xi is None:
            return
        first = in_steps(schedule.first, total_steps)
        if first + schedule.stages - 1 > total_steps:
            raise UserError(
                f"method.xi_schedule.first={first} steps + {schedule.stages - 1} more stages do not fit the run's "
                f"{total_steps} steps: train longer, or give a share such as method.xi_schedule.first=0.36"
            )

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> SoRALinear:
        """A SoRA layer over `base`."""
        return SoRALinear(base, self.options, generator)

    def kept(self) -> list[int]:
        """Gates that are not zero, per layer."""
        counts: list[int] = self.stacks["gate"][0].value().count_nonzero(dim=1).tolist()
        return counts

    def penalty(self) -> Tensor | None:
        """The gates' absolute values in the form of `l1_form`, times l1."""
        if self.options.l1 == 0:
            return None
        sizes = self.stacks["gate"][0].tensor().abs()
        if self.options.l1_form == "mean":
            return sizes.mean().mul(self.options.l1)
        return sizes.sum().mul(self.options.l1 / SCRIPT_GATES)

    def threshold(self, step: int) -> float:
        """ξ at `step`."""
        options, schedule = self.options, self.options.xi_schedule
        if schedule.max_xi is None:
            return float(options.xi)
        first = in_steps(schedule.first, self.total_steps)
        later = schedule.stages - 1
        stage = 0 if step <= first else 1 + (step - first - 1) * later // (self.total_steps - first)
        return float(options.xi + (schedule.max_xi - options.xi) * stage / later)

    def after_step(self, step: int) -> None:
        """The proximal step on every gate."""
        gates = self.stacks["gate"][0]
        gates.set_(soft_threshold(gates.value(), self.threshold(step)))
