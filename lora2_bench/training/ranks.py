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
class Ranks:
    """Rank and size of the process group that trains one cell.

    Rank 0, the main process, alone reads and writes files and scores. Every method is a collective: all processes call
    it, in the same order. With one process nothing is exchanged.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
        device: where tensors are exchanged.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """True for the process that reads, writes and prints."""
        return self.rank == 0

    def on_main(self, action: Callable[[], T]) -> T:
        """Run `action` in the main process; all processes return its result, or raise its error."""
        if self.world_size == 1:
            return action()
        from torch.distributed import broadcast_object_list

        result_and_error: list[Any] = [None, None]
        if self.is_main:
            try:
                result_and_error[0] = action()
            except (UserError, CellFailed, OSError) as error:
                result_and_error[1] = error
        broadcast_object_list(result_and_error)
        if result_and_error[1] is not None:
            raise result_and_error[1]
        result: T = result_and_error[0]
        return result

    @contextmanager
    def raise_on_all(self) -> Iterator[None]:
        """Raise a CellFailed of the block in all processes where one process raises it, so that none waits for it."""
        failure: CellFailed | None = None
        try:
            yield
        except CellFailed as error:
            if self.world_size == 1:
                raise
            failure = error
        if self.any(failure is not None):
            raise next(error for error in self.all_gather(failure) if error is not None)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        if self.world_size == 1:
            return flag
        import torch

        flags = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(flags)
        return bool(flags.item() > 0)

    def all_gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        from torch.distributed import all_gather_object

        values: list[Any] = [None] * self.world_size
        all_gather_object(values, value)
        return values

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor (any shapes, one dtype) by its sum over all processes, bitwise the same in all."""
        if self.world_size == 1:
            return
        import torch

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, summed in zip(tensors, sums, strict=True):
            tensor.copy_(summed.view_as(tensor))


SINGLE_PROCESS = Ranks()
"""A single process."""
