"""Set-up of a cell: its rows, backbone, injected method and accelerator."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.backbones.first_token import compute_first_token_alone
from lora2_bench.backbones.load import copy_trained_parameters, load_backbone
from lora2_bench.backbones.masks import MaskStream, draw_from
from lora2_bench.errors import UserError
from lora2_bench.experiment.cell import Cell
from lora2_bench.experiment.checks import in_steps
from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.base import Method, load_method
from lora2_bench.records.store import Store
from lora2_bench.runner.foreign import blamed
from lora2_bench.runner.rows import Rows, held_out_rows, load_rows
from lora2_bench.runner.weights import load_weights
from lora2_bench.tasks.data import TaskData
from lora2_bench.tasks.encoding import EncodedSplit
from lora2_bench.tasks.mini import TRAIN_ROWS
from lora2_bench.tasks.token_cache import encoder
from lora2_bench.training.device import make_accelerator, pick_device
from lora2_bench.training.runtime import set_up_process
from lora2_bench.training.streams import ADAPTER, HEAD, RandomStreams, mask_stream


@dataclass(frozen=True)
class Setup:
    """What training needs: the task's rows, raw and tokenised, the injected method, and the accelerator.

    `masks` are what the backbone's dropout draws from; None where it draws from torch's generator.
    """

    data: TaskData
    rows: Rows
    method: Method
    train: EncodedSplit
    selection: dict[str, EncodedSplit]
    dev: dict[str, EncodedSplit]
    accelerator: Accelerator
    masks: MaskStream | None


def check_fit(plan: Plan) -> None:
    """Raise UserError where the method's options are impossible, or do not fit the steps that the row counts give.

    Nothing is loaded: the task's official row counts are assumed. The loaded rows are checked again.
    """
    cell = plan.cell
    rows = TRAIN_ROWS if cell.data.source == "mini" else cell.spec.rows["train"]
    rows = min(rows, cell.data.max_train or rows)
    kind = load_method(plan.implementation)
    steps = cell.train.total_steps(rows - held_out_rows(cell, rows))
    with blamed(kind, "parse and check"):
        check_schedules(cell, kind, kind.parse(cell.method), steps)
    pick_device(plan.run_options)


def check_schedules(cell: Cell, kind: type[Method], options: Any, total_steps: int) -> None:
    """Raise UserError where the warm-up, the looks or one of the method's own schedules do not fit `total_steps`."""
    if (looks := cell.train.looks or 0) > total_steps:
        raise UserError(f"looks={looks} is above the run's {total_steps} steps: give at most that, or train longer")
    kind.check(options, total_steps)
    if (warmup := in_steps(cell.train.warmup, total_steps)) >= total_steps > 1:
        raise UserError(
            f"train.warmup={warmup} steps must be under the run's {total_steps} steps: train longer, or give a share "
            "such as train.warmup=0.06"
        )


def backbone_of(plan: Plan) -> Backbone:
    """The plan's backbone from where its files are, with a new head drawn from torch's generator. Raises UserError."""
    cell, place = plan.cell, plan.run_options
    return load_backbone(
        cell.model,
        cell.spec.num_labels,
        cls_dropout=cell.train.cls_dropout,
        path=place.model_path,
        package=place.model_package,
        folder=place.model_folder,
    )


def set_up(plan: Plan) -> Setup:
    """Load rows and backbone side by side, tokenise the rows and inject the method, all drawn from the cell's seed."""
    cell, place = plan.cell, plan.run_options
    set_up_process(place.threads)
    streams = RandomStreams.of(cell)
    with ThreadPoolExecutor(1) as executor:  # loading rows draws nothing from torch's generator
        loading = executor.submit(load_rows, plan)
        torch.manual_seed(streams.seed_of(HEAD))  # the head's first weights: the same for every method
        backbone = backbone_of(plan)
        data, rows = loading.result()
    total_steps = cell.train.total_steps(len(rows.train))
    kind = load_method(plan.implementation)
    options = kind.parse(cell.method)
    check_schedules(cell, kind, options, total_steps)

    assert backbone.tokenizer is not None
    encode = encoder(backbone.tokenizer, backbone.tokenizer_sha256, cell.spec, cell.train.max_length)
    dev = {name: encode(split) for name, split in rows.dev.items()}
    selection = dev if rows.selection is rows.dev else {name: encode(split) for name, split in rows.selection.items()}
    device = pick_device(place)
    accelerator = make_accelerator(cell.train.precision, device)
    backbone.to(accelerator.device)
    if (masks := mask_stream(cell, place.masks, device)) is not None:
        draw_from(
            masks, backbone.model
        )  # before a method adds its own layers: their dropout draws from torch's generator
    with blamed(kind, "inject"):
        method = kind(options, total_steps, place.engine)
        method.inject(backbone, torch.Generator().manual_seed(streams.seed_of(ADAPTER)))
        if not method.trainable():
            raise UserError(f"method._target_={plan.implementation} leaves nothing to train: mend its inject")
    if place.engine == "fast":
        compute_first_token_alone(backbone.model)
    copy_trained_parameters(backbone)
    if cell.init_from is not None:
        load_adapter(method, Store(place.results).weights(cell.init_from), cell.init_from)
    return Setup(data, rows, method, encode(rows.train), selection, dev, accelerator, masks)


def load_adapter(method: Method, path: Path, origin: str) -> None:
    """Load another cell's saved weights, but its head, into an injected method.

    Raises UserError for other shapes, and for a file that is not as it was written.
    """
    head = set(method.backbone.head_parameters())
    wanted = {name: parameter for name, parameter in method.saved().items() if name not in head}
    found = load_weights(path, origin, f"init_from={origin}")
    for name, parameter in wanted.items():
        if name not in found and not parameter.requires_grad:
            raise UserError(
                f"init_from={origin} kept no {name}, which its method draws and does not train: train that cell anew "
                "with rerun=true"
            )
        if name not in found or found[name].shape != parameter.shape:
            has = f"{name} {tuple(found[name].shape)}" if name in found else f"no {name}"
            raise UserError(
                f"init_from={origin} has {has} where this cell has {tuple(parameter.shape)}: give the size and targets "
                "that it was trained with"
            )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(found[name])
