"""Values of Python as the words of a command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from lora2_bench.errors import UserError

_BARE = re.compile(r"[\w./:@%+-]+", re.ASCII)


def words(settings: Mapping[str, Any], *, over_lists: bool = False) -> list[str]:
    """`NAME=VALUE` for each setting. Text stands as it is typed on a command line; a path is quoted where it must be.

    With `over_lists`, a list is values to sweep over, as in `seed=0,1`; else it is one value, as `targets=[q,v]`; a
    tuple is always one value. Raises UserError for a value that no command line can have.
    """
    return [f"{name}={_text(name, value, over_lists)}" for name, value in settings.items()]


def _text(name: str, value: Any, over_lists: bool) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, PurePath):
        return quoted(str(value))
    if isinstance(value, list | tuple | range):
        items = _items(name, value)
        return items if over_lists and not isinstance(value, tuple) else f"[{items}]"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(number := getattr(value, "item", lambda: None)(), bool | int | float):  # of numpy's
        return _text(name, number, over_lists)
    raise UserError(f"{name} is a {type(value).__name__}: give a number, text, a path, a list, True, False or None")


def _items(name: str, values: Iterable[Any]) -> str:
    return ",".join(_text(name, value, False) for value in values)


def quoted(text: str) -> str:
    """A text in the quotes that Hydra's grammar wants around it, where it wants any."""
    if _BARE.fullmatch(text):
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)  # a quote within takes a backslash, which doubles those before it
    return f"'{escaped}'"
