"""Cells as commands: seconds to the first step, a whole run, and cells side by side.

Run on an idle machine: python scripts/bench_cell.py [first] [whole] [side], all three without an argument. It runs the
package of the working directory, so an older checkout is measured from inside it; `first CHECKOUT` measures that one in
turn with this one (ROUNDS=10). On a machine that is not idle CPU seconds tell more than wall seconds, and those before
the first step more than those of the step, whose threads wait for a core.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

CELL = ("method=lora2", "task=rte")
SHORT = (*CELL, "train.max_steps=40", "data.max_eval=64", "method.budget.t_init=0.1", "method.budget.t_final=0.3")
FIRST_ROUNDS = int(os.environ.get("ROUNDS", "10"))
SIDE_CELLS = (1, 2, 4)
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Spent:
    """What one command took: seconds of wall clock, of all its threads, of the kernel for it, and peak bytes."""

    wall: float
    user: float
    system: float
    peak: int


def start(
    words: tuple[str, ...], results: str, threads: int, root: Path = Path(), **streams: Any
) -> subprocess.Popen[bytes]:
    """`python -m lora2_bench` of the checkout `root` with these overrides."""
    command = [sys.executable, "-m", "lora2_bench", *words, f"threads={threads}", f"results={results}"]
    told = {"TQDM_MININTERVAL": "0", "TQDM_MINITERS": "1"}  # the progress line tells of every step
    told |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(root.resolve())}
    return subprocess.Popen(command, env={**os.environ, **told}, cwd=root, **streams)


def first_step(root: Path) -> tuple[float, ...]:
    """Wall and CPU seconds from the command to its first training step, then both to that step's end.

    Its progress line tells of them.
    """
    found: list[float] = []
    with tempfile.TemporaryDirectory() as results:
        begun = time.perf_counter()
        running = start(SHORT, results, CORES, root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert running.stderr is not None
        told, process = b"", psutil.Process(running.pid)
        for pattern in (rb" 0/40 ", rb" [1-9]\d*/40 "):
            while not re.search(pattern, told):
                if not (more := os.read(running.stderr.fileno(), 4096)):
                    sys.exit(f"error: the cell ended before its first step: {told.decode()[-300:]}")
                told += more
            used = process.cpu_times()
            found += [time.perf_counter() - begun, used.user + used.system]
        running.kill()
        running.wait()
    return tuple(found)


def first_steps(roots: list[Path], rounds: int) -> None:
    """Print the medians of several rounds, in each of which every checkout has its turn."""
    taken: dict[Path, list[tuple[float, ...]]] = {root: [] for root in roots}
    for number in range(rounds):
        for root in roots if number % 2 == 0 else reversed(roots):
            taken[root].append(first_step(root))
            print(_FIRST.format(_where(root), *(f"{one:.1f}" for one in taken[root][-1])), flush=True)
    print("medians:")
    for root, runs in taken.items():
        spreads = [f"{statistics.median(one):.1f} ({min(one):.1f}–{max(one):.1f})" for one in zip(*runs, strict=True)]
        print(_FIRST.format(_where(root), *spreads), flush=True)
    if len(roots) == 2:
        pairs = list(zip(*(taken[root] for root in roots), strict=True))
        ratios = [statistics.median(mine[at] / other[at] for mine, other in pairs) for at in range(4)]
        print("ratios: wall {:.2f}, CPU {:.2f} before the step; {:.2f}, {:.2f} with it".format(*ratios), flush=True)


_FIRST = "{}: before the first step {} s, {} CPU s; with it {} s, {} CPU s"


def _where(root: Path) -> str:
    return "here" if root == Path() else str(root)


def whole() -> Spent:
    """The whole of one run."""
    with tempfile.TemporaryDirectory() as results:
        begun = time.perf_counter()
        running = start(CELL, results, CORES, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(running.pid, 0)
        if status:
            sys.exit(f"error: python -m lora2_bench {' '.join(CELL)} failed")
        return Spent(time.perf_counter() - begun, used.ru_utime, used.ru_stime, used.ru_maxrss * 1024)


def cells(count: int, side_by_side: bool) -> float:
    """Wall seconds of `count` short cells: one process at a time with all cores, or one per core with one thread."""
    at_once, threads = (CORES, 1) if side_by_side else (1, CORES)
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as results:
        begun = time.perf_counter()
        for seed in range(count):
            while len([one for one in running if one.poll() is None]) >= at_once:
                time.sleep(0.05)
            quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(start((*SHORT, f"seed={seed}"), results, threads, **quiet))
        if any(one.wait() for one in running):
            sys.exit("error: a cell failed: run python -m lora2_bench task=rte to see why")
        return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    others = [Path(word) for word in sys.argv[1:] if Path(word, "lora2_bench").is_dir()]
    chosen = [word for word in sys.argv[1:] if Path(word) not in others] or ["first", "whole", "side"]
    if unknown := set(chosen) - {"first", "whole", "side"}:
        sys.exit(f"error: {unknown.pop()} is unknown: give some of first, whole, side, or a checkout")
    if "first" in chosen:
        first_steps([Path(), *others], FIRST_ROUNDS)
    if "whole" in chosen:
        run = whole()
        print(
            f"{' '.join(CELL)}: {run.wall:.1f} s wall, {run.user:.1f} s user, {run.system:.1f} s system, "
            f"{run.peak / 1e6:.0f} MB",
            flush=True,
        )
    for count in SIDE_CELLS if "side" in chosen else ():
        one, other = cells(count, side_by_side=False), cells(count, side_by_side=True)
        print(
            f"{count} short cell(s): {one:.1f} s one after the other with {CORES} threads, {other:.1f} s side by side "
            f"with one thread each: {one / other:.2f}×",
            flush=True,
        )


if __name__ == "__main__":
    main()
