"""Shared by AdaLoRA and LoRA²: ranked layers under one budget, and an orthogonality regulariser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.experiment.checks import require_choice, require_number
from lora2_bench.methods.lowrank.budget import BudgetAllocator, RankedStacks
from lora2_bench.methods.lowrank.method import Ranked, RankedMethod


@dataclass(frozen=True)
class RegOptions:
    """The orthogonality regulariser.

    Attributes:
        form: `norm_mean`, the mean of the unsquared Frobenius norms, as the released codes have it; `squared_sum`, the
            sum of their squares, as the papers have it (AdaLoRA, eq. 4; LoRA², eq. 5).
        gamma: weight in the training loss; 0 switches it off.
    """

    form: str
    gamma: float

    def __post_init__(self) -> None:
        require_choice("method.reg.form", self.form, ("norm_mean", "squared_sum"))
        require_number("method.reg.gamma", self.gamma, 0.0, 1e6, "a number of at least 0")

    @property
    def mean_share(self) -> float:
        """The share of the norms in the mean that are computed; the others count as zero."""
        return 1.0


def deviation(gram: Tensor) -> Tensor:
    """Square Gram matrices (..., m, m) minus the identity."""
    return gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


class BudgetedMethod(RankedMethod[Ranked]):
    """Ranks allocated over all layers together under a falling budget; `options` has `r`, `reg` and `budget`."""

    @abstractmethod
    def ranked(self) -> RankedStacks:
        """The parameters that are scored, per rank."""

    @abstractmethod
    def deviations(self) -> list[Tensor]:
        """Gram matrices minus the identity, (n, m, m) for n layers, which the regulariser pulls to zero."""

    @classmethod
    def check(cls, options: Any, total_steps: int) -> None:
        """Raise UserError where the budget's schedule does not fit."""
        options.budget.check(total_steps, options.r)

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Replace the target maps and set up the budget over their ranks."""
        super().inject(backbone, generator)
        self.budget = BudgetAllocator(self.ranked(), self.options.budget, self.total_steps)

    def kept(self) -> list[int]:
        """Ranks that the budget keeps, per layer."""
        return self.budget.kept

    def in_use(self) -> list[int]:
        """Ranks that the budget keeps, and pruned ones that have grown again since."""
        masks = self.budget.masks | (self.budget.stacks.gate.value() != 0)
        counts: list[int] = masks.sum(1).tolist()
        return counts

    def at_scoring(self) -> dict[str, Any]:
        """Active parameters and ranks of this moment, and whether the budget's end is reached."""
        facts = super().at_scoring()
        if (schedule := self.budget.schedule) is not None:
            facts["budget_met"] = facts["ranks_kept"] <= schedule.target
        return facts

    def penalty(self) -> Tensor | None:
        """gamma times the regulariser over all layers."""
        reg = self.options.reg
        deviations = self.deviations() if reg.gamma > 0 else []
        if not deviations:
            return None
        if reg.form == "squared_sum":
            return torch.stack([d.square().sum() for d in deviations]).sum().mul(reg.gamma)
        return torch.cat([d.flatten(1).norm(dim=1) for d in deviations]).mean().mul(reg.gamma * reg.mean_share)

    def after_step(self, step: int) -> None:
        """Score the ranks and prune to the budget."""
        self.budget.after_step(step)

    def finish(self) -> None:
        """Raise ValueError unless exactly the budget's ranks are left."""
        self.budget.finish()

    def state_dict(self) -> dict[str, Any]:
        """The budget's masks and running means."""
        return {"budget": self.budget.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.budget.load_state_dict(state["budget"])
