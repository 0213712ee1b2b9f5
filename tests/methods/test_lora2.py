"""LoRA² against slow references written from the paper's equations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lora2_bench.methods.lora2 import LoRA2, LoRA2Linear
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method, options_of

OPTIONS = options_of("lora2")


def make_layer(d_in: int, d_out: int, k: int, r: int, alpha: float = 3.0, seed: int = 0) -> LoRA2Linear:
    """A float64 layer with every factor drawn anew, E included."""
    torch.manual_seed(seed)
    options = LoRA2.parse({**OPTIONS, "k": k, "r": r, "alpha": alpha})
    layer = LoRA2Linear(nn.Linear(d_in, d_out).double(), options, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        layer.E.normal_()
    return layer


def slow_forward(layer: LoRA2Linear, x: Tensor, alpha: float, r: int) -> Tensor:
    """h = x W0ᵀ + b + (alpha / r) Σ_i E_i (x P_:i) Q_i:, rank by rank with P = Aᵀ Bᵀ and Q = Cᵀ Dᵀ."""
    P, Q = layer.A.T @ layer.B.T, layer.C.T @ layer.D.T
    h = x @ layer.base.weight.T + layer.base.bias
    for i in range(r):
        h = h + (alpha / r) * layer.E[i] * torch.outer(x @ P[:, i], Q[i])
    return h


sizes = st.integers(1, 6)


@settings(max_examples=40, deadline=None)
@given(d_in=sizes, d_out=sizes, k=st.integers(1, 4), r=st.integers(1, 5), rows=st.integers(1, 4), fused=st.booleans())
def test_forward_is_the_papers_equation(d_in: int, d_out: int, k: int, r: int, rows: int, fused: bool) -> None:
    layer = make_layer(d_in, d_out, k, r)
    layer.fused = fused
    x = torch.randn(rows, d_in, dtype=torch.float64)
    torch.testing.assert_close(layer(x), slow_forward(layer, x, 3.0, r), rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(d_in=sizes, d_out=sizes, k=st.integers(1, 4), r=st.integers(1, 5))
def test_exported_factors_are_the_same_map(d_in: int, d_out: int, k: int, r: int) -> None:
    layer = make_layer(d_in, d_out, k, r)
    lora_a, lora_b = layer.factors()
    assert lora_a.shape == (k, d_in) and lora_b.shape == (d_out, k)
    x = torch.randn(3, d_in, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.base(x) + x @ lora_a.T @ lora_b.T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("k", "r"), [(1, 4), (3, 2)])
def test_layer_gradients_agree_with_finite_differences(k: int, r: int, fused: bool) -> None:
    layer = make_layer(5, 4, k, r)
    layer.fused = fused
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    factors = [layer.A, layer.B, layer.E, layer.C, layer.D]

    def of(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip("ABECD", values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of, (x, *factors), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", ["norm_mean", "squared_sum"])
@pytest.mark.parametrize("mean_over", ["all", "chosen"])
@pytest.mark.parametrize("terms", [["uv"], ["UV"], ["PQ"], ["uv", "UV"], ["uv", "UV", "PQ"]])
def test_penalty_is_the_regulariser_of_eq_5(form: str, mean_over: str, terms: list[str]) -> None:
    options = {"reg__on": terms, "reg__form": form, "reg__mean_over": mean_over, "reg__gamma": 0.3}
    method = make_method("lora2", make_backbone("bert", dtype=torch.float64), **options)
    assert isinstance(method, LoRA2)
    norms = []
    for layer in method.layers.values():
        P, Q = layer.A.T @ layer.B.T, layer.C.T @ layer.D.T
        grams = {"uv": (layer.A @ layer.A.T, layer.B.T @ layer.B), "UV": (layer.C @ layer.C.T, layer.D.T @ layer.D)}
        grams["PQ"] = (P.T @ P, Q @ Q.T)
        for term in terms:
            for gram in grams[term]:
                difference = gram - torch.eye(len(gram), dtype=torch.float64)
                norms.append(sum(value**2 for value in difference.flatten().tolist()) ** 0.5)
    over = len(norms) if mean_over == "chosen" else 12 * 6  # two norms of each of three terms in each of 12 maps
    expected = 0.3 * (sum(norms) / over if form == "norm_mean" else sum(norm**2 for norm in norms))
    penalty = method.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("form", ["norm_mean", "squared_sum"])
def test_model_gradients_agree_with_finite_differences(form: str, engine: str) -> None:
    """Through a whole backbone in float64, the penalty included: one random direction per factor."""
    method = make_method("lora2", make_backbone("roberta", dtype=torch.float64), engine=engine, reg__form=form)
    assert isinstance(method, LoRA2)
    with torch.no_grad():
        for layer in method.layers.values():
            layer.E.normal_()
    batch = make_batch()

    def total() -> Tensor:
        penalty = method.penalty()
        assert penalty is not None
        return loss_of_batch(method, batch) + penalty

    total().backward()
    layer = method.layers[1, "f1"]
    for name in "ABECD":
        parameter = getattr(layer, name)
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        step = 1e-6
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            up = total()
            parameter.sub_(direction, alpha=2 * step)
            down = total()
            parameter.add_(direction, alpha=step)
        assert float((parameter.grad * direction).sum()) == pytest.approx(
            float(up - down) / (2 * step), rel=1e-5, abs=1e-9
        )


def test_no_penalty_without_weight_or_terms() -> None:
    assert make_method("lora2", make_backbone("bert"), reg__gamma=0.0).penalty() is None
    assert make_method("lora2", make_backbone("bert"), reg__on=[]).penalty() is None
