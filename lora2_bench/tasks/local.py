"""GLUE from files on disk: the official TSV layout, or the hub's parquet layout. Nothing is silently left out."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.spec import TASKS, TaskSpec

if TYPE_CHECKING:
    from datasets import Features

_DIGITS = ("0", "1")
_SCORE_RANGE = (0.0, 5.0)


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


def load_local(spec: TaskSpec, glue_dir: Path) -> TaskData:
    """Read a task's labelled splits from `glue_dir`, whichever of the two layouts it holds.

    TSV: `<spec.folder>/{train,dev}.tsv` (MNLI: train, dev_matched, dev_mismatched). Parquet:
    `<spec.name>/{train,validation}-*.parquet` (MNLI: train, validation_matched, validation_mismatched).
    Texts are kept as they are, empty ones and outer spaces too, as in the hub's copy.

    Raises:
        UserError: a folder or file is missing, or a row is malformed (file, line and reason in one line).
    """
    fix = "set GLUE_DIR or data.dir=... to the folder that holds the GLUE files, or use data=mini"
    if not glue_dir.is_dir():
        raise UserError(f"there is no folder {glue_dir}: {fix}")
    tsv_dir, parquet_dir = glue_dir / spec.folder, glue_dir / spec.name
    tsv_names = [f"{split}.tsv" for split in spec.splits]
    has_tsv = any((tsv_dir / name).is_file() for name in tsv_names)
    has_parquet = any(_shards(parquet_dir, split) for split in spec.splits)
    if has_tsv and has_parquet:
        raise UserError(
            f"{glue_dir} holds {spec.name} twice, as {spec.folder}/*.tsv and as {spec.name}/*.parquet: keep one of them"
        )
    if has_parquet:
        missing = [f"{spec.name}/{name}" for name in missing_parquet(spec, parquet_dir)]
    else:
        missing = [f"{spec.folder}/{name}" for name in tsv_names if not (tsv_dir / name).is_file()]
    if not has_tsv and not has_parquet:
        raise UserError(f"{glue_dir} holds neither {spec.folder}/train.tsv nor {spec.name}/train-*.parquet: {fix}")
    if missing:
        raise UserError(f"{glue_dir} lacks {', '.join(missing)}: add it, or {fix}")

    if has_parquet:
        return TaskData(spec, "local", read_parquet(spec, parquet_dir))
    notes: list[str] = []
    splits = {split: _read_tsv(tsv_dir / f"{split}.tsv", spec, split, notes) for split in spec.splits}
    return TaskData(spec, "local", splits, notes)


# --- TSV ---


def _read_tsv(path: Path, spec: TaskSpec, split: str, notes: list[str]) -> Split:
    """Read one official TSV file; what was left out of QQP's train file is added to `notes`."""
    # Messages and notes name the file from the GLUE folder down: home paths must not get into records.
    name = f"{path.parent.name}/{path.name}"
    layout = _TSV_FORMATS[spec.name]
    lines = _lines(path, name)
    header = layout.header
    if header is None:
        header = tuple(next(lines, (1, ""))[1].split("\t"))
        for column in (*layout.texts, layout.label):
            if column not in header:
                raise UserError(f"{name} line 1: no column {column!r} in the header ({', '.join(header)})")
    text_at = [header.index(column) for column in layout.texts]
    label_at = header.index(layout.label)
    ids = {word: index for index, word in enumerate(layout.words)}

    texts: list[list[str]] = [[] for _ in text_at]
    labels: list[Any] = []
    left_out: list[int] = []
    for number, line in lines:
        fields = line.split("\t")
        # A row without a value: the hub's loader drops exactly these, and only QQP's train file is known to hold any.
        if (spec.name, split) == ("qqp", "train") and (len(fields) < len(header) or not fields[label_at]):
            left_out.append(number)
            continue
        if len(fields) != len(header):
            raise UserError(f"{name} line {number}: {len(fields)} fields instead of {len(header)}: mend the row")
        label = fields[label_at]
        try:
            labels.append(_score(label) if spec.is_regression else ids[label])
        except KeyError:
            raise UserError(
                f"{name} line {number}: unknown label {label!r}: must be one of {', '.join(layout.words)}"
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


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """The file's lines with their numbers from 1, without byte-order mark and line ends."""
    # Binary, since only \n ends a line: in text mode a lone \r would too, and str.splitlines knows eight more.
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            content = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield number, content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{name} line {number}: not UTF-8 (byte 0x{content[error.start]:02x}): save the file as UTF-8"
                ) from None


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


