"""Batches of rows of similar length, the same for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Rows are sorted by length within buckets of this many batches, which keeps padding small and the order shuffled.
_BUCKET_BATCHES = 32


class BucketSampler(Sampler[list[int]]):
    """Shuffled batches of row numbers for one epoch, each of rows of similar length.

    They depend on lengths, batch size and the epoch's seed alone: every method sees the same batches.

    Args:
        lengths: tokens of every row.
        batch_size: rows per batch; the last one may have fewer.
        seed_of: epoch, counted from 0 -> the seed of its order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed_of: Callable[[int], int]) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed_of = seed_of
        self.epoch = 0
        self.skip = 0

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Set the epoch, counted from 0, of the next iteration, and how many of its first batches to skip.

        Not called `set_epoch`: Accelerate calls a method of that name with its own count, which starts at 0 again in a
        run that continues.
        """
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed_of(self.epoch))
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        bucket_rows = self.batch_size * _BUCKET_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), bucket_rows):
            part = sorted(order[start : start + bucket_rows], key=lambda row: self.lengths[row])
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        for index in torch.randperm(len(batches), generator=generator).tolist()[self.skip :]:
            yield batches[index]


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of row numbers for an evaluation: longest rows first, so that too large a batch fails at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
