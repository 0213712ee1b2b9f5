"""Figure files `results/figures/<backbone>-<data>/<name>.{svg,png}`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora2_bench.files.paths import below
from lora2_bench.files.writing import write_bytes, write_text
from lora2_bench.records.store import Store
from lora2_bench.report.figures.chart import Plot, styles
from lora2_bench.report.figures.data import plots, slug
from lora2_bench.report.records import load_records
from lora2_bench.report.retention.plots import retention_plots
from lora2_bench.report.retention.settings import by_place, settings
from lora2_bench.report.selection import Selection, select


def write_figures(results: Path) -> list[Path]:
    """Draw every figure that the records below `results` have data for; returns the files. Raises OSError.

    Without any finished record, one file says what to run.
    """
    folder = results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    selection = select(load_records(results))
    wanted = plots(selection) + retention_plots(by_place(settings(selection, Store(results))))
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
