"""Settings as nested plain data: dotted names, and one spelling for equal science."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any


def canonical(value: Any) -> Any:
    """One spelling for equal science: 5 and 5.0 are one number, and a list of names (targets, terms) is a set."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [canonical(item) for item in value]
        return sorted(items) if all(isinstance(item, str) for item in items) else items
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


ABSENT = object()


def at(values: Any, name: str) -> Any:
    """The value under a dotted name, or an object that equals nothing."""
    for part in _parts(name):
        if not isinstance(values, dict) or part not in values:
            return ABSENT
        values = values[part]
    return values


@cache
def _parts(name: str) -> tuple[str, ...]:
    return tuple(name.split("."))


def leaves(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted name and value of everything that is not a section itself."""
    for name, item in values.items():
        if isinstance(item, dict):
            yield from leaves(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item
