"""A method as the contract tries it: shrunk options, tiny random backbones in memory, a plain loop."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lora2_bench.backbones.backbone import Backbone, random_backbone
from lora2_bench.methods.base import Method

ARCHITECTURES = ("bert", "roberta", "deberta-v2")
# Sizes that tell dimensions apart, and a schedule for short runs; a method takes those of its options that it has.
SHRUNK: dict[str, Any] = {
    "k": 2,
    "r": 3,
    "alpha": 6,
    "init_std": 0.3,
    "budget.target_r": 1,
    "budget.t_init": 0.2,
    "budget.t_final": 0.25,
    "budget.delta_t": 2,
    "oft_block_size": 4,
    "boft_block_size": 4,
    "block_size": 8,
    "n_frequency": 20,
    "num_vectors": 8,
    "vector_length": 4,
    "length": 4,
    "mlp_width": 20,
    "encoder_width": 14,
    "group_size": 8,
    "group_tokens": 4,
}


def shrunk(options: Mapping[str, Any], sizes: Mapping[str, Any] = SHRUNK) -> dict[str, Any]:
    """The options of a method (by name, sections nested) with those of `sizes` (by dotted name) that they have."""
    found = copy.deepcopy(dict(options))
    for key, value in sizes.items():
        section, _, last = key.rpartition(".")
        part = found.get(section, {}) if section else found
        if part.get(last) is not None:
            part[last] = value
    return found


@dataclass(frozen=True)
class Subject:
    """A method: its name, its class, and its options as a cell has them, without the name."""

    name: str
    kind: type[Method]
    options: Mapping[str, Any]

    @property
    def architectures(self) -> tuple[str, ...]:
        """Those of ARCHITECTURES that the method says it fits."""
        return tuple(one for one in ARCHITECTURES if one in self.kind.encoders)

    def make(self, backbone: Backbone, total_steps: int = 20, engine: str = "fast", seed: int = 1) -> Method:
        """The method injected into `backbone`; `seed` is of what it draws."""
        options = self.kind.parse(self.options)
        self.kind.check(options, total_steps)
        method = self.kind(options, total_steps, engine)
        method.inject(backbone, torch.Generator().manual_seed(seed))
        return method


def tiny_config(architecture: str, vocab_size: int = 400) -> Any:
    """A two-layer configuration whose widths all differ, so that a mixed-up dimension fails."""
    from transformers import BertConfig, DebertaV2Config, ModernBertConfig, RobertaConfig

    sizes: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 80,
    }
    if architecture == "bert":
        return BertConfig(**sizes)
    if architecture == "roberta":
        return RobertaConfig(**sizes, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1)
    if architecture == "modernbert":  # one layer of full attention, one of windows
        tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
        return ModernBertConfig(**sizes, **tokens, local_attention=8, classifier_pooling="mean")
    return DebertaV2Config(
        **sizes,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
        type_vocab_size=0,
        pad_token_id=0,
    )


def make_backbone(
    architecture: str, num_labels: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Backbone:
    """A tiny random backbone in evaluation mode, and torch's generator as making it anew leaves it."""
    backbone, drawn = _made_backbone(architecture, num_labels, dtype, seed)
    torch.set_rng_state(drawn)
    return dataclasses.replace(backbone, model=copy.deepcopy(backbone.model))


@functools.cache
def _made_backbone(architecture: str, num_labels: int, dtype: torch.dtype, seed: int) -> tuple[Backbone, torch.Tensor]:
    torch.manual_seed(seed)
    config = tiny_config(architecture)
    config.num_labels = num_labels
    backbone = random_backbone(config)
    backbone.model.to(dtype).eval()
    return backbone, torch.get_rng_state()


def make_batch(rows: int = 5, width: int = 9, num_labels: int = 2) -> dict[str, torch.Tensor]:
    """Random token ids (rows×width) with a padded tail, and labels."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 300, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, width - 3 :] = 0
    labels = torch.randint(0, num_labels, (rows,), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """The model's logits (rows×labels) of `make_batch`, in evaluation mode."""
    batch = {name: value for name, value in make_batch().items() if name != "labels"}
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(**batch).logits
    return logits


def loss_of_batch(method: Method, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The task loss of a batch, without the penalty."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = method.backbone.model(**inputs).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"])


def train_steps(method: Method, steps: int, lr: float = 1e-2, first: int = 1, optimizer: Any = None) -> Any:
    """A plain loop with the protocol's calls in the order of the real one; returns its optimiser."""
    optimizer = optimizer or torch.optim.AdamW(method.optimizer_groups(0.01), lr=lr)
    for step in range(first, first + steps):
        method.before_step(step)
        loss = loss_of_batch(method, make_batch(rows=4 + step % 3))
        penalty = method.penalty()
        (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
        method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        method.zero_grad(optimizer)
    return optimizer
