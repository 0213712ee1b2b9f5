"""A frozen linear map and its low-rank update as one autograd function.

The cost of the update is passes over memory, not arithmetic. On a CPU the narrow products are computed in blocks of
rows, by torch.bmm, because BLAS libraries use one core for a single one. With many rows, the low-rank product is merged
into a copy of the weight, which saves the passes over inputs and outputs; the frozen weight never changes. The backward
pass still gives the factors' gradients, and never forms a d_out×d_in gradient. With few rows, with dropout and in half
precision the update is added to the output in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Middle = float | Tensor
"""The factor between the two outer ones: a number, a diagonal (r,), or a matrix (k×k)."""
Weight = Tensor | Callable[[], Tensor]
"""A frozen weight, or what computes it: it is then computed again in the backward pass instead of being kept for it."""


def low_rank_linear(
    x: Tensor, weight: Weight, bias: Tensor | None, down: Tensor, middle: Middle, up: Tensor, dropout: float = 0.0
) -> Tensor:
    """h = x W0ᵀ + b + dropout(x) downᵀ · middle · upᵀ, with W0 and b frozen.

    Dropout draws the mask that `torch.nn.Dropout` draws. Under autocast all products are computed in its dtype.

    Args:
        x: (..., d_in).
        weight: (d_out×d_in), or what computes it; it gets no gradient.
        bias: (d_out), without a gradient too.
        down: (k×d_in).
        middle: a number, (k,) for a diagonal, or (k×k).
        up: (d_out×k).
        dropout: probability of zeroing an element of x before `down`.
    """
    scalar, tensor = (1.0, middle) if isinstance(middle, Tensor) else (middle, None)
    out: Tensor = _LowRankLinear.apply(x, weight, bias, down, tensor, up, scalar, dropout)  # type: ignore[no-untyped-call]
    return out


def add_low_rank(product: Tensor, x: Tensor, down: Tensor, middle: Middle, up: Tensor, dropout: float = 0.0) -> Tensor:
    """product + dropout(x) downᵀ · middle · upᵀ, for a product (..., d_out) formed elsewhere; all else as above."""
    scalar, tensor = (1.0, middle) if isinstance(middle, Tensor) else (middle, None)
    out: Tensor = _AddLowRank.apply(product, x, down, tensor, up, scalar, dropout)  # type: ignore[no-untyped-call]
    return out


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        product: Tensor,
        x: Tensor,
        down: Tensor,
        middle: Tensor | None,
        up: Tensor,
        scalar: float,
        dropout: float,
    ) -> Tensor:
        dtype = product.dtype  # that of autocast, where it is on
        rows, down, up = x.reshape(-1, x.shape[-1]).to(dtype), down.to(dtype), up.to(dtype)
        middle = None if middle is None else middle.to(dtype)
        mask = None
        if dropout > 0:
            rows, mask = torch.native_dropout(rows, dropout, True)
        inner = _project(down, rows)
        out = torch.addmm(product.reshape(-1, product.shape[-1]), _as_rows(inner), _times_middle(up, middle, scalar).T)
        ctx.save_for_backward(rows, mask, down, middle, up, inner)
        ctx.scalar, ctx.dropout = scalar, dropout
        return out.view(product.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, mask, down, middle, up, inner = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        needs = ctx.needs_input_grad
        scaled, factors, back = _back_to_factors(grad, rows, inner, down, middle, up, ctx.scalar, needs[2:5])
        grad_x = None
        if needs[1]:
            grad_x = _as_rows(scaled) @ back
            if mask is not None:
                grad_x = torch.ops.aten.native_dropout_backward(grad_x, mask, 1 / (1 - ctx.dropout))
            grad_x = grad_x.view(*grads[0].shape[:-1], -1)
        return grads[0], grad_x, *factors, None, None


def _back_to_factors(
    grad: Tensor,
    rows: Tensor,
    inner: Tensor,
    down: Tensor,
    middle: Tensor | None,
    up: Tensor,
    scalar: float,
    needs: tuple[bool, ...],
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None], Tensor]:
    """Back from grad (n×d_out): grad times up, by blocks; the gradients of down, middle and up; and middle times down.

    A middle that is a number has no gradient.
    """
    needs_down, needs_middle, needs_up = needs
    scaled = _project(up.T.contiguous(), grad)
    grad_inner = _sum_over_blocks(inner, grad)
    middle_t = middle.T if middle is not None and middle.ndim == 2 else middle
    grad_down = _times_middle(_sum_over_blocks(scaled, rows).T, middle, scalar).T if needs_down else None
    grad_up = _times_middle(grad_inner.T, middle_t, scalar) if needs_up else None
    grad_middle = None
    if needs_middle and middle is not None:
        grad_middle = grad_inner @ up if middle.ndim == 2 else (grad_inner * up.T).sum(1)
    return scaled, (grad_down, grad_middle, grad_up), _times_middle(down.T, middle_t, scalar).T


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Weight,
        bias: Tensor | None,
        down: Tensor,
        middle: Tensor | None,
        up: Tensor,
        scalar: float,
        dropout: float,
    ) -> Tensor:
        ctx.compute_weight = None if isinstance(weight, Tensor) else weight
        if not isinstance(weight, Tensor):
            weight = weight()
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, down, up = x.to(dtype), weight.to(dtype), down.to(dtype), up.to(dtype)
            bias = None if bias is None else bias.to(dtype)
            middle = None if middle is None else middle.to(dtype)
        rows = x.reshape(-1, x.shape[-1])
        mask = inner = None
        if dropout == 0 and _worth_merging(rows, weight):
            merged_weight = _merged(weight, _times_middle(up, middle, scalar), down)
            out = rows @ merged_weight.T if bias is None else torch.addmm(bias, rows, merged_weight.T)
        else:
            flat = rows
            if dropout > 0:
                rows, mask = torch.native_dropout(flat, dropout, True)
            inner = _project(down, rows)
            out = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
            out.addmm_(_as_rows(inner), _times_middle(up, middle, scalar).T)
        ctx.save_for_backward(rows, mask, None if ctx.compute_weight else weight, down, middle, up, inner)
        ctx.scalar, ctx.dropout = scalar, dropout
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, mask, weight, down, middle, up, inner = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        needs_x, needs = ctx.needs_input_grad[0], ctx.needs_input_grad[3:6]
        merged = inner is None
        if merged:
            inner = _project(down, rows)
        scaled, factors, back = _back_to_factors(grad, rows, inner, down, middle, up, ctx.scalar, needs)
        grad_x = None
        if needs_x:
            if weight is None:
                weight = ctx.compute_weight().to(rows.dtype)
            if merged:
                grad_x = grad @ _merged(weight, up, back)
            elif mask is None:
                grad_x = (grad @ weight).addmm_(_as_rows(scaled), back)
            else:
                passed = torch.ops.aten.native_dropout_backward(_as_rows(scaled) @ back, mask, 1 / (1 - ctx.dropout))
                grad_x = (grad @ weight).add_(passed)
            grad_x = grad_x.view(*grads[0].shape[:-1], -1)
        return grad_x, None, None, *factors, None, None


def _worth_merging(rows: Tensor, weight: Tensor) -> bool:
    """Whether two passes over the weight cost less than one over the outputs and one over the inputs.

    Not in half precision, in which a small update of a weight would be lost.
    """
    d_out, d_in = weight.shape
    return weight.dtype in (torch.float32, torch.float64) and len(rows) * (d_in + d_out) > 2 * d_in * d_out


def _times_middle(factor: Tensor, middle: Tensor | None, scalar: float) -> Tensor:
    """factor (d×k) times middleᵀ: the small factor is multiplied, never a tensor with a row per token."""
    if middle is None:
        return factor * scalar
    return factor @ middle.T if middle.ndim == 2 else factor * middle


def _merged(weight: Tensor, left: Tensor, down: Tensor) -> Tensor:
    """W0 with left (d_out×k) times down (k×d_in) added, in a new tensor."""
    if len(down) == 1:
        return torch.addcmul(weight, left, down)  # half the time of addmm
    return torch.addmm(weight, left, down)


def _blocks(rows: Tensor) -> int:
    """Number of blocks for n rows; it depends on n alone, so that results do not depend on the number of threads."""
    return math.gcd(len(rows), 8) if rows.device.type == "cpu" else 1


def _project(factor: Tensor, rows: Tensor) -> Tensor:
    """factor (k×d), k small, times rowsᵀ of rows (n×d), by blocks: (count×k×n/count)."""
    count = _blocks(rows)
    return torch.bmm(factor.expand(count, -1, -1), rows.view(count, -1, rows.shape[1]).mT)


def _as_rows(projected: Tensor) -> Tensor:
    """The result of `_project` as (n×k)."""
    return projected.mT.reshape(-1, projected.shape[1])


def _sum_over_blocks(projected: Tensor, rows: Tensor) -> Tensor:
    """projected (count×k×n/count) of `_project` times rows (n×d), summed over the blocks: (k×d)."""
    return torch.bmm(projected, rows.view(len(projected), -1, rows.shape[1])).sum(0)
