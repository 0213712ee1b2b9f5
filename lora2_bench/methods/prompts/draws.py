"""First weights of prompts and their encoders, drawn from a generator of their own."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def normal(shape: tuple[int, ...], std: float, like: Tensor, generator: torch.Generator) -> nn.Parameter:
    """A parameter drawn from N(0, std²) on the CPU, with the dtype and device of `like`."""
    return nn.Parameter(torch.empty(shape, dtype=like.dtype).normal_(0.0, std, generator=generator).to(like.device))


@torch.no_grad()
def redraw(module: Module, like: Tensor, generator: torch.Generator) -> Module:
    """The module with weights that `generator` draws from the distributions of torch's constructors.

    It takes dtype and device of `like`. Embeddings are standard normal; linear maps and LSTMs are uniform within
    1 / sqrt(inputs) and 1 / sqrt(hidden width).
    """
    module.to("cpu", like.dtype)
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            part.weight.normal_(generator=generator)
        elif isinstance(part, nn.Linear | nn.LSTM):
            width = part.in_features if isinstance(part, nn.Linear) else part.hidden_size
            for parameter in part.parameters(recurse=False):
                parameter.uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
    return module.to(like.device)
