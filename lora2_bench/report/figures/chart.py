"""The data of one figure, and the style of each method in all figures. This module draws nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lora2_bench import __version__
from lora2_bench.report.runs import XY

# Okabe and Ito's palette, which is safe for colour-blind readers; a method has the same colour in every figure.
COLOURS = {
    "full": "#000000",
    "bitfit": "#999999",
    "lora": "#0072B2",
    "adalora": "#E69F00",
    "sora": "#009E73",
    "lora2": "#D55E00",
}
OTHER_COLOURS = (
    "#CC79A7", "#56B4E9", "#8C6D31", "#5B4FA2", "#882255", "#44AA99", "#EE6677", "#7F7F00", "#4466CC", "#66A61E"
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))


@dataclass(frozen=True)
class Mean:
    """One point of a method: the cost `x`, and the mean score `y` over `n` seeds.

    `sd` is the standard deviation over seeds, None for one seed; where a figure says so, half the 95 % interval, and
    `x_sd` that of x. `mark` is a short text beside the point.
    """

    label: str
    x: float
    y: float
    sd: float | None
    n: int
    x_sd: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Curve:
    """One line (x, y) per seed, and their mean at the x that all seeds have."""

    label: str
    seeds: tuple[tuple[XY, ...], ...]
    mean: tuple[XY, ...]


@dataclass(frozen=True)
class Panel:
    """The data of one task.

    Attributes:
        title: of the panel.
        means: points with error bars; `front` is their Pareto front, sorted by cost.
        curves: lines, one per method.
        rows: the heat map's rows, one per linear map; `columns` are the layers, counted from 1; `values` is
            rows × columns, None where a layer has no such map.
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
        name: of its files, without suffix.
        title: names backbone, data and protocol.
        note: one or two sentences on how to read it.
        protocol: `paper`, `last` or `clean`.
        panels: one per task.
        x_label: with its unit; `y_label` likewise.
        log_x: whether x is logarithmic.
        apart: whether points at one x, or nearly so on a logarithmic axis, stand side by side, lines with them.
        cut: whether the axes are of the means alone, and an error bar that goes beyond ends at the frame.
        top: the initial rank of the maps, the upper end of a heat map's colours; 0 for any other figure.
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
    apart: bool = True
    cut: bool = False
    top: int = 0

    def labels(self) -> list[str]:
        """The labels of its methods: the paper's methods in the paper's order, then others; small sizes first."""
        labels = {mean.label for panel in self.panels for mean in panel.means}
        labels |= {curve.label for panel in self.panels for curve in panel.curves}
        order = list(COLOURS)

        def place(label: str) -> tuple[int, str, int, str]:
            method = label.split(" ", maxsplit=1)[0]
            return (order.index(method) if method in order else len(order), method, len(label), label)

        return sorted(labels, key=place)


@dataclass(frozen=True)
class Difference:
    """One row minus another: the mean over `n` pairs and its 95 % interval, of which one pair has none.

    Attributes:
        label: beside it.
        estimate, low, high: in the unit of the figure.
        is_chief: whether the figure is about it.
        is_part: whether it is a part of the one above.
    """

    label: str
    estimate: float
    low: float | None
    high: float | None
    n: int
    is_chief: bool = False
    is_part: bool = False


@dataclass(frozen=True)
class Forest:
    """A figure of differences, one below another, beside the line of no difference; its texts are as a `Plot`'s."""

    folder: str
    name: str
    title: str
    note: str
    differences: tuple[Difference, ...]
    x_label: str

    def labels(self) -> list[str]:
        """No label has a style of its own."""
        return []


@dataclass(frozen=True)
class Style:
    """The style of one label: the colour of its method, and a marker and a line style that tell its sizes apart."""

    colour: str
    marker: str
    dash: Any


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """One style per label, as `lora2 k=1`. The result does not depend on the order of the labels."""
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


def digest(plot: Plot | Forest, style: Mapping[str, Style]) -> str:
    """SHA-256 of all that determines a figure: its data, its styles, the versions of this package and matplotlib."""
    used = {label: style[label] for label in plot.labels()}
    return hashlib.sha256(repr((plot, used, __version__, _matplotlib_version())).encode()).hexdigest()


def is_drawn(svg: Path, plot: Plot | Forest, style: Mapping[str, Style]) -> bool:
    """Whether the file is a figure of this data already: another machine's may differ in its last digits."""
    return svg.is_file() and digest(plot, style) in svg.read_text(encoding="utf-8")


@cache
def _matplotlib_version() -> str:
    return version("matplotlib")  # reads a file at each call
