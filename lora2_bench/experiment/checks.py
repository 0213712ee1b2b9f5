"""Checks of single values, and sections of settings filled from a config."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, get_type_hints

from lora2_bench.errors import UserError
from lora2_bench.files.paths import shortened
from lora2_bench.records.forms import PLAIN_NAME
from lora2_bench.records.scrub import hide_secrets

Section = TypeVar("Section")
MOST_ROWS = 2**16
"""Rows of one batch at most: no device holds more, and what Python counts beyond 64 bits hangs."""
MOST_RANKS = 2**16
"""The highest rank or width that a method is asked for: above every backbone's width, and never a terabyte."""
MOST_TOKENS = 2**12
"""The longest prompt or prefix that a method is asked for."""
MOST_SEED = 2**32 - 1
"""The largest seed that every generator takes."""


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise a one-line UserError unless `ok`."""
    if not ok:
        shown = json.dumps(value) if value is None or isinstance(value, bool) else str(value)  # as on the command line
        raise UserError(f"{name}={shortened(shown)} is not possible: {name} must be {allowed}")


def require_int(name: str, value: object, low: int, allowed: str, high: int = 10**9) -> None:
    """Raise unless `value` is an integer from `low` to `high`; `allowed` says so of `low`."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    require(is_int and value >= low, name, value, allowed)  # type: ignore[operator]
    require(value <= high, name, value, f"at most {high}")  # type: ignore[operator]


def require_number(name: str, value: object, low: float, high: float, allowed: str) -> None:
    """Raise unless `value` is a finite number in [low, high]."""
    require(_is_number(value) and low <= float(value) <= high, name, value, allowed)  # type: ignore[arg-type]


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    require(value in choices, name, value, f"one of {', '.join(choices)}")


def require_plain_name(name: str, value: object) -> None:
    """Raise unless `value` is a name that can be a part of a path."""
    require(isinstance(value, str) and PLAIN_NAME.matches(value), name, value, f"a plain name: {PLAIN_NAME.allowed}")


def require_steps(name: str, value: object) -> None:
    """Raise unless `value` is a whole number of steps, or a share of all steps, which is under 1."""
    share = isinstance(value, float) and 0 <= value < 1
    require(share or _is_whole(value), name, value, "a number of steps, or a share of all steps from 0 to under 1")


def _is_whole(value: object) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)  # type: ignore[operator, call-overload]


def _is_number(value: object) -> bool:
    """Whether `value` is a finite number, and no integer that is above every float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def in_steps(value: float, total_steps: int) -> int:
    """The steps that a setting stands for: a value under 1 is a share of `total_steps`, rounded; others count steps."""
    return round(value * total_steps) if value < 1 else int(value)


def section(cls: type[Section], values: Mapping[str, Any], name: str) -> Section:
    """An instance of the dataclass `cls` made from a config section, nested dataclasses from the sections within.

    Raises UserError for a missing key, and for an unknown one with the nearest known key.
    """
    require(isinstance(values, Mapping), name, values, f"a section: set what is in it, as {name}.NAME=VALUE")
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {name}.{near[0]}?" if near else f"choose one of {', '.join(known)}"
            raise UserError(f"{name}.{key} is not a setting: {hint}")
    missing = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.name not in values and field.default is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{name}.{missing[0]} has no value: add {name}.{missing[0]}=... or write it into a recipe")
    kinds = get_type_hints(cls)
    inner = {
        key: section(kinds[key], value, f"{name}.{key}")
        for key, value in values.items()
        if dataclasses.is_dataclass(kinds[key]) and not dataclasses.is_dataclass(value)
    }
    return cls(**{**values, **inner})


def check_no_secret(name: str, value: object) -> None:
    """Raise UserError where a name, or one of a list of names, holds what looks like a token; it is not printed."""
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, str) and hide_secrets(one) != one:
            raise UserError(f"{name} holds what looks like a token or a password: give a name, which others may read")
