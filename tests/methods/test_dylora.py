"""DyLoRA against its equations, written out slowly, in float64."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora2_bench.errors import UserError
from lora2_bench.methods.dylora import DyLoRA, DyLoRALinear
from lora2_bench.methods.lora import LoRALinear
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method, options_of

R = 4


def make(update: str = "all", engine: str = "fast", seed: int = 1, **changes: Any) -> DyLoRA:
    backbone = make_backbone("bert", dtype=torch.float64)
    options = DyLoRA.parse(options_of("dylora", r=R, update=update, **changes))
    method = DyLoRA(options, 20, engine)
    method.inject(backbone, torch.Generator().manual_seed(seed))
    return method


@settings(max_examples=40, deadline=None)
@given(d_in=st.integers(1, 6), d_out=st.integers(1, 6), r=st.integers(1, 6), data=st.data())
def test_forward_is_a_sum_over_the_first_b_ranks(d_in: int, d_out: int, r: int, data: st.DataObject) -> None:
    torch.manual_seed(0)
    b, alone = data.draw(st.integers(1, r)), data.draw(st.booleans())
    options = DyLoRA.parse(options_of("dylora", r=r, alpha=5.0))
    layer = DyLoRALinear(nn.Linear(d_in, d_out).double(), options, torch.Generator().manual_seed(0))
    nn.init.normal_(layer.B)
    x = torch.randn(3, d_in, dtype=torch.float64)
    h = layer.base(x)
    for i in range(b):
        h = h + 5.0 / b * torch.outer(x @ layer.A[i], layer.B[:, i])
    layer.rank, layer.last_alone = b, alone
    for fused in (False, True):
        layer.fused = fused
        torch.testing.assert_close(layer(x), h, rtol=1e-10, atol=1e-12)
    lora_a, lora_b = layer.factors()
    assert lora_a.shape == (b, d_in) and lora_b.shape == (d_out, b)
    torch.testing.assert_close(layer.base(x) + x @ lora_a.T @ lora_b.T, h, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_reach_all_ranks_up_to_b_or_b_alone(fused: bool) -> None:
    torch.manual_seed(0)
    layer = DyLoRALinear(nn.Linear(5, 6).double(), DyLoRA.parse(options_of("dylora", r=R)), torch.Generator())
    layer.base.requires_grad_(False)
    nn.init.normal_(layer.B)
    layer.fused, layer.rank = fused, 3
    x, weights = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad((layer(x) * weights).sum(), [layer.A, layer.B]))

    (all_a, all_b), layer.last_alone = gradients(), True
    row_a, row_b = gradients()
    assert [bool(row.any()) for row in all_a] == [bool(column.any()) for column in all_b.T] == [True] * 3 + [False]
    assert (
        [bool(row.any()) for row in row_a]
        == [bool(column.any()) for column in row_b.T]
        == [False] * 2
        + [
            True,
            False,
        ]
    )
    torch.testing.assert_close(row_a[2], all_a[2], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(row_b[:, 2], all_b[:, 2], rtol=1e-12, atol=1e-14)


def test_a_steps_rank_depends_on_seed_and_step_alone_and_is_even() -> None:
    one, again, other = make(), make(update="row"), make(seed=2)
    drawn = [one.rank_of(step) for step in range(1, 4001)]
    assert drawn == [again.rank_of(step) for step in range(1, 4001)]
    assert drawn != [other.rank_of(step) for step in range(1, 4001)]
    counts = Counter(drawn)
    assert set(counts) == {1, 2, 3, 4}
    assert all(abs(count - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    pairs = Counter(pairwise(drawn))  # one step's says nothing of the next one's
    assert all(abs(count - 250) < 5 * 250**0.5 for count in pairs.values())


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("update", ["all", "row"])
def test_training_follows_a_slow_loop(update: str, engine: str) -> None:
    """AdamW written out by hand; in the mode `row` every rank but b stays where it was."""
    method = make(update, engine)
    names = list(method.trainable())
    factors = {name: 0 if name.endswith(".A") else 1 for name in names if name.endswith((".A", ".B"))}
    slow = {name: p.detach().clone() for name, p in method.trainable().items()}
    mean = {name: torch.zeros_like(p) for name, p in slow.items()}
    square = {name: torch.zeros_like(p) for name, p in slow.items()}
    decay = {name: 0.1 if slow[name].ndim == 2 else 0.0 for name in names}
    optimizer = torch.optim.AdamW(method.optimizer_groups(0.1), lr=1e-2)
    for step in range(1, 13):
        method.before_step(step)
        loss_of_batch(method, make_batch()).backward()
        row = method.rank_of(step) - 1
        for name, parameter in method.trainable().items():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            before = slow[name]
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            denominator = (square[name] / (1 - 0.999**step)).sqrt() + 1e-8
            slow[name] = before * (1 - 1e-2 * decay[name]) - 1e-2 * (mean[name] / (1 - 0.9**step)) / denominator
            if update == "row" and name in factors:
                after, slow[name] = slow[name], before.clone()
                slow[name].select(factors[name], row).copy_(after.select(factors[name], row))
        method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        method.zero_grad(optimizer)
        for name, parameter in method.trainable().items():
            torch.testing.assert_close(parameter, slow[name], rtol=1e-8, atol=1e-12)


def test_between_steps_it_has_its_largest_rank() -> None:
    method = make()
    layer = next(iter(method.layers.values()))
    for step in range(1, 9):
        method.before_step(step)
        assert layer.rank == method.rank_of(step)
        method.after_step(step)
        assert layer.rank == R
    with pytest.raises(RuntimeError, match="inside"), method.at_rank(2):
        assert layer.rank == 2
        raise RuntimeError("inside")
    assert layer.rank == R


def test_at_its_largest_rank_it_is_lora_and_at_a_smaller_one_that_of_the_first_ranks() -> None:
    method = make(alpha=6.0)
    for layer in method.layers.values():
        nn.init.normal_(layer.B, std=0.1)
    batch = {key: value for key, value in make_batch().items() if key != "labels"}
    for rank in method.ranks():
        lora = make_method("lora", make_backbone("bert", dtype=torch.float64), r=rank, alpha=6.0)
        for theirs, ours in zip(lora.layers.values(), method.layers.values(), strict=True):  # type: ignore[attr-defined]
            assert isinstance(theirs, LoRALinear)
            theirs.A.data.copy_(ours.A[:rank])
            theirs.B.data.copy_(ours.B[:, :rank])
        with method.at_rank(rank), torch.no_grad():
            logits = method.backbone.model(**batch).logits
        torch.testing.assert_close(logits, lora.backbone.model(**batch).logits, rtol=1e-10, atol=1e-12)


def test_methods_of_one_rank_serve_no_other() -> None:
    lora = make_method("lora", make_backbone("bert"))
    assert list(lora.ranks()) == []
    with pytest.raises(ValueError, match="LoRA serves no rank but its own"):
        lora.at_rank(1)


def test_an_update_that_is_not_known_is_refused() -> None:
    with pytest.raises(UserError, match=r"^method\.update=some is not possible: .* must be one of all, row$"):
        DyLoRA.parse(options_of("dylora", update="some"))


@pytest.mark.parametrize("update", ["all", "row"])
def test_the_loss_falls_at_every_rank(update: str) -> None:
    method = make(update)
    batch = make_batch(rows=8)

    def losses() -> list[float]:
        found = []
        for rank in method.ranks():
            with method.at_rank(rank), torch.no_grad():
                found.append(loss_of_batch(method, batch).item())
        return found

    before = losses()
    optimizer = torch.optim.AdamW(method.optimizer_groups(0.0), lr=5e-3)
    for step in range(1, 76):
        method.before_step(step)
        loss_of_batch(method, batch).backward()
        method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        method.zero_grad(optimizer)
    assert min(before) > 0.5 and max(losses()) < 0.05