def _score(value: str | float) -> float:
    """A similarity score, rounded to float32 as the hub stores it, so that both layouts give equal rows.

    Raises ValueError with the reason for text that is no number and for a score outside 0 to 5.
    """
    low, high = _SCORE_RANGE
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"score {value!r} is not a number: must be {low:g} to {high:g}") from None
    if not low <= number <= high:  # nan fails this too
        raise ValueError(f"score {value} is outside {low:g} to {high:g}")
    (rounded,) = struct.unpack("f", struct.pack("f", number))
    return float(rounded)


# --- parquet ---


def hub_split(split: str) -> str:
    """The hub's name of a split: "validation" where the TSV files say "dev"."""
    return split.replace("dev", "validation", 1)


def missing_parquet(spec: TaskSpec, folder: Path) -> list[str]:
    """File names that `folder` lacks of the task's labelled splits; shard names tell how many belong together."""
    missing: list[str] = []
    for split in spec.splits:
        names = {path.name for path in _shards(folder, split)}
        if not names:
            missing.append(f"{hub_split(split)}-*.parquet")
        totals = {int(number[1]) for name in names if (number := re.search(r"-of-(\d+)\.parquet$", name))}
        for total in totals:
            wanted = {f"{hub_split(split)}-{index:05d}-of-{total:05d}.parquet" for index in range(total)}
            missing += sorted(wanted - names)
    return missing


def read_parquet(spec: TaskSpec, folder: Path) -> dict[str, Split]:
    """Read the labelled splits from a folder of the hub's layout, the shards of a split in the order of their names.

    Raises:
        UserError: a file is not of this task (columns, class names and their order), or a row has no valid label.
    """
    splits = {}
    for split in spec.splits:
        shards = [_read_shard(path, spec) for path in _shards(folder, split)]
        texts = {column: [text for shard in shards for text in shard.texts[column]] for column in spec.columns}
        labels: list[Any] = [label for shard in shards for label in shard.labels]
        if not labels:
            raise UserError(f"{folder.name}/{hub_split(split)}-*.parquet holds no rows: fetch the files again")
        splits[split] = Split(texts, labels)
    return splits


def _shards(folder: Path, split: str) -> list[Path]:
    """A split's parquet files, sorted by name. is_file is false for a link of the hub cache that points nowhere."""
    return sorted(path for path in folder.glob(f"{hub_split(split)}-*.parquet") if path.is_file())


def _read_shard(path: Path, spec: TaskSpec) -> Split:
    """Read one parquet file after checking its columns, class names, and labels."""
    import pyarrow
    import pyarrow.parquet
    from datasets import Features

    name = f"{path.parent.name}/{path.name}"
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            features = Features.from_arrow_schema(file.schema_arrow)
            _check_features(features, spec, name)
            table = file.read(columns=[*spec.columns, "label"])
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} is not a readable parquet file ({reason}): fetch it again") from None

    columns = {column: table[column].to_pylist() for column in (*spec.columns, "label")}
    for column, values in columns.items():
        if None in values:
            raise UserError(f"{name} row {values.index(None) + 1}: {column} is null: mend the row")
    labels = columns.pop("label")
    for row, label in enumerate(labels, start=1):
        if label == -1:
            raise UserError(f"{name} row {row}: label -1 means a row without a label: only labelled splits can be used")
        try:
            if spec.is_regression:
                labels[row - 1] = _score(label)
            elif not 0 <= label < spec.num_labels:
                raise ValueError(f"unknown label {label}: must be 0 to {spec.num_labels - 1}")
        except ValueError as error:
            raise UserError(f"{name} row {row}: {error}") from None
    return Split(columns, labels)


def _check_features(features: Features, spec: TaskSpec, name: str) -> None:
    """Raise UserError unless the file has the task's columns and its class names in GLUE's order."""
    from datasets import ClassLabel

    for column in (*spec.columns, "label"):
        if column not in features:
            raise UserError(f"{name}: no column {column!r} (found: {', '.join(features)})")
    for column in spec.columns:
        kind = getattr(features[column], "dtype", None)
        if kind not in ("string", "large_string"):
            raise UserError(f"{name}: column {column!r} must hold strings, and holds {kind}")
    label = features["label"]
    if spec.is_regression:
        if getattr(label, "dtype", None) not in ("float32", "float64"):
            raise UserError(f"{name}: label must be a float score, and is {label}")
    elif not isinstance(label, ClassLabel):
        # Without names the order of the ids cannot be checked, and a swapped order would go unseen.
        raise UserError(f"{name}: label has no class names: write the file with datasets and ClassLabel, as the hub's")
    elif tuple(label.names) != spec.labels:
        raise UserError(f"{name}: class names are {', '.join(label.names)}: must be {', '.join(spec.labels)}")
