"""Stored dev predictions, read back as right or wrong per row within a bound of memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora2_bench.files.paths import below
from lora2_bench.records.digest import file_digest
from lora2_bench.records.predictions import read_predictions
from lora2_bench.records.store import PREDICTIONS


@dataclass(frozen=True)
class Correctness:
    """Which dev examples a cell has right.

    Attributes:
        labels: (examples,) true classes, all dev splits in the order of their names.
        right: checkpoint (`best`, `last`) -> (examples,) booleans.
    """

    labels: NDArray[np.int64]
    right: dict[str, NDArray[np.bool_]]


Reader = Callable[[str], Correctness | None]


def read_correctness(path: Path, sha256: str | None = None) -> Correctness | None:
    """What one `predictions.json` has right; None for a regression, and where there is no file.

    A file that cannot be read, or is not the one of `sha256`, is named on stderr, and counts as none.
    """
    try:
        splits = read_predictions(path)
        if sha256 not in (None, file_digest(path)):
            print(f"warning: {path} is skipped: its content is not what its record says", file=sys.stderr)
            return None
        parts = [splits[name] for name in sorted(splits)]
        logits = {when: [part.logits[when] for part in parts] for when in parts[0].logits}
        if any(rows.shape[1] == 1 for split in logits.values() for rows in split):
            return None
        labels = np.concatenate([part.labels for part in parts])
        chosen = {when: np.concatenate([rows.argmax(axis=1) for rows in split]) for when, split in logits.items()}
        return Correctness(labels, {when: predicted == labels for when, predicted in chosen.items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError):  # of splits that lack a checkpoint too
        print(f"warning: {path} is skipped: no predictions of this package", file=sys.stderr)
        return None


def stored_correctness(results: Path, digests: Mapping[str, str]) -> Reader:
    """A reader of stored predictions by cell id; each file is read when first asked for, and once.

    `digests` are those that the cells' records hold of these files; a record of an earlier version holds none.
    """

    @cache
    def read(cell_id: str) -> Correctness | None:
        return read_correctness(below(results / "cells", cell_id) / PREDICTIONS, digests.get(cell_id))

    return read


# What keeps `make tables` quick: bytes of one predictions file, and of all that are read in one run. The files of QQP
# and MNLI hold 20,000 rows and more; those of the smaller tasks pass.
LARGEST_FILE = 256 * 1024


MOST_BYTES = 8 * 1024 * 1024


class BoundedReader:
    """Reads stored predictions, passing over large files, until enough has been read.

    Attributes:
        passed_over: ids of the cells whose predictions stayed unread for that.
    """

    def __init__(self, results: Path, digests: Mapping[str, str]) -> None:
        self._cells = results / "cells"
        self._read = stored_correctness(results, digests)
        self._known: dict[str, Correctness | None] = {}
        self._bytes = 0
        self.passed_over: set[str] = set()

    def __call__(self, cell_id: str) -> Correctness | None:
        """As `comparisons.stored_correctness`; None for what is passed over."""
        if cell_id not in self._known:
            self._known[cell_id] = self._first(cell_id)
        return self._known[cell_id]

    def _first(self, cell_id: str) -> Correctness | None:
        try:
            size = (self._cells / cell_id / PREDICTIONS).stat().st_size
        except OSError:
            return None
        if size > LARGEST_FILE or self._bytes + size > MOST_BYTES:
            self.passed_over.add(cell_id)
            return None
        self._bytes += size
        return self._read(cell_id)
