"""A trained adapter as an ordinary PEFT LoRA folder, head included: exact, and loadable with no code of ours."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig, TaskType
from safetensors.torch import save_file
from torch import Tensor

from lora2_bench.methods.base import Method

_PREFIX = "base_model.model."


def export_adapter(folder: Path, method: Method) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` for a method with LoRA factors.

    Scales are inside lora_B, so lora_alpha equals r. The base model is named by its origin on the hub, never by a path.
    """
    backbone, factors = method.backbone, method.lora_factors()
    assert factors is not None
    folder.mkdir()
    rank = len(next(iter(factors.values()))[0])
    heads = backbone.head_modules()
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        base_model_name_or_path=backbone.origin or backbone.name,
        inference_mode=True,
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=sorted(factors),
        modules_to_save=sorted(name.rpartition(".")[2] for name in heads),
    )
    tensors: dict[str, Tensor] = {}
    for name, (lora_a, lora_b) in factors.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = lora_a
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = lora_b
    for name, parameter in backbone.head_parameters().items():
        tensors[f"{_PREFIX}{name}"] = parameter.detach()
    config.save_pretrained(str(folder))
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
