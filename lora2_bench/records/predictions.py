"""What a cell predicts of dev, read from `predictions.json` with its numbers checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora2_bench.files.reading import read_json

_LABELS = "labels"


@dataclass(frozen=True)
class SplitPredictions:
    """One dev split's, in the order of its file.

    Attributes:
        labels: (rows,) true classes, or scores of a regression.
        logits: checkpoint (`best`, `last`) -> (rows, outputs), the float32 values that were scored.
    """

    labels: NDArray[Any]
    logits: dict[str, NDArray[np.float32]]


def read_predictions(path: Path) -> dict[str, SplitPredictions]:
    """Split -> its predictions, in the order of the file.

    Raises FileNotFoundError where there is no file, and ValueError with the reason where it holds anything else.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError("no predictions of this package: no JSON object")
    found = {}
    for split, part in values.items():
        if not isinstance(part, dict) or _LABELS not in part:
            raise ValueError(f"no predictions of this package: {split!r} has no labels")
        labels = _numbers(part[_LABELS], f"{split}.labels", 1)
        logits = {
            name: _numbers(rows, f"{split}.{name}", 2).astype(np.float32)
            for name, rows in part.items()
            if name != _LABELS
        }
        for name, rows in logits.items():
            if len(rows) != len(labels):
                raise ValueError(f"{split}.{name} has {len(rows)} rows, its labels {len(labels)}")
        found[str(split)] = SplitPredictions(labels, logits)
    return found


def _numbers(values: Any, place: str, dimensions: int) -> NDArray[Any]:
    try:
        numbers = np.array(values)
    except ValueError:  # rows of several lengths
        raise ValueError(f"{place} is no table of numbers") from None
    if numbers.ndim != dimensions or numbers.dtype.kind not in "if" or not np.isfinite(numbers).all():
        raise ValueError(f"{place} is no {'list' if dimensions == 1 else 'table'} of numbers")
    return numbers
