"""Importance, schedule and masks against slow loops written from AdaLoRA's eq. 7 to 12 and LoRA²'s eq. 8 and 9."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import in_steps
from lora2_bench.methods.lora2 import LoRA2
from lora2_bench.methods.lowrank.budget import keep_highest
from lora2_bench.methods.lowrank.schedule import BudgetOptions, Schedule
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method


def slow_ranks(t: int, b0: int, bT: int, ti: int, tf: int, T: int) -> int:
    """AdaLoRA, eq. 12."""
    if t <= ti:
        return b0
    if t >= T - tf:
        return bT
    return int(bT + (b0 - bT) * (1 - (t - ti) / (T - ti - tf)) ** 3)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_schedule_is_cubic_and_meets_its_target(data: st.DataObject) -> None:
    total = data.draw(st.integers(3, 200))
    t_init = data.draw(st.integers(0, total - 2))
    t_final = data.draw(st.integers(0, total - 1 - t_init - 1))
    start = data.draw(st.integers(1, 300))
    target = data.draw(st.integers(0, start))
    schedule = Schedule(start, target, t_init, t_final, data.draw(st.integers(1, 10)), total)
    ranks = [schedule.ranks(step) for step in range(1, total + 1)]
    assert ranks == [slow_ranks(t, start, target, t_init, t_final, total) for t in range(1, total + 1)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] == target
    assert sum(schedule.allocates(step) and schedule.ranks(step) == target for step in range(1, total + 1)) >= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.data())
def test_exactly_the_highest_scores_stay(ranks: int, data: st.DataObject) -> None:
    row = st.lists(st.floats(0, 1), min_size=ranks, max_size=ranks)
    scores = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=6)), dtype=torch.float64)
    keep = data.draw(st.integers(0, scores.numel()))
    mask = keep_highest(scores, keep)
    kept, dropped = scores[mask].tolist(), scores[~mask].tolist()
    assert len(kept) == keep  # also among equal scores
    assert not kept or not dropped or min(kept) >= max(dropped)


class SlowBudget:
    """The same rules, one number at a time, on plain Python floats."""

    def __init__(self, method: LoRA2, full: bool, total: int) -> None:
        self.layers = list(method.layers.values())
        self.options = method.options.budget
        self.full = full
        self.total = total
        self.mean: dict[tuple[int, str, int], float] = {}
        self.deviation: dict[tuple[int, str, int], float] = {}
        self.masks: list[list[bool]] = [[True] * method.options.r for _ in self.layers]

    def step(self, t: int, before: list[dict[str, Tensor]]) -> None:
        """`before` holds the factors as the optimiser left them; their gradients are still on the layers."""
        o, n = self.options, len(self.layers)
        r = self.layers[0].E.numel()
        end = self.total - o.t_final
        if t < end:
            for i, layer in enumerate(self.layers):
                for name in "ABECD" if self.full else "BEC":
                    for j, (p, g) in enumerate(
                        zip(
                            before[i][name].flatten().tolist(),
                            getattr(layer, name).grad.flatten().tolist(),
                            strict=True,
                        )
                    ):
                        key = (i, name, j)
                        sensitivity = abs(p * g)
                        self.mean[key] = o.beta1 * self.mean.get(key, 0.0) + (1 - o.beta1) * sensitivity
                        gap = abs(sensitivity - self.mean[key])
                        self.deviation[key] = o.beta2 * self.deviation.get(key, 0.0) + (1 - o.beta2) * gap
        if (o.t_init < t < end and t % o.delta_t == 0) or t == end:
            keep = slow_ranks(t, r * n, round(o.target_r * n), o.t_init, o.t_final, self.total)
            scored = [(self.importance(i, rank), i, rank) for i in range(n) for rank in range(r)]
            best = sorted(scored, key=lambda item: (-item[0], item[1], item[2]))[:keep]
            chosen = {(i, rank) for _, i, rank in best}
            self.masks = [[(i, rank) in chosen for rank in range(r)] for i in range(n)]

    def importance(self, i: int, rank: int) -> float:
        """I_rank = S(E_rank) + mean_k S(B_rank,:) + mean_k S(C_:,rank), and the means over A and D where full."""
        layer = self.layers[i]
        k, r = layer.C.shape
        total = self.s(i, "E", rank)
        total += sum(self.s(i, "B", rank * k + j) for j in range(k)) / k
        total += sum(self.s(i, "C", j * r + rank) for j in range(k)) / k
        if self.full:
            for name in "AD":
                count = getattr(layer, name).numel()
                total += sum(self.s(i, name, j) for j in range(count)) / count
        return total

    def s(self, i: int, name: str, j: int) -> float:
        """S = Ī · Ū."""
        return self.mean[i, name, j] * self.deviation[i, name, j]


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("score", ["reduced", "full"])
def test_importance_and_masks_follow_the_equations(score: str, engine: str) -> None:
    total = 14
    method = make_method(
        "lora2",
        make_backbone("bert", dtype=torch.float64),
        total_steps=total,
        engine=engine,
        score=score,
        budget__t_init=4,
        budget__t_final=5,
        budget__beta2=0.8,
    )
    assert isinstance(method, LoRA2)
    slow = SlowBudget(method, score == "full", total)
    optimizer = torch.optim.AdamW(method.optimizer_groups(0.0), lr=5e-3)
    seen = set()
    for step in range(1, total + 1):
        penalty = method.penalty()
        assert penalty is not None
        (loss_of_batch(method, make_batch(rows=4 + step % 3)) + penalty).backward()
        optimizer.step()
        moved = [{name: getattr(layer, name).detach().clone() for name in "ABECD"} for layer in method.layers.values()]
        method.after_step(step)
        slow.step(step, moved)
        method.zero_grad(optimizer)
        assert method.budget.masks.tolist() == slow.masks
        for i, scores in enumerate(method.budget.scores()):
            torch.testing.assert_close(
                scores.tolist(), [slow.importance(i, rank) for rank in range(3)], rtol=1e-9, atol=0
            )
        seen.add(sum(map(sum, slow.masks)))
        if step >= total - 5:  # the final phase: what is masked stays zero
            for layer, mask in zip(method.layers.values(), method.budget.masks, strict=True):
                assert torch.equal(layer.E != 0, mask)
    assert len(seen) >= 3  # the budget fell in several steps
    assert method.summary()["ranks_kept"] == 12 == sum(sum(row.values()) for row in method.summary()["ranks"].values())


def test_without_a_target_nothing_is_pruned() -> None:
    method = make_method("lora2", make_backbone("bert"), budget__target_r=None)
    loss_of_batch(method, make_batch()).backward()
    method.after_step(20)
    assert method.summary()["ranks_kept"] == method.summary()["ranks_initial"] == 36
    assert method.parameters()["active"] == method.parameters()["adapter"]


@pytest.mark.parametrize(
    ("t_init", "t_final", "told"),
    [(60, 40, "t_init=60 + t_final=40 steps must be under the run's 100"), (0.7, 0.4, "t_init=70 + t_final=40")],
)
def test_a_schedule_that_does_not_fit_is_refused(t_init: float, t_final: float, told: str) -> None:
    options = BudgetOptions(target_r=1, t_init=t_init, t_final=t_final, delta_t=1, beta1=0.85, beta2=0.85)
    with pytest.raises(UserError, match=told.replace("+", r"\+")):
        options.check(100, rank=8)


def test_steps_are_shares_below_one_and_counts_above() -> None:
    assert [in_steps(value, 200) for value in (0, 0.1, 1, 30)] == [0, 20, 1, 30]
