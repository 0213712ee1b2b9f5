"""Rows that a user wants predicted: given as arguments, or read from a file or a stream; checked before any model.

Files are TSV, CSV or JSON Lines with the task's own columns (or `text` and `text_pair`); a stream may also have one
text a line, with a tab before its pair.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora2_bench.errors import UserError, first_line
from lora2_bench.files.paths import shortened
from lora2_bench.files.reading import Unreadable, read_object
from lora2_bench.tasks.own.tables import LONGEST_FIELD
from lora2_bench.tasks.spec import TaskSpec

FORMATS = ("tsv", "csv", "jsonl", "lines")
CARRIED = ("id", "idx", "index")
"""Columns that are copied to the output as they are."""
UNREAD = ("label",)
"""Columns that a file of labelled rows has, which no prediction reads."""
_MOST_NAMED = 20


class BadRows(UserError):
    """Rows that cannot be predicted.

    Attributes:
        lines: a line for each bad row, at most 20 of them.
    """

    def __init__(self, lines: Sequence[str], where: str, total: int) -> None:
        self.lines = list(lines[:_MOST_NAMED])
        count = f"{len(lines)} of {total} rows cannot be predicted"
        super().__init__(f"{where}: {count} (the first: {lines[0]}): mend them; nothing was predicted")


@dataclass
class TextRows:
    """Rows to predict.

    Attributes:
        texts: one list of texts, or two of the same length for a task on pairs.
        lines: the line of each row in its file, from 1.
        carried: what the columns `CARRIED` hold, by row.
    """

    texts: tuple[list[str], ...]
    lines: list[int] = field(default_factory=list)
    carried: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts[0])


def given_rows(spec: TaskSpec, texts: Sequence[Any], pairs: Sequence[Any] | None, names: tuple[str, str]) -> TextRows:
    """Rows given as arguments, which are called `names` in errors.

    Raises UserError for pairs where the task has none, or none where it has; BadRows for texts that are no text.
    """
    text, pair = names
    if len(spec.columns) == 1 and pairs is not None:
        raise UserError(f"{pair} does not fit task={spec.name}, which takes one {spec.columns[0]}: leave it out")
    if len(spec.columns) == 2 and pairs is None:
        first, second = spec.columns
        raise UserError(f"task={spec.name} takes a {first} and a {second}: give {pair} too")
    columns = (texts,) if pairs is None else (texts, pairs)
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"{text} has {len(texts)} rows and {pair} {len(pairs)}: give as many of both")
    if not len(texts):
        raise UserError(f"{text} has no rows: give at least one")
    bad = []
    for number, row in enumerate(zip(*columns, strict=True), 1):
        whose = f" {number}" if len(texts) > 1 else ""
        bad += [f"{name}{whose} {why}" for name, value in zip(names, row, strict=False) if (why := _why_bad(value))]
    if len(texts) == 1 and bad:
        raise UserError(f"{bad[0]}: give a text")
    if bad:
        raise BadRows(bad, text, len(texts))
    return TextRows(tuple(list(column) for column in columns))


def read_rows(content: bytes, form: str, spec: TaskSpec, where: str) -> TextRows:
    """The rows of a file or a stream in one of `FORMATS`; `where` names it in errors.

    Raises UserError for a wrong header, another encoding or no rows, and BadRows where rows are bad.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{where} line {line} is not UTF-8: save it as UTF-8") from None
    found = TextRows(tuple([] for _ in spec.columns))
    bad: list[str] = []
    total = 0
    for line, values in _READERS[form](text, spec, where):
        total += 1
        why = values if isinstance(values, str) else _take(values, spec, found)
        if why:
            bad.append(f"line {line}: {why}")
        else:
            found.lines.append(line)
    if bad:
        raise BadRows(bad, where, total)
    if not total:
        raise UserError(f"{where} has no rows: give at least one")
    return found


Values = dict[str, Any]
Read = Iterator[tuple[int, Values | str]]
"""Line of a row -> its values by the task's own columns, or why it is bad."""


def _take(values: Values, spec: TaskSpec, rows: TextRows) -> str:
    """Add a row; returns why it cannot be, or nothing."""
    for name in spec.columns:
        if name not in values:
            return f"has no {name}"
        if why := _why_bad(values[name]):
            return f"{name} {why}"
    for column, name in zip(rows.texts, spec.columns, strict=True):
        column.append(values[name])
    rows.carried.append({name: values[name] for name in CARRIED if name in values})
    return ""


