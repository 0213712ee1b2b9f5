"""Follow a sweep with a progress bar until nothing is queued or running."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lora2_bench.records.record import DONE, FAILED
from lora2_bench.sweep.batches import QueueReader
from lora2_bench.sweep.cells import SweepCell
from lora2_bench.sweep.states import QUEUED, RUNNING, count, states


def wait(cells: Sequence[SweepCell], results: Path, squeue: QueueReader, pause: float) -> int:
    """Show a progress bar until no cell is queued or running; returns 0 if all are done, else 1.

    `pause` is the time between two looks at the cells' states, in seconds.
    """
    with tqdm(total=len(cells), desc="cells", unit="cell") as bar:
        while True:
            started = time.monotonic()
            found = states(cells, results, squeue)
            counts = count(found)
            bar.n = counts[DONE]
            others = [f"{number} {name}" for name, number in counts.items() if number and name != DONE]
            bar.set_postfix_str(", ".join(others), refresh=False)
            bar.refresh()
            if not counts[RUNNING] + counts[QUEUED]:
                break
            time.sleep(max(pause, 10 * (time.monotonic() - started)))
    for state in found:
        if state.state == FAILED:
            print(f"failed: {state.label}: {state.reason}" + (f" | {state.log}" if state.log else ""), file=sys.stderr)
    missing = len(cells) - counts[DONE]
    if missing:
        print(f"error: {missing} of {len(cells)} cells are not done: run the same command to go on", file=sys.stderr)
    return 1 if missing else 0
