"""Figure files `results/figures/<backbone>-<data>/<name>.{svg,png}`: write them, and read those that are up to date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lora2_bench.files.writing import write_bytes, write_text
from lora2_bench.records.record import Record
from lora2_bench.report.figures.chart import Plot, digest, styles
from lora2_bench.report.figures.data import plots, slug
from lora2_bench.report.records import load_records
from lora2_bench.report.scores import scores


def write_figures(results: Path) -> list[Path]:
    """Draw every figure that the records below `results` have data for; returns the files. Raises OSError.

    Without any finished record, one file says what to run.
    """
    folder = results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    records = load_records(results)
    wanted = plots(records, scores(records))
    if not wanted:
        path = folder / "empty.md"
        write_text(path, "No finished cell yet. Run one: `python -m lora2_bench method=lora2 task=rte`\n")
        return [path]
    (folder / "empty.md").unlink(missing_ok=True)
    return _draw_all(folder, wanted, records)


def current_figures(
    results: Path, records: Sequence[Record], frame: pd.DataFrame, *, at_most: int
) -> list[tuple[Plot, str | None]]:
    """Every figure that `records` have data for, with its SVG; None where it is missing or older than the records.

    `frame` is `scores(records)`. Where at most `at_most` figures are missing or older, they are drawn and written
    first: one takes some tenths of a second. Raises OSError.
    """
    wanted = plots(records, frame)
    folder = results / "figures"
    stamps = _stamps(wanted, records)
    stale = [plot for plot in wanted if _read(folder, plot, stamps[plot.folder, plot.name]) is None]
    if len(stale) <= at_most:
        _draw_all(folder, stale, records)
    return [(plot, _read(folder, plot, stamps[plot.folder, plot.name])) for plot in wanted]


def _draw_all(folder: Path, wanted: Sequence[Plot], records: Sequence[Record]) -> list[Path]:
    if not wanted:
        return []
    from lora2_bench.report.figures.drawing import draw  # matplotlib takes 0.3 s to import

    style = styles(record.label for record in records)
    written = []
    for plot in wanted:
        place = folder / slug(plot.folder)
        place.mkdir(parents=True, exist_ok=True)
        svg, png = draw(plot, style)
        write_text(place / f"{plot.name}.svg", svg.decode())
        write_bytes(place / f"{plot.name}.png", png)
        written += [place / f"{plot.name}.svg", place / f"{plot.name}.png"]
    return written


def _stamps(wanted: Sequence[Plot], records: Sequence[Record]) -> dict[tuple[str, str], str]:
    style = styles(record.label for record in records)
    return {(plot.folder, plot.name): digest(plot, style) for plot in wanted}


def _read(folder: Path, plot: Plot, stamp: str) -> str | None:
    """The stored SVG of a plot where its identifier is `stamp`, else None."""
    path = folder / slug(plot.folder) / f"{plot.name}.svg"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text if f"<dc:identifier>{stamp}</dc:identifier>" in text else None
