"""SoRA against slow references: the gated product, the proximal step as a minimiser, the sparsifying schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora2_bench.errors import UserError
from lora2_bench.methods.sora import SoRA, SoRALinear, soft_threshold
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method, options_of, train_steps

numbers = st.floats(-3, 3, allow_nan=False)


@given(value=numbers, xi=st.floats(0, 2), other=numbers)
def test_the_proximal_step_minimises_its_objective(value: float, xi: float, other: float) -> None:
    """prox(g) = argmin_u (u - g)² / 2 + ξ·|u|: no other u does better."""

    def objective(u: float) -> float:
        return (u - value) ** 2 / 2 + xi * abs(u)

    found = soft_threshold(torch.tensor(value, dtype=torch.float64), xi).item()
    assert objective(found) <= objective(other) + 1e-12
    assert (found == 0) == (abs(value) <= xi)


def test_what_was_just_shrunk_is_not_zeroed() -> None:
    """The released code zeroes all below 2ξ, since it tests the values it has already shrunk."""
    values = torch.tensor([-0.5, -0.15, -0.1, 0.05, 0.1, 0.15, 0.5], dtype=torch.float64)
    expected = torch.tensor([-0.4, -0.05, 0.0, 0.0, 0.0, 0.05, 0.4], dtype=torch.float64)
    torch.testing.assert_close(soft_threshold(values, 0.1), expected)


@settings(max_examples=25, deadline=None)
@given(d_in=st.integers(1, 6), d_out=st.integers(1, 6), r=st.integers(1, 5))
def test_forward_is_a_gated_sum_over_ranks(d_in: int, d_out: int, r: int) -> None:
    torch.manual_seed(0)
    options = SoRA.parse(options_of("sora", r=r, alpha=5.0))
    layer = SoRALinear(nn.Linear(d_in, d_out).double(), options, torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.B.normal_()
        layer.gate[0] = 0.0
    x = torch.randn(3, d_in, dtype=torch.float64)
    h = layer.base(x)
    for i in range(r):
        h = h + 5.0 / r * layer.gate[i] * torch.outer(x @ layer.A[i], layer.B[:, i])
    torch.testing.assert_close(layer(x), h, rtol=1e-10, atol=1e-12)
    lora_a, lora_b = layer.factors()
    assert lora_a.shape == (r - 1, d_in) and lora_b.shape == (d_out, r - 1)
    torch.testing.assert_close(layer.base(x) + x @ lora_a.T @ lora_b.T, h, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["mean", "sum"])
def test_training_follows_a_slow_loop(form: str) -> None:
    """Adam on the loss and the gates' absolute values, then one soft threshold per gate, written out by hand."""
    l1, over = {"mean": (0.3, 36), "sum": (4.8, 576)}[form]  # the same pull on each of the 36 gates
    method = make_method("sora", make_backbone("bert", dtype=torch.float64), xi=0.02, l1=l1, l1_form=form)
    assert isinstance(method, SoRA)
    layers = list(method.layers.values())
    names = list(method.trainable())
    mean = {name: torch.zeros_like(p) for name, p in method.trainable().items()}
    square = {name: torch.zeros_like(p) for name, p in method.trainable().items()}
    slow = {name: p.detach().clone() for name, p in method.trainable().items()}
    optimizer = torch.optim.AdamW(method.param_groups(0.0), lr=1e-2)
    for step in range(1, 13):
        penalty = method.penalty()
        assert penalty is not None
        gates = [value for layer in layers for value in layer.gate.tolist()]
        assert penalty.item() == pytest.approx(l1 * sum(map(abs, gates)) / over, rel=1e-12)
        (loss_of_batch(method, make_batch()) + penalty).backward()
        for name in names:
            gradient = method.trainable()[name].grad
            assert gradient is not None
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            denominator = (square[name] / (1 - 0.999**step)).sqrt() + 1e-8
            slow[name] = slow[name] - 1e-2 * (mean[name] / (1 - 0.9**step)) / denominator
            if name.endswith(".gate"):
                shrunk = [max(abs(value) - 0.02, 0.0) * (1 if value > 0 else -1) for value in slow[name].tolist()]
                slow[name] = torch.tensor(shrunk, dtype=torch.float64)
        optimizer.step()
        method.after_step(step)
        optimizer.zero_grad()
        for name, parameter in method.trainable().items():
            torch.testing.assert_close(parameter, slow[name], rtol=1e-8, atol=1e-12)
    zeros = sum(value == 0 for layer in layers for value in layer.gate.tolist())
    assert 0 < zeros < 36
    assert method.summary()["ranks_kept"] == 36 - zeros
    shapes = ([(24, 24)] * 4 + [(24, 40), (40, 24)]) * 2
    active = sum(int((layer.gate != 0).sum()) * (i + o + 1) for layer, (i, o) in zip(layers, shapes, strict=True))
    assert method.parameters()["active"] == active < method.parameters()["adapter"]


def test_the_schedule_raises_the_threshold_in_equal_steps() -> None:
    schedule = {"max_xi": 0.6, "stages": 4, "first": 0.4}
    method = make_method("sora", make_backbone("bert"), total_steps=20, xi=0.0, xi_schedule=schedule)
    assert isinstance(method, SoRA)
    found = [round(method.threshold(step), 6) for step in range(1, 21)]
    assert found == [0.0] * 8 + [0.2] * 4 + [0.4] * 4 + [0.6] * 4
    constant = make_method("sora", make_backbone("bert"), total_steps=20, xi=0.1)
    assert isinstance(constant, SoRA)
    assert {constant.threshold(step) for step in range(1, 21)} == {0.1}


def test_a_schedule_drops_more_ranks_than_none() -> None:
    kept = []
    for max_xi in (None, 0.2):
        schedule = {"max_xi": max_xi, "stages": 5, "first": 0.2}
        method = make_method("sora", make_backbone("bert"), xi=0.0, l1=0.0, xi_schedule=schedule)
        train_steps(method, 20)
        kept.append(method.summary()["ranks_kept"])
    assert kept[0] == 36 > kept[1]


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"xi_schedule.first=18 steps \+ 6 more stages do not fit the run's 20 steps"):
        make_method("sora", make_backbone("bert"), xi_schedule={"max_xi": 1e-3, "stages": 7, "first": 18})


@pytest.mark.parametrize(("form", "ratio"), [("sum", 1.0), ("mean", 8.0)])
def test_the_pull_on_a_gate_does_not_fall_with_the_rank(form: str, ratio: float) -> None:
    """In the released scripts' own setting both forms pull alike; at r = 1 the mean pulls eight times as hard."""
    pulls = []
    for r in (1, 8):
        method = make_method("sora", make_backbone("bert", dtype=torch.float64), r=r, l1=10.0, l1_form=form)
        assert isinstance(method, SoRA)
        penalty = method.penalty()
        assert penalty is not None
        penalty.backward()
        gradient = method.layers[0, "q"].gate.grad
        assert gradient is not None
        pulls.append(float(gradient.abs()[0]))
    assert pulls[0] / pulls[1] == pytest.approx(ratio)
    if form == "sum":
        assert pulls[1] == pytest.approx(10 / 576)  # the mean over 576 gates, times 10
