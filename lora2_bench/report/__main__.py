"""`python -m lora2_bench.report [tables|audit|figures|report] [--results DIR]`: what is made of records."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from lora2_bench.files.arguments import OneLineParser, folder, program
from lora2_bench.files.console import console

_SHOWN = ("scores.md", "empty.md", "audit.md")  # the others are long: their paths are enough


def main() -> None:
    """The command-line entry point."""
    parser = OneLineParser(
        prog=program("lora2_bench.report"),
        description="Turn records into tables, figures and a page, or audit the paper.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="tables",
        choices=["tables", "audit", "figures", "report"],
        help="tables (default): method × task, mean ± sd; audit: the paper's figures recomputed, no records; "
        "figures: cost, learning curves, learning rates, ranks; report: all of it on one HTML page",
    )
    parser.add_argument("--results", type=folder, default=Path("results"), help="where to read cells/ and to write")
    arguments = parser.read()
    if arguments.what != "audit" and not arguments.results.is_dir():  # the audit reads no records
        print(f"error: --results {arguments.results} is no folder: run a cell, or name its results", file=sys.stderr)
        sys.exit(2)
    gc.disable()  # records hold no cycles, and to look for them among millions of values takes a tenth of the time
    try:
        written = _write(arguments.what, arguments.results)
    except OSError as error:
        print(f"error: {arguments.results / arguments.what} cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(2)
    for path in written:
        if path.name in _SHOWN:
            print(path.read_text(encoding="utf-8"))
        print(f"written: {path}")


def _write(what: str, results: Path) -> list[Path]:
    if what == "audit":
        from lora2_bench.paper.audit.page import write_audit

        return write_audit(results)
    if what == "figures":
        from lora2_bench.report.figures.files import write_figures

        return write_figures(results)
    if what == "report":
        from lora2_bench.report.page.page import write_report

        return write_report(results)
    from lora2_bench.report.tables.write import write_tables  # pandas takes most of a second

    return write_tables(results)


if __name__ == "__main__":
    with console():
        main()
