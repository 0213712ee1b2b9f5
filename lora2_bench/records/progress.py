"""How far a running cell is: a small file beside its owner's, for whoever asks. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

EVERY = 5.0
"""Seconds between two writes; an evaluation is written at once."""


class Scored(Protocol):
    """An evaluation."""

    score: float


class Progress:
    """Writes `progress.json` in a running cell's folder: step, total, score, best, seconds_per_step.

    `seconds_per_step` is wall time of this process with evaluations and checkpoints, so that times the steps to come it
    is the time left; None before the second step. A write that fails is passed over: it must not end a run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "progress.json"
        self._began: tuple[int, float] | None = None
        self._written = (-1, 0.0)

    def step(self, step: int, total: int, evaluations: Sequence[Scored]) -> None:
        """Tell that `step` of `total` optimiser steps are done, with the evaluations so far."""
        now = time.monotonic()
        if self._began is None:
            self._began = (step, now)
        if len(evaluations) == self._written[0] and now - self._written[1] < EVERY:
            return
        self._written = (len(evaluations), now)
        made = step - self._began[0]
        scores = [evaluation.score for evaluation in evaluations]
        values = {
            "step": step,
            "total": total,
            "score": scores[-1] if scores else None,
            "best": max(scores, default=None),
            "seconds_per_step": (now - self._began[1]) / made if made else None,
        }
        draft = self.path.with_name(f".progress.{os.getpid()}.json")
        with suppress(OSError):
            draft.write_text(json.dumps(values), encoding="utf-8")  # not flushed to disk: nothing depends on it
            draft.replace(self.path)

    def remove(self) -> None:
        """Drop the file: the record is written."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What the running cell in `folder` last told, or None."""
    try:
        values = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return values if isinstance(values, dict) and "step" in values else None
