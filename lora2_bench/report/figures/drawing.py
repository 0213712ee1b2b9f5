"""Draw a `Plot` with matplotlib. Import this module late: matplotlib takes 0.3 s to import."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from lora2_bench.report.figures.chart import COLOURS, Forest, Panel, Plot, Style, digest

SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "lora2_bench",  # makes element ids deterministic
    "svg.fonttype": "none",  # text stays text: files are smaller, and text can be searched and read by screen readers
    "text.parse_math": False,  # a `$` in a label starts no formula
    "font.family": ["sans-serif"],
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}
NARROWEST = 5.2  # inches


def draw(plot: Plot | Forest, style: Mapping[str, Style]) -> tuple[bytes, bytes]:
    """The figure as SVG and PNG files. The same plot gives the same bytes; `style` has every label of the plot."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc changes nothing
        mpl.rcParams.update(SETTINGS)
        figure = _forest(plot) if isinstance(plot, Forest) else _heat_maps(plot) if plot.top else _charts(plot, style)
        figure.draw_without_rendering()  # the layout is computed here, once for both files
        figure.set_layout_engine("none")
        svg, png = io.BytesIO(), io.BytesIO()
        about: dict[str, Any] = {"Title": plot.title, "Identifier": digest(plot, style)}
        figure.savefig(svg, format="svg", metadata={**about, "Creator": "lora2_bench", "Date": None})
        figure.savefig(png, format="png", dpi=150, metadata={"Title": plot.title, "Software": None})
    return svg.getvalue(), png.getvalue()