def _why_bad(value: Any) -> str:
    if not isinstance(value, str):
        return f"is {json.dumps(value, default=str)[:40]}, which is no text"
    if not value.strip():
        return "is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "has half a surrogate pair, which is no text"
    return ""


def _own_name(name: str, spec: TaskSpec) -> str | None:
    """The task's own name of a column, or that of one that is carried or not read; None for others."""
    general = dict(zip(("text", "text_pair"), spec.columns, strict=False))
    return general.get(name, name if name in (*spec.columns, *CARRIED, *UNREAD) else None)


def _unknown(name: str, spec: TaskSpec) -> str:
    general = " and ".join(("text", "text_pair")[: len(spec.columns)])
    return (
        f"{shortened(name, 40)!r} is no column: give {' and '.join(spec.columns)} (or {general}), and id where wanted"
    )


def _header(names: Sequence[str], spec: TaskSpec, where: str) -> list[str]:
    """The columns of a header by the task's own names. Raises UserError for unknown, missing and repeated ones."""
    if list(names) == [""]:
        raise UserError(f"{where} has no header: its first line names the columns, {' and '.join(spec.columns)}")
    own = [_own_name(name, spec) for name in names]
    found = [name for name in own if name is not None]
    if len(found) < len(own):
        raise UserError(f"{where} line 1: {_unknown(names[own.index(None)], spec)}")
    if missing := [name for name in spec.columns if name not in found]:
        raise UserError(f"{where} line 1: the header has no {missing[0]}: task={spec.name} reads it")
    if twice := [name for name in found if found.count(name) > 1]:
        raise UserError(f"{where} line 1: the column {twice[0]} is there twice: keep one of them")
    return found


def _lines_of(text: str) -> list[str]:
    """The lines, without the empty one after the last."""
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]


def _by_header(header: list[str], fields: list[str]) -> Values | str:
    if len(fields) != len(header):
        return f"has {len(fields)} columns, the header {len(header)}"
    return dict(zip(header, fields, strict=True))


def _tsv(text: str, spec: TaskSpec, where: str) -> Read:
    """GLUE's own form: tabs between columns, and no quoting."""
    first, *rest = _lines_of(text) or [""]
    header = _header(first.split("\t"), spec, where)
    for line, row in enumerate(rest, 2):
        yield line, _by_header(header, row.split("\t"))


def _csv(text: str, spec: TaskSpec, where: str) -> Read:
    csv.field_size_limit(LONGEST_FIELD)  # the process's own, and 128 KiB without this
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            if header is None:
                _header([""], spec, where)
            return
        except csv.Error as error:  # the rest cannot be told apart
            if header is None:
                raise UserError(f"{where} line 1 is no CSV ({first_line(error)}): mend its quotes") from None
            yield line, f"is no CSV ({first_line(error)}); what follows is not read"
            return
        if header is None:
            header = _header(fields, spec, where)
        else:
            yield line, _by_header(header, fields)
        line = reader.line_num + 1


def _jsonl(text: str, spec: TaskSpec, _: str) -> Read:
    for line, row in enumerate(_lines_of(text), 1):
        try:
            values = read_object(row)
        except Unreadable as error:
            yield line, f"is {error}"
            continue
        own = {name: _own_name(name, spec) for name in values}
        if unknown := [name for name, found in own.items() if found is None]:
            yield line, _unknown(unknown[0], spec)
        elif len(set(own.values())) < len(own):
            yield line, "gives a column twice"
        else:
            yield line, {str(own[name]): value for name, value in values.items()}


def _lines(text: str, spec: TaskSpec, _: str) -> Read:
    """A text a line; of a pair, a tab between the two."""
    for line, row in enumerate(_lines_of(text), 1):
        fields = row.split("\t")
        if len(fields) != len(spec.columns):
            wanted = "a tab between its two texts" if len(spec.columns) == 2 else "one text, without a tab"
            yield line, f"has {len(fields) - 1} tabs: task={spec.name} takes {wanted}"
        else:
            yield line, dict(zip(spec.columns, fields, strict=True))


_READERS: dict[str, Callable[[str, TaskSpec, str], Read]] = {
    "tsv": _tsv,
    "csv": _csv,
    "jsonl": _jsonl,
    "lines": _lines,
}
