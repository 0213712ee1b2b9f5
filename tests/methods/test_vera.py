"""VeRA against its equation, PEFT's VeRA, and the paper's counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from peft import VeraConfig
from safetensors.torch import save_file
from torch import nn

from lora2_bench.backbones.backbone import random_backbone
from lora2_bench.bench.sizes import SIZES
from lora2_bench.methods.vera import SharedPair, VeRA, VeRALinear
from lora2_bench.runner.setup import load_adapter
from lora2_bench.training.state import load_trained_state, trained_state
from tests.composed import composed
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method, options_of, train_steps
from tests.methods.test_parity_peft import batch_of, check_same_head, descend, theirs_of, trained


def make(seed: int = 1, engine: str = "fast", architecture: str = "bert", **changes: Any) -> VeRA:
    options = VeRA.parse(options_of("vera", **changes))
    method = VeRA(options, 20, engine)
    method.inject(make_backbone(architecture, dtype=torch.float64), torch.Generator().manual_seed(seed))
    return method


sizes = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(d_in=sizes, d_out=sizes, wider=st.integers(0, 3), r=st.integers(1, 9), rows=st.integers(1, 40))
def test_forward_and_gradients_are_those_of_the_equation(d_in: int, d_out: int, wider: int, r: int, rows: int) -> None:
    """h_i = (x W0ᵀ + bias)_i + b_i · Σ_k B_ik d_k Σ_j A_kj x_j, on corners of A and B; merged where that is cheaper."""
    torch.manual_seed(0)
    base = nn.Linear(d_in, d_out).double().requires_grad_(False)
    pair = SharedPair(r, d_in + wider, d_out + wider, base.weight, torch.Generator().manual_seed(0))
    layer = VeRALinear(base, VeRA.parse(options_of("vera", r=r)), pair)
    nn.init.normal_(layer.b)
    nn.init.normal_(layer.d)
    x = torch.randn(rows, d_in, dtype=torch.float64, requires_grad=True)
    columns = []
    for i in range(d_out):
        column = x @ base.weight[i] + base.bias[i]
        for k in range(r):
            column = column + layer.b[i] * pair.B[i, k] * layer.d[k] * (x @ pair.A[k, :d_in])
        columns.append(column)
    h = torch.stack(columns, dim=1)
    weights = torch.randn_like(h)
    expected = torch.autograd.grad((h * weights).sum(), [x, layer.d, layer.b])
    for fused in (False, True):
        layer.fused = fused
        torch.testing.assert_close(layer(x), h, rtol=1e-10, atol=1e-12)
        found = torch.autograd.grad((layer(x) * weights).sum(), [x, layer.d, layer.b])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    lora_a, lora_b = layer.factors()
    torch.testing.assert_close(base(x) + x @ lora_a.T @ lora_b.T, h, rtol=1e-10, atol=1e-12)


def test_a_large_rank_is_merged_in_full_precision_alone() -> None:
    """The map sees as few products as it can: F.linear once where merged, beside four narrow products where not."""
    base = nn.Linear(24, 24).requires_grad_(False)
    pair = SharedPair(64, 24, 24, base.weight, torch.Generator())
    layer = VeRALinear(base, VeRA.parse(options_of("vera", r=64, dropout=0.2)), pair)
    layer.fused = True
    calls: list[int] = []
    base.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(200, 24)
    layer.eval()(x)
    assert calls == []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.train()(x)  # with dropout
    layer.eval()(x[:4])  # few rows
    layer.fused = False
    layer(x)
    assert len(calls) == 4


def test_a_and_b_are_shared_frozen_and_kaiming_uniform() -> None:
    method = make(r=50)
    pairs = {id(layer.pair) for layer in method.layers.values()}
    assert len(pairs) == 1
    assert method.pair.A.shape == (50, 40) and method.pair.B.shape == (40, 50)  # the widest input and output
    parameters = {id(parameter) for parameter in method.backbone.model.parameters()}
    for tensor, fan_in in ((method.pair.A, 40), (method.pair.B, 50)):
        bound = (6 / fan_in) ** 0.5  # gain √2
        assert not tensor.requires_grad and id(tensor) not in parameters
        assert bound * 0.99 < tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    layer = next(iter(method.layers.values()))
    assert layer.d.unique().tolist() == [0.1] and layer.b.unique().tolist() == [0.0]
    A, B = method.pair.A.clone(), method.pair.B.clone()
    train_steps(method, 3)
    assert torch.equal(method.pair.A, A) and torch.equal(method.pair.B, B)
    method.backbone.model.to(torch.float32)  # moves them once, for all maps
    assert {layer.pair.A.dtype for layer in method.layers.values()} == {torch.float32}
    assert {id(layer.pair.A) for layer in method.layers.values()} == {id(method.pair.A)}


def test_a_and_b_come_from_the_seed() -> None:
    one, again, other = make(), make(), make(seed=2)
    assert torch.equal(one.pair.A, again.pair.A) and torch.equal(one.pair.B, again.pair.B)
    assert not torch.equal(one.pair.A, other.pair.A) and not torch.equal(one.pair.B, other.pair.B)


def test_a_saved_state_carries_a_and_b_into_another_seed(tmp_path: Path) -> None:
    """What d and b learnt belongs to the A and B that they were trained with."""
    trained_one = make(seed=1)
    train_steps(trained_one, 5)
    batch = {key: value for key, value in make_batch().items() if key != "labels"}
    logits = trained_one.backbone.model(**batch).logits
    state = trained_state(trained_one)
    restored = make(seed=2)
    load_trained_state(restored, state)
    assert torch.equal(restored.backbone.model(**batch).logits, logits)
    save_file(state, tmp_path / "trained.safetensors")
    started = make(seed=3)
    load_adapter(started, tmp_path / "trained.safetensors", "0" * 16)
    for name, parameter in started.backbone.head_parameters().items():  # init_from leaves the head
        parameter.data.copy_(state[name])
    torch.testing.assert_close(started.backbone.model(**batch).logits, logits, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
@pytest.mark.parametrize("r", [3, 64])
def test_vera_is_pefts_given_its_matrices(r: int, architecture: str, engine: str) -> None:
    ours = make(engine=engine, architecture=architecture, r=r)
    targets = list(ours.lora_factors())
    theirs = theirs_of(VeraConfig(r=r, target_modules=targets, d_initial=0.1), architecture)  # type: ignore[arg-type]
    with torch.no_grad():
        ours.pair.A.copy_(theirs.base_model.vera_A["default"])
        ours.pair.B.copy_(theirs.base_model.vera_B["default"])
        for name in targets:  # made in float32
            theirs.get_submodule(f"base_model.model.{name}").vera_lambda_d["default"].fill_(0.1)
    one, other = descend(ours.optimizer_groups(0.0)), descend(trained(theirs))
    for step in range(1, 21):
        loss = loss_of_batch(ours, batch_of(step))
        loss.backward()
        expected = theirs.base_model(**batch_of(step)).loss
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        for optimizer in (one, other):
            optimizer.step()
        ours.zero_grad(one)
        other.zero_grad()
    for layer, name in zip(ours.layers.values(), targets, strict=True):
        peft = theirs.get_submodule(f"base_model.model.{name}")
        torch.testing.assert_close(layer.d, peft.vera_lambda_d["default"], rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(layer.b, peft.vera_lambda_b["default"], rtol=1e-8, atol=1e-11)
        assert layer.b.abs().max() > 1e-3
    check_same_head(ours, theirs)


@pytest.mark.parametrize(
    ("model", "printed", "count"),
    [("roberta_base", 0.043, 43_008), ("roberta_large", 0.061, 61_440)],  # the paper's Table 2
)
def test_the_recipes_have_the_papers_numbers_of_parameters(model: str, printed: float, count: int) -> None:
    config = composed(f"model={model}", "method=vera", "data=hub").method
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    options = {str(key): value for key, value in values.items() if key not in ("_target_", "name", "size")}
    with torch.device("meta"):
        backbone = random_backbone(SIZES[model].config(None))
    method = VeRA(VeRA.parse(options), 20)
    method.inject(backbone, torch.Generator())
    assert method.parameters()["adapter"] == count and round(count / 1e6, 3) == printed
    assert count == len(method.layers) * (options["r"] + backbone.model.config.hidden_size)


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_the_loss_falls(engine: str) -> None:
    method = make_method("vera", make_backbone("bert"), engine=engine, r=32)
    batch = make_batch(rows=8)
    assert loss_of_batch(method, batch).item() > 0.5
    optimizer = torch.optim.AdamW(method.optimizer_groups(0.0), lr=3e-2)
    for _ in range(60):
        loss_of_batch(method, batch).backward()
        optimizer.step()
        method.zero_grad(optimizer)
    assert loss_of_batch(method, batch).item() < 0.1
