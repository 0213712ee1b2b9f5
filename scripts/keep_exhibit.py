"""Keep the measured cells of an exhibit in two files small enough for git: results/studies/NAME/*.jsonl.

    python scripts/keep_exhibit.py NAME [--results DIR] [--to DIR]

Every finished cell whose retention was measured is kept, its record without the composed config. Tables, figures and
the page read these files where the cells themselves are not there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lora2_bench.files.paths import below
from lora2_bench.records.compact import FILE, write_compact
from lora2_bench.records.retention import COMPACT, read_retention, write_compact_retention
from lora2_bench.records.store import Store, read_record, record_paths


def keep(name: str, results: Path, to: Path) -> list[Path]:
    """Write both files; returns their paths. Raises ValueError where nothing was measured, or for a damaged file."""
    store, records, found = Store(results), [], []
    for path in record_paths(results):
        record = read_record(path)
        facts = read_retention(store.retention(record.id), record.id) if record.is_done else None
        if facts is not None:
            records.append(record)
            found.append(facts)
    if not found:
        raise ValueError(f"{results} has no measured cell: run lora2-bench sweep suite=forgetting results={results}")
    folder = below(to / "studies", name)
    folder.mkdir(parents=True, exist_ok=True)
    write_compact(folder / FILE, records)
    write_compact_retention(folder / COMPACT, found)
    return [folder / FILE, folder / COMPACT]


def main() -> None:
    """The command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the folder below studies/")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where the cells are")
    parser.add_argument("--to", type=Path, help="a results folder to write to (default: the same)")
    given = parser.parse_args()
    try:
        written = keep(given.name, given.results, given.to or given.results)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for path in written:
        print(f"written: {path}")


if __name__ == "__main__":
    main()
