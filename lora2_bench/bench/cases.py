"""The timed cases: one training step of each method and engine, of PEFT's, and of the frozen backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lora2_bench.backbones.backbone import Backbone, random_backbone
from lora2_bench.backbones.first_token import compute_first_token_alone
from lora2_bench.backbones.masks import MaskStream, draw_from
from lora2_bench.bench.names import BASELINE, OWN, TORCH_MASKS
from lora2_bench.bench.references import DenseLoRA2, HeadOnly
from lora2_bench.bench.sizes import Size
from lora2_bench.config.compose import plan_of
from lora2_bench.experiment.cell import Train
from lora2_bench.methods.base import Method, load_method
from lora2_bench.training.device import make_accelerator
from lora2_bench.training.step import TrainingStep

STEPS = 100_000  # of the run: the rank budget falls, and ranks are allocated after every step
_LR = 1e-4
_CLIP = 1.0
_BUDGET = ("method.budget.t_init=0", "method.budget.t_final=0", "method.budget.delta_t=1")

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: of the line.
        step: takes one training step; its argument counts them from 1.
        parameters: number of trained parameters outside the head.
    """

    name: str
    step: Callable[[int], object]
    parameters: int


PAIRS = (
    ("lora2 k=1", "peft adalora r=8"),
    ("lora2 k=1", "peft lora r=1"),
    ("lora2 k=1", "lora2 k=1 dense"),
    ("lora2 k=8", "peft lora r=8"),
    ("adalora r=8", "peft adalora r=8"),
    ("lora2 k=1", "adalora r=8"),
    ("lora2 k=8", "adalora r=8"),
    *((name, f"{name} plain") for name in OWN),
    *((name.removesuffix(" torch masks"), name) for name in TORCH_MASKS),
)
"""Pairs of cases whose ratio is printed beside the ratios to the frozen backbone."""


def make_cases(
    size: Size, layers: int | None, chosen: Iterable[str], device: str, precision: str
) -> tuple[list[Case], int]:
    """The chosen cases, which share the frozen weights of one encoder; and its number of parameters.

    A name is one of `names()`, or one with another size, such as `lora2 k=4` or `peft lora r=2`.
    """
    base = base_of(size, layers, device)
    batch = batch_of(size, base)
    made = []
    for name in chosen:
        if name.startswith("peft "):
            made.append(_peft_case(name, _with_own_head(base), batch, precision))
        else:
            made.append(_method_case(name, step_of(name, base, size, precision), batch))
    return made, sum(parameter.numel() for parameter in base.model.parameters())


def base_of(size: Size, layers: int | None, device: str) -> Backbone:
    """An encoder of random weights on a device, for the cases to share."""
    torch.manual_seed(0)
    base = random_backbone(size.config(layers))
    base.model.to(device)
    return base


def step_of(
    name: str, base: Backbone, size: Size, precision: str, change: Callable[[Any], object] = lambda _: None
) -> TrainingStep:
    """The training step of a case, over the frozen weights of `base`, after `change` to its untouched model."""
    device = base.model.device.type
    backbone = _with_own_head(base)
    change(backbone.model)
    masks = MaskStream(0) if device == "cpu" and name not in (BASELINE, *TORCH_MASKS) else None
    method = _method(name, backbone, masks)
    accelerator = make_accelerator(precision, device)
    return TrainingStep(method, _settings(size, precision), STEPS, accelerator, masks=masks)


def _rank_of(size: str) -> int:
    """8 of `r=8`."""
    return int(size.partition("=")[2])


def batch_of(size: Size, base: Backbone) -> Batch:
    """A batch of the size, without padding, on the backbone's device."""
    words, device = base.model.config.vocab_size, base.model.device
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, words, (size.rows, size.length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(size.rows) % 2}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _with_own_head(base: Backbone) -> Backbone:
    """A backbone with a head of its own and the same tensors in its encoder."""
    head = set(base.head_parameters())
    shared = {id(p): p for name, p in base.model.named_parameters() if name not in head}
    return Backbone(copy.deepcopy(base.model, shared), None, base.name)


def _method(name: str, backbone: Backbone, masks: MaskStream | None) -> Method:
    """The method of a case, injected: as the runner sets it up, with its engine and the masks of its device."""
    method: Method
    if masks is not None:
        draw_from(masks, backbone.model)
    if name == BASELINE:
        method = HeadOnly(None, STEPS)
    else:
        key, size, *form = name.split()
        budget = _BUDGET if key in ("adalora", "lora2") else ()
        plan = plan_of(["model=minilm", f"method={key}", f"kr={_rank_of(size)}", *budget])
        kind = DenseLoRA2 if form == ["dense"] else load_method(plan.implementation)
        method = kind(kind.parse(plan.cell.method), STEPS, "plain" if form in (["dense"], ["plain"]) else "fast")
    method.inject(backbone, torch.Generator().manual_seed(0))
    if method.engine == "fast":
        compute_first_token_alone(backbone.model)
    return method


def _settings(size: Size, precision: str) -> Train:
    """Training settings of the timed steps."""
    return Train(
        epochs=1,
        max_steps=STEPS,
        batch_size=size.rows,
        accumulate=1,
        lr=_LR,
        weight_decay=0.0,
        schedule="linear",
        warmup=0.0,
        max_grad_norm=_CLIP,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_eps=1e-8,
        max_length=size.length,
        cls_dropout=None,
        eval_steps=None,
        precision=precision,
    )


def _method_case(name: str, training_step: TrainingStep, batch: Batch) -> Case:
    """A method of this package, in the step that the training loop takes."""
    parameters = 0 if name == BASELINE else training_step.method.parameters()["adapter"]
    return Case(name, lambda number: training_step(batch, number), parameters)


def _peft_case(name: str, backbone: Backbone, batch: Batch, precision: str) -> Case:
    """PEFT's own tuner on the same maps, used as its documentation says."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    _, kind, size = name.split()
    rank, targets = _rank_of(size), list(backbone.linear_maps().values())
    common = {"lora_alpha": 16, "lora_dropout": 0.0, "target_modules": targets}
    if kind == "adalora":
        schedule = {"tinit": 0, "tfinal": 0, "deltaT": 1, "total_step": STEPS, "orth_reg_weight": 0.1}
        config = AdaLoraConfig(init_r=rank, target_r=rank // 2, **schedule, **common)
    else:
        config = LoraConfig(r=rank, **common)
    model = get_peft_model(backbone.model, config).train()
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    for parameter in backbone.head_parameters().values():
        parameter.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, lr=_LR)

    def step(number: int) -> None:
        with _autocast(batch, precision):
            loss = model.base_model(**batch).loss  # with AdaLoRA's regulariser
        loss.backward()
        nn.utils.clip_grad_norm_(trained, _CLIP)
        optimizer.step()
        if kind == "adalora":
            model.base_model.update_and_allocate(number)
        optimizer.zero_grad()

    return Case(name, step, count)


def _autocast(batch: Batch, precision: str) -> torch.autocast:
    return torch.autocast(batch["labels"].device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
