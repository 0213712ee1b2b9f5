"""Seconds per step alone and beside a busy process: threads that wait shortly, that sleep at once, and that spin.

Three processes hold the same step, one for each way to wait, and take it in turn; a fourth, which only counts, runs in
every second round. Each row of the table is thus of the same minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import ExitStack
from statistics import median

from lora2_bench.files.waiting import SHORT_WAIT, VARIABLES

CASE = "lora r=8"
_WAYS = {
    "shortly (as here)": SHORT_WAIT,
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    "spinning (OpenMP's own)": {"GOMP_SPINCOUNT": "300000"},
}
_STEPPER = ["-m", "lora2_bench.bench.shared"]
_BUSY = ["-c", "while True: pass"]


def measure_shared(arguments: Namespace) -> None:
    """Time the steps of `CASE` and print the table."""
    with ExitStack() as stack:

        def started(words: list[str], **how: object) -> subprocess.Popen[str]:
            running: subprocess.Popen[str] = subprocess.Popen([sys.executable, *words], text=True, **how)  # type: ignore[call-overload]
            stack.callback(running.wait)
            stack.callback(running.kill)
            return running

        piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        told = [arguments.sizes[0], str(arguments.layers or 0), str(arguments.threads or 0), str(arguments.warm_up)]
        clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        steppers = {name: started([*_STEPPER, *told], env={**clean, **way}, **piped) for name, way in _WAYS.items()}
        for one in steppers.values():
            _step(one)  # once it has loaded and warmed up
        busy = started(_BUSY)
        seconds: dict[tuple[str, bool], list[float]] = {(name, on): [] for name in steppers for on in (False, True)}
        for number in range(2 * arguments.rounds):
            is_busy = number % 2 == 1
            busy.send_signal(signal.SIGCONT if is_busy else signal.SIGSTOP)
            for name, one in steppers.items():
                seconds[name, is_busy].append(_step(one))
    print(f"{arguments.sizes[0]}, {CASE}, {arguments.rounds} rounds: seconds per step, median (lowest to highest)")
    print(f"{'threads that wait':26}{'alone':>26}{'beside a busy process':>26}{'ratio':>8}")
    for name in steppers:
        alone, beside = seconds[name, False], seconds[name, True]
        print(f"{name:26}{_spread(alone):>26}{_spread(beside):>26}{median(beside) / median(alone):8.2f}")


def _spread(values: list[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def _step(process: subprocess.Popen[str]) -> float:
    """Let a process take one step; returns its seconds. Ends for one that has died."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())
    except (OSError, ValueError):
        sys.exit("error: a process of --shared has ended: run make bench without it to see why")


def main() -> None:
    """A process that takes one step for every line of its input, and answers with its seconds."""
    size, layers, threads, warm_up = sys.argv[1], *map(int, sys.argv[2:])
    from lora2_bench.bench.cases import make_cases
    from lora2_bench.bench.sizes import SIZES
    from lora2_bench.training.runtime import set_up_process

    set_up_process(threads or None)
    (case,), _ = make_cases(SIZES[size], layers or None, [CASE], "cpu", "fp32")
    for number in range(warm_up):
        case.step(number + 1)
    for number, _ in enumerate(sys.stdin, warm_up + 1):
        begun = time.perf_counter()
        case.step(number)
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
