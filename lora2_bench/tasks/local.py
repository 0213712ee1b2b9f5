"""GLUE from files on disk: the official TSV layout, or the hub's parquet layout. Nothing is silently left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import Split, TaskData
from lora2_bench.tasks.parquet import hub_split, missing_parquet, read_parquet, read_test_parquet, shards
from lora2_bench.tasks.spec import AX, TaskSpec
from lora2_bench.tasks.tsv import read_test_tsv, read_tsv


def load_local(spec: TaskSpec, glue_dir: Path) -> TaskData:
    """Read a task's labelled splits from `glue_dir`, whichever of the two layouts it holds.

    TSV: `<spec.folder>/{train,dev}.tsv` (MNLI: train, dev_matched, dev_mismatched). Parquet:
    `<spec.name>/{train,validation}-*.parquet` (MNLI: train, validation_matched, validation_mismatched).
    Texts are kept as they are, empty ones and outer spaces too, as in the hub's copy. Another number of rows than
    GLUE's is told on stderr, and in the notes; so are other texts or labels in a TSV file whose content is known.

    Raises:
        UserError: a folder or file is missing, or a row is malformed (file, line and reason in one line).
    """
    with _readable(glue_dir):
        data, folder, is_parquet = _read(spec, glue_dir)
        if not is_parquet:
            data = replace(data, altered=_altered(data))
    if not data.is_official:
        data.notes.append(_differences(data, folder, is_parquet))
        print(f"warning: {data.notes[-1]}: its scores are not GLUE's", file=sys.stderr)
    return data


def load_local_test(spec: TaskSpec, split: str, glue_dir: Path) -> Split:
    """Read one split without labels from `glue_dir`: each row's label is -1.

    TSV: `<spec.folder>/<split>.tsv`; the diagnostic set lies in `diagnostic/diagnostic.tsv` or `AX/AX.tsv`. Parquet:
    `<spec.name>/<split>-*.parquet`. Raises UserError as `load_local` does.
    """
    if not glue_dir.is_dir():
        raise UserError(f"there is no folder {glue_dir}: set GLUE_DIR or data.dir=... to the one with the GLUE files")
    with _readable(glue_dir):
        return _read_test(spec, split, glue_dir)


def _read_test(spec: TaskSpec, split: str, glue_dir: Path) -> Split:
    names = [f"{spec.folder}/{split}.tsv"] if spec is not AX else ["diagnostic/diagnostic.tsv", "AX/AX.tsv"]
    parquet = f"{spec.name}/{split}-*.parquet"
    there = [name for name in names if (glue_dir / name).is_file()]
    there += [parquet] if shards(glue_dir / spec.name, split) else []
    if not there:
        whose = ", which cells of MNLI predict too" if spec is AX else ""
        raise UserError(
            f"{glue_dir} lacks {' or '.join([*names, parquet])}{whose}: add GLUE's own file, or leave predict_test out"
        )
    if len(there) > 1:
        raise UserError(f"{glue_dir} holds {' and '.join(there)}: keep one of them")
    if there == [parquet]:
        folder = glue_dir / spec.name
        if missing := missing_parquet((split,), folder):
            raise UserError(f"{glue_dir} lacks {spec.name}/{', '.join(missing)}: add it")
        return read_test_parquet(spec, folder, split)
    return read_test_tsv(glue_dir / there[0], spec)


def find_local(spec: TaskSpec, glue_dir: Path) -> None:
    """Raise UserError where a folder or a file of the task is missing; nothing is read."""
    with _readable(glue_dir):
        _find(spec, glue_dir)


@contextmanager
def _readable(glue_dir: Path) -> Iterator[None]:
    """The context in which files are looked up and read. Raises UserError for what may not be."""
    try:
        yield
    except OSError as error:
        path = Path(error.filename or glue_dir)
        raise UserError(f"{path.parent.name}/{path.name} cannot be read ({error.strerror}): mend its rights") from None


def _find(spec: TaskSpec, glue_dir: Path) -> tuple[Path, bool]:
    """The folder that holds all of the task's files, and whether they are parquet."""
    fix = "set GLUE_DIR or data.dir=... to the folder that holds the GLUE files, or use data=mini"
    if not glue_dir.is_dir():
        raise UserError(f"there is no folder {glue_dir}: {fix}")
    tsv_dir, parquet_dir = glue_dir / spec.folder, glue_dir / spec.name
    tsv_names = [f"{split}.tsv" for split in spec.splits]
    has_tsv = any((tsv_dir / name).is_file() for name in tsv_names)
    has_parquet = any(shards(parquet_dir, split) for split in spec.splits)
    if has_tsv and has_parquet:
        raise UserError(
            f"{glue_dir} holds {spec.name} twice, as {spec.folder}/*.tsv and as {spec.name}/*.parquet: keep one of them"
        )
    if has_parquet:
        missing = [f"{spec.name}/{name}" for name in missing_parquet(spec.splits, parquet_dir)]
    else:
        missing = [f"{spec.folder}/{name}" for name in tsv_names if not (tsv_dir / name).is_file()]
    if not has_tsv and not has_parquet:
        raise UserError(f"{glue_dir} holds neither {spec.folder}/train.tsv nor {spec.name}/train-*.parquet: {fix}")
    if missing:
        raise UserError(f"{glue_dir} lacks {', '.join(missing)}: add it, or {fix}")

    return (parquet_dir, True) if has_parquet else (tsv_dir, False)


def _read(spec: TaskSpec, glue_dir: Path) -> tuple[TaskData, str, bool]:
    """The rows, the name of their folder, and whether they are parquet."""
    folder, is_parquet = _find(spec, glue_dir)
    if is_parquet:
        return TaskData(spec, "local", read_parquet(spec, folder)), folder.name, True
    notes: list[str] = []
    splits = {split: read_tsv(folder / f"{split}.tsv", spec, split, notes) for split in spec.splits}
    return TaskData(spec, "local", splits, notes), folder.name, False


def _altered(data: TaskData) -> tuple[str, ...]:
    """The splits of GLUE's number of rows that hold other texts or labels than GLUE's, where these are known."""
    known = data.spec.content
    whole = [name for name, rows in data.rows.items() if rows == data.spec.rows[name] and name in known]
    return tuple(name for name in whole if data.content_hash(name) != known[name])


def _differences(data: TaskData, folder: str, is_parquet: bool) -> str:
    """Which files have another number of rows than GLUE's, or other rows."""
    found = []
    for name, rows in data.rows.items():
        file = f"{folder}/" + (f"{hub_split(name)}-*.parquet" if is_parquet else f"{name}.tsv")
        if rows != data.spec.rows[name]:
            found.append(f"{file} has {rows} rows instead of GLUE's {data.spec.rows[name]}")
        elif name in data.altered:
            found.append(f"{file} has GLUE's {rows} rows, and other texts or labels in some")
    return "; ".join(found)
