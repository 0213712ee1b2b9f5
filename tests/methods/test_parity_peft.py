"""LoRA and AdaLoRA against PEFT: the same weights in, the same losses, factors, ranks and masks out, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import Tensor, nn

from lora2_bench.methods.adalora import AdaLoRA
from lora2_bench.methods.base import Method
from lora2_bench.methods.lora import LoRA
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method

STEPS = 30
T_INIT, T_FINAL, DELTA_T = 4, 8, 3


def batch_of(step: int) -> dict[str, Tensor]:
    return make_batch(rows=4 + step % 3, width=7 + step % 4)


def theirs_of(config: LoraConfig, architecture: str) -> Any:
    """PEFT's model over the same backbone, its head trained; its `base_model` adds AdaLoRA's regulariser."""
    backbone = make_backbone(architecture, dtype=torch.float64)
    forward = backbone.model.forward

    def in_float64(**batch: Tensor) -> Any:  # DeBERTa's own loss is float32
        output = forward(**batch)
        output.loss = nn.functional.cross_entropy(output.logits, batch["labels"])
        return output

    backbone.model.forward = in_float64  # type: ignore[method-assign]
    model = get_peft_model(backbone.model, config).double()
    for parameter in backbone.head_parameters().values():
        parameter.requires_grad_(True)
    return model.eval()


def descend(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=5e-3, weight_decay=0.0)


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def check_same_head(ours: Method, theirs: nn.Module) -> None:
    named = {name.removeprefix("base_model.model."): p for name, p in theirs.named_parameters()}
    for name, parameter in ours.backbone.head_parameters().items():
        torch.testing.assert_close(named[name], parameter, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_is_pefts(architecture: str, engine: str) -> None:
    ours = make_method("lora", make_backbone(architecture, dtype=torch.float64), engine=engine)
    assert isinstance(ours, LoRA)
    targets = list(ours.lora_factors())
    theirs = theirs_of(LoraConfig(r=3, lora_alpha=6, target_modules=targets), architecture)
    pairs = [
        (layer, theirs.get_submodule(f"base_model.model.{name}"))
        for layer, name in zip(ours.layers.values(), targets, strict=True)
    ]
    with torch.no_grad():
        for layer, peft in pairs:
            peft.lora_A["default"].weight.copy_(layer.A)
            peft.lora_B["default"].weight.copy_(layer.B)
    one, other = descend(ours.optimizer_groups(0.0)), descend(trained(theirs))
    for step in range(1, STEPS + 1):
        loss = loss_of_batch(ours, batch_of(step))
        loss.backward()
        expected = theirs.base_model(**batch_of(step)).loss
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
        for optimizer in (one, other):
            optimizer.step()
        ours.zero_grad(one)
        other.zero_grad()
    for layer, peft in pairs:
        torch.testing.assert_close(layer.A, peft.lora_A["default"].weight, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(layer.B, peft.lora_B["default"].weight, rtol=1e-9, atol=1e-12)
        assert layer.B.abs().max() > 1e-3
    check_same_head(ours, theirs)


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adalora_is_pefts(architecture: str, engine: str) -> None:
    budget = {"budget__t_init": T_INIT, "budget__t_final": T_FINAL, "budget__delta_t": DELTA_T, "init_std": 0.1}
    backbone = make_backbone(architecture, dtype=torch.float64)
    ours = make_method("adalora", backbone, total_steps=STEPS, engine=engine, **budget)
    assert isinstance(ours, AdaLoRA)
    targets = list(ours.lora_factors())
    config = AdaLoraConfig(
        init_r=3,
        target_r=1,
        lora_alpha=6,
        tinit=T_INIT,
        tfinal=T_FINAL,
        deltaT=DELTA_T,
        beta1=0.85,
        beta2=0.85,
        orth_reg_weight=0.1,
        total_step=STEPS,
        target_modules=targets,
    )
    theirs = theirs_of(config, architecture)
    pairs = [
        (layer, theirs.get_submodule(f"base_model.model.{name}"))
        for layer, name in zip(ours.layers.values(), targets, strict=True)
    ]
    with torch.no_grad():
        for layer, peft in pairs:
            peft.lora_A["default"].copy_(layer.A)
            peft.lora_B["default"].copy_(layer.B)
            # PEFT divides by the rank plus 1e-5, and trains that rank after a cast to another dtype or device.
            peft.ranknum["default"].fill_(3 - 1e-5).requires_grad_(False)
    one, other = descend(ours.optimizer_groups(0.0)), descend(trained(theirs))
    left = set()
    for step in range(1, STEPS + 1):
        penalty = ours.penalty()
        assert penalty is not None
        loss = loss_of_batch(ours, batch_of(step)) + penalty
        loss.backward()
        expected = theirs.base_model(**batch_of(step)).loss
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        one.step()
        other.step()
        ours.after_step(step)
        theirs.base_model.update_and_allocate(step)
        ours.zero_grad(one)
        other.zero_grad()
        for layer, peft in pairs:
            gate = peft.lora_E["default"].flatten()
            assert (layer.gate != 0).tolist() == (gate != 0).tolist(), step
            torch.testing.assert_close(layer.gate, gate, rtol=1e-7, atol=1e-12)
        pattern = theirs.peft_config["default"].rank_pattern
        if pattern is not None:
            kept = {name.removeprefix("model.").removesuffix(".lora_E.default"): mask for name, mask in pattern.items()}
            masks = {name: mask.tolist() for name, mask in zip(targets, ours.budget.masks, strict=True)}
            assert masks == kept, step
            left.add(sum(map(sum, kept.values())))
    assert (
        len(left) >= 4 and min(left) == 12 == ours.summary()["ranks_kept"]
    )  # the budget fell, step by step, to its end
    for layer, peft in pairs:
        torch.testing.assert_close(layer.A, peft.lora_A["default"], rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(layer.B, peft.lora_B["default"], rtol=1e-7, atol=1e-12)
    check_same_head(ours, theirs)
