"""VeRA (Kopiczko et al., arXiv 2310.11454): two frozen random matrices for all maps, two trained vectors for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.backbones.fused import is_block
from lora2_bench.experiment.checks import MOST_RANKS, require_int, require_number
from lora2_bench.methods.lowrank.layers import AdaptedLinear
from lora2_bench.methods.lowrank.method import AdapterMethod, check_targets


@dataclass(frozen=True)
class VeRAOptions:
    """`r` is the rank of the shared matrices, `d_init` the first value of every d."""

    r: int
    d_init: float
    dropout: float
    targets: list[str]

    def __post_init__(self) -> None:
        require_int("method.r", self.r, 1, "an integer of at least 1", MOST_RANKS)
        require_number("method.d_init", self.d_init, -1e3, 1e3, "a number")
        check_targets(self)


class SharedPair(nn.Module):
    """The frozen A (r × widest input) and B (widest output × r), Kaiming uniform; a narrower map uses their corners."""

    A: Tensor
    B: Tensor

    def __init__(self, r: int, d_in: int, d_out: int, like: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        for name, shape in (("A", (r, d_in)), ("B", (d_out, r))):
            drawn = nn.init.kaiming_uniform_(torch.empty(shape, dtype=like.dtype), generator=generator)
            self.register_buffer(name, drawn.to(like.device), persistent=False)


class VeRALinear(AdaptedLinear):
    """h = x W0ᵀ + bias + b ⊙ ((d ⊙ x Aᵀ) Bᵀ), with d (r) constant and b (d_out) zero at the start."""

    def __init__(self, base: nn.Linear, options: VeRAOptions, pair: SharedPair) -> None:
        super().__init__(base, options.dropout)
        W = base.weight
        self.pair = pair
        self.d = nn.Parameter(torch.full((options.r,), float(options.d_init), dtype=W.dtype, device=W.device))
        self.b = nn.Parameter(torch.zeros(base.out_features, dtype=W.dtype, device=W.device))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        if self.fused and self._worth_merging(x):
            down, up = self.outer()
            return nn.functional.linear(x, torch.addmm(self.base.weight, up, down), self.base.bias)
        base: Tensor = self.base(x)
        return base + self.delta(self.dropout(x)).to(base.dtype)  # the vectors' own is wider under autocast

    def _worth_merging(self, x: Tensor) -> bool:
        """Whether a merged weight with its gradient costs fewer products than a pass of r columns for every row.

        Not with dropout, whose mask the base's input does not have, and not in half precision, in which a small update
        of a weight would be lost.
        """
        d_out, d_in = self.base.weight.shape
        rows, r = x.numel() // d_in, len(self.d)
        narrow = torch.is_autocast_enabled(x.device.type) or x.dtype not in (torch.float32, torch.float64)
        if narrow or (self.training and self.dropout.p > 0):
            return False
        return 2 * rows * r * (d_in + d_out) > (rows + 3 * r) * d_in * d_out

    def corners(self) -> tuple[Tensor, Tensor]:
        """A (r×d_in) and B (d_out×r) of this map."""
        return self.pair.A[:, : self.base.in_features], self.pair.B[: self.base.out_features]

    def outer(self) -> tuple[Tensor, Tensor]:
        """diag(d)·A and diag(b)·B."""
        A, B = self.corners()
        return self.d[:, None] * A, self.b[:, None] * B

    def middle(self) -> float:
        """1: the two vectors are all the scale there is."""
        return 1.0

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        A, B = self.corners()
        return self.b * ((self.d * (x @ A.T)) @ B.T)

    def factors(self) -> tuple[Tensor, Tensor]:
        """diag(d)·A (r×d_in) and diag(b)·B (d_out×r)."""
        down, up = self.outer()
        return down.detach(), up.detach()


class VeRA(AdapterMethod[VeRALinear]):
    """VeRA on every target map; A and B are drawn from the cell's seed and saved with what is trained."""

    Options = VeRAOptions
    exports = "peft"
    rank_options = ()  # its r of frozen directions is often above the width

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Draw A and B for the widest of the target maps, and replace these."""
        maps = [backbone.model.get_submodule(name) for name in backbone.linear_maps(self.options.targets).values()]
        weights: list[Tensor] = [module.weight for module in maps]
        d_out, d_in = (max(weight.shape[side] for weight in weights) for side in (0, 1))
        self.pair = SharedPair(self.options.r, d_in, d_out, weights[0], generator)
        super().inject(backbone, generator)

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> VeRALinear:
        """A VeRA layer over `base`."""
        return VeRALinear(base, self.options, self.pair)

    def peft_adapter(self) -> tuple[Any, dict[str, Tensor]] | None:
        """PEFT's VeRA with A and B: as LoRA factors of rank r it would hold both once for every map.

        None where q, k or v is a part of a fused map: PEFT has one pair of vectors for all of it.
        """
        if any(is_block(self.backbone.model, name) for name in self._names.values()):
            return None
        from peft import VeraConfig  # at the end of a run only

        config = VeraConfig(
            r=self.options.r,
            target_modules=sorted(self._names.values()),
            save_projection=True,
            d_initial=self.options.d_init,
            vera_dropout=0.0,
        )
        tensors = {"base_model.vera_A": self.pair.A, "base_model.vera_B": self.pair.B}
        for key, name in self._names.items():
            tensors[f"base_model.model.{name}.vera_lambda_d"] = self.layers[key].d.detach()
            tensors[f"base_model.model.{name}.vera_lambda_b"] = self.layers[key].b.detach()
        return config, tensors
