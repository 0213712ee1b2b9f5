"""QA-LoRA (Xu et al., arXiv 2309.14717): LoRA on pooled inputs that merges into an INT4 backbone's zero points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora2_bench.errors import UserError
from lora2_bench.experiment.checks import require, require_int
from lora2_bench.methods.lora import LoRAOptions
from lora2_bench.methods.lowrank.layers import AdaptedLinear, uniform
from lora2_bench.methods.lowrank.quantised import QuantisedLinear
from lora2_bench.methods.lowrank.quantising import QuantisingMethod

_HIGHEST = 15  # of four bits


@dataclass(frozen=True)
class QALoRAOptions(LoRAOptions):
    """LoRA's options; `group_size` inputs share a scale and a zero point in each row of a weight, and are pooled."""

    group_size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int("method.group_size", self.group_size, 2, "an even integer of at least 2")
        require(self.group_size % 2 == 0, "method.group_size", self.group_size, "an even integer of at least 2")


class Int4Linear(QuantisedLinear):
    """h = x Ŵᵀ + b with Ŵ_ij = scale_ig · (code_ij - zero_ig), where input j is of group g.

    A group's smallest weight has code 0 and its largest 15: round to nearest, without calibration data.

    Attributes:
        codes: (d_out × d_in / 2) bytes; the first of two codes is in a byte's low half.
        scales, zeros: (d_out × groups), floating.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, base: nn.Linear, group_size: int) -> None:
        super().__init__(base)
        self.group_size = group_size
        groups = base.weight.detach().view(base.out_features, -1, group_size)
        low, high = groups.aminmax(dim=2)
        scales = torch.where(high > low, (high - low) / _HIGHEST, 1.0)
        zeros = -low / scales
        codes = (groups / scales[..., None] + zeros[..., None]).round().clamp(0, _HIGHEST)
        codes = codes.to(torch.uint8).flatten(1)
        self.register_buffer("codes", codes[:, ::2] | codes[:, 1::2] << 4)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", zeros)

    def integers(self) -> Tensor:
        """The codes, one a byte: (d_out×d_in), 0 to 15."""
        return torch.stack([self.codes & _HIGHEST, self.codes >> 4], dim=2).flatten(1)

    def dequantise(self) -> Tensor:
        """Ŵ (d_out×d_in)."""
        codes = self.integers().view(self.out_features, -1, self.group_size).to(self.dtype)
        return (codes.sub_(self.zeros[..., None])).mul_(self.scales[..., None]).flatten(1)


class QALoRALinear(AdaptedLinear):
    """h = x Ŵᵀ + b + (alpha / r) · pool(x) Aᵀ Bᵀ, where pool is the mean over each group of inputs.

    A (r×groups) is uniform as torch's linear layers of as many inputs, B (d_out×r) zero.
    """

    base: Int4Linear

    def __init__(self, base: Int4Linear, options: QALoRAOptions, generator: torch.Generator) -> None:
        super().__init__(base, options.dropout)
        self.scale = options.scale
        groups = base.scales.shape[1]
        self.A = uniform((options.r, groups), 1 / math.sqrt(groups), base.scales, generator)
        self.B = nn.Parameter(base.scales.new_zeros(base.out_features, options.r))

    def outer(self) -> tuple[Tensor, Tensor]:
        """A with each column, divided by the group's size, for every input of its group (r×d_in), and B."""
        size = self.base.group_size
        return (self.A / size).repeat_interleave(size, dim=1), self.B

    def middle(self) -> float:
        """alpha / r."""
        return self.scale

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        pooled = x.reshape(*x.shape[:-1], -1, self.base.group_size).mean(-1)
        return self.scale * (pooled @ self.A.T) @ self.B.T

    def factors(self) -> tuple[Tensor, Tensor]:
        """(r×d_in) and (d_out×r)."""
        down, up = self.outer()
        return down.detach(), self.scale * up.detach()


class QALoRA(QuantisingMethod[QALoRALinear]):
    """A low-rank update on pooled inputs beside every target map, and all linear maps of the layers in INT4."""

    Options = QALoRAOptions

    def _check_ranks(self) -> None:
        """Raise UserError for maps that the groups do not divide, and for a rank above the narrowest map's groups."""
        size, rank = self.options.group_size, self.options.r
        maps = [self.backbone.model.get_submodule(name) for name in self.backbone.linear_maps().values()]
        widths = sorted({int(base.in_features) for base in maps})
        if odd := [width for width in widths if width % size]:
            raise UserError(
                f"method.group_size={size} does not divide {odd[0]}, the input width of a map of "
                f"model={self.backbone.name}: give an even divisor of {math.gcd(*widths)}"
            )
        most = min(widths[0] // size, *(int(base.out_features) for base in maps))
        require(rank <= most, "method.r", rank, f"at most {most}, the number of groups of the narrowest map's inputs")

    def quantise(self, base: nn.Linear) -> Int4Linear:
        """The map in INT4."""
        return Int4Linear(base, self.options.group_size)

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> QALoRALinear:
        """A QA-LoRA layer over the map in INT4."""
        return QALoRALinear(self.quantise(base), self.options, generator)

    def merge_layer(self, layer: QALoRALinear) -> None:
        """zero -= (alpha / r) · B A / (group size · scale): integers and scales stay as they are."""
        base = layer.base
        base.zeros.sub_(layer.scale * (layer.B @ layer.A) / (base.group_size * base.scales))
