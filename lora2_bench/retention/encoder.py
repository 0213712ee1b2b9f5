"""Features of a frozen encoder: the mean of its last hidden states over the tokens of a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.tasks.batches import by_length
from lora2_bench.tasks.encoding import EncodedSplit
from lora2_bench.training.memory import batch_size_in_words, explain_out_of_memory

Features = NDArray[np.float32]


@contextmanager
def frozen(backbone: Backbone) -> Iterator[None]:
    """A context without dropout, gradients or any trace: modes and torch's random generators are put back after it."""
    device = next(backbone.model.parameters()).device
    modes = [(module, module.training) for module in backbone.model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        try:
            backbone.model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


def pooled(backbone: Backbone, rows: EncodedSplit, batch_size: int, step: int) -> Features:
    """(rows, width): the last hidden states' mean over a row's tokens, special ones included, padding left out.

    Within `frozen`. Raises OutOfMemory, with `step`, where a batch does not fit.
    """
    base = backbone.model.base_model
    device = next(base.parameters()).device
    found: Features = np.empty((len(rows), backbone.model.config.hidden_size), dtype=np.float32)
    for numbers in by_length(rows.lengths(), batch_size):
        batch = rows.collate([rows[number] for number in numbers])
        fix = f"set eval_batch_size={len(numbers) // 2}" if len(numbers) > 1 else "give a larger device"
        with explain_out_of_memory(step, f"{batch_size_in_words(batch)} while measuring retention", fix):
            inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
            hidden = base(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            found[numbers] = ((hidden * mask).sum(1) / mask.sum(1)).float().cpu().numpy()
    return found
