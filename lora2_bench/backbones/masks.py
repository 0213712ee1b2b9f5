"""Dropout masks of a backbone from one cheap stream, a fixed function of seed, step, part, place and call.

On a CPU torch draws a mask at some 8 ns an element, which is a tenth of a small encoder's step. Here an element takes
16 bits of NumPy's SFC64 (0.5 ns), is kept where they are not below p · 65536, and is divided by the share that is kept:
p is rounded to a multiple of 1/65536. A mask is kept for the backward pass as its bits.

What attends through transformers' attention interface (BERT, RoBERTa, ModernBERT) gets an attention that drops with
such masks: with dropout torch's own forms its weights on a CPU too, and draws the mask. DeBERTa's attention drops by a
module.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SFC64 = "sfc64"
"""Name of the stream, in a record and in a checkpoint."""
_LEVELS = 2**16
ATTENTION = "lora2_bench_masked"
"""Name of `masked_attention` among transformers' attention functions."""


class MaskStream:
    """The random bits of a run's masks.

    A place's bits depend on the seed, on what `begin` was told and on how often the place was asked since then; never
    on the number of threads, on other places, or on what else is drawn.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.begin(0, 0)

    def begin(self, step: int, part: int) -> None:
        """Before a forward pass: the optimiser's step, and which part of its batch this is, over all processes."""
        self._part = f"{self._seed}/{step}/{part}"
        self._calls: dict[str, int] = {}

    def words(self, place: str, shape: tuple[int, ...]) -> Tensor:
        """int16 of this shape on the CPU, every value as likely as another."""
        call = self._calls[place] = self._calls.get(place, -1) + 1
        digest = hashlib.sha256(f"{self._part}/{place}/{call}".encode()).digest()
        count = math.prod(shape)
        raw = np.random.SFC64(int.from_bytes(digest[:16], "little")).random_raw(-(-count // 4))
        return torch.from_numpy(raw).view(torch.int16)[:count].view(shape)

    def __deepcopy__(self, _memo: dict[int, Any]) -> MaskStream:
        return self  # PEFT copies the head's modules: they stay with the stream that `begin` tells the step


def mask_of(words: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """The mask of these words: zero for a share p, and 1 / (1 - p) elsewhere, with p rounded to 1/65536."""
    threshold = round(p * _LEVELS)
    mask = torch.empty(words.shape, dtype=dtype, device=words.device)
    if threshold == _LEVELS:
        return mask.zero_()
    torch.ge(words, threshold - _LEVELS // 2, out=mask)
    return mask.mul_(_LEVELS / (_LEVELS - threshold))


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, words: Tensor, p: float) -> Tensor:
        ctx.save_for_backward(words)
        ctx.p = p
        return x * mask_of(words, p, x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (words,) = ctx.saved_tensors
        return grads[0] * mask_of(words, ctx.p, grads[0].dtype), None, None


class StreamDropout(nn.Dropout):
    """A dropout that draws from a stream.

    Attributes:
        stream, place: where its bits come from.
        tokens: in a layer that computes the first token alone, of how many; the mask is that of all of them, cut.
    """

    stream: MaskStream
    place: str
    tokens: int | None

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, ..., width) with its mask, in training."""
        if not self.training or self.p == 0:
            return x
        words = self.stream.words(self.place, (len(x), self.tokens or x.shape[1], *x.shape[2:]))
        if self.tokens:
            words = words[:, : x.shape[1]].contiguous()
        out: Tensor = _Masked.apply(x, words.to(x.device), self.p)  # type: ignore[no-untyped-call]
        return out


class _MaskedAttention(torch.autograd.Function):
    """dropout(softmax(scaling · q kᵀ + bias)) v over (n, tokens, width); weights are float32 in half precision too."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        words: Tensor,
        p: float,
        scaling: float,
    ) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            # Heads' rows lie apart in these three: a product would copy each, here and again going back.
            scaled = torch.mul(query, scaling, out=torch.empty_like(query, memory_format=torch.contiguous_format))
            key, value = key.contiguous(), value.contiguous()
            scores = scaled @ key.mT
            if bias is not None:
                scores += bias
            weights = torch.softmax(scores, -1, dtype=None if scores.dtype == torch.float64 else torch.float32)
            kept = (weights * mask_of(words, p, weights.dtype)).to(value.dtype)
            ctx.save_for_backward(scaled, key, value, weights, words)
            ctx.p, ctx.scaling = p, scaling
            return kept @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled, key, value, weights, words = ctx.saved_tensors
        grad = grads[0].contiguous()
        mask = mask_of(words, ctx.p, weights.dtype)
        grad_weights = (grad @ value.mT).to(weights.dtype).mul_(mask)
        grad_value = mask.mul_(weights).to(grad.dtype).mT @ grad
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).to(key.dtype)
        return (grad_scores @ key).mul_(ctx.scaling), grad_scores.mT @ scaled, grad_value, None, None, None, None


def masked_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tokens: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as one of transformers' functions; without dropout it is torch's own.

    Args:
        module: has the `stream` and the `place` that the mask is drawn by.
        query: (rows, heads, tokens, width), and so the next two.
        key: of the tokens that are attended to.
        value: of these too.
        attention_mask: None, True where a token is visible, or what is added to scores; (rows, 1, queries, keys).
        dropout: the share of weights that is dropped.
        scaling: of the scores; None for one over the root of the width.
        tokens: where `query` has the first tokens alone, of how many; the mask is that of all of them, cut.
        **kwargs: of transformers' other functions.

    Returns:
        (rows, tokens, heads, width), and no weights.
    """
    if dropout == 0:
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=0.0, scaling=scaling, **kwargs
        )
        return out
    rows, heads, queries, width = query.shape
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min  # and not -inf: a window of padding alone sees nothing
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(~attention_mask, lowest)
    words = module.stream.words(module.place, (rows, heads, tokens or queries, key.shape[2]))
    words = words[:, :, :queries].contiguous().to(query.device)
    scaling = width**-0.5 if scaling is None else scaling
    inputs = query, key, value, attention_mask
    context = _MaskedAttention.apply(*inputs, words, dropout, scaling)  # type: ignore[no-untyped-call]
    return context.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, masked_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)


def draw_from(stream: MaskStream, model: PreTrainedModel) -> None:
    """Let the dropout of an untouched encoder and of its head draw from a stream; places are the modules' names."""
    for name, module in model.named_modules():
        if type(module) is nn.Dropout:
            module.__class__ = StreamDropout
            module.stream, module.place, module.tokens = stream, name, None  # type: ignore[assignment]
        elif hasattr(module, "is_causal"):  # it calls the attention interface
            module.stream, module.place = stream, name
    if any(hasattr(module, "is_causal") for module in model.modules()):
        model.set_attn_implementation(ATTENTION)
