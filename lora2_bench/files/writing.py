"""Whole-file writes: a temporary file beside the target, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_json(path: Path, values: Any) -> None:
    """Write JSON to a temporary file beside `path`, then rename it. NaN and infinity are refused."""
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 to a temporary file beside `path`, flush it to disk, then rename it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes to a temporary file beside `path`, flush it to disk, then rename it."""
    write_whole(path, lambda stream: stream.write(content))


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it.

    Who may read it is the umask's to say. A killed writer leaves a file whose name begins with a dot and `path`'s.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
