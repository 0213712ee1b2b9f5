"""QLoRA: four-bit values from their definition, memory, what never changes, and transformers' own four-bit backbone."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone, random_backbone
from lora2_bench.bench.sizes import SIZES
from lora2_bench.errors import UserError
from lora2_bench.methods.qlora import FourBitLinear, QLoRA
from lora2_bench.records.record import Record
from lora2_bench.runner.export import export_adapter
from tests.conftest import Told
from tests.made_records import make_row_record
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method, options_of, train_steps
from tests.methods.test_contract import logits_of
from tests.runner.test_run import QUICK, records_of, tiny

OFFSET = 0.9677083  # of the outermost quantile, a constant of the paper's code


def nf4_levels() -> np.ndarray:
    """Quantiles of the normal distribution (eight above zero, seven below, and zero) over the largest."""
    positive = norm.ppf(np.linspace(OFFSET, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(OFFSET, 0.5, 8)[:-1])
    levels = np.sort([*positive, 0.0, *negative])
    return levels / levels.max()


def slow_nf4(weight: Tensor, block: int) -> Tensor:
    """Each weight's nearest level times its block's largest absolute value, one weight after the other."""
    levels, flat = nf4_levels(), weight.flatten().tolist()
    found = []
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        scale = max(abs(value) for value in part)
        for value in part:
            found.append(min(levels, key=lambda level, x=value / scale: abs(level - x)) * scale)  # type: ignore[misc]
    return torch.tensor(found, dtype=torch.float32).view_as(weight)


def four_bit(weight: Tensor, **changes: Any) -> FourBitLinear:
    base = nn.Linear(weight.shape[1], weight.shape[0])
    base.weight = nn.Parameter(weight)
    return FourBitLinear(base, QLoRA.parse(options_of("qlora", **changes)))


@pytest.mark.parametrize("block", [64, 128])
def test_the_weights_are_the_nearest_quantiles_of_a_normal_distribution(block: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 40) * 0.05
    layer = four_bit(weight, double_quant=False, block_size=block)
    torch.testing.assert_close(layer.levels.double(), torch.from_numpy(nf4_levels()), rtol=0, atol=2e-7)
    torch.testing.assert_close(layer.dequantise(), slow_nf4(weight, block), rtol=1e-6, atol=1e-9)


def test_double_quantisation_keeps_scales_around_their_mean_in_eight_bits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(300, 128) * torch.linspace(0.01, 0.1, 300)[:, None]  # 600 blocks: three of the second kind
    exact, layer = four_bit(weight, double_quant=False), four_bit(weight)
    assert torch.equal(layer.codes, exact.codes)
    mean = exact.scales.mean()
    found = []
    for start in range(0, 600, 256):
        part = exact.scales[start : start + 256] - mean
        largest = part.abs().max()
        kept = layer.scale_levels[layer.scales[start : start + 256].int()]
        nearest = (part[:, None] / largest - layer.scale_levels).abs().amin(1)
        assert ((kept - part / largest).abs() <= nearest + 1e-3).all()  # of 256 levels on each side of zero
        found.append(kept * largest + mean)
    wanted = exact.dequantise().view(600, 64) / exact.scales[:, None] * torch.cat(found)[:, None]
    torch.testing.assert_close(layer.dequantise().view(600, 64), wanted, rtol=1e-5, atol=1e-8)
    assert (layer.dequantise() - exact.dequantise()).norm() < 0.02 * exact.dequantise().norm()


def test_a_roberta_sized_backbone_takes_an_eighth_of_the_memory() -> None:
    """4 bits a weight, and of the scales 8 / 64 + 32 / (64 · 256) bits: 4.127 in all, beside tables of some bytes."""
    config = SIZES["roberta_base"].config(1)
    config.vocab_size = 100
    method = make_method("qlora", random_backbone(config), targets=["q", "v"], r=1)
    facts = method.summary()["frozen_weights"]
    assert facts["bytes_float32"] == 4 * (4 * 768 * 768 + 2 * 768 * 3072)  # the maps without an adapter too
    assert facts["bytes"] / facts["bytes_float32"] == pytest.approx(4.127 / 32, rel=2e-3)
    kinds = {name: type(module) for name, module in method.backbone.model.named_modules()}
    assert sum(kind is FourBitLinear for kind in kinds.values()) == 6
    # Nothing keeps a floating copy: of floating tensors of a map's size there are the embeddings alone.
    named = [*method.backbone.model.named_parameters(), *method.backbone.model.named_buffers()]
    large = {name for name, p in named if p.is_floating_point() and p.numel() >= 768 * 768}
    assert all("embeddings" in name or "classifier" in name for name in large)


def test_backward_computes_the_weights_again_instead_of_keeping_them() -> None:
    method = make_method("qlora", make_backbone("bert"))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        loss_of_batch(method, make_batch())
    shapes = {tuple(tensor.shape) for tensor in kept}
    assert not shapes & {(24, 40), (40, 24)}
    assert {(3, 24), (24, 3), (3, 40), (40, 3)} <= shapes  # the factors


@pytest.mark.parametrize("autocast", [False, True])
def test_the_quantised_weights_never_change_while_the_adapter_learns(autocast: bool) -> None:
    method = make_method("qlora", make_backbone("roberta"))
    digest = method.summary()["frozen_weights"]["sha256"]
    optimizer = torch.optim.AdamW(method.optimizer_groups(0.0), lr=1e-2)
    losses = []
    for _ in range(25):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = loss_of_batch(method, make_batch())
            loss.backward()
            optimizer.step()
            method.zero_grad(optimizer)
            logits_of(method.backbone.model)  # an evaluation after every step leaves what follows as it is
        losses.append(loss.item())
    method.finish()
    assert method.summary()["frozen_weights"]["sha256"] == digest
    assert losses[-1] < 0.3 * losses[0]
    layer = next(module for module in method.backbone.model.modules() if isinstance(module, FourBitLinear))
    layer.codes[0] ^= 1
    with pytest.raises(ValueError, match="quantised weights are not those that training began with"):
        method.finish()


def test_another_machines_quantisation_is_no_checkpoint_of_this_one() -> None:
    method = make_method("qlora", make_backbone("bert"))
    with pytest.raises(
        UserError, match=r"^the checkpoint was trained beside frozen weights of digest 0000000000000000,"
    ):
        method.load_state_dict({"quantised": "0" * 64})


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_transformers_own_four_bit_backbone_with_the_peft_folder_gives_the_same_logits(
    quant_type: str, tiny_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    folder = tiny_folders("bert")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    method = make_method("qlora", Backbone(model, None, "tiny"), quant_type=quant_type)
    train_steps(method, 5)
    export_adapter(tmp_path / "adapter", method)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["bert.pooler", "classifier"],
    )
    base = AutoModelForSequenceClassification.from_pretrained(folder, quantization_config=settings, device_map="cpu")
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # it would compute in bf16
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits_of(loaded), logits_of(method.backbone.model), rtol=1e-5, atol=1e-5)


def test_a_cells_record_has_the_memory_of_its_frozen_weights(
    bench: Callable[..., Told], tiny_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    command = (*tiny(tiny_folders("bert")), *QUICK, f"results={tmp_path}", "method=qlora", "train.precision=bf16")
    told = bench(*command)
    assert told.code == 0, told.err
    (record,) = records_of(tmp_path)
    facts = record["result"]["frozen_weights"]
    assert facts["bytes_float32"] == 4 * 2 * (4 * 24 * 24 + 2 * 24 * 40)
    assert 0 < facts["bytes"] < facts["bytes_float32"] and len(facts["sha256"]) == 64
    (adapter,) = (tmp_path / "cells").glob("*/adapter/adapter_config.json")
    assert json.loads(adapter.read_text())["peft_type"] == "LORA"


def test_a_record_without_that_memory_stays_valid_and_a_wrong_one_is_named() -> None:
    values = make_row_record("lora_r8", "rte").to_dict()
    assert "frozen_weights" not in Record.from_dict(values).result
    values["result"]["frozen_weights"] = {"bytes": -1, "bytes_float32": 4, "sha256": "0"}  # type: ignore[typeddict-item]
    with pytest.raises(ValueError, match=r"result\.frozen_weights\.bytes is out of range: -1"):
        Record.from_dict(values)


def test_without_bitsandbytes_one_line_names_the_extra(
    bench: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    told = bench("method=qlora", *QUICK, f"results={tmp_path}")
    assert told.code == 2
    assert told.err.strip() == (
        "error: method=qlora needs bitsandbytes, which is not installed: pip install 'lora2-bench[quant]'"
    )


def test_impossible_options_are_one_line() -> None:
    for name, value in (("quant_type", "int4"), ("block_size", 32), ("double_quant", "yes")):
        with pytest.raises(UserError, match=rf"^method\.{name}={value}"):
            QLoRA.parse(options_of("qlora", **{name: value}))
