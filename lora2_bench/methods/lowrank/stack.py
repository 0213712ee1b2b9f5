"""Parameters of one shape as one stacked tensor, and the flat buffers that hold all trained parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Stack:
    """One factor of several layers, as a tensor (n, *shape).

    Before `flatten_groups`, `tensor` stacks the parameters in every call; after it the parameters are contiguous, and
    `tensor` is a view of them, whose gradient is a view of theirs.

    Args:
        parameters: n parameters of one shape.
        rows: numbers of the layers that they belong to, in the same order.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rows: Sequence[int]) -> None:
        self.parameters = list(parameters)
        self.rows = torch.tensor(rows)
        self._view: Tensor | None = None

    def tensor(self) -> Tensor:
        """(n, *shape), through which gradients reach the parameters."""
        return torch.stack(list(self.parameters)) if self._view is None else self._view

    def value(self) -> Tensor:
        """(n, *shape) outside the graph."""
        return self.tensor().detach()

    def grad(self) -> Tensor:
        """(n, *shape): the parameters' gradients."""
        if self._view is not None:
            assert self._view.grad is not None
            return self._view.grad
        return torch.stack([parameter.grad for parameter in self.parameters if parameter.grad is not None])

    @torch.no_grad()
    def set_(self, values: Tensor) -> None:
        """Give the parameters the values (n, *shape)."""
        if self._view is not None:
            self._view.copy_(values)
            return
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def view_into(self, values: Tensor, grads: Tensor) -> None:
        """Make the stack a view into flat `values` and `grads`, which hold the parameters and their gradients."""
        shape = (len(self.parameters), *self.parameters[0].shape)
        self.rows = self.rows.to(values.device)
        self._view = values.view(shape).requires_grad_()
        self._view.grad = grads.view(shape)


def stacks_of(parameters: Mapping[int, nn.Parameter]) -> list[Stack]:
    """Layer's number -> parameter, as one stack per shape."""
    by_shape: dict[torch.Size, list[int]] = {}
    for row, parameter in parameters.items():
        by_shape.setdefault(parameter.shape, []).append(row)
    return [Stack([parameters[row] for row in rows], rows) for rows in by_shape.values()]


def map_layers(stacks: Sequence[Stack], of: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `of` to each stack, (n, *shape) -> (n, ...), and concatenate the results in the order of the layers."""
    parts = [of(stack.tensor()) for stack in stacks]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)[torch.argsort(torch.cat([stack.rows for stack in stacks]))]


def flatten_groups(groups: Iterable[Mapping[str, Any]], stacks: Iterable[Stack]) -> list[dict[str, Any]]:
    """Copy the parameters of each of an optimiser's groups into one flat parameter, with one flat gradient.

    The model keeps its parameters: they and their gradients become views. So the optimiser updates one tensor per
    group, and gradients must be zeroed in place, not set to None.

    Args:
        groups: as a method's `param_groups`; all on one device and of one dtype.
        stacks: become views of the flat parameters; the parameters of each belong to one group.
    """
    stacks = list(stacks)
    flat_groups = []
    for group in groups:
        members = set(group["params"])
        inside = [stack for stack in stacks if members.issuperset(stack.parameters)]
        stacked = [parameter for stack in inside for parameter in stack.parameters]
        rest = members.difference(stacked)
        ordered = stacked + [parameter for parameter in group["params"] if parameter in rest]
        flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in ordered]))
        flat.grad = torch.zeros_like(flat)
        sizes = [parameter.numel() for parameter in ordered]
        pieces = zip(ordered, torch.split(flat.detach(), sizes), torch.split(flat.grad, sizes), strict=True)
        for parameter, values, grads in pieces:
            parameter.data, parameter.grad = values.view_as(parameter), grads.view_as(parameter)
        start = 0
        for stack in inside:
            end = start + sum(parameter.numel() for parameter in stack.parameters)
            stack.view_into(flat.detach()[start:end], flat.grad[start:end])
            start = end
        flat_groups.append({**group, "params": [flat]})
    return flat_groups
