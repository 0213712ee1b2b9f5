"""What a finished cell keeps of its method, beside its record: an adapter of PEFT's, trained weights, a whole model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lora2_bench.methods.base import Method
from lora2_bench.records.store import ADAPTER, MODEL, WEIGHTS
from lora2_bench.runner.export import export_adapter
from lora2_bench.runner.model_folder import write_model
from lora2_bench.runner.weights import save_weights
from lora2_bench.tasks.spec import TaskSpec
from lora2_bench.training.state import trained_state


def keeps_weights(method: Method, keep: str | None) -> bool:
    """Whether `keep` leaves what the method trained, from which a finished cell can be measured and exported."""
    return keep == "weights" or (keep is None and method.exports != "none")


def write_kept(folder: Path, cell_id: str, method: Method, spec: TaskSpec, max_length: int, keep: str | None) -> None:
    """Write what `keep` says into a cell's new folder, the weights that are in place being those of its best step.

    Where every weight of the model trained, its weights are the folder of a whole model, which transformers loads; its
    tokenizer cuts at `max_length` tokens.
    """
    if method.exports in ("lora", "peft") and keep in (None, "adapter"):
        export_adapter(folder / ADAPTER, method)
    if not keeps_weights(method, keep):
        return
    state = trained_state(method)
    if state.keys() == method.backbone.model.state_dict().keys():
        save = partial(save_weights, cell_id=cell_id)
        write_model(folder / MODEL, method.backbone, spec, max_length, save)
    else:
        save_weights(state, folder / WEIGHTS, cell_id)
