"""Settings as nested plain data: dotted names, and one canonical form for equal settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from lora2_bench.records.identity import canonical

__all__ = ["ABSENT", "canonical", "flatten", "value_at"]


def typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


ABSENT = object()


def value_at(values: Any, name: str) -> Any:
    """The value under a dotted name; ABSENT, which equals nothing else, where there is none."""
    for part in _parts(name):
        if not isinstance(values, dict) or part not in values:
            return ABSENT
        values = values[part]
    return values


@cache
def _parts(name: str) -> tuple[str, ...]:
    return tuple(name.split("."))


def flatten(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted name and value of every setting in nested sections."""
    for name, item in values.items():
        if isinstance(item, dict):
            yield from flatten(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item
