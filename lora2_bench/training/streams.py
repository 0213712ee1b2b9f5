"""The seeds of a cell's random streams: one each for the head, the adapter, dropout and the batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lora2_bench.backbones.masks import SFC64, MaskStream
from lora2_bench.experiment.cell import Cell

TORCH = "torch"
HEAD, ADAPTER, DROPOUT, BATCHES = "head", "adapter", "dropout", "batches"

# Version 1 seeds head and adapter alike. On a CPU torch seeds with the low 32 bits alone, so that every process of a
# group draws the same dropout there.
_VERSION_1: Mapping[str, Callable[[int, int], int]] = {
    HEAD: lambda seed, _: seed,
    ADAPTER: lambda seed, _: seed,
    DROPOUT: lambda seed, rank: seed + rank * 2**32,
    BATCHES: lambda seed, epoch: (seed * 1_000_003 + epoch) % 2**63,
}


def mask_stream(cell: Cell, masks: str, device: str) -> MaskStream | None:
    """What the backbone's dropout draws from on `cpu` or `cuda` under the run's option `masks`; None for torch.

    `auto` is torch's own on a GPU, where its kernels fuse, and under rng_version=1, the numbers of earlier versions.
    """
    if masks == "auto":
        masks = SFC64 if device == "cpu" and cell.rng_version > 1 else TORCH
    return MaskStream(RandomStreams.of(cell).seed_of(DROPOUT)) if masks == SFC64 else None


def masks_name(stream: MaskStream | None) -> str:
    """How a record and a checkpoint name what dropout drew from."""
    return TORCH if stream is None else SFC64


@dataclass(frozen=True)
class RandomStreams:
    """The random streams of one cell.

    Attributes:
        seed: the cell's.
        version: 2 for streams that are independent by name; 1 for the numbers of earlier versions.
    """

    seed: int
    version: int

    @classmethod
    def of(cls, cell: Cell) -> RandomStreams:
        """The streams of a cell."""
        return cls(cell.seed, cell.rng_version)

    def seed_of(self, name: str, number: int = 0) -> int:
        """The seed of a torch generator for a stream; `number` is dropout's process or the batches' epoch, from 0.

        In version 2 it is the start of SHA-256 of seed, name and number.
        """
        if self.version == 1:
            return _VERSION_1[name](self.seed, number)
        digest = hashlib.sha256(f"{self.seed}/{name}/{number}".encode()).digest()
        return int.from_bytes(digest[:8], "little") % 2**63
