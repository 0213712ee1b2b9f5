"""Out-of-memory errors with the batch at hand and the setting that takes less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from lora2_bench.errors import CellFailed, OutOfMemory
from lora2_bench.experiment.cell import Train

_NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def explain_out_of_memory(step: int, what: str, fix: str) -> Iterator[None]:
    """Raise OutOfMemory, with `what` was computed and a `fix`, where the block runs out of memory, on CPU or GPU."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if isinstance(error, CellFailed) or not (known or any(text in str(error) for text in _NO_MEMORY)):
            raise
        raise OutOfMemory(step, f"out of memory with {what}: {fix}") from None


def batch_size_in_words(batch: Mapping[str, Tensor], parts: int = 1) -> str:
    """Rows and padded length of a batch, in words."""
    rows, tokens = batch["input_ids"].shape
    return f"{rows} rows of {tokens} tokens" + (f" in {parts} parts" if parts > 1 else "")


def how_to_save_memory(settings: Train) -> str:
    """The settings that let a training step take less memory."""
    finer = [n for n in range(2 * settings.accumulate, settings.batch_size + 1) if settings.batch_size % n == 0]
    parts = f"set train.accumulate={finer[0]} (the batch stays the same), or " if finer else ""
    return f"{parts}lower train.max_length={settings.max_length}"
