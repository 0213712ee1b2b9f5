"""Checks of plain data against types: TypedDicts, lists, unions and ranges. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from lora2_bench.records.forms import Form, Range

Check = Callable[[Any], None]
_FINITE = Range(-math.inf, math.inf)


class Wrong(ValueError):
    """A value that is not of its type, or outside its range; says where, what it is and what is allowed."""

    def __init__(self, problem: str, *place: str) -> None:
        self.place = list(place)
        self.problem = problem

    def __str__(self) -> str:
        return f"{'.'.join(self.place)} {self.problem}"


@cache
def checker(kind: Any) -> Check:
    """A function that raises Wrong for the first place where a value is no `kind`.

    `kind` is a TypedDict, `dict[str, T]`, `list[T]`, a union with None, int, float, str, bool, Any, a number annotated
    with a `Range`, or a string annotated with a `Form`. Keys that a TypedDict does not name pass. An int is a float
    too; a bool is no number; NaN and infinity are outside every range.
    """
    origin, given = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        return _typed_dict(kind)
    if origin in (dict, list):
        return _container(origin, checker(given[-1]))
    if origin in (Union, UnionType):
        (inner,) = (checker(one) for one in given if one is not NoneType)
        return lambda value: None if value is None else inner(value)
    if origin is Annotated and given[0] is str:
        return _text(given[1])
    if origin is Annotated or kind in (int, float):
        return _number(*(given or (kind, _FINITE)))
    return _instance(object if kind is Any else kind)


def _instance(kind: type) -> Check:
    def check(value: Any) -> None:
        if not isinstance(value, kind):
            raise Wrong(f"is no {kind.__name__}: {_short(value)}")

    return check


def _text(form: Form) -> Check:
    def check(value: Any) -> None:
        if type(value) is not str:
            raise Wrong(f"is no str: {_short(value)}")
        if not form.matches(value):
            raise Wrong(f"is no {form.name}: {_short(value)} is not {form.allowed}")

    return check


def _number(kind: type, limits: Range) -> Check:
    kinds = {int} if kind is int else {int, float}
    low, high = max(limits.low, -_LARGEST), min(limits.high, _LARGEST)

    def check(value: Any) -> None:
        if type(value) not in kinds:
            raise Wrong(f"is no {kind.__name__}: {_short(value)}")
        if not low <= value <= high:
            raise Wrong(f"is out of range: {_short(value)} is not {_said(limits)}")

    return check


_LARGEST = 1e300  # finite, with room for products


def _said(limits: Range) -> str:
    if math.isinf(limits.low):
        return "finite"
    return f"{limits.low:g} or more, and finite" if math.isinf(limits.high) else f"{limits.low:g} to {limits.high:g}"


def _typed_dict(kind: Any) -> Check:
    hints = get_type_hints(kind, include_extras=True)
    fields = []
    for name, hint in hints.items():
        optional = get_origin(hint) is NotRequired
        fields.append((name, checker(get_args(hint)[0] if optional else hint), optional))

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise Wrong(f"is no dict: {_short(value)}")
        try:
            for name, inner, optional in fields:
                if name in value:
                    inner(value[name])
                elif not optional:
                    raise Wrong("is missing")
        except Wrong as wrong:
            wrong.place.insert(0, name)
            raise

    return check


def _container(kind: Any, inner: Check) -> Check:
    pairs: Callable[[Any], Iterable[Any]] = dict.items if kind is dict else enumerate

    def check(value: Any) -> None:
        if type(value) is not kind:
            raise Wrong(f"is no {kind.__name__}: {_short(value)}")
        place: Any = None
        try:
            for place, item in pairs(value):  # noqa: B007 - told when wrong
                inner(item)
        except Wrong as wrong:
            wrong.place.insert(0, str(place))
            raise

    return check


def _short(value: Any) -> str:
    """A value on one line, cut where it is long."""
    if isinstance(value, dict | list):
        return type(value).__name__
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST:
        return "an integer of hundreds of digits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
