"""The pinned encoder with its classification head, and where its six linear maps are."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import transformers
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lora2_bench.errors import UserError
from lora2_bench.experiment.maps import MAPS, MAPS_BY_TYPE

ENCODERS = tuple(MAPS_BY_TYPE)
_LAYER = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.(.+)$")
_HEAD = re.compile(r"(?:^|\.)(pooler|classifier)(?=\.)")


def is_head(name: str) -> bool:
    """Whether a parameter of this name is the head's: in the pooler or the classifier."""
    return _HEAD.search(name) is not None


MapKey = tuple[int, str]
_OWN = "is_the_backbones_own"  # an attribute of tensors: it goes with the tensor, wherever a method puts that


@dataclass
class Backbone:
    """A sequence classifier in fp32 with its tokenizer.

    Attributes:
        name: the config's name, as in `model=minilm`.
        sha256: of the weights file; None for random weights.
        origin: name of the base model in an exported adapter.
        tokenizer_sha256: of the tokenizer's files; None without such.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    sha256: str | None = None
    origin: str | None = None
    tokenizer_sha256: str | None = None

    def __post_init__(self) -> None:
        self._mark_own()

    def _mark_own(self) -> None:
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            setattr(tensor, _OWN, True)

    def to(self, device: torch.device) -> None:
        """Move the model, before a method is injected."""
        self.model.to(device)
        self._mark_own()  # a buffer that is moved is another tensor

    def linear_maps(self, targets: list[str] | tuple[str, ...] = MAPS) -> dict[MapKey, str]:
        """(layer, map) -> module name, for the maps in `targets`, in the model's order.

        Raises UserError where the model has none of a target, or an unknown architecture.
        """
        kind = self.model.config.model_type
        if kind not in MAPS_BY_TYPE:
            raise UserError(f"model={self.name} is of type {kind}: adapters fit {', '.join(MAPS_BY_TYPE)} encoders")
        found: dict[MapKey, str] = {}
        for name, module in self.model.named_modules():
            match = _LAYER.search(name)
            if match and isinstance(module, nn.Linear) and (short := MAPS_BY_TYPE[kind].get(match[2])) in targets:
                found[int(match[1]), str(short)] = name
        missing = [target for target in targets if target not in {short for _, short in found}]
        if missing:
            raise UserError(
                f"method.targets has {missing[0]}, which model={self.name} lacks: choose from "
                f"{', '.join(short for short in MAPS if short not in missing)}"
            )
        return found

    def owns(self, tensor: torch.Tensor) -> bool:
        """False for a parameter or buffer of the model that a method has added."""
        return hasattr(tensor, _OWN)

    def adopt(self, tensor: torch.Tensor) -> None:
        """Count a tensor that a method has computed from the backbone's weights alone as the backbone's own."""
        setattr(tensor, _OWN, True)

    def head_modules(self) -> list[str]:
        """Names of the top modules of the head (pooler and classifier), which every method trains."""
        names = {name[: match.end()] for name, _ in self.model.named_parameters() if (match := _HEAD.search(name))}
        return sorted(names)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of the head."""
        return {name: p for name, p in self.model.named_parameters() if is_head(name)}


def random_backbone(config: PretrainedConfig, name: str = "random") -> Backbone:
    """A backbone of random weights, on torch's current default device."""
    transformers.logging.set_verbosity_error()
    return Backbone(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32), None, name)
