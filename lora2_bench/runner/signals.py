"""Signals that end a run after the step at hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lora2_bench.errors import Interrupted


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM, SIGUSR2 and the first Ctrl-C make the given function true instead of ending the process.

    Where the block ends with Interrupted, SIGUSR2 is handed on to the handler that was there before, if there was one:
    in a job of submitit's, that is what puts the job back into the queue.
    """
    told = threading.Event()
    numbers: set[int] = set()
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield told.is_set
        return

    def handler(number: int, _frame: object) -> None:
        told.set()
        numbers.add(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    interrupted = False
    try:
        yield told.is_set
    except Interrupted:
        interrupted = True
        raise
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        if interrupted and signal.SIGUSR2 in numbers and callable(before[signal.SIGUSR2]):
            signal.raise_signal(signal.SIGUSR2)
