"""The last layer of BERT and RoBERTa in training: for the first token alone, which is all that the head reads.

The other tokens' outputs of that layer reach no loss, and their gradients are zeros. Keys and values are still those of
all tokens. With masks of a `MaskStream` the numbers are those of the whole layer, but for rounding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention, BertSelfOutput
from transformers.models.roberta.modeling_roberta import RobertaLayer, RobertaSelfAttention, RobertaSelfOutput

from lora2_bench.backbones.backbone import mix_in
from lora2_bench.backbones.masks import StreamDropout, masked_attention

_UNTOUCHED = {
    BertLayer: (BertSelfAttention, BertSelfOutput),
    RobertaLayer: (RobertaSelfAttention, RobertaSelfOutput),
}


class FirstTokenAttention(nn.Module):
    """Mixed into the last self-attention.

    Attributes:
        after: the dropouts that its output goes through.
    """

    after: list[StreamDropout]

    def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """hidden_states (rows, tokens, width) -> (rows, 1, width) in training."""
        if (
            not self.training or kwargs.get("past_key_values") is not None
        ):  # keys and values that a method has put there
            return super().forward(hidden_states, attention_mask, **kwargs)
        rows, tokens = hidden_states.shape[:2]
        query, key, value = (
            states.view(rows, -1, self.num_attention_heads, self.attention_head_size).transpose(1, 2)
            for states in (self.query(hidden_states[:, :1]), self.key(hidden_states), self.value(hidden_states))
        )
        if attention_mask is not None:
            attention_mask = attention_mask[:, :, :1]
        context, _ = masked_attention(
            self, query, key, value, attention_mask, self.dropout.p, self.scaling, tokens=tokens
        )
        for dropout in self.after:
            dropout.tokens = tokens
        return context.flatten(2), None


class FirstTokenOutput(nn.Module):
    """Mixed into what adds the attention's output to its input."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Any:
        """hidden_states (rows, 1 or tokens, width), input_tensor (rows, tokens, width) -> as hidden_states."""
        return super().forward(hidden_states, input_tensor[:, : hidden_states.shape[1]])


def compute_first_token_alone(model: nn.Module) -> None:
    """Make the last layer do so, where the model draws from a stream and no method has changed how it attends."""
    layers = [name for name, module in model.named_modules() if isinstance(module, tuple(_UNTOUCHED))]
    if not layers:
        return
    last: Any = model.get_submodule(layers[-1])
    words = layers[-1].split(".")
    around = [model.get_submodule(".".join(words[:count])) for count in range(len(words) + 1)]
    if type(last) not in _UNTOUCHED or any(one._forward_hooks or one._forward_pre_hooks for one in around):
        return  # a hook may want all tokens, or cut some off, as prompts at the input do
    parts = last.attention.self, last.attention.output
    if tuple(map(type, parts)) != _UNTOUCHED[type(last)] or not hasattr(parts[0], "stream"):
        return
    after = [last.attention.output.dropout, last.output.dropout]
    if not all(isinstance(dropout, StreamDropout) for dropout in after):
        return
    mix_in(FirstTokenAttention, parts[0])
    parts[0].after = after
    mix_in(FirstTokenOutput, parts[1])
