"""The hub's parquet layout, with its label names checked."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import Split, parse_score, unlabelled
from lora2_bench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from pyarrow import Schema

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet")


def hub_split(split: str) -> str:
    """The hub's name of a split: "validation" where the TSV files say "dev"."""
    return split.replace("dev", "validation", 1)


def missing_parquet(splits: Sequence[str], folder: Path) -> list[str]:
    """File names that `folder` lacks of these splits; shard names tell how many belong together.

    Raises UserError as `shards` does.
    """
    missing: list[str] = []
    for split in splits:
        names = {path.name for path in shards(folder, split)}
        if not names:
            missing.append(f"{hub_split(split)}-*.parquet")
            continue
        total = int(next(iter(names))[-13:-8])
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
        parts = [_read_shard(path, spec) for path in shards(folder, split)]
        texts = {column: [text for part in parts for text in part.texts[column]] for column in spec.columns}
        labels: list[Any] = [label for part in parts for label in part.labels]
        if not labels:
            raise UserError(f"{folder.name}/{hub_split(split)}-*.parquet holds no rows: fetch the files again")
        splits[split] = Split(texts, labels)
    return splits


def read_test_parquet(spec: TaskSpec, folder: Path, split: str) -> Split:
    """Read a split without labels: each row's label is -1, whatever the files have there (MRPC's true ones)."""
    parts = [_columns(path, spec, ("idx",)) for path in shards(folder, split)]
    indices = [index for part in parts for index in part.get("idx", ())]
    name = f"{folder.name}/{split}-*.parquet"
    if indices and indices != list(range(len(indices))):
        raise UserError(f"{name}: idx is not the place of each row: fetch the files again")
    return unlabelled(
        spec, {column: [text for part in parts for text in part[column]] for column in spec.columns}, name
    )


def shards(folder: Path, split: str) -> list[Path]:
    """A split's parquet files, sorted by name. is_file is false for a link of the hub cache that points nowhere.

    Raises UserError for a file that is named otherwise, and for shards of two sets: rows would count twice.
    """
    name = hub_split(split)
    found = sorted(path for path in folder.glob(f"{name}-*.parquet") if path.is_file())
    totals: dict[str, str] = {}
    for path in found:
        match = _SHARD.fullmatch(path.name.removeprefix(name))
        if match is None:
            raise UserError(
                f"{folder.name}/{path.name} is not named as the hub's files are ({name}-00000-of-00001.parquet): move "
                "it away, or rename it"
            )
        if int(match[1]) >= int(match[2]):
            raise UserError(f"{folder.name}/{path.name} is one too many by its name: move it away, or rename it")
        totals[match[2]] = path.name
    if len(totals) > 1:
        raise UserError(
            f"{folder.name} holds {name} in two sets of shards ({', '.join(sorted(totals.values()))}): keep one of them"
        )
    return found


def _read_shard(path: Path, spec: TaskSpec) -> Split:
    """Read one parquet file after checking its columns, class names, and labels."""
    name = f"{path.parent.name}/{path.name}"
    columns = _columns(path, spec, ("label",))
    labels = columns.pop("label")
    for row, label in enumerate(labels, start=1):
        if label == -1:
            raise UserError(f"{name} row {row}: label -1 means a row without a label: only labelled splits can be used")
        try:
            if spec.is_regression:
                labels[row - 1] = parse_score(label)
            elif not 0 <= label < spec.num_labels:
                raise ValueError(f"unknown label {label}: must be 0 to {spec.num_labels - 1}")
        except ValueError as error:
            raise UserError(f"{name} row {row}: {error}") from None
    return Split(columns, labels)


def _columns(path: Path, spec: TaskSpec, more: Sequence[str]) -> dict[str, list[Any]]:
    """The text columns of one parquet file, checked, and those of `more` that it has."""
    import pyarrow
    import pyarrow.parquet

    name = f"{path.parent.name}/{path.name}"
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(file.schema_arrow, spec, name)
            wanted = [*spec.columns, *(column for column in more if column in file.schema_arrow.names)]
            table = file.read(columns=wanted)
            table.validate(full=True)  # offsets and UTF-8
            columns = {column: table[column].to_pylist() for column in wanted}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} is not a readable parquet file ({reason}): fetch it again") from None

    for column, values in columns.items():
        if None in values:
            raise UserError(f"{name} row {values.index(None) + 1}: {column} is null: mend the row")
    for column in spec.columns:
        for row, text in enumerate(columns[column], start=1):
            if "\0" in text:
                raise UserError(f"{name} row {row}: {column} has a NUL byte: fetch the file again")
    return columns


def _check_columns(schema: Schema, spec: TaskSpec, name: str) -> None:
    """Raise UserError unless the file has the task's columns once, and its class names in GLUE's order."""
    from pyarrow import types

    for column in (*spec.columns, "label"):
        if (count := schema.names.count(column)) != 1:
            found = ", ".join(schema.names)[:200]
            raise UserError(f"{name}: {count or 'no'} column {column!r} (found: {found})")
    for column in spec.columns:
        kind = schema.field(column).type
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise UserError(f"{name}: column {column!r} must hold strings, and holds {kind}")
    kind = schema.field("label").type
    features = _features(schema, name)
    if spec.is_regression:
        if not (types.is_float32(kind) or types.is_float64(kind)):
            raise UserError(f"{name}: label must be a float score, and is {kind}")
        return
    label = features.get("label")
    names = label.get("names") if isinstance(label, dict) and label.get("_type") == "ClassLabel" else None
    if not isinstance(names, list) or not types.is_integer(kind):
        # Without names the order of the ids cannot be checked, and a swapped order would go unseen.
        raise UserError(f"{name}: label has no class names: write the file with datasets and ClassLabel, as the hub's")
    if tuple(names) != spec.labels:
        shown = ", ".join(map(str, names))[:200]
        raise UserError(f"{name}: class names are {shown}: must be {', '.join(spec.labels)}")


def _features(schema: Schema, name: str) -> dict[str, Any]:
    """What the file's metadata says of its columns, as `datasets` writes it: read as JSON, nothing is built from it."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
    except (ValueError, RecursionError, TypeError, KeyError):
        features = None
    if not isinstance(features, dict):
        raise UserError(f"{name}: its metadata does not name the columns as datasets does: fetch the file again")
    return features
