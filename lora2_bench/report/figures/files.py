"""Figure files `results/figures/<backbone>-<data>/<name>.{svg,png}`: write them, and read those that are up to date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora2_bench.files.paths import below
from lora2_bench.files.writing import write_bytes, write_text
from lora2_bench.report.figures.chart import Plot, digest, styles
from lora2_bench.report.figures.data import plots, slug
from lora2_bench.report.records import load_records
from lora2_bench.report.selection import Selection, select


def write_figures(results: Path) -> list[Path]:
    """Draw every figure that the records below `results` have data for; returns the files. Raises OSError.

    Without any finished record, one file says what to run.
    """
    folder = results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    selection = select(load_records(results))
    wanted = plots(selection)
    if not wanted:
        path = folder / "empty.md"
        write_text(path, _empty(len(selection.finished)))
        return [path]
    (folder / "empty.md").unlink(missing_ok=True)
    return _draw_all(folder, wanted, selection)


def _empty(finished: int) -> str:
    """What stands in place of figures."""
    none = f"None of {finished} finished cells is on its recipe" if finished else "No finished cell yet"
    return f"{none}. Run one: `python -m lora2_bench method=lora2 task=rte`\n"


def current_figures(results: Path, selection: Selection, *, at_most: int) -> list[tuple[Plot, str | None]]:
    """Every figure that there are runs for, with its SVG; None where it is missing or older than the records.

    Where at most `at_most` are to be drawn, they are, and written: drawing
    one takes some tenths of a second. Raises OSError.
    """
    wanted = plots(selection)
    folder = results / "figures"
    stamps = _stamps(wanted, selection)
    stale = [plot for plot in wanted if _read(folder, plot, stamps[plot.folder, plot.name]) is None]
    if len(stale) <= at_most:
        _draw_all(folder, stale, selection)
    return [(plot, _read(folder, plot, stamps[plot.folder, plot.name])) for plot in wanted]


def _draw_all(folder: Path, wanted: Sequence[Plot], selection: Selection) -> list[Path]:
    if not wanted:
        return []
    from lora2_bench.report.figures.drawing import draw  # matplotlib takes 0.3 s to import

    style = styles(run.label for run in selection.runs)
    written = []
    for plot in wanted:
        place = below(folder, slug(plot.folder))
        place.mkdir(parents=True, exist_ok=True)
        svg, png = draw(plot, style)
        drawn = [below(place, f"{plot.name}.svg"), below(place, f"{plot.name}.png")]
        write_text(drawn[0], svg.decode())
        write_bytes(drawn[1], png)
        written += drawn
    return written


def _stamps(wanted: Sequence[Plot], selection: Selection) -> dict[tuple[str, str], str]:
    style = styles(run.label for run in selection.runs)
    return {(plot.folder, plot.name): digest(plot, style) for plot in wanted}


def _read(folder: Path, plot: Plot, stamp: str) -> str | None:
    """The stored SVG of a plot where its identifier is `stamp`, else None."""
    path = below(folder, slug(plot.folder), f"{plot.name}.svg")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text if f"<dc:identifier>{stamp}</dc:identifier>" in text else None
