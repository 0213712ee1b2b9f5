"""The body of POST /predict, read and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora2_bench.errors import UserError
from lora2_bench.files.arguments import nearest
from lora2_bench.files.reading import Unreadable, read_values
from lora2_bench.serving.http.limits import Limits
from lora2_bench.serving.http.responses import Refused

if TYPE_CHECKING:
    from lora2_bench.serving.library import Entry

_FIELDS = ("adapter", "text", "text_pair")
_LONGEST_WORDS = 300  # characters of what names an adapter


@dataclass(frozen=True)
class Wanted:
    """One row to be predicted."""

    entry: Entry
    text: str
    text_pair: str | None


def read_request(body: bytes, find: Callable[[str], Entry], limits: Limits) -> tuple[list[Wanted], bool]:
    """The rows of a body, and whether it is a list. Raises Refused: 400 for no JSON, 413, 422."""
    try:
        given = read_values(body.decode())
    except ValueError as error:  # Unreadable and UnicodeDecodeError
        why = str(error) if isinstance(error, Unreadable) else "no JSON (it is not UTF-8)"
        raise Refused(400, f'the body is {why}: send {{"adapter": "...", "text": "..."}} or a list of these') from None
    if not isinstance(given, list):
        return [_row(given, find, limits, "")], False
    if not given:
        raise Refused(422, "the list has no rows: send one at least")
    if len(given) > limits.rows:
        raise Refused(413, f"{len(given)} rows are too many: send {limits.rows} at most in one request")
    return [_row(row, find, limits, where(at)) for at, row in enumerate(given)], True


def where(at: int) -> str:
    """How errors name the row at index `at` of a list."""
    return f"row {at + 1}: "


def _row(given: Any, find: Callable[[str], Entry], limits: Limits, place: str) -> Wanted:
    if not isinstance(given, dict):
        raise Refused(422, f'{place}this is no object: send {{"adapter": "...", "text": "..."}}')
    for name in given:
        if name not in _FIELDS:
            raise Refused(422, f"{place}{_short(name)} is not known: {nearest(name, _FIELDS)}")
    words = _text(given, "adapter", place)
    if len(words) > _LONGEST_WORDS:
        raise Refused(422, f"{place}adapter has {len(words)} characters: give an id, or words as task=rte method=lora")
    try:
        entry = find(words)
    except UserError as error:
        raise Refused(422, f"{place}{error}") from None
    text = _bounded(_text(given, "text", place), "text", limits, place)
    if not entry.pair:
        if given.get("text_pair") is not None:
            raise Refused(422, f"{place}{entry.task} has one text: leave text_pair out")
        return Wanted(entry, text, None)
    if given.get("text_pair") is None:
        raise Refused(422, f"{place}{entry.task} has two texts: give text_pair")
    return Wanted(entry, text, _bounded(_text(given, "text_pair", place), "text_pair", limits, place))


def _text(given: dict[str, Any], name: str, place: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise Refused(422, f"{place}{name} {'is missing' if name not in given else 'is no text'}: give a string")
    if not value.strip():
        raise Refused(422, f"{place}{name} is empty: give a text")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair of \ud800 escapes: no tokenizer takes it
        raise Refused(422, f"{place}{name} has half a surrogate pair: send whole characters") from None
    return value


def _bounded(text: str, name: str, limits: Limits, place: str) -> str:
    if len(text) > limits.characters:
        raise Refused(413, f"{place}{name} has {len(text)} characters: send {limits.characters} at most")
    return text


def _short(name: str) -> str:
    return ascii(name if len(name) <= 40 else f"{name[:37]}...")