def _panels(
    plot: Plot | Forest, width: float, height: float, across: int, *, below: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure with an empty panel for each of the plot's (one for a forest), and its title and note above them.

    Args:
        plot: what is drawn.
        width: of one panel with its labels, in inches.
        height: likewise.
        across: panels to a row.
        below: inches left for a legend below the panels.
    """
    count = 1 if isinstance(plot, Forest) else len(plot.panels)
    down = math.ceil(count / across)
    total_x = max(across * width, NARROWEST)
    title = textwrap.wrap(plot.title, int(total_x / 0.085))
    note = textwrap.wrap(plot.note, int(total_x / 0.058))
    head = 0.18 + 0.17 * len(title) + 0.13 * len(note)
    total_y = head + down * height + below
    figure = Figure(figsize=(total_x, total_y), facecolor="white")
    FigureCanvasAgg(figure)
    panels = (0, 0, 1, 1 - head / total_y)
    figure.set_layout_engine("constrained", rect=panels, w_pad=0.08, h_pad=0.06)
    left_edge = 0.12 / total_x
    figure.text(left_edge, 1 - 0.1 / total_y, "\n".join(title), va="top", fontsize=10, fontweight="bold")
    under = 1 - (0.14 + 0.17 * len(title)) / total_y
    figure.text(left_edge, under, "\n".join(note), va="top", fontsize=7, color="#444444")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _charts(plot: Plot, style: Mapping[str, Style]) -> Figure:
    """Points or lines, one panel per task, and one legend below the panels."""
    labels = plot.labels()
    is_line = bool(plot.panels[0].curves)
    across = min(3, len(plot.panels))
    width, height = (4.5, 3.4) if plot.cut else (3.25, 2.6)
    width = width if across > 1 else NARROWEST
    per_row = max(1, int(across * width / (0.075 * max(map(len, labels)) + 0.5)))
    figure, axes = _panels(plot, width, height, across, below=0.1 + 0.19 * math.ceil(len(labels) / per_row))
    for index, (ax, panel) in enumerate(zip(axes, plot.panels, strict=True)):
        ax.set_title(panel.title, loc="left")
        shifts = _shifts(panel, is_log=plot.log_x) if plot.apart else [0.0] * len(panel.means)
        _points(figure, ax, panel, style, shifts)
        by_label = {one.label: shift for one, shift in zip(panel.means, shifts, strict=True)}
        _lines(figure, ax, panel, style, by_label, has_markers=plot.log_x)
        ax.margins(x=0.18 if panel.means and panel.curves else 0.08, y=0.1)  # points that stand beside a line's end
        if plot.log_x:
            _log_axis(ax, sorted({x for curve in panel.curves for x, _ in curve.mean}))
        elif panel.curves and all(one.x > 0 for one in panel.means):
            ax.set_xlim(left=0)
        if plot.cut:
            ax.set_xlim(*_room([one.x for one in panel.means]))
            ax.set_ylim(*_room([one.y for one in panel.means]))
            _joined(ax, panel, style)
        _marks(ax, panel, width - 0.6, height - 0.8)
        ax.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3, steps=[1, 2, 5, 10]))
        ax.set_xlabel(plot.x_label)
        if index % across == 0:
            ax.set_ylabel(textwrap.fill(plot.y_label, 34))
    has_marker = plot.log_x or not is_line
    keys = [_key(label, style[label], is_line=is_line, has_marker=has_marker) for label in labels]
    figure.legend(handles=keys, loc="outside lower center", ncols=per_row)
    return figure


def _points(figure: Figure, ax: Axes, panel: Panel, style: Mapping[str, Style], shifts: Sequence[float]) -> None:
    """Means with error bars, each `shifts` inches to the right of its x, and their Pareto front."""
    if len(panel.front) > 1:
        ax.step(*zip(*panel.front, strict=True), where="post", color="#666666", linestyle=":", linewidth=1, zorder=1)
    for one, shift in zip(panel.means, shifts, strict=True):
        look, place = style[one.label], _shifted(figure, ax, shift)
        bars: dict[str, Any] = {"markersize": 4.5, "elinewidth": 0.8, "capsize": 1.5, "transform": place}
        drawn = ax.errorbar(
            one.x, one.y, yerr=one.sd or None, xerr=one.x_sd or None, fmt=look.marker, color=look.colour, **bars
        )
        for bar in (*drawn[1], *drawn[2]) if one.mark else ():  # many cross each other where points have marks
            bar.set_alpha(0.4)
        x_sd, sd = one.x_sd or 0, one.sd or 0
        ax.update_datalim([(one.x + x_sd, one.y + sd), (one.x - x_sd, one.y - sd)])
    ax.autoscale_view()


def _joined(ax: Axes, panel: Panel, style: Mapping[str, Style]) -> None:
    """A thin line through each method's points, in their order."""
    for label in dict.fromkeys(one.label for one in panel.means):
        points = [(one.x, one.y) for one in panel.means if one.label == label]
        ax.plot(*zip(*points, strict=True), color=style[label].colour, linewidth=0.7, alpha=0.6, zorder=1)


def _marks(ax: Axes, panel: Panel, width: float, height: float) -> None:
    """The marks beside their points, in a panel of so many inches, but for those that would lie on another."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    taken: list[tuple[float, float, float]] = []
    for one in sorted(panel.means, key=lambda one: (-one.y, one.x)):
        x, y = width * (one.x - left) / (right - left), height * (one.y - low) / (high - low)
        ends = x + 0.05 * len(one.mark)
        if one.mark and not any(x < end and start < ends and abs(y - at) < 0.1 for start, end, at in taken):
            taken.append((x, ends, y))
            beside: dict[str, Any] = {"textcoords": "offset points", "xytext": (3, 3), "fontsize": 5.5}
            ax.annotate(one.mark, (one.x, one.y), color="#444444", **beside)


def _room(values: Sequence[float]) -> tuple[float, float]:
    """Limits with a fifth of the values' range, or one where they are equal, on either side."""
    low, high = min(values), max(values)
    beside = 0.2 * (high - low) or 1.0
    return low - beside, high + beside


def _shifts(panel: Panel, *, is_log: bool) -> list[float]:
    """Inches by which each mean stands to the right of its x: on a log axis points within 10 % stand side by side.

    With lines, those of one label are shifted alike, so that they stay on it.
    """
    if panel.curves:
        if len({one.x for one in panel.means}) == len(panel.means):
            return [0.0] * len(panel.means)
        places = {label: at for at, label in enumerate(dict.fromkeys(one.label for one in panel.means))}
        return [_shift(places[one.label], len(places)) for one in panel.means]
    groups: list[list[int]] = []
    for at in sorted(range(len(panel.means)), key=lambda at: panel.means[at].x):
        first = panel.means[groups[-1][0]].x if groups else 0.0
        x = panel.means[at].x
        if groups and (x < 1.1 * first if is_log else x == first):
            groups[-1].append(at)
        else:
            groups.append([at])
    found = {at: _shift(place, len(group)) for group in groups for place, at in enumerate(group)}
    return [found[at] for at in range(len(panel.means))]


def _shift(place: int, count: int) -> float:
    return min(5, 28 / count) * (place - (count - 1) / 2) / 72


def _shifted(figure: Figure, ax: Axes, inches: float) -> Transform:
    return ax.transData + ScaledTranslation(inches, 0, figure.dpi_scale_trans)


def _lines(
    figure: Figure,
    ax: Axes,
    panel: Panel,
    style: Mapping[str, Style],
    shifts: Mapping[str, float],
    *,
    has_markers: bool,
) -> None:
    for curve in panel.curves:
        look = style[curve.label]
        if len(curve.seeds) > 1:
            for line in curve.seeds:
                ax.plot(*zip(*line, strict=True), color=look.colour, linewidth=0.5, alpha=0.45, linestyle=look.dash)
        marker = look.marker if has_markers or len(curve.mean) == 1 else None
        mean = list(zip(*curve.mean, strict=True)) or [(), ()]
        looks: dict[str, Any] = {"linewidth": 1.6, "linestyle": look.dash, "marker": marker, "markersize": 4}
        place = _shifted(figure, ax, shifts.get(curve.label, 0.0))
        ax.plot(*mean, color=look.colour, transform=place, **looks)
        if curve.mean:
            ax.update_datalim(curve.mean)


def _log_axis(ax: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic x axis with `ticks` where they are 2 to 6, else with powers of ten (1, 2, 5 over a short range)."""
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    low, high = ax.get_xlim()
    if 1 < len(ticks) <= 6:
        ax.set_xticks(ticks)
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0), numticks=12))


def short(value: float) -> str:
    """A tick label: 0.005, 20, 50k, 2M; with an exponent below 0.001."""
    if value >= 1e3:
        return EngFormatter(sep="").format_eng(value)
    if value >= 1e-3:
        return f"{value:.3g}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _key(label: str, look: Style, *, is_line: bool, has_marker: bool) -> Line2D:
    return Line2D(
        [],
        [],
        color=look.colour,
        linestyle=look.dash if is_line else "none",
        linewidth=1.6,
        marker=look.marker if has_marker else None,
        markersize=4.5,
        label=label,
    )


def _forest(plot: Forest) -> Figure:
    """Differences as points with their intervals: the one the figure is about in a colour, its parts hollow."""
    figure, (ax,) = _panels(plot, 6.4, 0.55 + 0.2 * len(plot.differences), 1)
    ax.axvline(0, color="#444444", linewidth=0.8, zorder=1)
    for place, one in enumerate(plot.differences):
        colour = COLOURS["lora2"] if one.is_chief or one.is_part else "#444444"
        bars = None if one.low is None or one.high is None else [[one.estimate - one.low], [one.high - one.estimate]]
        looks: dict[str, Any] = {"markersize": 4.5, "capsize": 2, "elinewidth": 2 if one.is_chief else 0.9}
        looks["markerfacecolor"] = "white" if one.is_part else colour
        ax.errorbar(one.estimate, place, xerr=bars, fmt="o", color=colour, **looks)
    ax.set_yticks(range(len(plot.differences)), [one.label for one in plot.differences])
    for text, one in zip(ax.get_yticklabels(), plot.differences, strict=True):
        text.set_fontweight("bold" if one.is_chief else "normal")
    ax.set_ylim(len(plot.differences) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(plot.x_label)
    return figure


def _heat_maps(plot: Plot) -> Figure:
    """Ranks kept, one panel per task: a column per layer, a row per map, and the rank in each cell."""
    layers = max(len(panel.columns) for panel in plot.panels)
    maps = max(len(panel.rows) for panel in plot.panels)
    across = max(1, min(3, 30 // layers, len(plot.panels)))
    figure, axes = _panels(plot, max(2.6, 1.0 + 0.3 * layers), 0.65 + 0.24 * maps, across)
    image = None
    for ax, panel in zip(axes, plot.panels, strict=True):
        ax.grid(visible=False)
        values = [[math.nan if value is None else value for value in row] for row in panel.values]
        image = ax.imshow(values, cmap="cividis", vmin=0, vmax=plot.top, aspect="auto", interpolation="none")
        ax.set_title(panel.title, loc="left")
        ax.set_xticks(range(len(panel.columns)), panel.columns)
        ax.set_yticks(range(len(panel.rows)), panel.rows)
        ax.tick_params(length=0)
        ax.set_xlabel(plot.x_label)
        for row, line in enumerate(panel.values):
            for column, value in enumerate(line):
                if value is not None:
                    colour = "black" if value > 0.55 * plot.top else "white"
                    text = f"{value:.1f}".removesuffix(".0")
                    ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
    assert image is not None, "a plot has a panel"
    figure.colorbar(image, ax=axes[:across], label="kept per map", aspect=20, pad=0.02)
    return figure
