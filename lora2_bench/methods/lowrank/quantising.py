"""Base class of the methods that keep the frozen maps in few bits, with a low-rank update beside them."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.backbones.fused import fused_weights
from lora2_bench.errors import UserError
from lora2_bench.methods.lowrank.method import AdapterMethod, Layer, put
from lora2_bench.methods.lowrank.quantised import QuantisedLinear


class QuantisingMethod(AdapterMethod[Layer]):
    """Quantises all linear maps of the encoder's layers, those without an adapter too; `adapt` does it for targets.

    What it quantises follows from the backbone: it is in no saved state, and its digest is in checkpoints and records.
    """

    starts_as_backbone = False

    @abstractmethod
    def quantise(self, base: nn.Linear) -> QuantisedLinear:
        """The map in few bits."""

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Replace the target maps by adapted ones, the others by quantised ones; freeze all but adapters and head."""
        every = backbone.linear_maps()
        super().inject(backbone, generator)
        self._quantised: dict[str, QuantisedLinear] = {}
        for key, name in every.items():
            if key in self.layers:
                base: nn.Linear = self.layers[key].base
            else:
                base = self.quantise(backbone.model.get_submodule(name))
                put(backbone, name, base)
            assert isinstance(base, QuantisedLinear)
            self._quantised[name] = base
            for buffer in base.buffers():
                backbone.adopt(buffer)
        self._digest = self._hash()

    def _hash(self) -> str:
        """SHA-256 over the buffers of all quantised maps, with their names."""
        digest = hashlib.sha256()
        for module, linear in self._quantised.items():
            for name, buffer in linear.named_buffers():
                digest.update(f"{module}.{name}\0{buffer.dtype}{tuple(buffer.shape)}\0".encode())
                digest.update(buffer.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def finish(self) -> None:
        """Raise ValueError where a frozen weight has changed."""
        super().finish()
        if self._hash() != self._digest:
            raise ValueError("the frozen, quantised weights are not those that training began with")

    def state_dict(self) -> dict[str, Any]:
        """The digest of the quantised weights."""
        return {"quantised": self._digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise UserError for a checkpoint trained beside other quantised weights, as another machine's may be."""
        if state["quantised"] != self._digest:
            raise UserError(
                f"the checkpoint was trained beside frozen weights of digest {state['quantised'][:16]}, quantising "
                f"gives {self._digest[:16]} here: go on where it began, or start anew in another results=DIR"
            )

    def summary(self) -> dict[str, Any]:
        """Bytes of the frozen weights of all maps, as they are kept and in float32, and their digest."""
        buffers = {buffer.data_ptr(): buffer for linear in self._quantised.values() for buffer in linear.buffers()}
        weights = sum(linear.in_features * linear.out_features for linear in self._quantised.values())
        kept = {
            "bytes": sum(buffer.numel() * buffer.element_size() for buffer in buffers.values()),
            "bytes_float32": 4 * weights,
            "sha256": self._digest,
        }
        return {**super().summary(), "frozen_weights": kept}

    def replaced_weights(self) -> dict[str, Tensor]:
        """The values of the quantised weights."""
        weights = {name: linear.dequantise() for name, linear in self._quantised.items()}
        fused = fused_weights(self.backbone.model, weights)
        return {f"{name}.weight": weight for name, weight in fused.items()}
