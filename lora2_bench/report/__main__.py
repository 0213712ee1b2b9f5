"""`python -m lora2_bench.report tables [--results DIR]`: records -> tables, printed and written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lora2_bench.report.tables import write_tables


def main() -> None:
    """The command-line entry point."""
    parser = argparse.ArgumentParser(prog="python -m lora2_bench.report", description="Turn records into tables.")
    parser.add_argument("what", choices=["tables"], help="tables: method × task, mean ± sd over seeds")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with cells/ (default: results)")
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        print(f"error: --results {arguments.results} is no folder: run a cell, or name its results", file=sys.stderr)
        sys.exit(2)
    try:
        written = write_tables(arguments.results)
    except OSError as error:
        print(f"error: {arguments.results / 'tables'} cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(2)
    for path in written:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
        print(f"written: {path}")


if __name__ == "__main__":
    main()
