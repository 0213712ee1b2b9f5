"""Any tuner of PEFT as a method: `method._target_=peft.LoHaConfig` with that config's own options."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Union

import peft
import torch
from peft import PeftConfig, PeftModel, PromptLearningConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.errors import UserError, first_line
from lora2_bench.experiment.checks import require
from lora2_bench.experiment.maps import MAPS, TARGETS
from lora2_bench.methods.base import Method, without_name
from lora2_bench.methods.lowrank.method import put

# What cannot be trained here, and why.
_REFUSED = {
    "AdaLoraConfig": "give method=adalora, which is checked against it and prunes by this run's own steps",
    "AdaptionPromptConfig": "it is written for decoders of the LLaMA family",
    "ArrowConfig": "it routes between finished LoRA adapters and trains none",
    "CPTConfig": "it is written for decoders",
    "CartridgeConfig": "it is written for decoders, whose cache it trains",
    "MultitaskPromptTuningConfig": "it is written for encoder-decoders",
    "OSFConfig": "it freezes directions of earlier tasks, and a cell has one task",
    "PolyConfig": "it needs the task of each row, and a cell has one task",
    "PrefixTuningConfig": "its prefix shifts positions, and its head reads another token",
    "PromptEncoderConfig": "its head would read a virtual token",
    "PromptTuningConfig": "its head would read a virtual token",
    "ShadowConfig": "it is written for decoders",
    "TrainableTokensConfig": "it trains chosen rows of a decoder's vocabulary and no task",
    "XLoraConfig": "it mixes finished LoRA adapters and trains none",
}
# Ways to start LoRA that take rows of the task or quantised weights, which PEFT wants in calls of their own.
_STARTS_REFUSED = ("corda", "eva", "loftq", "lora_ga")
# Set here, and the same for every tuner.
_OURS = (
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
)
# Tuners that change the backbone's outputs before the first step, by their definition.
_START_ELSEWHERE = ("C3AConfig", "FourierFTConfig", "VBLoRAConfig")
# Options of a size that PEFT changes, with no error, where they do not divide a map's inputs.
_DIVISORS = {"OFTConfig": ("r", "oft_block_size")}
# Tuners whose update PEFT does not put into a map.
_NOT_MERGED = ("LilyConfig",)


@dataclass(frozen=True)
class TunerOptions:
    """Options of a PEFT tuner.

    Attributes:
        targets: the paper's letters of the maps that are tuned, or None where `values` names modules.
        values: the PEFT config's own fields.
    """

    targets: tuple[str, ...] | None
    values: Mapping[str, Any] = field(default_factory=dict)


class PeftTuner(Method):
    """A tuner of PEFT in the backbone, which stays a model of transformers; the head trains as in every method.

    What the tuner draws comes from the generator that `inject` gets. `load_method("peft.LoHaConfig")` makes the
    subclass of one config.
    """

    Options = TunerOptions
    exports = "peft"
    merges = True
    config_class: ClassVar[type[PeftConfig]]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> TunerOptions:
        """The checked options: `targets`, and fields of the PEFT config. Raises UserError."""
        given = without_name(values)
        targets = given.pop("targets", None)
        if targets is not None:
            known = isinstance(targets, list | tuple) and targets and all(target in MAPS for target in targets)
            require(bool(known), "method.targets", targets, f"{TARGETS}, or null")
            require(len(set(targets)) == len(targets), "method.targets", targets, "a list without repeats")
        modules = given.get("target_modules")
        if (targets is None) == (modules is None):
            raise UserError(f"method.targets={targets} with method.target_modules={modules}: give one of the two")
        hints = _fields(cls.config_class)
        for name, value in given.items():
            if name not in hints:
                near = difflib.get_close_matches(name, hints, n=1)
                hint = f"did you mean method.{near[0]}?" if near else f"choose from {', '.join(sorted(hints))}"
                raise UserError(f"method.{name} is not a setting of {cls.config_class.__name__}: {hint}")
            require(_fits(value, hints[name]), f"method.{name}", value, f"of PEFT's type {_shown(hints[name])}")
        start = given.get("init_lora_weights")
        allowed = "a start that needs neither rows nor quantised weights, as true, pissa, olora or orthogonal"
        require(start not in _STARTS_REFUSED, "method.init_lora_weights", start, allowed)
        options = TunerOptions(tuple(targets) if targets is not None else None, given)
        cls._config(options, {})
        return options

    @classmethod
    def _config(cls, options: TunerOptions, modules: Mapping[str, Any]) -> PeftConfig:
        """PEFT's config of the options, with `modules` instead of what names modules by the paper's letters."""
        try:
            return cls.config_class(**{**options.values, **modules})
        except Exception as error:  # each tuner checks its options in its own way
            raise cls._impossible(error) from None

    @classmethod
    def _impossible(cls, error: Exception) -> UserError:
        return UserError(f"method._target_=peft.{cls.config_class.__name__} is not possible: {first_line(error)}")

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Put the tuner's layers in place; head and tuner train."""
        self.backbone = backbone
        modules = {name: _modules(value, backbone) for name, value in self.options.values.items() if _in_letters(value)}
        if self.options.targets is not None:
            modules["target_modules"] = _modules(self.options.targets, backbone)
        config = self._config(self.options, modules)
        heads = backbone.head_parameters()
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Invalid `(r|oft_block_size)`")  # refused below
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # PEFT's own call
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            try:
                self.peft: PeftModel = get_peft_model(backbone.model, config)
            except Exception as error:  # widths that do not divide, modules that are not there, missing packages
                raise self._impossible(error) from None
        for parameter in heads.values():
            parameter.requires_grad_(True)
        for name, module in backbone.model.named_modules():
            if isinstance(module, BaseTunerLayer) and isinstance(module, nn.Module):
                self._check_divisors(name, module)
                module.register_forward_hook(_in_autocast_dtype)

    def _check_divisors(self, name: str, tuned: BaseTunerLayer) -> None:
        """Raise UserError where a size of the options is not the one that PEFT takes for this map."""
        layer = tuned.get_base_layer()
        for option in _DIVISORS.get(self.config_class.__name__, ()):
            size = self.options.values.get(option)
            if size and isinstance(layer, nn.Linear):
                allowed = f"a divisor of {layer.in_features}, the inputs of {name}"
                require(layer.in_features % size == 0, f"method.{option}", size, allowed)

    @torch.no_grad()
    def merge(self) -> None:
        """Let PEFT put each tuned layer's update into its own, and these back into the backbone."""
        if not self.merges:
            super().merge()
        layers: list[tuple[str, Any]] = list(self.backbone.model.named_modules())
        for name, layer in layers:
            if isinstance(layer, BaseTunerLayer):
                base = layer.get_base_layer()
                for key, parameter in tuple(base.named_parameters()):  # backbones of one process share the old ones
                    setattr(base, key, nn.Parameter(parameter.clone(), requires_grad=False))
                layer.merge()
                put(self.backbone, name, layer.get_base_layer())

    def peft_adapter(self) -> tuple[PeftConfig, dict[str, Tensor]]:
        """PEFT's config and tensors of the trained tuner."""
        return copy.deepcopy(self.peft.peft_config["default"]), get_peft_model_state_dict(
            self.peft, save_embedding_layers=False
        )


