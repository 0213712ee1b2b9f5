"""All tables, one folder per backbone and data source; and the plain one, method × task, of everything that was run."""

from __future__ import annotations

from pathlib import Path

from lora2_bench.experiment.suites import suites
from lora2_bench.files.paths import below
from lora2_bench.files.writing import write_text
from lora2_bench.records.store import Store
from lora2_bench.report.majority import majority_classes
from lora2_bench.report.predictions import BoundedReader
from lora2_bench.report.records import load_records
from lora2_bench.report.retention.settings import by_place, settings
from lora2_bench.report.retention.sheet import claims_csv, rows_csv, sheet
from lora2_bench.report.runs import Run, rows_and_study
from lora2_bench.report.scores import over_seeds, scores
from lora2_bench.report.selection import Selection, select
from lora2_bench.report.tables.bench_times import write_bench
from lora2_bench.report.tables.commands import RUN
from lora2_bench.report.tables.exhibits import fill_exhibits, write_exhibits
from lora2_bench.report.tables.overview import markdown
from lora2_bench.report.tables.paired import paired

_COLUMNS = [
    "method",
    "variant",
    "cut",
    "task",
    "protocol",
    "metric",
    "mean",
    "sd",
    "n",
    "seeds",
    "adapter",
    "head",
    "active",
    "looks",
]


def write_tables(results: Path) -> list[Path]:
    """Write the tables of the records below `results` to `results/tables/<backbone>-<data>/`; returns their paths.

    Beside `scores.{md,csv}`, with everything that was run, each folder gets the paper's tables that have any of their
    cells, as Markdown, LaTeX and CSV (docs/TABLES.md); what `make bench` measured lies above them. Without any finished
    record, one file says what to run.
    """
    folder = results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    written = write_bench(results)
    selection = select(load_records(results), whole=False)
    frame = scores(selection)
    if frame.empty:
        path = folder / "empty.md"
        write_text(path, _empty())
        return [path, *written]
    (folder / "empty.md").unlink(missing_ok=True)
    table = over_seeds(frame)
    places: dict[tuple[str, str], list[Run]] = {}
    for run in selection.runs:
        places.setdefault((run.model, run.data), []).append(run)
    filled = [fill_exhibits(model, data, own, selection.stale) for (model, data), own in sorted(places.items())]
    reader = BoundedReader(results, selection.predictions)
    plain = [one for one in filled if not rows_and_study(one.data)[1]]  # a study's comparisons are those of its plan
    compared = paired(frame, [grid for one in plain for grid in one.grids["table1"]], reader)
    passed_over = set(reader.passed_over)  # by the comparisons, whose tables say so
    for one in filled:
        place = below(folder, f"{one.model}-{one.data}")
        place.mkdir(exist_ok=True)
        part = table[(table["model"] == one.model) & (table["data"] == one.data)]
        if len(part):
            failed = sum(not run.done for run in places[one.model, one.data])
            write_text(place / "scores.csv", part[_COLUMNS].round(4).to_csv(index=False, lineterminator="\n"))
            done = [run for run in places[one.model, one.data] if run.done]
            spec = next((run.record.spec for run in done if run.record.spec.is_own), None)
            text = markdown(one.model, one.data, part, failed, majority_classes(done, reader), spec)
            write_text(place / "scores.md", text)
            written += [place / "scores.md", place / "scores.csv"]
        written += write_exhibits(place, one, compared, passed_over)
    return written + _write_retention(folder, selection, Store(results))


def _write_retention(folder: Path, selection: Selection, store: Store) -> list[Path]:
    """`retention.{md,csv}`, and `retention_claim.csv` where the claim can be judged, of places that were measured.

    Those that an earlier call wrote and this one does not are removed.
    """
    written = []
    old = set(folder.glob("*/retention.*")) | set(folder.glob("*/retention_claim.csv"))
    for name, places in by_place(settings(selection, store)).items():
        texts = {"retention.md": sheet(name, places), "retention.csv": rows_csv(places)}
        texts |= {"retention_claim.csv": text} if (text := claims_csv(places)) else {}
        for file, text in texts.items():
            write_text(below(folder, name) / file, text)
            written.append(below(folder, name) / file)
    for path in old - set(written):
        path.unlink(missing_ok=True)
    return written


def _empty() -> str:
    """What stands in place of tables: the exhibits, none of them begun, and the command for each."""
    lines = ["No finished cell yet. Run one: `python -m lora2_bench method=lora2 task=rte`", ""]
    lines += ["| suite | cells done | of | command |", "| --- | ---: | ---: | --- |"]
    for suite in suites().values():
        lines.append(f"| {suite.name} | 0 | {suite.cells} | `{RUN} -m suite={suite.name}` |")
    lines += ["", "`model=minilm data=mini` after a suite runs it without a network, on generated data."]
    return "\n".join(lines) + "\n"
