"""The fast engine against the plain one: the same numbers but for rounding, whatever is trained and however."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lora2_bench.methods.base import Method
from lora2_bench.methods.lowrank.fused import low_rank_linear
from lora2_bench.methods.lowrank.method import AdapterMethod
from lora2_bench.methods.lowrank.stack import Stack, flatten_groups
from lora2_bench.training.state import load_trained_state, trained_state
from tests.conftest import ARCHITECTURES
from tests.methods.helpers import METHODS, fits, loss_of_batch, make_backbone, make_batch, make_method, method_class

ADAPTERS = [name for name in METHODS if issubclass(method_class(name), AdapterMethod)]


def optimizer_of(method: Method, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(method.optimizer_groups(weight_decay), lr=5e-3)


def train(
    method: Method,
    optimizer: torch.optim.Optimizer,
    steps: range,
    parts: int = 1,
    clip: float = 0.0,
    autocast: bool = False,
) -> list[float]:
    """The real loop's calls, dropout on; returns the losses."""
    losses = []
    for step in steps:
        torch.manual_seed(step)
        method.backbone.model.train()
        batch = make_batch(rows=4 + step % 3)
        size = -(-len(batch["labels"]) // parts)
        total = 0.0
        method.before_step(step)
        for start in range(0, len(batch["labels"]), size):
            piece = {name: tensor[start : start + size] for name, tensor in batch.items()}
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = loss_of_batch(method, piece) * (len(piece["labels"]) / len(batch["labels"]))
            penalty = method.penalty() if start == 0 else None
            (loss if penalty is None else loss + penalty).backward()
            total += loss.item()
        if clip:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        method.zero_grad(optimizer)
        losses.append(total)
    return losses


def pair(name: str, architecture: str, dtype: torch.dtype, total: int, **changes: Any) -> tuple[Method, Method]:
    fast, plain = (
        make_method(name, make_backbone(architecture, dtype=dtype), total, engine, **changes)
        for engine in ("fast", "plain")
    )
    assert isinstance(fast, AdapterMethod) and isinstance(plain, AdapterMethod)
    assert all(layer.fused for layer in fast.layers.values()) and not any(
        layer.fused for layer in plain.layers.values()
    )
    return fast, plain


def check_same(fast: Method, plain: Method, rtol: float, atol: float) -> None:
    ours, theirs = trained_state(fast), trained_state(plain)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=rtol, atol=atol, msg=lambda text, key=key: key + text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTERS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_training_gives_the_plain_engines_numbers(name: str, data: st.DataObject) -> None:
    """Sizes, targets, dropout, parts of a batch, clipping, decay, a falling budget and a checkpoint, in float64."""
    draw = data.draw
    targets = draw(st.lists(st.sampled_from(["q", "k", "v", "o", "f1", "f2"]), min_size=1, max_size=6, unique=True))
    changes: dict[str, Any] = {"targets": targets, "dropout": draw(st.sampled_from([0.0, 0.3])), "r": 3}
    if name == "lora2":
        changes |= {"k": draw(st.integers(1, 4)), "score": draw(st.sampled_from(["reduced", "full"]))}
        changes |= {"reg__on": draw(st.lists(st.sampled_from(["uv", "UV", "PQ"]), unique=True))}
    if name in ("lora2", "adalora"):
        changes |= {"reg__form": draw(st.sampled_from(["norm_mean", "squared_sum"]))}
    if name == "dylora":
        changes |= {"update": draw(st.sampled_from(["all", "row"]))}
    if name == "sora":
        changes |= {"l1": 0.1, "xi": 0.01}
    total, decay, cut = 7, draw(st.sampled_from([0.0, 0.1])), draw(st.integers(1, 6))
    step = {"parts": draw(st.integers(1, 3)), "clip": draw(st.sampled_from([0.0, 0.5]))}
    fast, plain = pair(name, draw(st.sampled_from(method_class(name).encoders)), torch.float64, total, **changes)
    losses = train(plain, optimizer_of(plain, decay), range(1, total + 1), **step)

    optimizer = optimizer_of(fast, decay)
    ours = train(fast, optimizer, range(1, cut + 1), **step)
    again = make_method(
        name, make_backbone(fast.backbone.model.config.model_type, dtype=torch.float64), total, **changes
    )
    load_trained_state(again, trained_state(fast))
    resumed = optimizer_of(again, decay)
    resumed.load_state_dict(optimizer.state_dict())
    again.load_state_dict(fast.state_dict())
    ours += train(again, resumed, range(cut + 1, total + 1), **step)

    assert ours == pytest.approx(losses, rel=1e-10)
    check_same(again, plain, 1e-8, 1e-10)
    assert again.parameters() == plain.parameters() and again.summary() == plain.summary()


@pytest.mark.parametrize("name", ADAPTERS)
def test_thirty_steps_in_float32(name: str) -> None:
    """On one architecture each: what the engines replace, and what differs between encoders, is drawn above."""
    fitting = [architecture for architecture in ARCHITECTURES if fits(name, architecture)]
    architecture = fitting[ADAPTERS.index(name) % len(fitting)]
    fast, plain = pair(name, architecture, torch.float32, 30)
    steps = range(1, 31)
    ours = train(fast, optimizer_of(fast, 0.01), steps, clip=1.0)
    assert ours == pytest.approx(train(plain, optimizer_of(plain, 0.01), steps, clip=1.0), abs=1e-4)
    check_same(fast, plain, 1e-4, 1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_bf16_agrees_to_its_precision(name: str) -> None:
    fast, plain = pair(name, "roberta", torch.float32, 20, dropout=0.1)
    steps = range(1, 4)
    ours = train(fast, optimizer_of(fast, 0.0), steps, autocast=True)
    assert ours == pytest.approx(train(plain, optimizer_of(plain, 0.0), steps, autocast=True), rel=2e-2)


sizes = st.integers(1, 5)


@settings(max_examples=60, deadline=None)
@given(d_in=sizes, d_out=sizes, k=st.integers(1, 4), kind=st.integers(0, 2), data=st.data())
def test_the_fused_map_is_the_plain_one(d_in: int, d_out: int, k: int, kind: int, data: st.DataObject) -> None:
    """Output and every gradient, for inputs of any rank, with and without a bias and dropout."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    shape = data.draw(st.lists(sizes, max_size=2))
    dropout = data.draw(st.sampled_from([0.0, 0.4]))
    x = torch.randn(*shape, d_in, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(d_out, d_in, dtype=torch.float64)
    bias = torch.randn(d_out, dtype=torch.float64) if data.draw(st.booleans()) else None
    down = torch.randn(k, d_in, dtype=torch.float64, requires_grad=True)
    up = torch.randn(d_out, k, dtype=torch.float64, requires_grad=True)
    middle: Tensor | float = 1.7
    if kind:
        middle = torch.randn(*[k] * kind, dtype=torch.float64, requires_grad=True)
    inputs = [x, down, up, *([middle] if isinstance(middle, Tensor) else [])]
    torch.manual_seed(1)
    ours = low_rank_linear(x, weight, bias, down, middle, up, dropout)
    torch.manual_seed(1)
    inner = nn.functional.dropout(x, dropout) @ down.T
    theirs = nn.functional.linear(x, weight, bias) + (inner @ middle if kind == 2 else inner * middle) @ up.T
    torch.manual_seed(1)
    computed = low_rank_linear(x, weight.clone, bias, down, middle, up, dropout)  # and again in backward
    weights = torch.randn_like(theirs)
    wanted = torch.autograd.grad((theirs * weights).sum(), inputs)
    for out in (ours, computed):
        torch.testing.assert_close(out, theirs, rtol=1e-12, atol=1e-12)
        for one, other in zip(torch.autograd.grad((out * weights).sum(), inputs), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_parameters_and_gradients_are_views_of_one_buffer() -> None:
    parameters = [nn.Parameter(torch.full((2, 3), float(number))) for number in range(3)]
    stack = Stack([parameters[2], parameters[0]], [1, 0])
    assert torch.equal(stack.tensor(), torch.stack([parameters[2], parameters[0]]))
    ((group,)) = flatten_groups([{"params": parameters, "weight_decay": 0.5}], [stack])
    (flat,) = group["params"]
    assert group["weight_decay"] == 0.5 and flat.shape == (18,)
    (stack.tensor().sum() + 2 * parameters[0].sum() + 3 * parameters[1].sum()).backward()
    assert [parameter.grad.unique().tolist() for parameter in parameters] == [[3], [3], [1]]
    assert sorted(flat.grad.tolist()) == [1] * 6 + [3] * 12
    assert torch.equal(stack.grad(), torch.stack([parameters[2].grad, parameters[0].grad]))
    with torch.no_grad():
        flat.mul_(0).add_(7)
    assert all(parameter.unique().tolist() == [7] for parameter in parameters)
    stack.set_(torch.arange(12.0).view(2, 2, 3))
    assert parameters[2].flatten().tolist() == [0, 1, 2, 3, 4, 5] and parameters[1].unique().tolist() == [7]
