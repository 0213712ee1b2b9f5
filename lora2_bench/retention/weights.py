"""What training did to the encoder's linear maps: size and effective rank of the update, and intruder dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import LAYER, Backbone
from lora2_bench.errors import UserError
from lora2_bench.experiment.maps import FUSED_BY_TYPE, MAPS_BY_TYPE

TOP, THRESHOLD = 10, 0.5
_ROUNDING = 1e-6
"""Singular values under this share of the largest, and updates under this share of W₀, are float32's rounding."""


@dataclass(frozen=True)
class MapChange:
    """One map's update.

    Attributes:
        update: ‖ΔW‖/‖W₀‖, Frobenius.
        effective_rank: as `effective_rank`.
        cosines: as `largest_cosines`.
    """

    update: float
    effective_rank: float
    cosines: list[float]

    @property
    def intruders(self) -> int:
        """How many of W's top singular vectors are like none of W₀'s."""
        return sum(cosine < THRESHOLD for cosine in self.cosines)


def effective_rank(update: Tensor, floor: float = 0.0) -> float:
    """exp(H) of the singular values of (m×n), as shares of their sum (Roy and Vetterli 2007); 0 for no update.

    It is at most the rank, and equals it where all singular values are equal. Those of `floor` or less are left out.
    """
    values = torch.linalg.svdvals(update.double())
    values = values[values > max(floor, _ROUNDING * float(values.max()))]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def largest_cosines(before: Tensor, after: Tensor, top: int = TOP) -> list[float]:
    """For each of the `top` left singular vectors of W (m×n): its largest |cosine| with any of W₀'s.

    Those of W₀ are all min(m, n). A vector whose largest one is under a threshold is an intruder dimension
    (Shuttleworth et al., arXiv 2410.21228, whose code takes the top 10).
    """
    known = torch.linalg.svd(before.double(), full_matrices=False)[0]
    found = torch.linalg.svd(after.double(), full_matrices=False)[0][:, :top]
    return [min(1.0, cosine) for cosine in (found.T @ known).abs().amax(dim=1).tolist()]


def map_change(before: Tensor, after: Tensor, floor: float = 0.0) -> MapChange:
    """The update from W₀ to W, both (d_out×d_in); `floor` is the size of singular values that are rounding alone."""
    before, after = before.double(), after.double()
    update = after - before
    size = float(update.norm() / before.norm().clamp_min(1e-30))
    rank = effective_rank(update, floor) if size > _ROUNDING else 0.0
    return MapChange(size, rank, largest_cosines(before, after))


def map_changes(base: Backbone, adapted: Backbone) -> dict[int, dict[str, MapChange]]:
    """Layer -> map -> its change, of every map of the encoder; a fused map's row blocks are maps of their own.

    `base` is untouched. What a method computes in a map's place is found by what it does to the identity, so that any
    method whose adapted map is linear is measured, without a change to it. Within `encoder.frozen`.
    """
    kind = base.known_type()
    letters = {name: (letter,) for name, letter in MAPS_BY_TYPE[kind].items()} | FUSED_BY_TYPE.get(kind, {})
    found: dict[int, dict[str, MapChange]] = {}
    for name, module in base.model.named_modules():
        match = LAYER.search(name)
        if match is None or match[2] not in letters or not isinstance(module, nn.Linear):
            continue
        whole, changed = module.weight.detach().cpu(), adapted.model.get_submodule(name)
        after, floor = _weight_of(changed, module), 0.0
        if type(changed) is not nn.Linear:
            most = float(whole.abs().max()) + (0.0 if module.bias is None else float(module.bias.detach().abs().max()))
            floor = torch.finfo(torch.float32).eps * most * (whole.shape[0] ** 0.5 + whole.shape[1] ** 0.5)
        height = len(whole) // len(letters[match[2]])
        for number, letter in enumerate(letters[match[2]]):
            rows = slice(number * height, (number + 1) * height)
            found.setdefault(int(match[1]), {})[letter] = map_change(whole[rows], after[rows], floor)
    return found


def _weight_of(module: nn.Module, base: nn.Linear) -> Tensor:
    """The matrix (d_out×d_in), on the CPU, that a module multiplies inputs by. Raises UserError for none."""
    if type(module) is nn.Linear:
        return module.weight.detach().cpu()
    like = base.weight
    units = torch.eye(base.in_features, dtype=like.dtype, device=like.device)
    nothing = torch.zeros(1, 1, base.in_features, dtype=like.dtype, device=like.device)
    images: Tensor = (module(units.unsqueeze(0)) - module(nothing)).squeeze(0)
    of_sum = (module(units.sum(0).view(1, 1, -1)) - module(nothing)).flatten()
    if not bool(((images.sum(0) - of_sum).abs() <= 1e-3 * images.abs().sum(0) + 1e-6).all()):
        raise UserError("the method's maps are not linear, and have no singular vectors")
    return images.T.detach().cpu()
