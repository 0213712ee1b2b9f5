"""How far a running cell has come: `progress.json`, beside its lock. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypedDict

from lora2_bench.files.reading import read_json
from lora2_bench.records.checking import checker
from lora2_bench.records.forms import Correlation, Count, Seconds

WRITE_SECONDS = 5.0
"""Seconds between two writes; a new evaluation is written at once."""


class Scored(Protocol):
    """An evaluation."""

    score: float


class ProgressValues(TypedDict):
    """What `progress.json` holds."""

    step: Count
    total: Count
    score: Correlation | None
    best: Correlation | None
    seconds_per_step: Seconds | None


class Progress:
    """Writes `progress.json` in a running cell's folder: step, total, score, best, seconds_per_step.

    `seconds_per_step` is this process's wall time per step, evaluations and checkpoints included: multiplied by the
    remaining steps it gives the time left. It is None before the second step. A failing write never ends a run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.json"
        self._first: tuple[int, float] | None = None
        self._last_write = (-1, 0.0)

    def step(self, step: int, total: int, evaluations: Sequence[Scored]) -> None:
        """Note that `step` of `total` optimiser steps are done, with the evaluations so far."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        if len(evaluations) == self._last_write[0] and now - self._last_write[1] < WRITE_SECONDS:
            return
        self._last_write = (len(evaluations), now)
        steps = step - self._first[0]
        scores = [evaluation.score for evaluation in evaluations]
        values = {
            "step": step,
            "total": total,
            "score": scores[-1] if scores else None,
            "best": max(scores, default=None),
            "seconds_per_step": (now - self._first[1]) / steps if steps else None,
        }
        draft = self.path.with_name(f".progress.{os.getpid()}.json")
        with suppress(OSError):
            draft.write_text(json.dumps(values), encoding="utf-8")  # not flushed to disk: nothing depends on it
            draft.replace(self.path)

    def remove(self) -> None:
        """Remove the file once the record is written."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def read_progress(folder: Path) -> ProgressValues | None:
    """The last progress of the running cell in `folder`; None where it has written none, or none that can be read."""
    try:
        values = read_json(folder / "progress.json")
        checker(ProgressValues)(values)
    except (OSError, ValueError):
        return None
    told: ProgressValues = values
    return told
