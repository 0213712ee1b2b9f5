"""The options of a rank budget, and its schedule over the steps of a run."""

from __future__ import annotations

from dataclasses import dataclass

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import in_steps, require, require_number, require_steps


@dataclass(frozen=True)
class BudgetOptions:
    """A budget that falls to an average rank of `target_r` per matrix.

    Attributes:
        target_r: average rank kept per matrix at the end; None = nothing is pruned.
        t_init: steps before pruning starts; under 1 a share of all steps.
        t_final: steps at the end with final masks; under 1 a share of all steps.
        delta_t: steps between two allocations of ranks; under 1 a share of all steps, at least one step.
        beta1, beta2: decay of the running means of sensitivity and of its deviation.
    """

    target_r: float | None
    t_init: float
    t_final: float
    delta_t: float
    beta1: float
    beta2: float

    def __post_init__(self) -> None:
        if self.target_r is not None:
            require_number("method.budget.target_r", self.target_r, 0.0, 1e6, "a number of at least 0, or null")
        require_steps("method.budget.t_init", self.t_init)
        require_steps("method.budget.t_final", self.t_final)
        require_steps("method.budget.delta_t", self.delta_t)
        require(self.delta_t > 0, "method.budget.delta_t", self.delta_t, "above 0")
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            require_number(f"method.budget.{name}", value, 0.0, 1 - 1e-9, "a number from 0 to under 1")

    def check(self, total_steps: int, rank: int) -> None:
        """Raise UserError where the schedule does not fit `total_steps` or the target is above `rank`."""
        if self.target_r is None:
            return
        if self.target_r > rank:
            raise UserError(
                f"method.budget.target_r={self.target_r} is above method.r={rank}: give at most {rank}, or null for all"
            )
        t_init, t_final = in_steps(self.t_init, total_steps), in_steps(self.t_final, total_steps)
        if t_init + t_final >= total_steps:
            raise UserError(
                f"method.budget.t_init={t_init} + t_final={t_final} steps must be under the run's {total_steps} steps: "
                "train longer, scale the recipe's steps to the run (method.budget.scale=true), or give shares such as "
                "method.budget.t_init=0.1 method.budget.t_final=0.3"
            )


@dataclass(frozen=True)
class Schedule:
    """The cubic schedule (AdaLoRA, eq. 12): `start` ranks until t_init, falling to `target` at total - t_final."""

    start: int
    target: int
    t_init: int
    t_final: int
    delta_t: int
    total: int

    def ranks(self, step: int) -> int:
        """Ranks to keep over all matrices after `step`."""
        end = self.total - self.t_final
        if step <= self.t_init:
            return self.start
        if step >= end:
            return self.target
        left = 1 - (step - self.t_init) / (end - self.t_init)
        return int(self.target + (self.start - self.target) * left**3)

    def allocates(self, step: int) -> bool:
        """Whether ranks are allocated after `step`: every delta_t steps while the budget falls, and once at its end."""
        end = self.total - self.t_final
        return step == end or (self.t_init < step < end and step % self.delta_t == 0)

    def is_final(self, step: int) -> bool:
        """Whether the masks are final."""
        return step > self.total - self.t_final

    def updates_scores(self, step: int) -> bool:
        """Whether `step` updates the running means: the last allocation uses those of the step before it."""
        return step < self.total - self.t_final
