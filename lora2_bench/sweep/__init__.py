"""Sweeps of hundreds of cells: planning, sending to this machine or to Slurm, running, status. Imports no torch.

As `lora2_bench.sweep([...])` the room itself is called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora2_bench.records.record import Record


class _Room(ModuleType):
    """The module, which takes the name of the package's function: called, it is `calls.sweep`."""

    def __call__(
        self, overrides: Sequence[str] | Sequence[Sequence[str]], *, wait: bool = True, **settings: Any
    ) -> list[Record]:
        """See `lora2_bench.sweep.calls.sweep`."""
        from lora2_bench.sweep.calls import sweep

        return sweep(overrides, wait=wait, **settings)


sys.modules[__name__].__class__ = _Room
