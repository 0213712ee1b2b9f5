"""The processes that train one cell together, as `accelerate launch` starts them: most often a single one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lora2_bench.errors import CellFailed, UserError

if TYPE_CHECKING:  # a single process needs nothing of it, and a finished cell is printed without torch
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Crew:
    """One of `count` processes, numbered from 0; the first, the main one, alone reads and writes files and scores.

    What has a name here must be called by all of them, in the same order; with one process it does nothing more than
    its name says. `device` is where tensors are exchanged.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """True for the process that reads, writes and prints."""
        return self.rank == 0

    def by_main(self, action: Callable[[], T]) -> T:
        """What `action` gives in the main process, or the error that it ends with there, in all of them."""
        if self.count == 1:
            return action()
        from torch.distributed import broadcast_object_list

        told: list[Any] = [None, None]
        if self.is_main:
            try:
                told[0] = action()
            except (UserError, CellFailed, OSError) as error:
                told[1] = error
        broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        result: T = told[0]
        return result

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails in all processes where it fails in one: none waits for another that has gone."""
        failure: CellFailed | None = None
        try:
            yield
        except CellFailed as error:
            if self.count == 1:
                raise
            failure = error
        if self.any(failure is not None):
            raise next(error for error in self.gather(failure) if error is not None)

    def any(self, flag: bool) -> bool:
        """True where `flag` is true in any process."""
        if self.count == 1:
            return flag
        import torch

        flags = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(flags)
        return bool(flags.item() > 0)

    def gather(self, value: T) -> list[T]:
        """Every process's value, in order."""
        if self.count == 1:
            return [value]
        from torch.distributed import all_gather_object

        values: list[Any] = [None] * self.count
        all_gather_object(values, value)
        return values

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor (any shapes, one dtype) by its sum over all processes, bitwise the same in all."""
        if self.count == 1:
            return
        import torch

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, summed in zip(tensors, sums, strict=True):
            tensor.copy_(summed.view_as(tensor))


ALONE = Crew()
"""A single process."""
