"""A user's files as columns: TSV, CSV, JSON lines, parquet, a folder that `datasets` saved. Nothing in them is run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora2_bench.errors import UserError, first_line
from lora2_bench.files.digests import Stamped, stamped
from lora2_bench.files.reading import Unreadable, read_json, read_object

if TYPE_CHECKING:
    from pyarrow import Schema, Table

FORMATS = ".tsv, .csv, .jsonl, .parquet, or a folder that datasets saved"
LONGEST_FIELD = 2**24
"""Characters of one value of a CSV file."""


@dataclass(frozen=True)
class Columns:
    """The columns that were asked for.

    Attributes:
        name: the file, as messages name it.
        values: column -> one value per row.
        classes: column of class ids -> class names, where the file has them.
        lines: the line of each row, counted from 1; None for files without lines.
    """

    name: str
    values: Mapping[str, list[Any]]
    classes: Mapping[str, list[str]] = field(default_factory=dict)
    lines: Sequence[int] | None = None

    def place(self, row: int) -> str:
        """Where row `row`, counted from 0, stands."""
        return f"{self.name} row {row + 1}" if self.lines is None else f"{self.name} line {self.lines[row]}"


def stamps(path: Path) -> Stamped:
    """The file, or the files of a folder, as they stand now. Raises UserError where there is none."""
    try:
        if path.is_dir():
            return stamped(sorted(one for one in path.iterdir() if one.is_file()))
        if path.is_file():  # to open a pipe would wait for ever
            return stamped([path])
    except OSError as error:
        raise UserError(f"{_name(path)} cannot be read ({error.strerror}): mend its rights") from None
    where = "" if path.is_absolute() else f" below {Path.cwd()}"
    raise UserError(
        f"there is no file {path}{where}: mend task.files, or give data.dir=DIR, the folder that it lies in"
    )


def read_columns(path: Path, wanted: Sequence[str]) -> Columns:
    """These columns of a file. Raises UserError where it cannot be read, lacks one, or has no rows."""
    name = _name(path)
    with _readable(name):
        if path.is_dir():
            found = _from_folder(path, name, wanted)
        elif path.suffix in (".tsv", ".csv"):
            found = _delimited(path, name, wanted)
        elif path.suffix == ".jsonl":
            found = _json_lines(path, name, wanted)
        elif path.suffix == ".parquet":
            found = _parquet(path, name, wanted)
        else:
            raise UserError(f"{name} is of no known format: give {FORMATS}")
    if not any(found.values.values()):
        raise UserError(f"{name} holds no rows: put the whole file in its place")
    return found


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror or first_line(error)}): mend its rights") from None


def _lack(name: str, column: str, found: Sequence[str], where: str = "") -> UserError:
    shown = ", ".join(map(str, found))[:200]
    return UserError(
        f"{name}{where}: no column {column!r} (found: {shown}): mend the file, or what the task's file says"
    )


def _text(path: Path, name: str) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{name} line {line}: not UTF-8 (byte 0x{content[error.start]:02x}): save it as UTF-8"
        ) from None


def _delimited(path: Path, name: str, wanted: Sequence[str]) -> Columns:
    """CSV with quotes as spreadsheets write it; TSV without any, as GLUE's: a quote is a character there."""
    csv.field_size_limit(LONGEST_FIELD)  # the process's own, and 128 KiB without this
    is_csv = path.suffix == ".csv"
    reader = csv.reader(
        io.StringIO(_text(path, name), newline=""),
        delimiter="," if is_csv else "\t",
        quoting=csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE,
        strict=True,
    )
    values: dict[str, list[Any]] = {column: [] for column in wanted}
    lines: list[int] = []
    try:
        header = next(reader, [])
        for column in wanted:
            if column not in header:
                raise _lack(name, column, header, " line 1")
            if header.count(column) > 1:
                raise UserError(f"{name} line 1: column {column!r} is there {header.count(column)} times: keep one")
        places = [(values[column], header.index(column)) for column in wanted]
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                hint = "quote fields with commas in them" if is_csv else "a TSV has no quotes: save it as .csv"
                raise UserError(
                    f"{name} line {reader.line_num}: {len(fields)} fields instead of {len(header)}: mend it ({hint})"
                )
            for column_values, at in places:
                column_values.append(fields[at])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{name} line {reader.line_num}: {error}: mend it") from None
    return Columns(name, values, lines=lines)


