"""Keep the measured cells of an exhibit in two files small enough for git: results/studies/NAME/*.jsonl.

    python scripts/keep_exhibit.py SUITE [--results DIR] [--to DIR] [OVERRIDES ...]

Every finished cell of the suite whose retention was measured is kept, its record without the composed config, beside
what was kept before. Tables, figures and the page read these files where the cells themselves are not there. The
exhibit's own sheet and figures, of these cells alone, are written beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from lora2_bench.experiment.suites import suites
from lora2_bench.files.paths import below
from lora2_bench.files.writing import write_text
from lora2_bench.records.compact import FILE, read_compact, write_compact
from lora2_bench.records.record import Record
from lora2_bench.records.retention import COMPACT, read_compact_retention, read_retention, write_compact_retention
from lora2_bench.records.store import Store, read_record, record_paths
from lora2_bench.report.figures.chart import is_drawn, styles
from lora2_bench.report.figures.drawing import draw
from lora2_bench.report.retention.plots import retention_plots
from lora2_bench.report.retention.settings import by_place, settings
from lora2_bench.report.retention.sheet import sheet
from lora2_bench.report.selection import select
from lora2_bench.sweep.cells import plan_cells


def keep(name: str, results: Path, to: Path, wanted: Collection[str]) -> list[Path]:
    """Write both files, of the cells with these ids, and what they show; returns the paths, the two files' first.

    Raises ValueError where nothing was measured, for a damaged file, for the folder of a study, and for cells that were
    not made alike.
    """
    folder, store = below(to / "studies", name), Store(results)
    if (folder / "plan.json").exists():
        raise ValueError(f"{folder} is a study's: give the name of a suite")
    paths = [folder / FILE, folder / COMPACT]
    records = {record.id: record for record in read_compact(paths[0])} if paths[0].exists() else {}
    found = read_compact_retention(paths[1]) if paths[1].exists() else {}
    for path in record_paths(results):
        if path.parent.name not in wanted:
            continue
        record = read_record(path)
        facts = read_retention(store.retention(record.id), record.id) if record.is_done else None
        if facts is not None:
            records[record.id], found[record.id] = record, facts
    if not found:
        raise ValueError(f"{results} has no measured cell: run lora2-bench sweep suite={name} results={results}")
    _check_alike(records.values())
    folder.mkdir(parents=True, exist_ok=True)
    write_compact(paths[0], records.values())
    write_compact_retention(paths[1], found.values())
    return paths + _show(folder, records.values(), Store(to))


def _show(folder: Path, records: Iterable[Record], store: Store) -> list[Path]:
    """Write the sheet of each backbone and data source, and the figures as SVG; returns their paths."""
    selection = select(records)
    places = by_place(settings(selection, store))
    written = []
    for name, of in places.items():
        written.append(below(folder, f"{name}.md"))
        write_text(written[-1], sheet(name, of))
    style = styles(run.label for run in selection.runs)
    for plot in retention_plots(places):
        path = below(folder, f"{plot.folder}-{plot.name}.svg")
        written.append(path)
        if not is_drawn(path, plot, style):
            write_text(path, draw(plot, style)[0].decode())
    return written


def _check_alike(records: Iterable[Record]) -> None:
    """Raise ValueError where one method's runs are by several versions of its code, or one task's of several rows."""
    made: dict[str, set[str]] = {}
    for record in records:
        made.setdefault(f"the code of method={record.cell['method']['name']}", set()).add(
            str(record.run.get("sources"))
        )
        made.setdefault(f"the rows of task={record.cell['task']}", set()).add(str(record.result["data"]["sha256"]))
        made.setdefault("the backbone's weights", set()).add(str(record.result["backbone"]["sha256"]))
    for what, found in made.items():
        if len(found) > 1:
            raise ValueError(
                f"{what} changed between the cells ({', '.join(sorted(found))}): train the older ones anew"
            )


def main() -> None:
    """The command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=sorted(suites()), help="of conf/suite, and of the folder below studies/")
    parser.add_argument("overrides", nargs="*", help="with which the suite was run, as model=local")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the cells are")
    parser.add_argument("--to", type=Path, help="a results folder to write to (default: the same)")
    given = parser.parse_args()
    try:
        overrides = [f"suite={given.suite}", *given.overrides]
        wanted = {cell.id for cell in plan_cells(overrides, given.results / "sweeps" / given.suite, keep=False)}
        written = keep(given.suite, given.results, given.to or given.results, wanted)
        kept = {record.id for record in read_compact(written[0])}
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{len(kept & wanted)} of the suite's {len(wanted)} cells are kept")
    for path in written:
        print(f"written: {path}")


if __name__ == "__main__":
    main()
