"""LongLoRA (Chen et al., arXiv 2309.12307): LoRA with trained embeddings and norms, and attention in shifted groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone, mix_in
from lora2_bench.experiment.checks import require, require_int
from lora2_bench.methods.base import require_encoder
from lora2_bench.methods.lora import LoRALinear, LoRAOptions
from lora2_bench.methods.lowrank.method import AdapterMethod

Parts = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, (rows, heads, tokens, width) each."""


@dataclass(frozen=True)
class LongLoRAOptions(LoRAOptions):
    """LoRA's options; in training a token attends within groups of `group_tokens`."""

    group_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int("method.group_tokens", self.group_tokens, 2, "an even integer of at least 2")
        require(self.group_tokens % 2 == 0, "method.group_tokens", self.group_tokens, "an even integer of at least 2")


def shifted_sparse_attention(parts: Parts, visible: Tensor, group: int, dropout: float = 0.0) -> Tensor:
    """Attention within groups of `group` tokens; those of the second half of the heads begin half a group later.

    A row of n tokens has ⌈n / group⌉ groups, whatever else is in the batch. In the shifted heads its last group goes on
    with its first half group, as the paper's cyclic shift has it. One group is full attention.

    Args:
        parts: queries, keys and values, (rows, heads, tokens, width) each.
        visible: (rows, tokens), False for padding. A row ends with its last visible token.
        group: an even number of tokens.
        dropout: of the attention's weights.

    Returns:
        (rows, heads, tokens, width).
    """
    _, heads, tokens, _ = parts[0].shape
    counted = torch.arange(1, tokens + 1, device=visible.device)
    lengths = (visible * counted).amax(dim=1, keepdim=True)
    whole = (-(-lengths // group) * group).clamp(min=group)  # (rows, 1): tokens of the row's groups
    total = int(whole.max())
    parts = _map(parts, lambda part: nn.functional.pad(part, (0, 0, 0, total - tokens)))
    visible = nn.functional.pad(visible, (0, total - tokens))
    still = heads - heads // 2
    context = _in_groups(_map(parts, lambda part: part[:, :still]), visible, group, dropout)
    if still < heads:
        place = torch.arange(total, device=visible.device)
        order = torch.where(place < whole, (place + group // 2) % whole, place)  # new place -> token
        back = torch.where(place < whole, (place - group // 2) % whole, place)
        moved = _map(parts, lambda part: _reordered(part[:, still:], order))
        shifted = _in_groups(moved, visible.gather(1, order), group, dropout)
        context = torch.cat([context, _reordered(shifted, back)], dim=1)
    return nn.functional.pad(context, (0, 0, 0, tokens - total))


def _map(parts: Parts, of: Callable[[Tensor], Tensor]) -> Parts:
    query, key, value = parts
    return of(query), of(key), of(value)


def _reordered(states: Tensor, order: Tensor) -> Tensor:
    """States (rows, heads, tokens, width) with each row's tokens in its `order` (rows, tokens)."""
    return states.gather(2, order[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))


def _in_groups(parts: Parts, visible: Tensor, group: int, dropout: float) -> Tensor:
    """Attention within the groups that tokens form as they stand: (rows, heads, tokens, width)."""
    rows, heads, tokens, width = parts[0].shape
    query, key, value = _map(
        parts, lambda part: part.reshape(rows, heads, -1, group, width).transpose(1, 2).flatten(0, 1)
    )  # (rows · groups, heads, group, width)
    seen = visible.view(-1, group)
    seen = seen | ~seen.any(dim=1, keepdim=True)  # a group of padding alone: its softmax would be of nothing
    mask = seen[:, None, None]
    context = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return context.view(rows, -1, heads, group, width).transpose(1, 2).reshape(rows, heads, tokens, width)


class ShiftedSelfAttention(nn.Module):
    """Mixed into the self-attention of BERT and RoBERTa: shifted groups in training, all tokens in evaluation."""

    group_tokens: int

    def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """hidden_states (rows, tokens, width), attention_mask (rows, 1, tokens, tokens) or None for no padding."""
        rows, tokens = hidden_states.shape[:2]
        if not self.training or tokens <= self.group_tokens:  # one group is full attention
            return super().forward(hidden_states, attention_mask, **kwargs)
        parts = _map(
            (self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)),
            lambda part: part.view(rows, tokens, -1, self.attention_head_size).transpose(1, 2),
        )
        if attention_mask is None:
            visible = hidden_states.new_ones((rows, tokens), dtype=torch.bool)
        else:  # of one query, for all see the same tokens; added to scores where it is not boolean
            mask = attention_mask[:, 0, 0].expand(rows, -1)
            visible = mask if mask.dtype == torch.bool else mask == 0
        context = shifted_sparse_attention(parts, visible, self.group_tokens, self.dropout.p)
        return context.transpose(1, 2).flatten(2), None


class LongLoRA(AdapterMethod[LoRALinear]):
    """LoRA on every target map, with the embeddings and all norms of the encoder trained whole."""

    Options = LongLoRAOptions
    encoders = ("bert", "roberta")

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Put LoRA beside the target maps, let embeddings and norms train, and shift the attention's groups."""
        because = "whose attention has neither relative positions nor windows"
        require_encoder("method=longlora fits", backbone, self.encoders, because)
        super().inject(backbone, generator)
        for name in self.whole_modules():
            backbone.model.get_submodule(name).requires_grad_(True)
        for module in backbone.model.base_model.get_submodule("encoder.layer").children():
            attention: Any = module.get_submodule("attention.self")
            mix_in(ShiftedSelfAttention, attention)
            attention.group_tokens = self.options.group_tokens

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> LoRALinear:
        """A LoRA layer over `base`."""
        return LoRALinear(base, self.options, generator)

    def whole_modules(self) -> list[str]:
        """The embedding tables and the norms of embeddings and layers."""
        parts = nn.Embedding, nn.LayerNorm
        return [name for name, module in self.backbone.model.named_modules() if isinstance(module, parts)]