def tuner(config_class: type[PeftConfig]) -> type[PeftTuner]:
    """The method of one PEFT config. Raises UserError for those that cannot be trained here, with the reason."""
    if not (isinstance(config_class, type) and issubclass(config_class, PeftConfig)) or config_class is PeftConfig:
        shown = getattr(config_class, "__name__", config_class)
        raise UserError(f"method._target_=peft.{shown} is no tuner: give a config, as peft.LoHaConfig")
    name = config_class.__name__
    if (reason := _REFUSED.get(name)) is not None:
        raise UserError(f"method._target_=peft.{name} cannot be trained here: {reason}")
    if issubclass(config_class, PromptLearningConfig):
        raise UserError(f"method._target_=peft.{name} cannot be trained here: the head would read a virtual token")
    promises = {
        "config_class": config_class,
        "starts_as_backbone": name not in _START_ELSEWHERE,
        "merges": name not in _NOT_MERGED,
    }
    return type(name.removesuffix("Config"), (PeftTuner,), promises)


def _in_autocast_dtype(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    """The output as a linear map gives it under autocast.

    Some tuners return float32, to which DeBERTa-v2 then adds float32's minimum, out of bfloat16's range.
    """
    kind = output.device.type
    return output.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else output


def _in_letters(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(one in MAPS for one in value)


def _modules(letters: Any, backbone: Backbone) -> list[str]:
    """Names of the backbone's modules that the paper's letters stand for."""
    return backbone.whole_maps(tuple(letters))


def _fields(config_class: type[PeftConfig]) -> dict[str, Any]:
    """Name -> type of a PEFT config's fields, but for those that are set here."""
    hints: dict[str, Any] = typing.get_type_hints(config_class, localns=vars(peft))
    names = (one.name for one in dataclasses.fields(config_class) if one.init)
    return {name: hints[name] for name in names if name not in _OURS}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type that a field of a dataclass declares; types beyond plain data accept all."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    plain = origin or hint
    if plain is list:
        plain = (list, tuple)
    if plain in (bool, str, dict, type(None)) or isinstance(plain, tuple):
        return isinstance(value, plain)
    return True


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
