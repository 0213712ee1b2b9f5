"""The page's own drawings as SVG: score against parameters, and learning curves. Colours work on light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from lora2_bench.report.figures.chart import Style
from lora2_bench.report.page.gather import Line
from lora2_bench.report.standing import Board, Entrant

_SHAPES = {
    "o": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z",
    "s": "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "^": "M0 -6L5.5 4.5H-5.5Z",
    "D": "M0 -6L6 0L0 6L-6 0Z",
    "v": "M0 6L5.5 -4.5H-5.5Z",
    "P": "M-2 -5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z",
    "X": "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    "*": "M0 -6.5L1.6 -2H6.2L2.6 1L3.8 5.5L0 3L-3.8 5.5L-2.6 1L-6.2 -2H-1.6Z",
}
_DASHES = ("", "6 2", "2 2", "7 2 2 2")
_LABEL_HEIGHT, _LETTER = 13, 6.6


@dataclass(frozen=True)
class Scale:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels of a value."""
        share = (value - self.low) / (self.high - self.low or 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[float]:
        """About so many round values within the scale."""
        span = (self.high - self.low) / max(count, 1) or 1.0
        power = 10 ** math.floor(math.log10(span))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= span)
        return [
            round(at * step, 6) for at in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)
        ]


def colour_of(style: Style) -> str:
    """The style's colour; black is the colour of text, so that it shows on dark."""
    return "currentColor" if style.colour == "#000000" else style.colour


def marker(style: Style) -> Markup:
    """A legend's sign of one method."""
    return Markup('<svg class="key" viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">{}</svg>').format(
        _sign(style)
    )


def described(one: Entrant) -> str:
    """What a point says when it is pointed at or read aloud."""
    if one.mean is None:
        return one.name
    interval = "spread unknown" if one.mean.low is None else f"95 % interval {one.mean.low:.2f} to {one.mean.high:.2f}"
    seeds = f"n = {one.mean.n} seed{'' if one.mean.n == 1 else 's'}"
    return f"{one.name}: mean {one.mean.estimate:.2f}, {interval}, {seeds}, {one.adapter:,.0f} parameters"


def scatter(board: Board, style: Mapping[str, Style], *, width: int, height: int) -> Markup:
    """Mean over tasks with its interval against trained adapter parameters, on a logarithmic axis."""
    shown = [(one, one.mean) for one in board.ranked if one.mean is not None]
    ends = [end for _, mean in shown for end in (mean.estimate, mean.low, mean.high) if end is not None]
    pad = max((max(ends) - min(ends)) * 0.08, 0.2)
    logs = [math.log10(max(one.adapter, 1)) for one, _ in shown]
    y = Scale(min(ends) - pad, max(ends) + pad, height - 44, 12)
    x = Scale(min(logs) - 0.25, max(logs) + 0.35, 46, width - 12)
    parts = [_grid(y, 46, width - 12)]
    for power in range(math.ceil(x.low), math.floor(x.high) + 1):
        parts.append(_line(x(power), 12, x(power), height - 44, "grid"))
        parts.append(_text(x(power), height - 28, _power_name(power), "middle"))
    parts.append(_text(width / 2, height - 8, "trained adapter parameters (log)", "middle"))
    placed = [(x(log) - 7, y(mean.estimate) - 7, 14.0, 14.0) for log, (_, mean) in zip(logs, shown, strict=True)]
    for log, (one, mean) in zip(logs, shown, strict=True):
        at = x(log), y(mean.estimate)
        bar = ""
        if mean.low is not None and mean.high is not None:
            top, bottom = y(mean.high), y(mean.low)
            bar = f"M0 {top - at[1]:.1f}V{bottom - at[1]:.1f}M-4 {top - at[1]:.1f}H4M-4 {bottom - at[1]:.1f}H4"
        here, anchor = _beside(at, one.name, placed, width)
        parts.append(
            Markup(
                '<g class="mark" data-label="{}" tabindex="0" role="img" aria-label="{}" transform="translate({} {})">'
                '<path d="{}" fill="none" stroke="{}" stroke-width="1.6"/>{}'
                '<text x="{}" y="{}" text-anchor="{}">{}</text></g>'
            ).format(
                one.label, described(one), *at, bar, colour_of(style[one.label]), _sign(style[one.label]),
                round(here[0] - at[0], 1), round(here[1] - at[1] + 4, 1), anchor, one.name,
            )
        )  # fmt: skip
    title = f"Mean score over {len(board.averaged)} task(s) against trained parameters, {len(shown)} methods"
    return _svg(width, height, title, parts)


