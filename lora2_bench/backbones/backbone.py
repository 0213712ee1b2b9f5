"""The pinned encoder with its classification head, and where its six linear maps are."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import transformers
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lora2_bench.backbones.fused import RowBlocks
from lora2_bench.errors import UserError
from lora2_bench.experiment.maps import FUSED_BY_TYPE, MAPS, MAPS_BY_TYPE

ENCODERS = tuple(MAPS_BY_TYPE)
LAYER = re.compile(r"(?:^|\.)(?:encoder\.layer|layers)\.(\d+)\.(.+)$")
"""Number of the layer, and name below it, of a module or tensor of an encoder's layer."""
_HEAD = re.compile(r"(?:(?:^|\.)(?:pooler|classifier)|^head)(?=\.)")


def is_head(name: str) -> bool:
    """Whether a parameter of this name is the head's: in the pooler (ModernBERT: its head) or the classifier."""
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

        A fused map that holds one of them is taken apart first: its row blocks then have names below its own.
        Raises UserError where the model has none of a target, or an unknown architecture.
        """
        names = MAPS_BY_TYPE[self.known_type()]
        self._take_apart(targets)
        found: dict[MapKey, str] = {}
        for name, module in self.model.named_modules():
            match = LAYER.search(name)
            if match and isinstance(module, nn.Linear) and (short := names.get(match[2])) in targets:
                found[int(match[1]), str(short)] = name
        missing = [target for target in targets if target not in {short for _, short in found}]
        if missing:
            raise UserError(
                f"method.targets has {missing[0]}, which model={self.name} lacks: choose from "
                f"{', '.join(short for short in MAPS if short not in missing)}"
            )
        return found

    def whole_maps(self, targets: list[str] | tuple[str, ...]) -> list[str]:
        """Names of the maps in `targets` in the untouched model, where a fused map is one.

        Raises UserError as `linear_maps`, and for targets that are a part of a fused map.
        """
        fused = FUSED_BY_TYPE.get(self.known_type(), {})
        for name, letters in fused.items():
            if set(targets) & set(letters) and not set(letters) <= set(targets):
                raise UserError(
                    f"method.targets={','.join(targets)} has a part of {name}, one map of model={self.name} that PEFT "
                    f"tunes whole: give all of {', '.join(letters)}, or none"
                )
        parts = {letter for letters in fused.values() for letter in letters}
        rest = [target for target in targets if target not in parts]
        found = set(self.linear_maps(rest).values())
        for name, _ in self.model.named_modules():
            match = LAYER.search(name)
            if match and set(fused.get(match[2], ())) & set(targets):
                found.add(name)
        return [name for name, _ in self.model.named_modules() if name in found]

    def known_type(self) -> str:
        """The type of encoder. Raises UserError for one whose maps are not known here."""
        kind = str(self.model.config.model_type)
        if kind not in MAPS_BY_TYPE:
            raise UserError(f"model={self.name} is of type {kind}: adapters fit {', '.join(MAPS_BY_TYPE)} encoders")
        return kind

    def _take_apart(self, targets: list[str] | tuple[str, ...]) -> None:
        """Put the row blocks of a fused map with one of `targets` in its place; they are the backbone's own."""
        fused = FUSED_BY_TYPE.get(self.model.config.model_type, {})
        for name, module in list(self.model.named_modules()):
            match = LAYER.search(name)
            letters = fused.get(match[2], ()) if match else ()
            if isinstance(module, nn.Linear) and set(letters) & set(targets):
                blocks = RowBlocks(module, letters)
                for parameter in blocks.parameters():
                    self.adopt(parameter)
                parent, _, leaf = name.rpartition(".")
                setattr(self.model.get_submodule(parent), leaf, blocks)

    def owns(self, tensor: torch.Tensor) -> bool:
        """False for a parameter or buffer of the model that a method has added."""
        return hasattr(tensor, _OWN)

    def adopt(self, tensor: torch.Tensor) -> None:
        """Count a tensor that a method has computed from the backbone's weights alone as the backbone's own."""
        setattr(tensor, _OWN, True)

    def head_modules(self) -> list[str]:
        """Names of the top modules of the head (pooler or head, and classifier), which every method trains."""
        names = {name[: match.end()] for name, _ in self.model.named_parameters() if (match := _HEAD.search(name))}
        return sorted(names)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of the head."""
        return {name: p for name, p in self.model.named_parameters() if is_head(name)}


def mix_in(mixin: type[nn.Module], module: nn.Module) -> None:
    """Put a class before the module's own: its methods come first, and no weight is touched or renamed."""
    kind = type(module)
    module.__class__ = type(f"{mixin.__name__}Of{kind.__name__}", (mixin, kind), {})


def random_backbone(config: PretrainedConfig, name: str = "random") -> Backbone:
    """A backbone of random weights, on torch's current default device."""
    transformers.logging.set_verbosity_error()
    return Backbone(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32), None, name)
