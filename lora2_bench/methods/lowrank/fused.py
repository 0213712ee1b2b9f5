"""A frozen linear map and the low-rank addition beside it as one autograd function.

What the addition costs is passes over memory, not arithmetic. On a CPU those are taken in blocks of rows, side by side:
of products as narrow as these, BLAS libraries use one core. Where there are many rows, its product is added to the
weight (in a new tensor: the frozen one never changes), and neither inputs nor outputs need a pass to add anything.
Gradients are those of the factors all the same: no d_out×d_in gradient is ever formed. With few rows, with dropout and
in half precision the addition is made in place.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Middle = float | Tensor
"""What stands between the two outer factors: a number, one number per rank (r,), or a matrix (k×k)."""


def low_rank_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, middle: Middle, up: Tensor, dropout: float = 0.0
) -> Tensor:
    """h = x W0ᵀ + b + dropout(x) downᵀ · middle · upᵀ, with W0 and b frozen.

    Dropout draws what `torch.nn.Dropout` draws. Under autocast all products are taken in its dtype.

    Args:
        x: (..., d_in).
        weight: (d_out×d_in); it gets no gradient.
        bias: (d_out), without a gradient too.
        down: (k×d_in).
        middle: a number, (k,) for a diagonal, or (k×k).
        up: (d_out×k).
        dropout: share of x that is zeroed on the way to `down`.
    """
    number, tensor = (1.0, middle) if isinstance(middle, Tensor) else (middle, None)
    out: Tensor = _LowRankLinear.apply(x, weight, bias, down, tensor, up, number, dropout)  # type: ignore[no-untyped-call]
    return out


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        middle: Tensor | None,
        up: Tensor,
        number: float,
        dropout: float,
    ) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, down, up = x.to(dtype), weight.to(dtype), down.to(dtype), up.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            middle = None if middle is None else middle.to(dtype)
        rows = x.reshape(-1, x.shape[-1])
        mask = inner = None
        if dropout == 0 and _worth_merging(rows, weight):
            now = _merged(weight, _times_middle(up, middle, number), down)
            out = rows @ now.T if bias is None else torch.addmm(bias, rows, now.T)
        else:
            flat = rows
            if dropout > 0:
                rows, mask = torch.native_dropout(flat, dropout, True)
            inner = _narrow(down, rows)
            out = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
            out.addmm_(_flat(inner), _times_middle(up, middle, number).T)
        ctx.save_for_backward(rows, mask, weight, down, middle, up, inner)
        ctx.number, ctx.dropout = number, dropout
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, mask, weight, down, middle, up, inner = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        to_x, _, _, to_down, to_middle, to_up, _, _ = ctx.needs_input_grad
        merged = inner is None
        if merged:
            inner = _narrow(down, rows)
        scaled = _narrow(up.T.contiguous(), grad)
        total = _sums(inner, grad)
        turned = middle.T if middle is not None and middle.ndim == 2 else middle
        grad_down = _times_middle(_sums(scaled, rows).T, middle, ctx.number).T if to_down else None
        grad_up = _times_middle(total.T, turned, ctx.number) if to_up else None
        grad_middle = grad_x = None
        if to_middle:
            grad_middle = total @ up if middle.ndim == 2 else (total * up.T).sum(1)
        if to_x:
            back = _times_middle(down.T, turned, ctx.number).T
            if merged:
                grad_x = grad @ _merged(weight, up, back)
            elif mask is None:
                grad_x = (grad @ weight).addmm_(_flat(scaled), back)
            else:
                passed = torch.ops.aten.native_dropout_backward(_flat(scaled) @ back, mask, 1 / (1 - ctx.dropout))
                grad_x = (grad @ weight).add_(passed)
            grad_x = grad_x.view(*grads[0].shape[:-1], -1)
        return grad_x, None, None, grad_down, grad_middle, grad_up, None, None


def _worth_merging(rows: Tensor, weight: Tensor) -> bool:
    """Whether two passes over the weight, forward and backward, cost less than one over outputs and one over inputs.

    Not in half precision, in which a small addition to a weight would be lost.
    """
    d_out, d_in = weight.shape
    return weight.dtype in (torch.float32, torch.float64) and len(rows) * (d_in + d_out) > 2 * d_in * d_out


def _times_middle(factor: Tensor, middle: Tensor | None, number: float) -> Tensor:
    """factor (d×k) times middleᵀ: what is small takes the middle, never anything with a row per token."""
    if middle is None:
        return factor * number
    return factor @ middle.T if middle.ndim == 2 else factor * middle


def _merged(weight: Tensor, left: Tensor, down: Tensor) -> Tensor:
    """W0 with left (d_out×k) times down (k×d_in) added, in a new tensor."""
    if len(down) == 1:
        return torch.addcmul(weight, left, down)  # half the time of addmm
    return torch.addmm(weight, left, down)


def _blocks(rows: Tensor) -> int:
    """How many blocks n rows are taken in; always as many for as many rows, whatever the number of threads."""
    return math.gcd(len(rows), 8) if rows.device.type == "cpu" else 1


def _narrow(factor: Tensor, rows: Tensor) -> Tensor:
    """factor (k×d), k small, times rowsᵀ of rows (n×d), by blocks: (count×k×n/count)."""
    count = _blocks(rows)
    return torch.bmm(factor.expand(count, -1, -1), rows.view(count, -1, rows.shape[1]).mT)


def _flat(narrow: Tensor) -> Tensor:
    """The same as (n×k)."""
    return narrow.mT.reshape(-1, narrow.shape[1])


def _sums(narrow: Tensor, rows: Tensor) -> Tensor:
    """narrow (count×k×n/count) of `_narrow` times rows (n×d), summed over the blocks: (k×d)."""
    return torch.bmm(narrow, rows.view(len(narrow), -1, rows.shape[1])).sum(0)
