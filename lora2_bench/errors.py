"""Errors with a one-line message: the wrong value, what is allowed, and the fix."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""
_LONGEST = 900  # signs of one line: a value may be a page


class UserError(ValueError):
    """Bad input, found before training starts. It is printed as one line, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line_of(message))


class LockHeld(UserError):
    """A lock that another live process holds: it trains the cell, or sends the sweep."""


class NotJoined(UserError):
    """The processes of one cell did not find each other: each of them says so, for none hears of the others."""


class CellFailed(RuntimeError):
    """A cell whose training failed (by a NaN loss, for example).

    Attributes:
        step: the optimiser step that failed, counted from 1.
        cause: one line for the record.
    """

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(step, cause)  # both arguments, so that other processes can pickle it
        self.step = step
        self.cause = cause

    def __str__(self) -> str:
        return f"step {self.step}: {self.cause}"


class OutOfMemory(CellFailed):
    """A step or an evaluation that did not fit the memory. The checkpoints stay: other run options may help."""


class Interrupted(RuntimeError):
    """A cell that was stopped by a signal. The same command continues it from its last checkpoint.

    Attributes:
        step: the last finished optimiser step.
        kept: the step of the last checkpoint: `step`, or less where that could not be written; 0 without one.
    """

    def __init__(self, step: int, kept: int) -> None:
        super().__init__(step, kept)
        self.step = step
        self.kept = kept

    def __str__(self) -> str:
        if self.kept == self.step:
            return f"stopped after step {self.step}, which is kept: run the same command to continue"
        if self.kept:
            return f"stopped after step {self.step}, step {self.kept} is kept: run the same command to continue"
        return f"stopped after step {self.step}, no checkpoint is kept: the same command starts anew"


def one_line_of(text: str) -> str:
    """`text` on one line: signs that cannot be printed are escaped, and the middle of a long one is left out."""
    text = text if text.isprintable() else "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 300]}...{text[-297:]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


@contextmanager
def one_line_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C within the block end the process with one line and exit code INTERRUPTED, without a traceback.

    The block holds a command's imports too, which take seconds. The first Ctrl-C unwinds the block, so that locks are
    released; a second ends the process where it stands. Training takes the signal over: it stops after its step. A
    process that ignores Ctrl-C, as one in the background does, goes on doing so.
    """
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    received = told = False

    def tell() -> None:
        nonlocal told
        if not told and os.environ.get("RANK", "0") == "0":
            os.write(2, b"\nstopped by Ctrl-C\n" if os.isatty(2) else b"stopped by Ctrl-C\n")  # the terminal shows ^C
        told = True

    def at_once(*_: object) -> None:
        tell()
        os._exit(INTERRUPTED)

    def unwind(*_: object) -> None:
        nonlocal received
        received = True
        signal.signal(signal.SIGINT, at_once)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, unwind)
    try:
        yield
    except SystemExit:  # the command has told its end
        raise
    except BaseException:  # a library may have made another error of it, within an import
        if not received:
            raise
        tell()
        sys.exit(INTERRUPTED)
    finally:
        if not received:
            signal.signal(signal.SIGINT, signal.default_int_handler)
