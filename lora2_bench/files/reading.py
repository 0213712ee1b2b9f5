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
    except ValueError as error:  # NaN, or an integer of thousands of digits
        raise Unreadable(f"not JSON: {_reason(error)}") from None


def read_object(text: str) -> dict[str, Any]:
    """The JSON object in a line. Raises Unreadable for anything else, and for what `read_values` refuses."""
    values = read_values(text)
    if not isinstance(values, dict):
        raise Unreadable("no JSON object")
    return values


def read_values(text: str) -> Any:
    """What a text of JSON holds. Raises Unreadable for no JSON: NaN and infinity, and a key given twice, too."""
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_each_once)
    except RecursionError:
        raise Unreadable("no JSON (nested too deep)") from None
    except ValueError as error:
        raise Unreadable(f"no JSON ({_reason(error)})") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:40]!r} is there twice")
    return found


def _reason(error: ValueError) -> str:
    return str(error).split(";")[0].split(":")[0]


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
