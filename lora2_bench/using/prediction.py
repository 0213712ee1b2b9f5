"""One row's prediction, as the API returns it and as a line of JSON or of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """What a cell predicts of one row.

    Attributes:
        label: the class; None for a regression.
        probabilities: class -> softmax of the logits, in the order of the task's labels; empty for a regression.
        score: the number that a regression predicts (STS-B: 0 to 5, unclipped); None for classes.
        logits: what the model put out, in float32.
    """

    label: str | None
    probabilities: Mapping[str, float]
    score: float | None
    logits: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """`label` and `probabilities`, or `score`, to six digits after the point."""
        if self.score is not None:
            return {"score": round(self.score, 6)}
        return {"label": self.label, "probabilities": {name: round(p, 6) for name, p in self.probabilities.items()}}

    def __str__(self) -> str:
        if self.label is None:
            return f"score {self.score:.4f}"
        listed = ", ".join(f"{name} {share:.4f}" for name, share in self.probabilities.items())
        return f"{self.label} ({listed})"
