"""Errors of a user's own method, as one line that says which method failed and where."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora2_bench.errors import CellFailed, Interrupted, UserError, first_line
from lora2_bench.methods.base import Method

_PACKAGE = "lora2_bench"


@contextmanager
def blamed(kind: type[Method], part: str) -> Iterator[None]:
    """Turn an error within the block into a UserError where `kind`, a user's own method, is at work.

    Args:
        kind: the method's class.
        part: what the method does in the block, for an error that none of its own lines raised: `inject`, say.
    """
    try:
        yield
    except (UserError, CellFailed, Interrupted):
        raise
    except Exception as error:
        if not is_foreign(kind):
            raise
        raise UserError(_told(kind, error) or f"method {_name(kind)} failed in {part} ({_cause(error)})") from error


def failure_of(kind: type[Method], error: Exception, step: int) -> CellFailed | None:
    """The failed cell that an error of training means: one that a line of a user's own method raised, or None."""
    told = _told(kind, error) if is_foreign(kind) else None
    return None if told is None else CellFailed(step, told)


def is_foreign(kind: type[Method]) -> bool:
    """Whether a method is a user's own."""
    return _root(kind.__module__) != _PACKAGE


def _told(kind: type[Method], error: Exception) -> str | None:
    """The error with the last of the method's own lines that it came through; None where it came through none."""
    own = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _root(str(frame.f_globals.get("__name__"))) == _root(kind.__module__):
            own = frame.f_code, line
    if own is None:
        return None
    code, line = own
    place = f"{_shown(Path(code.co_filename))}:{line}"
    return f"method {_name(kind)} failed in {code.co_name} at {place} ({_cause(error)})"


def _name(kind: type[Method]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _root(module: str) -> str:
    return module.partition(".")[0]


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"


def _shown(path: Path) -> Path:
    """The path from the working folder, or the whole of it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
