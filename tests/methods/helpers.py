"""Method options as the real configs give them, shrunk, and tiny backbones in memory."""

from __future__ import annotations

import copy
from typing import Any

import torch

from lora2_bench.backbone import Backbone, random_backbone
from lora2_bench.methods.base import Method, load_method
from tests.conftest import tiny_config

OPTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"r": 3, "alpha": 6.0, "dropout": 0.0, "targets": ["q", "k", "v", "o", "f1", "f2"]},
    "lora2": {
        "k": 2,
        "r": 3,
        "alpha": 6.0,
        "dropout": 0.0,
        "targets": ["q", "k", "v", "o", "f1", "f2"],
        "init_std": 0.3,
        "reg": {"on": ["uv", "UV", "PQ"], "form": "norm_mean", "gamma": 0.1},
        "score": "reduced",
        "budget": {"target_r": 1, "t_init": 4, "t_final": 5, "delta_t": 2, "beta1": 0.85, "beta2": 0.8},
    },
}
CLASSES = {
    "full": "lora2_bench.methods.full.Full",
    "lora": "lora2_bench.methods.lora.LoRA",
    "lora2": "lora2_bench.methods.lora2.LoRA2",
}


def make_backbone(architecture: str, num_labels: int = 2, dtype: torch.dtype = torch.float32) -> Backbone:
    """A tiny random backbone in evaluation mode."""
    torch.manual_seed(0)
    config = tiny_config(architecture)
    config.num_labels = num_labels
    backbone = random_backbone(config)
    backbone.model.to(dtype).eval()
    return backbone


def make_method(name: str, backbone: Backbone, total_steps: int = 20, **changes: Any) -> Method:
    """The method `name` injected into `backbone`; `reg__form=...` changes a nested option."""
    options = copy.deepcopy(OPTIONS[name])
    for key, value in changes.items():
        section, _, leaf = key.rpartition("__")
        (options[section] if section else options)[leaf] = value
    kind = load_method(CLASSES[name])
    parsed = kind.parse(options)
    kind.check(parsed, total_steps)
    method = kind(parsed, total_steps)
    method.inject(backbone, torch.Generator().manual_seed(1))
    return method


def make_batch(rows: int = 5, width: int = 9, num_labels: int = 2) -> dict[str, torch.Tensor]:
    """Random token ids with a padded tail, and labels."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 300, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, width - 3 :] = 0
    labels = torch.randint(0, num_labels, (rows,), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_of_batch(method: Method, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The task loss of a batch, without the penalty."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = method.backbone.model(**inputs).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"])
