"""A trained adapter as an ordinary PEFT folder, head included: exact, and loadable with no code of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save
from torch import Tensor

from lora2_bench.backbones.fused import Factors, fused_factors
from lora2_bench.files.writing import write_bytes, write_json
from lora2_bench.methods.base import Method

if TYPE_CHECKING:  # its import takes longer than an export, and LoRA's config is plain data
    from peft import PeftConfig

_PREFIX = "base_model.model."


def export_adapter(folder: Path, method: Method, base: str | None = None) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, head included, for a method that PEFT can load.

    The base model is named `base`; by its origin on the hub, never by a path, without one. Raises ValueError for other
    methods.
    """
    backbone = method.backbone
    config, tensors = method.peft_adapter() or _as_lora(method)
    origin = base or backbone.origin or backbone.name
    whole = [*backbone.head_modules(), *method.whole_modules()]
    saved = sorted({name.rpartition(".")[2] for name in whole})
    if isinstance(config, dict):
        config |= {"base_model_name_or_path": origin, "modules_to_save": saved}
    else:
        config.base_model_name_or_path, config.modules_to_save = origin, saved
    heads = {
        f"{_PREFIX}{module}.{name}": parameter.detach()
        for module in whole
        for name, parameter in backbone.model.get_submodule(module).named_parameters()
    }
    write_adapter(folder, config, tensors | heads)


def write_adapter(folder: Path, config: PeftConfig | dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a new folder with a classifier's PEFT config, as an object or as its values, and its tensors."""
    classifier = {"task_type": "SEQ_CLS", "inference_mode": True}
    folder.mkdir()
    path = folder / "adapter_config.json"
    if isinstance(config, dict):
        write_json(path, config | classifier)
    else:
        for name, value in classifier.items():
            setattr(config, name, value)
        config.save_pretrained(str(folder))
        _sort_lists(path)
    save_tensors(tensors, folder / "adapter_model.safetensors")


def _as_lora(method: Method) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The values of PEFT's LoraConfig and the tensors of a method with LoRA factors.

    lora_B includes the scale, so lora_alpha equals r, module by module. Modules without any rank are left out.
    """
    factors = method.lora_factors()
    if factors is None:
        raise ValueError(f"{type(method).__name__} has no LoRA factors")
    factors = fused_factors(method.backbone.model, factors)
    factors = {name: pair for name, pair in factors.items() if len(pair[0])} or _one_zero_rank(factors)
    ranks = {name: len(lora_a) for name, (lora_a, _) in factors.items()}
    rank = max(ranks.values())
    smaller = {name: value for name, value in ranks.items() if value != rank}
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(factors),
    }
    tensors: dict[str, Tensor] = {}
    for name, (lora_a, lora_b) in factors.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = lora_a
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = lora_b
    return config, tensors


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all. Raises OSError where that fails."""
    write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def _sort_lists(path: Path) -> None:
    """Sort the lists of names in PEFT's config, which it keeps as sets: the same adapter gives the same bytes."""
    values = json.loads(path.read_text(encoding="utf-8"))
    names = {key: sorted(value) for key, value in values.items() if isinstance(value, list)}
    write_json(path, values | names)


def _one_zero_rank(factors: Factors) -> Factors:
    """The first module with one rank of zeros, for PEFT needs at least one module, even where every rank is pruned."""
    name, (lora_a, lora_b) = next(iter(factors.items()))
    return {name: (lora_a.new_zeros(1, lora_a.shape[1]), lora_b.new_zeros(lora_b.shape[0], 1))}
