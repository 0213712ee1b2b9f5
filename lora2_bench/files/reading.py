"""JSON files, whatever stands in their place."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn


class Unreadable(ValueError):
    """A file that is there and cannot be read as JSON; says why in one line."""


def read_json(path: Path) -> Any:
    """The values in a JSON file.

    Raises FileNotFoundError where there is no file, and Unreadable for whatever else is in the way: no right to read, a
    folder, a pipe or a loop of links in its place, text that is not UTF-8 or no JSON, NaN and infinity, deep nesting.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for ever
            raise Unreadable("it is no file")
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text, parse_constant=_no_number)
        if "\\ud" in text or "\\uD" in text:  # half a surrogate pair is a string that cannot be written
            json.dumps(values, ensure_ascii=False).encode()
        return values
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except Unreadable:
        raise
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise Unreadable("not JSON: it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise Unreadable("not JSON of this package: nested too deep") from None
    except ValueError as error:  # an integer of thousands of digits
        raise Unreadable(f"not JSON: {str(error).split(';')[0].split(':')[0]}") from None


def _no_number(name: str) -> NoReturn:
    raise Unreadable(f"not JSON: {name} is no number")
