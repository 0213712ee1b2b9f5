"""LongLoRA: shifted groups against attention token by token, one group against full attention, and what trains."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lora2_bench.backbones.backbone import random_backbone
from lora2_bench.bench.sizes import SIZES
from lora2_bench.errors import UserError
from lora2_bench.methods.longlora import LongLoRA, shifted_sparse_attention
from tests.methods.helpers import loss_of_batch, make_backbone, make_batch, make_method, options_of


def slow_attention(query: Tensor, key: Tensor, value: Tensor, group: int) -> Tensor:
    """One row without padding, (heads, tokens, width): every token looks for the tokens of its group one by one."""
    heads, tokens, width = query.shape
    padded = math.ceil(tokens / group) * group
    contexts = torch.zeros_like(query)
    for head in range(heads):
        shift = group // 2 if head >= heads - heads // 2 else 0
        for i in range(tokens):
            seen = [j for j in range(tokens) if (i - shift) % padded // group == (j - shift) % padded // group]
            scores = torch.stack([query[head, i] @ key[head, j] / math.sqrt(width) for j in seen])
            contexts[head, i] = torch.softmax(scores, 0) @ value[head, seen]
    return contexts


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("lengths", [[9], [12, 4, 7, 1], [3, 2], [16, 5], [8, 8]])
def test_groups_are_those_of_each_row_alone(lengths: list[int], heads: int) -> None:
    """Rows of any lengths in one batch, padded further than the longest, against each row on its own."""
    torch.manual_seed(0)
    tokens = max(lengths) + 3
    parts = [torch.randn(len(lengths), heads, tokens, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    visible = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    found = shifted_sparse_attention((parts[0], parts[1], parts[2]), visible, group=4)
    assert found.shape == parts[0].shape and torch.isfinite(found).all()
    weights = torch.randn_like(found) * visible[:, None, :, None]
    gradients = torch.autograd.grad((found * weights).sum(), parts)
    for row, length in enumerate(lengths):
        alone = [part[row, :, :length].detach().requires_grad_() for part in parts]
        wanted = slow_attention(*alone, group=4)
        torch.testing.assert_close(found[row, :, :length], wanted, rtol=1e-10, atol=1e-12)
        expected = torch.autograd.grad((wanted * weights[row, :, :length]).sum(), alone)
        for one, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(one[row, :, :length], other, rtol=1e-10, atol=1e-12)
            assert torch.count_nonzero(one[row, :, length:]) == 0


def training(architecture: str, group_tokens: int, implementation: str = "sdpa") -> LongLoRA:
    """The method in training mode without dropout, in float64, with B and so the update not zero."""
    backbone = make_backbone(architecture, dtype=torch.float64)
    backbone.model.set_attn_implementation(implementation)
    method = make_method("longlora", backbone, group_tokens=group_tokens)
    assert isinstance(method, LongLoRA)
    for layer in method.layers.values():
        torch.nn.init.normal_(layer.B, std=0.3, generator=torch.Generator().manual_seed(3))
    backbone.model.train()
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return method


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_rows_of_one_group_have_full_attention_beside_longer_ones_too(architecture: str, implementation: str) -> None:
    batch = make_batch(rows=4, width=21)
    lengths = torch.tensor([21, 8, 3, 7])
    batch["attention_mask"] = (torch.arange(21) < lengths[:, None]).long()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    method = training(architecture, 8, implementation)
    model: Any = method.backbone.model
    sparse = model(**inputs).logits
    full = copy.deepcopy(model).eval()(**inputs).logits
    torch.testing.assert_close(sparse[1:], full[1:], rtol=1e-9, atol=1e-11)  # of one group each
    assert (sparse[0] - full[0]).abs().max() > 1e-6  # of three
    alone = model(**{name: value[:1] for name, value in inputs.items()}).logits
    torch.testing.assert_close(alone[0], sparse[0], rtol=1e-9, atol=1e-11)
    whole = training(architecture, 32, implementation).backbone.model
    torch.testing.assert_close(whole(**inputs).logits, full, rtol=1e-9, atol=1e-11)


def test_a_short_batch_trains_as_one_with_full_attention() -> None:
    losses = []
    for group_tokens in (10, 64):
        method = training("roberta", group_tokens)
        loss_of_batch(method, make_batch(width=10)).backward()
        losses.append([p.grad.clone() for p in method.trainable().values() if p.grad is not None])
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_evaluation_has_full_attention_and_dropout_reaches_training_alone() -> None:
    method = make_method("longlora", make_backbone("bert"), group_tokens=4)
    plain = make_backbone("bert").model
    inputs = {name: value for name, value in make_batch(width=30).items() if name != "labels"}
    model = method.backbone.model.eval()
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


def test_minilms_embeddings_and_norms_are_counted() -> None:
    with torch.device("meta"):
        backbone = random_backbone(SIZES["minilm"].config(None))
    method = make_method("longlora", backbone, r=8, targets=["q", "k", "v", "o"])
    tables, norms = 384 * (30522 + 512 + 2), 2 * 384 * (1 + 2 * 6)
    assert method.parameters()["adapter"] == 6 * 4 * 8 * (384 + 384) + tables + norms == 12_075_264
    assert len(method.whole_modules()) == 3 + 13


def test_a_group_of_an_odd_number_is_one_line() -> None:
    for size in (0, 5, 4.0):
        with pytest.raises(UserError, match=r"^method\.group_tokens=.*an even integer of at least 2"):
            LongLoRA.parse(options_of("longlora", group_tokens=size))
