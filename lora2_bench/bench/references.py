"""Methods for comparison in the benchmark: the frozen backbone, and LoRA² with its full-size product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.methods.base import Method, freeze_but_head
from lora2_bench.methods.lora2 import LoRA2, LoRA2Linear


class HeadOnly(Method):
    """The head alone trains, and the gradient flows through the whole encoder, as for any adapter in it."""

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Freeze all but the head, and let the embeddings' output require a gradient."""
        self.backbone = backbone
        freeze_but_head(backbone)

        def flow(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            output.requires_grad_()

        backbone.model.base_model.embeddings.register_forward_hook(flow)


class DenseLoRA2Linear(LoRA2Linear):
    """h = x W0ᵀ + b + x (P diag(E) Q) · alpha / r, with the d_in×d_out product in brackets built in every pass."""

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out), in the order of the released code: alpha and r meet the large output."""
        P, Q, r = self.A.T @ self.B.T, self.C.T @ self.D.T, len(self.E)
        return x @ (P @ torch.diag(self.E) @ Q) * (self.scale * r) / r


class DenseLoRA2(LoRA2):
    """LoRA² as the authors' released code multiplies it (github.com/Godz-z/LoRA-2, loralib/LoRA2.py)."""

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> DenseLoRA2Linear:
        """A dense layer over `base`."""
        return DenseLoRA2Linear(base, self.options, generator)
