"""Several cells of one process that train side by side over one frozen backbone.

Each cell runs its own code in a thread of its own, with its own model, optimiser, schedule, masks and torch generator;
what is frozen is the same tensors in all models. One thread runs at a time. At a frozen linear map a cell waits until
the others are there too, and the map's product is formed once, over the rows of all of them. All go back from their
losses in one pass through the joint graph. A cell that ends, well or with an error, leaves the others as they are.

A row of a product does not depend on the rows beside it but for rounding: BLAS may add in another order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lora2_bench.training.randomness import random_state, set_random_state

T = TypeVar("T")


@dataclass(frozen=True)
class _Product:
    """The wish for the product of a frozen map, under the asking thread's autocast."""

    base: nn.Linear
    x: Tensor
    autocast: bool
    dtype: torch.dtype

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for products that one matrix product gives."""
        return self.base.weight.data_ptr(), self.autocast, self.dtype, self.x.dtype


_BEGIN = "begin"
_Wish = _Product | Tensor | str  # a Tensor is a loss to go back from


class _Member:
    """One cell's thread. `wish` is None while it can run."""

    def __init__(self, call: Callable[[], object], device: torch.device) -> None:
        self.call = call
        self.go = threading.Semaphore(0)
        self.wish: _Wish | None = None
        self.answer: Any = None
        self.result: Any = None
        self.ended = False
        self.random = random_state(device)


class Pack:
    """Runs calls side by side, each of which trains one cell.

    A call's training step asks `begin` before each forward pass, and `backward` to go back from its loss; its frozen
    maps ask `product` (backbones/joined.py).

    Args:
        device: where the cells train.

    Attributes:
        size: number of calls.
    """

    def __init__(self, device: str) -> None:
        self.size = 0
        self._device = torch.device(device)
        self._here = threading.local()
        self._turn_ended = threading.Semaphore(0)

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        """What each call returns or raises, in their order."""
        self.size = len(calls)
        members = [_Member(call, self._device) for call in calls]
        for member in members:
            threading.Thread(target=self._live, args=(member,), daemon=True).start()
        while alive := [member for member in members if not member.ended]:
            for member in alive:
                if member.wish is None:
                    self._give_turn(member)
            _answer([member for member in alive if not member.ended])
        return [member.result for member in members]

    def begin(self) -> None:
        """Wait until every cell is about to begin a forward pass, or has ended."""
        self._ask(_BEGIN)

    def product(self, base: nn.Linear, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out): the product with a frozen map, and its bias, formed with the other cells'."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device)
        out: Tensor = self._ask(_Product(base, x, torch.is_autocast_enabled(device), dtype))
        return out

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of its parameters."""
        self._ask(loss)

    def _live(self, member: _Member) -> None:
        member.go.acquire()
        self._here.member = member
        try:
            member.result = member.call()
        except BaseException as error:  # whoever called `run` looks at it
            member.result = error
        member.ended = True
        self._turn_ended.release()

    def _give_turn(self, member: _Member) -> None:
        """Let one member run until it asks for something or ends; what it draws comes from its own random state."""
        set_random_state(member.random, self._device)
        member.go.release()
        self._turn_ended.acquire()
        member.random = random_state(self._device)

    def _ask(self, wish: _Wish) -> Any:
        member: _Member = self._here.member
        member.wish = wish
        self._turn_ended.release()
        member.go.acquire()
        answer, member.answer = member.answer, None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _answer(waiting: Sequence[_Member]) -> None:
    """Answer members of whom each waits: products first, so that all come to their losses, then these, then `begin`."""
    products = [(member, member.wish) for member in waiting if isinstance(member.wish, _Product)]
    losses = [(member, member.wish) for member in waiting if isinstance(member.wish, Tensor)]
    members = list(waiting)
    answers: Sequence[Any] = [None] * len(members)
    try:
        if products:
            kind = products[0][1].kind
            alike = [(member, wish) for member, wish in products if wish.kind == kind]
            members = [member for member, _ in alike]
            answers = _products([wish for _, wish in alike])
        elif losses:
            members = [member for member, _ in losses]
            answers = [None] * len(members)
            torch.autograd.backward([loss for _, loss in losses])
    except Exception as error:  # out of memory, say: it is of all who asked
        answers = [error] * len(members)
    for member, answer in zip(members, answers, strict=True):
        member.wish, member.answer = None, answer


def _products(wishes: Sequence[_Product]) -> Sequence[Tensor]:
    first = wishes[0]
    rows = [wish.x.reshape(-1, wish.x.shape[-1]) for wish in wishes]
    with torch.autocast(first.x.device.type, first.dtype, first.autocast):
        out = nn.functional.linear(torch.cat(rows), first.base.weight, first.base.bias)
    parts = torch.split(out, [len(part) for part in rows])
    return [part.view(*wish.x.shape[:-1], -1) for part, wish in zip(parts, wishes, strict=True)]
