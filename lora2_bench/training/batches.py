"""The training batches in the order in which a cell sees them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from lora2_bench.tasks.batches import BucketSampler
from lora2_bench.tasks.encoding import EncodedSplit
from lora2_bench.training.streams import BATCHES, RandomStreams


def training_batches(
    rows: EncodedSplit, batch_size: int, streams: RandomStreams, after_step: int
) -> Iterator[dict[str, Tensor]]:
    """The padded batches of the steps after `after_step`, epoch after epoch, without end.

    In version 1 of the streams the start of each epoch draws one number from torch's global generator, as
    iter(DataLoader) does, so that dropout draws the numbers of earlier versions. A run that continues within an epoch
    draws none: its saved random state is from after the draw.
    """
    sampler = BucketSampler(rows.lengths(), batch_size, partial(streams.seed_of, BATCHES))
    epoch, skip = divmod(after_step, len(sampler))
    while True:
        if skip == 0 and streams.version == 1:
            torch.empty((), dtype=torch.int64).random_()
        sampler.begin(epoch, skip)
        for numbers in sampler:
            yield rows.collate([rows[number] for number in numbers])
        epoch, skip = epoch + 1, 0
