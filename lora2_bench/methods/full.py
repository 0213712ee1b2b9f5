"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.methods.base import Method


@dataclass(frozen=True)
class FullOptions:
    """Full fine-tuning has no options of its own."""


class Full(Method):
    """Every weight of backbone and head trains."""

    Options = FullOptions
    exports = "none"
    merges = True

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Unfreeze every parameter."""
        self.backbone = backbone
        backbone.model.requires_grad_(True)

    def merge(self) -> None:
        """Nothing is beside the backbone's own weights."""
