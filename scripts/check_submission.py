"""Check a zip against the format that gluebenchmark.com takes, without any code of the package.

    python scripts/check_submission.py SUBMISSION.zip [--partial]

Written from the server's format alone: eleven TSV files at the zip's top, the header `index<TAB>prediction`, one row
per test example with its place from 0, and each task's own answers. Prints one line per file and per problem; the exit
status is 1 where there is any problem. With --partial, missing files are told and are no problem.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence

DIGITS = ("0", "1")
TWO_WAY = ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")
SCORE: tuple[str, ...] = ()

# File -> examples of the official test set, and the answers that are scored (none named: a number from 0 to 5).
FORMAT = {
    "CoLA.tsv": (1063, DIGITS),
    "SST-2.tsv": (1821, DIGITS),
    "MRPC.tsv": (1725, DIGITS),
    "STS-B.tsv": (1379, SCORE),
    "QQP.tsv": (390965, DIGITS),
    "MNLI-m.tsv": (9796, THREE_WAY),
    "MNLI-mm.tsv": (9847, THREE_WAY),
    "QNLI.tsv": (5463, TWO_WAY),
    "RTE.tsv": (3000, TWO_WAY),
    "WNLI.tsv": (146, DIGITS),
    "AX.tsv": (1104, THREE_WAY),
}
LARGEST = 64 * 2**20  # bytes of one file, unpacked: QQP's has 4 MiB
DECIMAL = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?")


class Wrong(Exception):
    """What is wrong with a zip or a file, in one line."""


def check_file(name: str, content: bytes) -> str:
    """What one file holds, in words. Raises Wrong for the first line that the server would not take."""
    rows, words = FORMAT[name]
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise Wrong(f"{name}: not UTF-8") from None
    if lines[-1] == "":
        lines.pop()
    if not lines or lines[0] != "index\tprediction":
        raise Wrong(f"{name} line 1: the header must be index<TAB>prediction, and is {lines[:1]}")
    counts: Counter[str] = Counter()
    numbers: list[float] = []
    for place, line in enumerate(lines[1:]):
        where = f"{name} line {place + 2}"
        index, tab, answer = line.partition("\t")
        if not tab or "\t" in answer:
            raise Wrong(f"{where}: must be two fields, and is {line[:60]!r}")
        if index != str(place):
            raise Wrong(f"{where}: index must be {place}, the row's place, and is {index[:20]!r}")
        if words and answer not in words:
            raise Wrong(f"{where}: {answer[:40]!r} is none of {', '.join(words)}")
        if not words:
            if not DECIMAL.fullmatch(answer) or not 0.0 <= (number := float(answer)) <= 5.0:
                raise Wrong(f"{where}: {answer[:40]!r} is no number from 0 to 5")
            numbers.append(number)
        counts[answer] += 1
    if len(lines) - 1 != rows:
        raise Wrong(f"{name}: {len(lines) - 1} rows, and the test set has {rows}")
    if not words:
        return f"{name}: {rows} rows, {min(numbers):g} to {max(numbers):g}, mean {math.fsum(numbers) / rows:.3f}"
    told = ", ".join(f"{word} {counts[word]}" for word in words)
    return f"{name}: {rows} rows, {told}{' (one answer only)' if len(counts) == 1 else ''}"


def check_zip(path: str, *, partial: bool) -> tuple[list[str], list[str]]:
    """Lines on the files that are as they must be, and on the problems."""
    good: list[str] = []
    problems: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            for name in sorted({name for name in names if names.count(name) > 1}):
                problems.append(f"{name}: {names.count(name)} times in the zip")
            problems += [f"{name}: no file of a submission" for name in dict.fromkeys(names) if name not in FORMAT]
            for name in FORMAT:
                if name not in names:
                    (good if partial else problems).append(f"{name}: missing")
                    continue
                entry = archive.getinfo(name)
                try:
                    if entry.file_size > LARGEST:
                        raise Wrong(f"{name}: {entry.file_size} bytes")
                    good.append(check_file(name, archive.read(entry)))
                except Wrong as wrong:
                    problems.append(str(wrong))
                except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                    problems.append(f"{name}: cannot be unpacked ({error})")
    except (OSError, zipfile.BadZipFile) as error:
        problems.append(f"{path} is no readable zip ({error})")
    return good, problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zip", help="the submission")
    parser.add_argument("--partial", action="store_true", help="missing files are no problem")
    options = parser.parse_args(arguments)
    good, problems = check_zip(options.zip, partial=options.partial)
    print("\n".join(good))
    for problem in problems:
        print(f"wrong: {problem}", file=sys.stderr)
    print(f"{options.zip}: " + (f"{len(problems)} problems" if problems else "as the server takes it"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
