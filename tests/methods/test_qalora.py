"""QA-LoRA: its equations weight by weight, and the merge into the zero points, which changes no integer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lora2_bench.errors import UserError
from lora2_bench.methods.qalora import Int4Linear, QALoRA, QALoRALinear
from tests.methods.helpers import PAIRS, make_backbone, make_method, options_of, train_steps
from tests.methods.test_contract import logits_of


def layer_of(d_in: int = 12, d_out: int = 5, group_size: int = 4, **changes: Any) -> tuple[nn.Linear, QALoRALinear]:
    torch.manual_seed(0)
    base = nn.Linear(d_in, d_out).double().requires_grad_(False)
    options = QALoRA.parse(options_of("qalora", group_size=group_size, r=2, **changes))
    layer = QALoRALinear(Int4Linear(base, group_size), options, torch.Generator().manual_seed(1))
    nn.init.normal_(layer.B)
    return base, layer


def test_integers_scales_and_zeros_are_those_of_each_groups_range() -> None:
    base, layer = layer_of()
    found = layer.base
    for i in range(5):
        for group in range(3):
            part = base.weight[i, 4 * group : 4 * group + 4].tolist()
            scale = (max(part) - min(part)) / 15
            codes = [round((value - min(part)) / scale) for value in part]
            assert found.integers()[i, 4 * group : 4 * group + 4].tolist() == codes
            assert {min(codes), max(codes)} == {0, 15}
            assert found.scales[i, group].item() == pytest.approx(scale)
            assert found.zeros[i, group].item() == pytest.approx(-min(part) / scale)
            values = [scale * code + min(part) for code in codes]
            assert found.dequantise()[i, 4 * group : 4 * group + 4].tolist() == pytest.approx(values)
    assert (found.dequantise() - base.weight).abs().max() <= found.scales.max() / 2 + 1e-12
    assert found.codes.dtype == torch.uint8 and found.codes.shape == (5, 6)


def test_a_group_of_equal_weights_is_kept_exactly() -> None:
    base = nn.Linear(8, 3).requires_grad_(False)
    base.weight.fill_(-0.3)
    torch.testing.assert_close(Int4Linear(base, 4).dequantise(), base.weight, rtol=0, atol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rows", [3, 40])
def test_forward_and_gradients_are_those_of_the_equation(rows: int, fused: bool) -> None:
    """h_i = Σ_j Ŵ_ij x_j + b_i + (alpha / r) · Σ_k B_ik Σ_g A_kg · mean of x over group g."""
    base, layer = layer_of()
    layer.fused = fused
    x = torch.randn(rows, 12, dtype=torch.float64, requires_grad=True)
    weight, columns = layer.base.dequantise(), []
    for i in range(5):
        column = x @ weight[i] + base.bias[i]
        for k in range(2):
            for group in range(3):
                pooled = sum(x[:, 4 * group + place] for place in range(4)) / 4
                column = column + (6 / 2) * layer.B[i, k] * layer.A[k, group] * pooled
        columns.append(column)
    h = torch.stack(columns, dim=1)
    torch.testing.assert_close(layer(x), h, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(h)
    expected = torch.autograd.grad((h * weights).sum(), [x, layer.A, layer.B])
    for one, other in zip(
        torch.autograd.grad((layer(x) * weights).sum(), [x, layer.A, layer.B]), expected, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("architecture", [architecture for name, architecture in PAIRS if name == "qalora"])
def test_the_merged_integer_model_has_the_same_integers_and_logits(architecture: str) -> None:
    method = make_method("qalora", make_backbone(architecture), targets=["q", "v", "f2"])
    digest = method.summary()["frozen_weights"]["sha256"]
    train_steps(method, 20)
    method.finish()
    assert method.summary()["frozen_weights"]["sha256"] == digest
    logits, model = logits_of(method.backbone.model), method.backbone.model
    before = {
        name.replace(".base", ""): {key: value.clone() for key, value in module.named_buffers()}
        for name, module in model.named_modules()
        if isinstance(module, Int4Linear)
    }
    method.merge()
    after = {
        name: dict(module.named_buffers()) for name, module in model.named_modules() if isinstance(module, Int4Linear)
    }
    assert after.keys() == before.keys() and len(after) == 12
    assert not any(isinstance(module, QALoRALinear) for module in model.modules())
    for name, buffers in after.items():
        assert torch.equal(buffers["codes"], before[name]["codes"])
        assert torch.equal(buffers["scales"], before[name]["scales"])
        adapted = ("query" in name or "value" in name or "output.dense" in name) and "attention.output" not in name
        assert torch.equal(buffers["zeros"], before[name]["zeros"]) != adapted, name
    assert (logits - logits_of(make_method("qalora", make_backbone(architecture)).backbone.model)).abs().max() > 1e-2
    torch.testing.assert_close(logits_of(model), logits, rtol=0, atol=1e-5)


def test_the_backbone_is_kept_in_four_bits_and_two_numbers_a_group() -> None:
    facts = make_method("qalora", make_backbone("bert")).summary()["frozen_weights"]
    weights = 2 * (4 * 24 * 24 + 2 * 24 * 40)
    assert facts["bytes"] == weights // 2 + 2 * 4 * weights // 8
    assert facts["bytes_float32"] == 4 * weights


def test_groups_and_ranks_that_do_not_fit_the_widths_are_one_line() -> None:
    with pytest.raises(UserError, match=r"^method\.group_size=32 does not divide 24, .* give an even divisor of 8$"):
        make_method("qalora", make_backbone("bert"), group_size=32)
    with pytest.raises(
        UserError, match=r"^method\.r=4 must be at most 3|^method\.r=4.*at most 3, the number of groups"
    ):
        make_method("qalora", make_backbone("bert"), r=4)
    for size in (0, 3, 2.0):
        with pytest.raises(UserError, match=r"^method\.group_size=.*an even integer of at least 2"):
            QALoRA.parse(options_of("qalora", group_size=size))
