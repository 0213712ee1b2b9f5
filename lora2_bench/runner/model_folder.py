"""A whole model as a folder of transformers': config with the task's labels, tokenizer and weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save
from torch import Tensor
from transformers import PretrainedConfig

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.backbones.fused import join_blocks
from lora2_bench.files.writing import write_bytes
from lora2_bench.methods.lowrank.quantised import QuantisedLinear
from lora2_bench.records.store import MODEL_WEIGHTS
from lora2_bench.tasks.spec import TaskSpec

Save = Callable[[dict[str, Tensor], Path], None]


def write_model(
    folder: Path, backbone: Backbone, spec: TaskSpec, max_length: int, save_tensors: Save | None = None
) -> None:
    """Write a model of transformers whole: config, tokenizer, and its tensors as `model.safetensors`.

    Those of a model with maps in few bits are `quantised.safetensors`, which `from_pretrained` does not take for its
    own: it would draw the maps that it does not find. A map that was taken apart is put together. `save_tensors` writes
    the file where it is not plain.
    """
    folder.mkdir()
    model = backbone.model
    join_blocks(model)
    config = labelled(model.config, spec)
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(folder))
    save_tokenizer(folder, backbone, max_length)
    quantised = any(isinstance(module, QuantisedLinear) for module in model.modules())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    (save_tensors or _save)(tensors, folder / ("quantised.safetensors" if quantised else MODEL_WEIGHTS))


def save_tokenizer(folder: Path, backbone: Backbone, max_length: int) -> None:
    """Write the backbone's tokenizer, where it has one: `truncation=True` then cuts where the cell did."""
    if (tokenizer := backbone.tokenizer) is None:
        return
    own, tokenizer.model_max_length = tokenizer.model_max_length, max_length
    tokenizer.save_pretrained(str(folder))
    tokenizer.model_max_length = own


def labelled(config: PretrainedConfig, spec: TaskSpec) -> PretrainedConfig:
    """A copy of a model's config with the task's label names and kind of problem, as transformers has them."""
    config = copy.deepcopy(config)
    names = spec.labels or ("score",)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = "regression" if spec.is_regression else "single_label_classification"
    return config


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    write_bytes(path, save(tensors, {"format": "pt"}))
