"""`lora2-bench submit`, `load` and `rescore`: records on their way, see CONTRIBUTING.md."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.files.arguments import OneLineParser, folder, program
from lora2_bench.records.scrub import hide_secrets
from lora2_bench.records.store import Store, read_record, record_paths
from lora2_bench.sharing.archive import pack, unpack
from lora2_bench.sharing.check import check_records
from lora2_bench.sharing.merge import KEPT, merge
from lora2_bench.sharing.rescore import changes, rescored, write_rescored

_LISTED = 20  # problems that are told one by one


def submit() -> None:
    """The entry of `submit`. Exit codes: 0, 2 where a record may not travel, and nothing is written."""
    parser = OneLineParser(
        prog=program("lora2_bench submit"),
        description="Check the records below a results folder, and pack them with their predictions into one file to "
        "send. (The zip for GLUE's server is another command: submission.)",
    )
    parser.add_argument("results", type=folder, help="a results folder, which holds cells/")
    parser.add_argument("--output", type=Path, help="the file (default: RESULTS/shared/lora2-bench-records-DIGEST.zip)")
    given = parser.read()
    if not record_paths(given.results):
        parser.stop(f"{given.results} has no records in {given.results / 'cells'}: give a results folder")
    checked = check_records(given.results, private=True)
    if checked.problems:
        parser.stop(f"{_listed(checked.problems)}\nnothing is packed: mend these, or move their folders away")
    try:
        path = pack(Store(given.results), (record.id for record in checked.records), given.output)
    except OSError as error:
        parser.stop(f"{error.filename} cannot be written ({error.strerror}): give another --output")
    failed = sum(not record.is_done for record in checked.records)
    left = f"; {len(checked.trials)} trials of studies are left out" if checked.trials else ""
    print(f"{len(checked.records)} records are sound, {failed} of failed cells{left}")
    print(f"written: {path}")


def load() -> None:
    """The entry of `load`. Exit codes: 0, 1 where a record was not added, 2 for a file that is refused."""
    parser = OneLineParser(
        prog=program("lora2_bench load"),
        description="Check a file of `submit`, and put its records beside one's own. No finished record is replaced.",
    )
    parser.add_argument("file", type=Path, help="as `submit` writes it")
    parser.add_argument("--results", type=folder, default=Path("results"), help="where to put them")
    given = parser.read()
    if not given.file.is_file():
        parser.stop(f"{given.file} is no file: give one of lora2-bench submit")
    store = Store(given.results)
    try:
        store.check_writable("give another --results")
        with tempfile.TemporaryDirectory(prefix=".loading.", dir=given.results) as place:
            unpack(given.file, Path(place))
            checked = check_records(Path(place))
            if checked.problems:
                raise UserError(f"{given.file}: {_listed(checked.problems)}\nnothing is added")
            counts, lines = merge(store, Store(Path(place)), checked.records)
    except UserError as error:
        parser.stop(hide_secrets(str(error)))
    for line in lines:
        print(f"not added: {hide_secrets(line)}", file=sys.stderr)
    print("; ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "no records")
    sys.exit(1 if counts[KEPT] else 0)


def rescore() -> None:
    """The entry of `rescore`. Exit codes: 0, 1 where a finished record could not be scored again."""
    parser = OneLineParser(
        prog=program("lora2_bench rescore"),
        description="Compute the best and last scores of records again from their stored predictions, and tell what "
        "differs: after a metric was mended, no cell need be trained. Nothing is written without --write.",
    )
    parser.add_argument("--results", type=folder, default=Path("results"), help="where cells/ is")
    parser.add_argument("--write", action="store_true", help="put the new scores into the records")
    given = parser.read()
    if not given.results.is_dir():
        parser.stop(f"--results {given.results} is no folder: run a cell, or name its results")
    store = Store(given.results)
    same = other = unscored = 0
    for path in record_paths(given.results):
        try:
            before = read_record(path)
            if not before.is_done or before.is_trial:
                continue
            after = rescored(before, path.parent)
            told = changes(before, after)
            if told and given.write:
                write_rescored(store, before, after)
        except (OSError, ValueError) as error:  # UserError among them: the cell is being trained
            reason = "it has no predictions" if isinstance(error, FileNotFoundError) else str(error)
            print(f"warning: {path.parent.name} is left as it is: {hide_secrets(reason)}", file=sys.stderr)
            unscored += 1
            continue
        same, other = same + (not told), other + bool(told)
        if told:
            print(f"{before.id} {before.cell['task']} {before.label}: {'; '.join(told)}")
    done = "rewritten" if given.write else "would change (--write changes them)"
    print(f"{same} records have these scores; {other} {done}; {unscored} cannot be scored")
    sys.exit(1 if unscored else 0)


def _listed(problems: Iterable[str]) -> str:
    lines = list(problems)
    more = [f"... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "\n  ".join([f"{len(lines)} problems:", *map(hide_secrets, lines[:_LISTED]), *more])
