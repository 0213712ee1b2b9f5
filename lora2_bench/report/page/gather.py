"""What the page needs of the records, read one by one: trimmed runs and their learning curves, within little memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora2_bench.records.record import Record
from lora2_bench.report.runs import Run
from lora2_bench.report.selection import Selection, selection_of

Line = NDArray[np.float32]


@dataclass(frozen=True)
class Gathered:
    """The runs, and id -> (evaluations, 2) epochs and points of every finished one."""

    selection: Selection
    curves: Mapping[str, Line]


def gather(records: Iterable[Record]) -> Gathered:
    """Read all records; thousands of whole ones would take half a gigabyte."""
    runs: list[Run] = []
    curves: dict[str, Line] = {}
    pool: dict[str, Any] = {}
    for record in records:
        run = Run.of(record)
        if run.done:
            curves[run.id] = np.array(run.curve, dtype=np.float32).reshape(-1, 2)
        runs.append(run.trimmed(pool))
    return Gathered(selection_of(runs), curves)
