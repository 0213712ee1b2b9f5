"""A finished cell's method as it was trained, put together again from the weights beside its record."""

from __future__ import annotations

import torch

from lora2_bench.backbones.first_token import compute_first_token_alone
from lora2_bench.backbones.load import copy_trained_parameters
from lora2_bench.experiment.plan import Plan
from lora2_bench.methods.base import Method, load_method
from lora2_bench.records.record import Record
from lora2_bench.records.store import Store
from lora2_bench.runner.setup import backbone_of
from lora2_bench.runner.weights import check_parts, load_weights
from lora2_bench.training.runtime import set_up_process
from lora2_bench.training.state import load_trained_state
from lora2_bench.training.streams import ADAPTER, RandomStreams


def stored_method(plan: Plan, store: Store, record: Record, asked: str, device: str = "cpu") -> Method:
    """The method of a finished cell at its best checkpoint, in its backbone, on `device`.

    What it drew is drawn again from the cell's own seed, for a start may have changed weights that are not stored.
    Raises UserError, naming the setting that `asked` for it, where the weights are not as they were written.
    """
    cell, place = plan.cell, plan.run_options
    set_up_process(place.threads)
    state = load_weights(store.weights(cell.id), cell.id, asked)
    backbone = backbone_of(plan)
    backbone.to(torch.device(device))
    kind = load_method(plan.implementation)
    method = kind(kind.parse(cell.method), record.result["steps"], place.engine)
    method.inject(backbone, torch.Generator().manual_seed(RandomStreams.of(cell).seed_of(ADAPTER)))
    if place.engine == "fast":
        compute_first_token_alone(backbone.model)
    copy_trained_parameters(backbone)
    wanted = {name: tensor.shape for name, tensor in method.saved().items()}
    check_parts(state, wanted, store.weights(cell.id), asked)
    load_trained_state(method, state)
    return method
