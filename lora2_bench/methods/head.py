"""The head alone over a frozen encoder: the control that every other method has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.methods.base import Method, freeze_but_head


@dataclass(frozen=True)
class HeadOptions:
    """The head alone has no options of its own."""


class Head(Method):
    """The pooler, where the encoder has one, and the classifier train: what every method trains beside its own."""

    Options = HeadOptions

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Unfreeze the head."""
        self.backbone = backbone
        freeze_but_head(backbone)
