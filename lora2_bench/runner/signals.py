"""Signals that end a run after its current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lora2_bench.errors import Interrupted

_of_main_thread: list[threading.Event] = []


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Make SIGTERM, SIGUSR2 and the first Ctrl-C request a stop; yields the function that says whether one did.

    Where the block ends with Interrupted after SIGUSR2, the handler that was set before gets that signal: in a job of
    submitit's, it requeues the job. In another thread than the main one, where no handler can be set, it tells of
    the stop that the main thread's block was asked for, where that is in one.
    """
    stop_requested = threading.Event()
    received: set[int] = set()
    if threading.current_thread() is not threading.main_thread():
        yield (_of_main_thread or [stop_requested])[-1].is_set
        return

    def handler(number: int, _frame: object) -> None:
        stop_requested.set()
        received.add(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])  # a second Ctrl-C does not wait for the step

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    interrupted = False
    _of_main_thread.append(stop_requested)
    try:
        yield stop_requested.is_set
    except Interrupted:
        interrupted = True
        raise
    finally:
        _of_main_thread.remove(stop_requested)
        for number, action in before.items():
            signal.signal(number, action)
        if interrupted and signal.SIGUSR2 in received and callable(before[signal.SIGUSR2]):
            signal.raise_signal(signal.SIGUSR2)
