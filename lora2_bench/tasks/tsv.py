"""GLUE's own TSV files, read row by row."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import Split, parse_score, unlabelled
from lora2_bench.tasks.spec import TASKS, TaskSpec

_DIGITS = ("0", "1")
_CARRIAGE_RETURNS = "carriage returns (\\r) within the line: save the file with line ends of \\n or \\r\\n"


@dataclass(frozen=True)
class _TsvFormat:
    """Where a task's official TSV keeps its texts and its label.

    Attributes:
        texts: the file's text columns, in the order of the spec's columns.
        label: the label's column.
        words: how the file writes each class, in the order of the label ids; empty for a score.
        header: column names of a file without a header line.
    """

    texts: tuple[str, ...]
    label: str
    words: tuple[str, ...]
    header: tuple[str, ...] | None = None


_PAIR = ("sentence1", "sentence2")
_TSV_FORMATS: dict[str, _TsvFormat] = {
    "cola": _TsvFormat(("sentence",), "label", _DIGITS, header=("source", "label", "mark", "sentence")),
    "sst2": _TsvFormat(("sentence",), "label", _DIGITS),
    "mrpc": _TsvFormat(("#1 String", "#2 String"), "Quality", _DIGITS),
    "qqp": _TsvFormat(("question1", "question2"), "is_duplicate", _DIGITS),
    "stsb": _TsvFormat(_PAIR, "score", ()),
    "mnli": _TsvFormat(_PAIR, "gold_label", TASKS["mnli"].labels),
    "qnli": _TsvFormat(("question", "sentence"), "label", TASKS["qnli"].labels),
    "rte": _TsvFormat(_PAIR, "label", TASKS["rte"].labels),
    "wnli": _TsvFormat(_PAIR, "label", _DIGITS),
}


def read_tsv(path: Path, spec: TaskSpec, split: str, notes: list[str]) -> Split:
    """Read one official TSV file; what was left out of QQP's train file is added to `notes`."""
    # Messages and notes name the file from the GLUE folder down: home paths must not get into records.
    name = f"{path.parent.name}/{path.name}"
    layout = _TSV_FORMATS[spec.name]
    lines = _lines(path, name)
    header = layout.header
    if header is None:
        header = tuple(next(lines, (1, "", True))[1].split("\t"))
        _check_header(header, (*layout.texts, layout.label), name)
    text_at = [header.index(column) for column in layout.texts]
    label_at = header.index(layout.label)
    ids = {word: index for index, word in enumerate(layout.words)}

    texts: list[list[str]] = [[] for _ in text_at]
    labels: list[Any] = []
    left_out: list[int] = []
    for number, line, ends in lines:
        fields = line.split("\t")
        # A row without a value: the hub's loader drops exactly these, and only QQP's train file is known to hold any.
        if (spec.name, split) == ("qqp", "train") and (len(fields) < len(header) or not fields[label_at]):
            left_out.append(number)
            continue
        if len(fields) != len(header):
            raise UserError(f"{name} line {number}: {_why_fields(fields, len(header), ends)}")
        label = fields[label_at]
        try:
            labels.append(parse_score(label) if spec.is_regression else ids[label])
        except KeyError:
            raise UserError(
                f"{name} line {number}: unknown label {label[:40]!r}: must be one of {', '.join(layout.words)}"
            ) from None
        except ValueError as error:
            raise UserError(f"{name} line {number}: {error}") from None
        for column_texts, at in zip(texts, text_at, strict=True):
            column_texts.append(fields[at])

    if left_out:
        notes.append(_qqp_note(name, left_out, len(labels), spec.rows[split]))
    if not labels:
        raise UserError(f"{name} holds no rows: put the official file in its place")
    return Split(dict(zip(spec.columns, texts, strict=True)), labels)


def read_test_tsv(path: Path, spec: TaskSpec) -> Split:
    """Read a TSV file without labels: each row's label is -1. GLUE's server wants its rows by their place in it."""
    name = f"{path.parent.name}/{path.name}"
    texts_at = _TSV_FORMATS["mnli" if spec.name == "ax" else spec.name].texts
    lines = _lines(path, name)
    header = tuple(next(lines, (1, "", True))[1].split("\t"))
    index = "id" if spec.name == "qqp" else "index"
    _check_header(header, (index, *texts_at), name)
    text_at, index_at = [header.index(column) for column in texts_at], header.index(index)
    texts: list[list[str]] = [[] for _ in text_at]
    for row, (number, line, ends) in enumerate(lines):
        fields = line.split("\t")
        if len(fields) != len(header):
            raise UserError(f"{name} line {number}: {_why_fields(fields, len(header), ends)}")
        if fields[index_at] != str(row):
            raise UserError(
                f"{name} line {number}: {index} {fields[index_at][:40]!r} must be {row}, the row's place: put the "
                "official file in its place"
            )
        for column_texts, at in zip(texts, text_at, strict=True):
            column_texts.append(fields[at])
    return unlabelled(spec, dict(zip(spec.columns, texts, strict=True)), name)


def _lines(path: Path, name: str) -> Iterator[tuple[int, str, bool]]:
    """The file's lines with their numbers from 1, without byte-order mark and line ends; whether there was an end."""
    # Binary, since only \n ends a line: in text mode a lone \r would too, and str.splitlines knows eight more.
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            content = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if b"\0" in content:
                raise UserError(f"{name} line {number}: it has a NUL byte: put the official file in its place")
            try:
                line = content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{name} line {number}: not UTF-8 (byte 0x{content[error.start]:02x}): save the file as UTF-8"
                ) from None
            yield number, line, content.endswith(b"\n")


def _check_header(header: tuple[str, ...], columns: tuple[str, ...], name: str) -> None:
    """Raise UserError unless the header has each of the task's columns once."""
    if "\r" in "".join(header):
        raise UserError(f"{name} line 1: {_CARRIAGE_RETURNS}")
    shown = ", ".join(header)[:200]
    for column in columns:
        if column not in header:
            raise UserError(f"{name} line 1: no column {column!r} in the header ({shown})")
        if header.count(column) > 1:
            raise UserError(f"{name} line 1: column {column!r} is there {header.count(column)} times: keep one of them")


def _why_fields(fields: list[str], wanted: int, ends: bool) -> str:
    """What to say of a row with another number of fields than the header's; `ends`: with a line end."""
    if any("\r" in field for field in fields):
        return _CARRIAGE_RETURNS
    why = f"{len(fields)} fields instead of {wanted}"
    return f"{why}: mend the row" if ends else f"{why}, and the file ends there: it was cut, fetch it again"


def _qqp_note(name: str, left_out: list[int], rows: int, official_rows: int) -> str:
    """What to record of the rows left out; UserError where the rest is not the official number of rows."""
    if rows != official_rows:
        # QQP.zip of 2018 had questions broken over two lines; the row count of the hub is that of QQP-clean.zip.
        raise UserError(
            f"{name} line {left_out[0]}: missing fields (in {len(left_out)} rows), and the other {rows} rows are not "
            f"the official {official_rows}: take train.tsv from GLUE's QQP-clean.zip, or mend the rows"
        )
    numbers = ", ".join(map(str, left_out))
    return f"{name}: left out {len(left_out)} rows with missing fields (line {numbers}), as the hub's copy does"
