"""What one figure shows, and how each method looks in every figure. Plain data: nothing here draws."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from lora2_bench import __version__
from lora2_bench.report.runs import XY

# Okabe and Ito's palette, told apart with any colour vision; one colour per method, in every figure.
COLOURS = {
    "full": "#000000",
    "bitfit": "#999999",
    "lora": "#0072B2",
    "adalora": "#E69F00",
    "sora": "#009E73",
    "lora2": "#D55E00",
}
OTHER_COLOURS = ("#CC79A7", "#56B4E9", "#8C6D31", "#5B4FA2")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))


@dataclass(frozen=True)
class Mean:
    """A point: `x`, the mean over seeds `y` with its standard deviation (None for one seed), and the seeds."""

    label: str
    x: float
    y: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Curve:
    """One thin line per seed and their mean, over the x that all seeds have."""

    label: str
    seeds: tuple[tuple[XY, ...], ...]
    mean: tuple[XY, ...]


@dataclass(frozen=True)
class Panel:
    """What is drawn for one task.

    Attributes:
        title: of the panel.
        means: points with error bars; `front` is their Pareto front (cheaper to dearer).
        curves: lines over an x axis.
        rows: names of the heat map's rows (maps), and `columns` (layers, from 1); `values` is rows × columns, None
            where a layer has no such map.
    """

    title: str
    means: tuple[Mean, ...] = ()
    front: tuple[XY, ...] = ()
    curves: tuple[Curve, ...] = ()
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    values: tuple[tuple[float | None, ...], ...] = ()


@dataclass(frozen=True)
class Plot:
    """One figure.

    Attributes:
        folder: `<backbone>-<data>`.
        name: of its files.
        title: says backbone, data and protocol.
        note: how to read it.
        protocol: `paper`, `last` or `clean`.
        panels: one per task.
        x_label: with its unit; `y_label` likewise.
        log_x: whether x is logarithmic.
        top: the rank that every map of a heat map started with, 0 for any other figure.
    """

    folder: str
    name: str
    title: str
    note: str
    protocol: str
    panels: tuple[Panel, ...]
    x_label: str
    y_label: str
    log_x: bool = False
    top: int = 0

    def labels(self) -> list[str]:
        """The labels in it: the paper's methods in its order, then others; small sizes first."""
        labels = {mean.label for panel in self.panels for mean in panel.means}
        labels |= {curve.label for panel in self.panels for curve in panel.curves}
        order = list(COLOURS)

        def place(label: str) -> tuple[int, str, int, str]:
            method = label.split(" ", maxsplit=1)[0]
            return (order.index(method) if method in order else len(order), method, len(label), label)

        return sorted(labels, key=place)


@dataclass(frozen=True)
class Style:
    """How one method label is drawn: its method's colour, and a marker and dash of its own among its sizes."""

    colour: str
    marker: str
    dash: Any


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """One style per label (`lora2 k=1`): the same labels get the same styles, in whatever order they come."""
    by_method: dict[str, list[str]] = {}
    for label in sorted(set(labels), key=lambda label: (len(label), label)):
        by_method.setdefault(label.split(" ", maxsplit=1)[0], []).append(label)
    others = [name for name in sorted(by_method) if name not in COLOURS]
    colours = COLOURS | {name: OTHER_COLOURS[index % len(OTHER_COLOURS)] for index, name in enumerate(others)}
    return {
        label: Style(colours[method], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)])
        for method, sizes in by_method.items()
        for index, label in enumerate(sizes)
    }


def digest(plot: Plot, style: Mapping[str, Style]) -> str:
    """A hash of all that a figure is drawn from: its numbers, styles, and the versions of what draws it."""
    used = {label: style[label] for label in plot.labels()}
    return hashlib.sha256(repr((plot, used, __version__, _drawn_by())).encode()).hexdigest()


@cache
def _drawn_by() -> str:
    return version("matplotlib")  # reads a file
