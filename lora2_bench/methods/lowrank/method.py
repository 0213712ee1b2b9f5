"""Base classes of the low-rank methods: injection, options, ranks and their counts."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone, MapKey
from lora2_bench.experiment.checks import require, require_number
from lora2_bench.experiment.maps import MAPS, TARGETS
from lora2_bench.methods.base import Method, freeze_but_head
from lora2_bench.methods.lowrank.layers import AdaptedLinear, GatedLinear, RankedLinear
from lora2_bench.methods.lowrank.stack import Stack, flatten_groups, stacks_of

Layer = TypeVar("Layer", bound=AdaptedLinear)


Ranked = TypeVar("Ranked", bound=RankedLinear)


class AdapterMethod(Method, Generic[Layer]):
    """A method that puts an `AdaptedLinear` in the place of every target map.

    Attributes:
        layers: (layer, map) -> the adapted map.
        stacks: name of a factor -> that factor of all layers, one stack per shape.
    """

    exports = "lora"
    merges = True
    rank_options: ClassVar[tuple[str, ...]] = ("k", "r")
    """Options that are ranks of a map's update, and so at most its width; () where a rank may be above it."""
    layers: dict[MapKey, Layer]
    stacks: dict[str, list[Stack]]

    @abstractmethod
    def adapt(self, base: nn.Linear, generator: torch.Generator) -> Layer:
        """The adapted layer that takes the place of `base`."""

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Replace the target maps and freeze all but adapters and head."""
        self.backbone = backbone
        self._names = backbone.linear_maps(self.options.targets)
        self._check_ranks()
        freeze_but_head(backbone)
        self.layers = {}
        for key, name in self._names.items():
            layer = self.adapt(backbone.model.get_submodule(name), generator)
            layer.fused = self.engine == "fast"
            put(backbone, name, layer)
            self.layers[key] = layer
        factors: dict[str, dict[int, nn.Parameter]] = {}
        for row, layer in enumerate(self.layers.values()):
            for factor, parameter in layer.named_parameters(recurse=False):
                factors.setdefault(factor, {})[row] = parameter
        self.stacks = {factor: stacks_of(parameters) for factor, parameters in factors.items()}
        if self.engine == "fast":
            backbone.model.register_forward_pre_hook(self._cache_middles)
            backbone.model.register_forward_hook(self._clear_middles, always_call=True)

    def _check_ranks(self) -> None:
        """Raise UserError for a rank above the width of a target map: what is above it adds parameters, no function."""
        maps = [self.backbone.model.get_submodule(name) for name in self._names.values()]
        width = min(min(base.in_features, base.out_features) for base in maps)
        for name in self.rank_options:
            if (rank := getattr(self.options, name, 0)) > width:
                require(False, f"method.{name}", rank, f"at most {width}, the width of this backbone's narrowest map")

    def middles(self) -> Tensor | None:
        """The middles of all layers, (layers, ...), computed at once; None where each layer computes its own."""
        return None

    def _cache_middles(self, *_: Any) -> None:
        if (middles := self.middles()) is not None:
            for layer, middle in zip(self.layers.values(), middles.unbind(), strict=True):
                layer.cached_middle = middle

    def _clear_middles(self, *_: Any) -> None:
        for layer in self.layers.values():
            layer.cached_middle = None

    def optimizer_groups(self, weight_decay: float, head_lr: float | None = None) -> list[dict[str, Any]]:
        """As `param_groups`; on the fast engine each is one flat parameter, of which the trained ones are views."""
        groups = self.param_groups(weight_decay, head_lr)
        if self.engine == "plain":
            return groups
        return flatten_groups(groups, [stack for stacks in self.stacks.values() for stack in stacks])

    def zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Set them to None; on the fast engine zero them in place, because they are views of the flat gradients."""
        optimizer.zero_grad(set_to_none=self.engine == "plain")

    def lora_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Module name in the untouched backbone -> (lora_A, lora_B)."""
        return {name: self.layers[key].factors() for key, name in self._names.items()}

    @torch.no_grad()
    def merge(self) -> None:
        """Put every target map back, with the layer's update in it."""
        for key, name in self._names.items():
            layer = self.layers[key]
            self.merge_layer(layer)
            put(self.backbone, name, layer.base)

    def merge_layer(self, layer: Layer) -> None:
        """Put the layer's update into its base: into a new weight, for backbones of one process share the old one."""
        lora_a, lora_b = layer.factors()
        layer.base.weight = nn.Parameter(torch.addmm(layer.base.weight, lora_b, lora_a), requires_grad=False)


class RankedMethod(AdapterMethod[Ranked]):
    """An adapter method that prunes ranks; its options have the initial rank `r` of every layer."""

    @abstractmethod
    def kept(self) -> list[int]:
        """Ranks in use, per layer in order."""

    def in_use(self) -> list[int]:
        """Ranks that take part in the forward pass of this moment, per layer in order."""
        return self.kept()

    def parameters(self) -> dict[str, int]:
        """Counts; `active` excludes pruned ranks."""
        return {**super().parameters(), "active": self._active(self.kept())}

    def at_scoring(self) -> dict[str, Any]:
        """Active parameters and ranks of this moment."""
        ranks = self.in_use()
        return {"active": self._active(ranks), "ranks": self._by_map(ranks), "ranks_kept": sum(ranks)}

    def summary(self) -> dict[str, Any]:
        """Ranks kept per layer and map (the paper's Figure 3), and in all."""
        kept = self.kept()
        return {"ranks": self._by_map(kept), "ranks_kept": sum(kept), "ranks_initial": self.options.r * len(kept)}

    def _active(self, ranks: list[int]) -> int:
        pairs = zip(self.layers.values(), ranks, strict=True)
        return sum(layer.active_parameters(rank) for layer, rank in pairs)

    def _by_map(self, ranks: list[int]) -> dict[str, dict[str, int]]:
        """Layer -> map -> its rank."""
        found: dict[str, dict[str, int]] = {}
        for (layer, name), rank in zip(self.layers, ranks, strict=True):
            found.setdefault(str(layer), {})[name] = rank
        return found


Gated = TypeVar("Gated", bound=GatedLinear)


class GatedMethod(RankedMethod[Gated]):
    """A ranked method whose layers have gates; its options have `scale` beside `r`."""

    def middles(self) -> Tensor:
        """The scaled gates of every layer (layers×r)."""
        (gates,) = self.stacks["gate"]
        return gates.tensor() * float(self.options.scale)


def put(backbone: Backbone, name: str, module: nn.Module) -> None:
    """Put a module into the place that `name` has in the model."""
    parent, _, leaf = name.rpartition(".")
    setattr(backbone.model.get_submodule(parent), leaf, module)


def check_adapter_options(options: Any) -> None:
    """Raise UserError unless `targets`, `alpha` and `dropout` are possible."""
    check_targets(options)
    require_number("method.alpha", options.alpha, 1e-12, 1e6, "a number above 0")


def check_targets(options: Any) -> None:
    """Raise UserError unless `targets` and `dropout` are possible."""
    targets = options.targets
    known = isinstance(targets, list | tuple) and len(targets) > 0 and all(target in MAPS for target in targets)
    require(known, "method.targets", targets, TARGETS)
    require(len(set(targets)) == len(targets), "method.targets", targets, "a list without repeats")
    require_number("method.dropout", options.dropout, 0.0, 0.99, "a number from 0 to 0.99")
