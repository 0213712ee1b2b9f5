"""BitFit (Ben Zaken et al., arXiv 2106.10199)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.errors import UserError
from lora2_bench.methods.base import Method, freeze_but_head


@dataclass(frozen=True)
class BitFitOptions:
    """BitFit has no options of its own."""


class BitFit(Method):
    """Every bias of the encoder trains, those of the layer norms included, and the head."""

    Options = BitFitOptions
    merges = True

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Unfreeze the encoder's biases and the head."""
        self.backbone = backbone
        freeze_but_head(backbone)
        head = set(backbone.head_parameters())
        biases = [p for name, p in backbone.model.named_parameters() if name.endswith("bias") and name not in head]
        if not biases:
            raise UserError(f"model={backbone.name} has no biases for method=bitfit to train: choose another method")
        for bias in biases:
            bias.requires_grad_(True)

    def merge(self) -> None:
        """Nothing is beside the backbone's own biases."""
