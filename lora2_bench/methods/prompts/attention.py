"""Self-attention over a prefix: learnt keys and values before those of the tokens, which keep their positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone, mix_in


class Prefix:
    """Keys and values of one layer for a batch, (rows, heads, length, width of a head) each.

    It has the form of the cache that transformers' attention takes for `past_key_values`.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def update(self, keys: Tensor, values: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """The prefix before `keys` and `values`, (rows, heads, tokens, width of a head) each, in their dtype."""
        keys = torch.cat([self.keys.to(keys.dtype), keys], dim=2)
        return keys, torch.cat([self.values.to(values.dtype), values], dim=2)


class PrefixedLayer(nn.Module):
    """Mixed into an encoder's layer: its first two arguments are the prefix.

    Positional arguments are what gradient checkpointing gives to the second forward pass of a layer, and what it gives
    gradients to: a prefix that waits in an attribute would be gone by then.
    """

    prefix_dropout: float

    def forward(self, keys: Tensor, values: Tensor, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """keys and values (heads, length, width of a head); the rest is what the layer takes."""
        rows = len(hidden_states)
        keys, values = (
            nn.functional.dropout(part.expand(rows, -1, -1, -1), self.prefix_dropout, self.training)
            for part in (keys, values)
        )
        attention: Any = self.get_submodule("attention.self")
        attention.prefix = Prefix(keys, values)
        try:
            return super().forward(hidden_states, *args, **kwargs)
        finally:
            attention.prefix = None


class PrefixedSelfAttention(nn.Module):
    """Mixed into the self-attention of BERT and RoBERTa, whatever computes it (eager, SDPA)."""

    prefix: Prefix

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """The attention of every token to the prefix and to the tokens that `attention_mask` leaves visible."""
        if attention_mask is not None:
            attention_mask = with_visible(attention_mask, self.prefix.keys.shape[2])
        return super().forward(hidden_states, attention_mask, **{**kwargs, "past_key_values": self.prefix})


class PrefixedDisentangledAttention(nn.Module):
    """Mixed into the attention of DeBERTa-v2: the relative bias is between tokens, and zero towards the prefix."""

    prefix: Prefix

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states (rows, tokens, width), attention_mask (rows, 1, tokens, tokens) -> (rows, tokens, width)."""
        states = hidden_states if query_states is None else query_states
        heads = self.num_attention_heads
        query, key, value = (
            self.transpose_for_scores(linear(x), heads)
            for linear, x in (
                (self.query_proj, states),
                (self.key_proj, hidden_states),
                (self.value_proj, hidden_states),
            )
        )
        terms = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        bias = query.new_zeros(())
        if self.relative_attention and terms > 1:
            positions = self.pos_dropout(rel_embeddings)
            bias = self.disentangled_attention_bias(query, key, relative_pos, positions, terms)
            bias = bias.view(-1, heads, *bias.shape[1:])
        query, key, value = (part.view(-1, heads, *part.shape[1:]) for part in (query, key, value))
        keys, values = self.prefix.update(key, value)
        length = self.prefix.keys.shape[2]
        scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1] * terms)
        scores = torch.cat([scores[..., :length], scores[..., length:] + bias], dim=-1)
        visible = with_visible(attention_mask.bool(), length)
        probabilities = self.dropout(scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(dim=-1))
        context = (probabilities.to(values.dtype) @ values).transpose(1, 2).flatten(2)
        return context, probabilities if output_attentions else None


_ATTENTION: dict[str, type[nn.Module]] = {
    "bert": PrefixedSelfAttention,
    "roberta": PrefixedSelfAttention,
    "deberta-v2": PrefixedDisentangledAttention,
}


def attend_to_prefix(backbone: Backbone, dropout: float) -> list[nn.Module]:
    """Make every layer of the encoder a `PrefixedLayer`; returns the layers in order. No weight is touched or renamed.

    `dropout` is that of the prefix's numbers, drawn for each row of a batch.
    """
    mixin = _ATTENTION[backbone.model.config.model_type]
    layers = list(backbone.model.base_model.get_submodule("encoder.layer").children())
    for layer in layers:
        mix_in(PrefixedLayer, layer)
        layer.prefix_dropout = dropout
        mix_in(mixin, layer.get_submodule("attention.self"))
    return layers


def with_visible(mask: Tensor, length: int) -> Tensor:
    """An attention mask (..., tokens) with `length` visible places before: True if boolean, zero if added to scores."""
    return nn.functional.pad(mask, (length, 0), value=float(mask.dtype == torch.bool))
