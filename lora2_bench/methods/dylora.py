"""DyLoRA (Valipour et al., arXiv 2210.07558): LoRA trained at a rank that changes from step to step, for every rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone
from lora2_bench.experiment.checks import require_choice
from lora2_bench.methods.lora import LoRALinear, LoRAOptions
from lora2_bench.methods.lowrank.method import AdapterMethod
from lora2_bench.methods.lowrank.stack import Stack


@dataclass(frozen=True)
class DyLoRAOptions(LoRAOptions):
    """`r` is the largest rank; at rank b the low-rank update is scaled by alpha / b.

    Attributes:
        update: what a step at rank b trains: `all` ranks up to b, or the `row` b alone.
    """

    update: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("method.update", self.update, ("all", "row"))


class DyLoRALinear(LoRALinear):
    """h = x W0ᵀ + bias + (alpha / b) · x A[:b]ᵀ B[:, :b]ᵀ; A (r×d_in) and B (d_out×r) start as LoRA's.

    Attributes:
        rank: b.
        last_alone: whether gradients reach rank b only: row b of A and column b of B.
    """

    def __init__(self, base: nn.Linear, options: DyLoRAOptions, generator: torch.Generator) -> None:
        super().__init__(base, options, generator)
        self.alpha = float(options.alpha)
        self.rank = options.r
        self.last_alone = False

    def outer(self) -> tuple[Tensor, Tensor]:
        """A[:b] and B[:, :b]."""
        A, B = self.A[: self.rank], self.B[:, : self.rank]
        if self.last_alone:
            A, B = torch.cat([A[:-1].detach(), A[-1:]]), torch.cat([B[:, :-1].detach(), B[:, -1:]], dim=1)
        return A, B

    def middle(self) -> float:
        """alpha / b."""
        return self.alpha / self.rank

    def delta(self, x: Tensor) -> Tensor:
        """x (..., d_in) -> (..., d_out)."""
        A, B = self.outer()
        return self.middle() * (x @ A.T) @ B.T

    def factors(self) -> tuple[Tensor, Tensor]:
        """A[:b] (b×d_in) and (alpha / b)·B[:, :b] (d_out×b)."""
        A, B = self.outer()
        return A.detach(), self.middle() * B.detach()


class DyLoRA(AdapterMethod[DyLoRALinear]):
    """One training of LoRA whose first b ranks are an adapter of their own, for each b up to r.

    Each step draws its rank evenly from 1 to r, as a function of the cell's seed and the step's number. Between steps
    the method has its largest rank.
    """

    Options = DyLoRAOptions

    def inject(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Replace the target maps, and draw the seed of the steps' ranks."""
        super().inject(backbone, generator)
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self._before: list[tuple[Stack, Tensor, int]] = []

    def adapt(self, base: nn.Linear, generator: torch.Generator) -> DyLoRALinear:
        """A DyLoRA layer over `base`."""
        return DyLoRALinear(base, self.options, generator)

    def rank_of(self, step: int) -> int:
        """The rank b of a step: no generator has a state that a resumed run would have to find again."""
        digest = hashlib.sha256(f"{self._seed}/{step}".encode()).digest()
        return 1 + int.from_bytes(digest, "big") % int(self.options.r)

    def state_dict(self) -> dict[str, Any]:
        """The seed of the steps' ranks."""
        return {"seed": self._seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._seed = state["seed"]

    def before_step(self, step: int) -> None:
        """Take the step's rank."""
        self._set(self.rank_of(step), last_alone=self.options.update == "row")

    def after_backward(self, step: int) -> None:
        """Keep the factors where the step trains one rank: AdamW moves the others too, by momentum and decay."""
        if self.options.update == "row":
            factors = [(stack, 1) for stack in self.stacks["A"]] + [(stack, 2) for stack in self.stacks["B"]]
            self._before = [(stack, stack.value().clone(), rank_dim) for stack, rank_dim in factors]

    def after_step(self, step: int) -> None:
        """Put the ranks back that the step does not train, and take the largest rank."""
        row = self.rank_of(step) - 1
        for stack, before, rank_dim in self._before:
            before.select(rank_dim, row).copy_(stack.value().select(rank_dim, row))
            stack.set_(before)
        self._before = []
        self._set(self.options.r)

    def at_scoring(self) -> dict[str, Any]:
        """The active parameters of this moment's rank."""
        layers = self.layers.values()
        return {"active": sum(layer.rank * (layer.base.in_features + layer.base.out_features) for layer in layers)}

    def ranks(self) -> Sequence[int]:
        """1 to r."""
        return range(1, self.options.r + 1)

    @contextmanager
    def at_rank(self, rank: int) -> Iterator[None]:
        """Compute with the first `rank` ranks."""
        self._set(rank)
        try:
            yield
        finally:
            self._set(self.options.r)

    def _set(self, rank: int, *, last_alone: bool = False) -> None:
        for layer in self.layers.values():
            layer.rank, layer.last_alone = rank, last_alone
