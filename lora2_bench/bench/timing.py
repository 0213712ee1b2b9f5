"""Interleaved, paired timing: every round times each case once, in random order.

So a slow phase of the machine affects all cases alike, and ratios are computed within a round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from lora2_bench.bench.cases import Case


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}–{self.high:.3f})"


def time_steps(cases: Sequence[Case], rounds: int, warm_up: int, device: str) -> dict[str, list[float]]:
    """Name -> seconds of its step in each round, after `warm_up` steps of each that do not count."""
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    order = random.Random(0)
    for number in tqdm(range(1, warm_up + rounds + 1), desc="rounds", unit="round"):
        for case in order.sample(list(cases), len(cases)):
            clock = _seconds(device)
            next(clock)
            case.step(number)
            spent = next(clock)
            if number > warm_up:
                seconds[case.name].append(spent)
    return seconds


def _seconds(device: str) -> Iterator[float]:
    """A stopwatch: the first `next` starts it, the second gives the seconds; on a GPU, by CUDA events."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        yield 0.0
        end.record()
        torch.cuda.synchronize()
        yield begin.elapsed_time(end) / 1000
        return
    start = time.perf_counter()
    yield 0.0
    yield time.perf_counter() - start


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> Spread:
    """One's seconds over the other's, round by round."""
    return Spread.of([ours / theirs for ours, theirs in zip(seconds[one], seconds[other], strict=True)])


def to_json(spread: Spread) -> dict[str, Any]:
    """The spread as plain data for JSON."""
    return {"median": spread.median, "quartiles": [spread.low, spread.high]}
