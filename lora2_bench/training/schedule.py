"""The schedule of the learning rate: a linear warm-up, then constant, or down to zero in a line or half a cosine.

The factors are those of transformers' `get_scheduler`, number for number. Its import takes PEFT and what PEFT finds
installed with it, which is a quarter of the time before the first step.
"""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def make_schedule(name: str, optimizer: Optimizer, warmup: int, total: int) -> LambdaLR:
    """The schedule `linear`, `cosine` or `constant` over `total` steps, the first `warmup` of which rise to it."""
    return LambdaLR(optimizer, partial(factor, name, warmup=warmup, total=total))


def factor(name: str, step: int, *, warmup: int, total: int) -> float:
    """What the learning rate is multiplied with after `step` steps, 0 to 1."""
    if step < warmup:
        return step / max(1, warmup)
    if name == "constant":
        return 1.0
    if name == "linear":
        return max(0.0, (total - step) / max(1, total - warmup))
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)))