def curves(
    task: str, lines: Mapping[str, Sequence[Line]], names: Mapping[str, str], style: Mapping[str, Style]
) -> Markup:
    """Mean score over epochs of one task, one line a method, at the epochs that all of its seeds have."""
    width, height = 340, 230
    means = {label: found for label, seeds in lines.items() if len(found := _mean_line(seeds)) > 1}
    if not means:
        return Markup("")
    every = np.concatenate(list(means.values()))
    (left, low), (right, high) = every.min(axis=0), every.max(axis=0)
    pad = max(float(high - low) * 0.06, 0.1)
    y = Scale(float(low) - pad, float(high) + pad, height - 40, 24)
    x = Scale(min(float(left), 0.0), float(right), 42, width - 8)
    parts = [_text(42, 14, task, "start"), _grid(y, 42, width - 8)]
    parts += [_text(x(at), height - 24, f"{at:g}", "middle") for at in x.ticks(4)]
    parts.append(_text(width / 2, height - 6, "epochs", "middle"))
    for label, mean in means.items():
        n = len(lines[label])
        points = " ".join(f"{x(float(at))},{y(float(score))}" for at, score in _thinned(mean))
        dash = _DASHES[list(_SHAPES).index(style[label].marker) % len(_DASHES)]
        said = f"{names[label]} on {task}: ends at {mean[-1, 1]:.2f}, best {mean[:, 1].max():.2f}, mean of {n} seed(s)"
        parts.append(
            Markup(
                '<polyline class="mark" data-label="{}" role="img" aria-label="{}" points="{}" fill="none" '
                'stroke="{}" stroke-width="2" stroke-dasharray="{}"/>'
            ).format(label, said, points, colour_of(style[label]), dash)
        )
    return _svg(width, height, f"Learning curves on {task}", parts)


def _mean_line(seeds: Sequence[Line]) -> Line:
    """(epochs, 2) mean over seeds at the epochs that all have."""
    if not seeds:
        return np.empty((0, 2), dtype=np.float32)
    if all(len(one) == len(seeds[0]) and np.array_equal(one[:, 0], seeds[0][:, 0]) for one in seeds):
        return np.array(np.stack(seeds).mean(axis=0), dtype=np.float32)
    by_epoch = [{float(at): float(score) for at, score in one} for one in seeds]
    shared = sorted(set.intersection(*map(set, by_epoch)))
    found = [(at, float(np.mean([one[at] for one in by_epoch]))) for at in shared]
    return np.array(found, dtype=np.float32).reshape(-1, 2)


def _thinned(line: Line) -> Line:
    """At most some sixty points, the last among them: more cannot be told apart at this width."""
    step = math.ceil(len(line) / 60)
    return np.concatenate([line[:-1:step], line[-1:]])


def _beside(
    at: tuple[float, float], name: str, placed: list[tuple[float, float, float, float]], width: int
) -> tuple[tuple[float, float], str]:
    """Where a label meets no mark and no other label: right, left, or further up and down."""
    length = len(name) * _LETTER
    sides = [("start", 9), ("end", -9)] if at[0] + 9 + length < width - 4 else [("end", -9)]
    best = (at[0] + sides[0][1], at[1]), sides[0][0]
    for shift in (0, -12, 12, -22, 22, -34, 34, -48, 48):
        for anchor, dx in sides:
            left = at[0] + dx - (length if anchor == "end" else 0)
            box = (left, at[1] + shift - _LABEL_HEIGHT / 2, length, float(_LABEL_HEIGHT))
            if left > 44 and box[1] > 2 and not any(_overlap(box, other) for other in placed):
                placed.append(box)
                return (at[0] + dx, at[1] + shift), anchor
    return best


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    apart = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
    return not (apart or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1])


def _sign(style: Style) -> Markup:
    return Markup('<path d="{}" fill="{}"/>').format(_SHAPES[style.marker], colour_of(style))


def _grid(y: Scale, left: float, right: float) -> Markup:
    found = [
        (_line(left, y(at), right, y(at), "grid"), _text(left - 5, y(at) + 4, f"{at:g}", "end")) for at in y.ticks(5)
    ]
    return Markup("").join(part for pair in found for part in pair)


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    return Markup('<path class="{}" d="M{} {}L{} {}"/>').format(name, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _svg(width: int, height: int, title: str, parts: Iterable[Markup]) -> Markup:
    head = '<svg viewBox="0 0 {} {}" width="{}" role="group" aria-label="{}">'
    return Markup(head).format(width, height, width, title) + Markup("").join(map(escape, parts)) + Markup("</svg>")


def _power_name(power: int) -> str:
    unit = {0: "", 1: "k", 2: "M", 3: "G"}[min(power // 3, 3)] if power >= 0 else ""
    return f"{10 ** (power - 3 * min(power // 3, 3)):g}{unit}" if power >= 0 else f"{10.0**power:g}"
