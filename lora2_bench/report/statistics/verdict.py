"""Whether our runs reproduce a printed figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lora2_bench.report.statistics.intervals import LEVEL, Interval, student_intervals

MEANINGFUL = 1.0  # points: the smallest difference that matters in practice

REPRODUCED, WITHIN_NOISE, NOT_REPRODUCED = "reproduced", "within noise", "not reproduced"
NOT_COMPARABLE = "not comparable"
VERDICTS = (REPRODUCED, WITHIN_NOISE, NOT_REPRODUCED, NOT_COMPARABLE)


@dataclass(frozen=True)
class Verdict:
    """The verdict of our runs on one printed figure.

    Attributes:
        word: one of `VERDICTS`.
        reason: one line with the numbers behind the verdict.
        difference: our mean minus the printed figure, in points; None where not comparable.
        mean: our mean with its t interval; None without scores.
        prediction: our mean with the interval of one further run; None without scores.
    """

    word: str
    reason: str
    difference: float | None
    mean: Interval | None
    prediction: Interval | None


def verdict(
    printed: float | None,
    digits: int,
    scores: ArrayLike,
    *,
    obstacles: Sequence[str] = (),
    margin: float = MEANINGFUL,
    level: float = LEVEL,
) -> Verdict:
    """Compare a printed figure with our runs. The first rule that applies gives the verdict.

    1. not comparable: there is an obstacle, no printed figure, or no spread over seeds that could be known.
    2. not reproduced: the figure lies outside the prediction interval of one further run of ours.
    3. reproduced: the whole interval of our mean lies within `margin` points of the figure.
    4. within noise: otherwise. One run of ours can give the figure, but our mean may lie more than `margin` from it.

    The figure stands for every number that rounds to it, so half a unit of its last digit is subtracted from the
    distance.

    Args:
        printed: the paper's figure in points; None where it prints none.
        digits: decimals it is printed with.
        scores: ours (seeds,); for a printed average, those of each seed's average over exactly its tasks.
        obstacles: reasons why our runs are not comparable: other data, backbone, rows, protocol or settings.
        margin: smallest meaningful difference, in points.
        level: of both intervals.

    Raises:
        ValueError: for a score that is not finite, a margin under 0, or an impossible level.
    """
    if not margin >= 0:
        raise ValueError(f"margin={margin} is not possible: it must be at least 0 points")
    if not np.size(scores):
        return Verdict(NOT_COMPARABLE, "; ".join([*obstacles, "no run of ours"]), None, None, None)
    mean, further = student_intervals(scores, level, 0, 1)
    reasons = list(obstacles)
    if mean.low is None:
        seen = "one seed only" if mean.n == 1 else f"all {mean.n} seeds scored the same"
        reasons.append(f"{seen}: the spread is unknown")
    if printed is None:
        reasons.append("the paper prints no figure")
    if printed is None or reasons:
        return Verdict(NOT_COMPARABLE, "; ".join(reasons), None, mean, further)
    difference = mean.estimate - printed
    distance = max(0.0, abs(difference) - 0.5 * 10.0**-digits - 1e-9)
    share, shown = f"{100 * level:g} %", f"{printed:.{digits}f}"
    falls = f"{mean.estimate:.2f} ± {further.half_width:.2f}"
    reach = distance + mean.half_width
    if distance > further.half_width:
        word, reason = NOT_REPRODUCED, f"{shown} lies outside {falls}, where a further run of ours falls ({share})"
    elif reach <= margin:
        word, reason = REPRODUCED, f"our mean lies within {margin:g} point(s) of {shown} ({share})"
    else:
        word = WITHIN_NOISE
        reason = f"{shown} could be a run of ours ({falls}, {share}), but our mean may lie {reach:.2f} points away"
    return Verdict(word, reason, difference, mean, further)
