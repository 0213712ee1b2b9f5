"""The adapter of a finished cell at another rank than its own, from its stored weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lora2_bench.backbones.load import load_backbone
from lora2_bench.errors import UserError
from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.base import load_method
from lora2_bench.records.store import Store
from lora2_bench.runner.export import export_adapter
from lora2_bench.runner.weights import load_weights
from lora2_bench.training.runtime import set_up_process
from lora2_bench.training.state import load_trained_state


def export_at_rank(plan: Plan, store: Store) -> Path:
    """The folder `adapter_rN` beside the finished cell's record, N being `export.rank`; written where it is missing.

    Raises UserError where it cannot be written, and for weights that are not those that the cell has kept.
    """
    cell, place, rank = plan.cell, plan.run_options, plan.run_options.export.rank
    assert rank is not None
    name = f"adapter_r{rank}"
    if (known := store.folder(cell.id) / name).is_dir():
        return known
    set_up_process(place.threads)
    backbone = load_backbone(
        cell.model,
        cell.spec.num_labels,
        cls_dropout=cell.train.cls_dropout,
        path=place.model_path,
        package=place.model_package,
        folder=place.model_folder,
    )
    kind = load_method(plan.implementation)
    method = kind(kind.parse(cell.method), total_steps=1, engine=place.engine)
    method.inject(backbone, torch.Generator())
    weights = store.weights(cell.id)
    found = load_weights(weights, cell.id, f"export.rank={rank}")
    if _shapes(found) != _shapes(method.saved()):
        raise UserError(f"export.rank={rank}: {weights} has other parts than its cell trains: train it with rerun=true")
    load_trained_state(method, found)
    with method.at_rank(rank):
        return store.add(cell.id, name, lambda folder: export_adapter(folder, method))


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