def _json_lines(path: Path, name: str, wanted: Sequence[str]) -> Columns:
    values: dict[str, list[Any]] = {column: [] for column in wanted}
    lines: list[int] = []
    for number, line in enumerate(_text(path, name).split("\n"), start=1):  # other line ends may stand in a text
        if not line.strip():
            continue
        try:
            row = read_object(line)
        except Unreadable as error:
            raise UserError(f"{name} line {number}: it is {error}: give one object a line, as {{...}}") from None
        for column in wanted:
            if column not in row:
                raise _lack(name, column, list(row), f" line {number}")
            values[column].append(row[column])
        lines.append(number)
    return Columns(name, values, lines=lines)


def _parquet(path: Path, name: str, wanted: Sequence[str]) -> Columns:
    import pyarrow.parquet

    with _arrow(name), pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        _check(schema, name, wanted)
        return _of_arrow(file.read(columns=list(wanted)), name, wanted, _features(schema))


def _from_folder(folder: Path, name: str, wanted: Sequence[str]) -> Columns:
    """What `Dataset.save_to_disk` writes: Arrow streams, and JSON that says which and what their columns are."""
    import pyarrow

    if (folder / "dataset_dict.json").is_file():
        raise UserError(f"{name} holds several splits: give one of its folders, as in {folder.name}/train")
    try:
        state, info = read_json(folder / "state.json"), read_json(folder / "dataset_info.json")
        files = [str(one["filename"]) for one in state["_data_files"]]
        features = info["features"]
        if state.get("_indices_data_files"):
            raise UserError(f"{name} keeps a choice of rows: save it after flatten_indices()")
    except FileNotFoundError:
        raise UserError(f"{name} is no folder that datasets saved, with state.json and dataset_info.json") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{name}: its state.json or dataset_info.json is not as datasets writes it: save it again"
        ) from None
    tables = []
    with _arrow(name):
        for one in files:
            if Path(one).name != one:
                raise UserError(f"{name}: state.json names {one[:80]!r}, which is no file of the folder: save it again")
            with pyarrow.memory_map(str(folder / one)) as source, pyarrow.ipc.open_stream(source) as stream:
                _check(stream.schema, name, wanted)
                tables.append(stream.read_all().select(list(wanted)))
        if not tables:
            raise UserError(f"{name} holds no rows: save it again")
        return _of_arrow(pyarrow.concat_tables(tables), name, wanted, features if isinstance(features, dict) else {})


@contextmanager
def _arrow(name: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} cannot be read ({reason}): write it again") from None


def _check(schema: Schema, name: str, wanted: Sequence[str]) -> None:
    for column in wanted:
        if (count := schema.names.count(column)) != 1:
            if count:
                raise UserError(f"{name}: column {column!r} is there {count} times: keep one")
            raise _lack(name, column, schema.names)


def _of_arrow(table: Table, name: str, wanted: Sequence[str], features: Mapping[str, Any]) -> Columns:
    table.validate(full=True)  # offsets and UTF-8
    classes = {}
    for column in wanted:
        kind = features.get(column)
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and isinstance(kind.get("names"), list):
            classes[column] = [str(one) for one in kind["names"]]
    return Columns(name, {column: table[column].to_pylist() for column in wanted}, classes)


def _features(schema: Schema) -> Mapping[str, Any]:
    """What `datasets` wrote into a parquet file of its columns, read as JSON; nothing where it wrote nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return {}
    return features if isinstance(features, dict) else {}
