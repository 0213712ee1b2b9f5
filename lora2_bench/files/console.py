"""The standard streams of every command: closed, full, left by their reader, or of an ASCII terminal."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lora2_bench.errors import one_line_on_interrupt
from lora2_bench.files.waiting import wait_shortly

_NAME = "lora2_bench.plain"
# What stands for a sign that a stream cannot encode; any other is written as Python escapes it.
_PLAIN = {
    "²": "2",
    "±": "+-",
    "×": "x",
    "·": "*",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "…": "...",
    "Δ": "d",
    "ᵀ": "^T",
    "½": "1/2",
}


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler _NAME."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or ascii(sign)[1:-1] for sign in signs), error.end


codecs.register_error(_NAME, _plainly)


class _Output:
    """A stream whose first error is kept and ends nothing: what is written after it is lost, the work is not."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, and return the number of characters."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush."""
        self._try(self._stream.flush)

    def _try(self, action: Any) -> None:
        if self.error is not None:
            return
        try:
            action()
        except OSError as error:
            self.error = error
            with suppress(OSError, ValueError):  # no descriptor of its own, as in a notebook
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # the interpreter flushes at its end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def console() -> Iterator[None]:
    """The context of a command, from its imports to its end.

    - A sign that a stream cannot encode is written in ASCII.
    - A reader that leaves early (`| head`) ends nothing: the command finishes its files, in silence.
    - Output that cannot be written otherwise (a full disk) is told in one line at the end, with exit code 1.
    - A stream that was closed before the start is as /dev/null.
    - Ctrl-C ends in one line, as `one_line_on_interrupt` has it.
    - Threads sleep where they wait for each other, as `wait_shortly` has it.
    - bitsandbytes, which comes with PEFT, asks on some processors for a package that nothing here uses: not shown.
    """
    wait_shortly()
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    _fill_closed()
    before = sys.stdout, sys.stderr
    with _plain(sys.stdout) as stdout, _plain(sys.stderr) as stderr:
        out, err = _Output(stdout), _Output(stderr)
        sys.stdout, sys.stderr = out, err
        try:
            with one_line_on_interrupt():
                yield
        except SystemExit as stop:
            if stop.code or not _lost(out):
                raise
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before
        if _lost(out):
            assert out.error is not None
            print(f"error: the output cannot be written ({out.error.strerror}): give it more room", file=err)
            err.flush()
            sys.exit(1)


def _lost(out: _Output) -> bool:
    """Whether output was lost that somebody still waits for."""
    out.flush()
    return out.error is not None and not isinstance(out.error, BrokenPipeError)


def _fill_closed() -> None:
    """Open /dev/null for every standard descriptor that is closed: the next file would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


@contextmanager
def _plain(stream: TextIO | None) -> Iterator[TextIO]:
    """The stream, with signs that it cannot encode in ASCII; /dev/null for none."""
    if stream is None:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - no path of ours
            yield nowhere
    elif isinstance(stream, io.TextIOWrapper):
        errors = stream.errors
        stream.reconfigure(errors=_NAME)
        try:
            yield stream
        finally:
            with suppress(OSError, ValueError):  # it flushes, and what it writes to may be gone
                stream.reconfigure(errors=errors)
    else:
        yield stream
