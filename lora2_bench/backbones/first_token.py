"""The last layer of BERT and RoBERTa for the first token alone, which is all that the head reads.

The other tokens' outputs of that layer reach no logit and no loss, and their gradients are zeros. Keys and values are
still those of all tokens. In training this needs masks of a `MaskStream`: the numbers are then those of the whole
layer, but for rounding. In eval mode it is done within `head_alone` only: a measure may read the outputs of all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention, BertSelfOutput
from transformers.models.roberta.modeling_roberta import RobertaLayer, RobertaSelfAttention, RobertaSelfOutput

from lora2_bench.backbones.backbone import mix_in
from lora2_bench.backbones.masks import ATTENTION, StreamDropout, masked_attention

_UNTOUCHED = {
    BertLayer: (BertSelfAttention, BertSelfOutput),
    RobertaLayer: (RobertaSelfAttention, RobertaSelfOutput),
}


class FirstTokenAttention(nn.Module):
    """Mixed into the last self-attention.

    Attributes:
        after: the dropouts that its output goes through; none where one of the layer draws from torch's generator.
        for_head: whether nothing but the head reads the outputs of a pass without dropout.
    """

    after: list[StreamDropout]
    for_head: bool

    def forward(self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """hidden_states (rows, tokens, width) -> (rows, 1, width) in training and within `head_alone`."""
        alone = bool(self.after) if self.training else self.for_head
        if not alone or kwargs.get("past_key_values") is not None:  # keys and values that a method has put there
            return super().forward(hidden_states, attention_mask, **kwargs)
        rows, tokens = hidden_states.shape[:2]
        query, key, value = (
            states.view(rows, -1, self.num_attention_heads, self.attention_head_size).transpose(1, 2)
            for states in (self.query(hidden_states[:, :1]), self.key(hidden_states), self.value(hidden_states))
        )
        if attention_mask is not None:
            attention_mask = attention_mask[:, :, :1]
        dropout = self.dropout.p if self.training else 0.0
        context, _ = masked_attention(self, query, key, value, attention_mask, dropout, self.scaling, tokens=tokens)
        for after in self.after:
            after.tokens = tokens
        return context.flatten(2), None


class FirstTokenOutput(nn.Module):
    """Mixed into what adds the attention's output to its input."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Any:
        """hidden_states (rows, 1 or tokens, width), input_tensor (rows, tokens, width) -> as hidden_states."""
        return super().forward(hidden_states, input_tensor[:, : hidden_states.shape[1]])


def compute_first_token_alone(model: nn.Module) -> None:
    """Make the last layer able to do so, where no method has changed how it attends."""
    layers = [name for name, module in model.named_modules() if isinstance(module, tuple(_UNTOUCHED))]
    if not layers:
        return
    last: Any = model.get_submodule(layers[-1])
    words = layers[-1].split(".")
    around = [model.get_submodule(".".join(words[: count + 1])) for count in range(len(words))]  # not the classifier
    if type(last) not in _UNTOUCHED or any(one._forward_hooks or one._forward_pre_hooks for one in around):
        return  # a hook may want all tokens, or cut some off, as prompts at the input do
    attention, output = last.attention.self, last.attention.output
    kinds = type(attention), type(output)
    if kinds != _UNTOUCHED[type(last)] or attention.config._attn_implementation not in (ATTENTION, "sdpa"):
        return
    after = [output.dropout, last.output.dropout]
    streams = hasattr(attention, "stream") and not any(map(_draws_for_all_tokens, last.modules()))
    mix_in(FirstTokenAttention, attention)
    attention.after, attention.for_head = after if streams else [], False
    mix_in(FirstTokenOutput, output)


def _draws_for_all_tokens(module: nn.Module) -> bool:
    """Whether fewer tokens would make it, and with it all that torch's generator gives later, draw other numbers."""
    return isinstance(module, nn.Dropout) and not isinstance(module, StreamDropout) and module.p > 0


@contextmanager
def head_alone(model: nn.Module) -> Iterator[None]:
    """A context in which the head alone reads what the model's encoder gives, in eval mode too."""
    found = [module for module in model.modules() if isinstance(module, FirstTokenAttention)]
    for module in found:
        module.for_head = True
    try:
        yield
    finally:
        for module in found:
            module.for_head = False
