"""The training batches in the order in which a cell sees them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lora2_bench.tasks.batches import BucketSampler
from lora2_bench.tasks.encoding import Encoded


def training_batches(rows: Encoded, batch_size: int, seed: int, after_step: int) -> Iterator[dict[str, Tensor]]:
    """Yield the padded batches of the steps after `after_step`, epoch after epoch, without end.

    The start of each epoch draws one number from torch's global generator, as an iterator of torch's DataLoader does:
    dropout depends on it. A run that continues in the middle of an epoch draws none: its random state is of after that.
    """
    sampler = BucketSampler(rows.lengths(), batch_size, seed)
    epoch, skip = divmod(after_step, len(sampler))
    while True:
        if skip == 0:
            torch.empty((), dtype=torch.int64).random_()
        sampler.begin(epoch, skip)
        for numbers in sampler:
            yield rows.collate([rows[number] for number in numbers])
        epoch, skip = epoch + 1, 0
