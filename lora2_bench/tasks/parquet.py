"""The hub's parquet layout, with its label names checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import Split, parse_score
from lora2_bench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from datasets import Features


def hub_split(split: str) -> str:
    """The hub's name of a split: "validation" where the TSV files say "dev"."""
    return split.replace("dev", "validation", 1)


def missing_parquet(spec: TaskSpec, folder: Path) -> list[str]:
    """File names that `folder` lacks of the task's labelled splits; shard names tell how many belong together."""
    missing: list[str] = []
    for split in spec.splits:
        names = {path.name for path in shards(folder, split)}
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
        parts = [_read_shard(path, spec) for path in shards(folder, split)]
        texts = {column: [text for part in parts for text in part.texts[column]] for column in spec.columns}
        labels: list[Any] = [label for part in parts for label in part.labels]
        if not labels:
            raise UserError(f"{folder.name}/{hub_split(split)}-*.parquet holds no rows: fetch the files again")
        splits[split] = Split(texts, labels)
    return splits


def shards(folder: Path, split: str) -> list[Path]:
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
                labels[row - 1] = parse_score(label)
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
