"""Damaged, doubled and dangerous data files: each ends with one line and exit code 2, before any training step."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora2_bench.tasks.local import load_local
from lora2_bench.tasks.spec import TASKS
from lora2_bench.training import step
from tests.conftest import Told

Bench = Callable[..., Told]
Folders = Callable[[str], Path]
Damage = Callable[[Path], object]
HEADER = "index\tsentence1\tsentence2\tlabel"
ROWS = ["0\tA cat sat.\tA cat.\tentailment", "1\tNo dog ran.\tA dog ran.\tnot_entailment"]
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
LABELS = ["entailment", "not_entailment"]
ONE = "train-00000-of-00001.parquet"


def tsv(*rows: str, header: str = HEADER, end: str = "\n", last: str = "\n") -> bytes:
    return (end.join((header, *rows)) + last).encode()


def scored(score: str) -> bytes:
    return tsv(f"0\tg\tf\ty\to\ts\ts\tA cat sat.\tA cat.\t{score}", header=STSB)


TSV_CASES: dict[str, tuple[str, bytes, str]] = {
    "a NUL byte": ("RTE", tsv(ROWS[0], ROWS[1].replace("dog", "d\0g")), r"train\.tsv line 3: it has a NUL byte"),
    "NUL bytes alone": ("RTE", b"\0" * 4096, r"train\.tsv line 1: it has a NUL byte"),
    "UTF-16": ("RTE", tsv(*ROWS).decode().encode("utf-16"), r"train\.tsv line 1: (it has a NUL byte|not UTF-8)"),
    "Latin-1": ("RTE", tsv(*ROWS).replace(b"cat", b"caf\xe9"), r"line 2: not UTF-8 \(byte 0xe9\)"),
    "a column twice": (
        "RTE",
        tsv(*(f"{row}\tx" for row in ROWS), header=f"{HEADER}\tsentence1"),
        "line 1: column 'sentence1' is there 2 times: keep one of them",
    ),
    "the label twice": (
        "RTE",
        tsv(*(f"{row}\tentailment" for row in ROWS), header=f"{HEADER}\tlabel"),
        "line 1: column 'label' is there 2 times",
    ),
    "a file cut in mid-row": (
        "RTE",
        tsv(ROWS[0], "1\tNo dog ra", last=""),
        "line 3: 2 fields instead of 4, and the file ends there: it was cut, fetch it again",
    ),
    "a file cut in its label": ("RTE", tsv(ROWS[0], ROWS[1][:-4], last=""), "line 3: unknown label 'not_entail'"),
    "a short row": ("RTE", tsv("0\tA cat", *ROWS), "line 2: 2 fields instead of 4: mend the row"),
    "old Mac line ends": ("RTE", tsv(*ROWS * 25, end="\r", last="\r"), r"line 1: carriage returns \(\\r\) within"),
    "old Mac line ends without header": (
        "CoLA",
        "\r".join(["gj04\t1\t\tA cat sat."] * 50).encode(),
        r"line 1: carriage returns \(\\r\) within the line: save the file",
    ),
    "a long header": ("RTE", tsv(header="x" * 100_000), r"no column 'sentence1' in the header \(x{200}\)"),
    "a long label": ("RTE", tsv(f"0\tA\tB\t{'y' * 100_000}"), r"unknown label 'y{40}': must be"),
    "HTML": ("RTE", b"<html>404</html>", r"no column 'sentence1' in the header \(<html>404</html>\)"),
    "no bytes": ("RTE", b"", "line 1: no column 'sentence1' in the header"),
    "commas": ("RTE", tsv(*ROWS).replace(b"\t", b","), "line 1: no column 'sentence1' in the header"),
    "the test file": ("RTE", tsv("0\tA\tB", header="index\tsentence1\tsentence2"), "no column 'label' in the header"),
    "another task's file": ("RTE", tsv("A cat.\t1", header="sentence\tlabel"), "no column 'sentence1' in the header"),
    "a score of 0_1": ("STS-B", scored("0_1"), r"line 2: score '0_1' is not a number: must be 0 to 5"),
    "a score with a space": ("STS-B", scored(" 1"), "line 2: score ' 1' is not a number"),
    "a score in other digits": ("STS-B", scored("３"), "line 2: score '３' is not a number"),
    "a score of nothing": ("STS-B", scored(""), "line 2: score '' is not a number"),
    "an endless score": ("STS-B", scored("inf"), "line 2: score inf is outside 0 to 5"),
    "no score": ("STS-B", scored("nan"), "line 2: score nan is outside 0 to 5"),
    "a score above": ("STS-B", scored("5.01"), r"line 2: score 5\.01 is outside 0 to 5"),
    "a score of 1e400": ("STS-B", scored("1e400"), "line 2: score 1e400 is outside 0 to 5"),
    "a long score": ("STS-B", scored("z" * 100_000), "line 2: score 'z{40}' is not a number"),
}


@pytest.fixture
def refused(
    cell: Bench, tiny_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path], str]:
    """Run a cell on a data folder that has to be refused: one line, exit code 2, no step. Returns the line."""

    def run(task: str, folder: Path) -> str:
        monkeypatch.setattr(step, "backward", lambda *_: pytest.fail("a training step was made"))
        results = tmp_path / "results"
        where = ("model=local", f"model.path={tiny_folders('bert')}", "data=local", f"data.dir={folder}")
        told = cell(*where, f"task={task}", "train.max_length=48", "device=cpu", f"results={results}")
        assert told.code == 2 and told.out == "", told
        assert told.err.count("\n") == 1 and told.err.startswith("error: "), told.err
        assert len(told.err) < 600
        assert not list(results.glob("cells/*")) and not list(results.glob("running/*/checkpoints/*"))
        return told.err

    return run


@pytest.mark.parametrize("case", TSV_CASES)
def test_a_bad_tsv_file_is_refused_in_one_line(case: str, refused: Callable[[str, Path], str], tmp_path: Path) -> None:
    name, content, pattern = TSV_CASES[case]
    folder = tmp_path / "glue" / name
    folder.mkdir(parents=True)
    good = {"RTE": tsv(*ROWS), "STS-B": scored("3.8"), "CoLA": b"gj04\t1\t\tA cat sat.\n"}[name]
    (folder / "train.tsv").write_bytes(content)
    (folder / "dev.tsv").write_bytes(good)
    line = refused({"RTE": "rte", "STS-B": "stsb", "CoLA": "cola"}[name], folder.parent)
    assert re.search(pattern, line), line


# --- parquet ---


def table(rows: int = 40, metadata: bytes | None = None, **changes: Any) -> pa.Table:
    """Rows of RTE as the hub's files have them; `changes` replaces columns, None takes one out."""
    features = {
        "sentence1": {"dtype": "string", "_type": "Value"},
        "sentence2": {"dtype": "string", "_type": "Value"},
        "label": {"names": LABELS, "_type": "ClassLabel"},
    }
    told = metadata if metadata is not None else json.dumps({"info": {"features": features}}).encode()
    columns: dict[str, Any] = {
        "sentence1": pa.array([f"A cat sat {n}." for n in range(rows)], pa.string()),
        "sentence2": pa.array(["A cat."] * rows, pa.string()),
        "label": pa.array([n % 2 for n in range(rows)], pa.int64()),
        **changes,
    }
    kept = {name: column for name, column in columns.items() if column is not None}
    return pa.table(kept).replace_schema_metadata({b"huggingface": told})


def written(**changes: Any) -> Damage:
    """The train file with other columns or metadata."""
    return lambda folder: pq.write_table(table(**changes), folder / ONE)


def declared(label: Any) -> Damage:
    """The train file with another description of its label."""
    return written(metadata=json.dumps({"info": {"features": {"label": label}}}).encode())


def copied(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / ONE).read_bytes())


def twice(folder: Path) -> None:
    """Two columns of one name."""
    made = table()
    columns = [*made.columns, made.column("sentence1")]
    pq.write_table(
        pa.Table.from_arrays(columns, schema=made.schema.append(made.schema.field("sentence1"))), folder / ONE
    )


def flipped(folder: Path) -> None:
    """Bytes flipped within the pages of the strings."""
    pq.write_table(table(), folder / ONE, compression="none", use_dictionary=False)
    content = bytearray((folder / ONE).read_bytes())
    at = content.index(b"A cat sat 3")
    content[at - 4 : at] = b"\xff\xff\xff\x7f"  # the length before the text
    (folder / ONE).write_bytes(bytes(content))


def not_utf8(folder: Path) -> None:
    pq.write_table(table(), folder / ONE, compression="none", use_dictionary=False)
    (folder / ONE).write_bytes((folder / ONE).read_bytes().replace(b"A cat sat 33", b"A c\xe9t sat 33"))


def checksum(folder: Path) -> None:
    """A letter changed in a page that has a checksum."""
    pq.write_table(table(), folder / ONE, compression="none", use_dictionary=False, write_page_checksum=True)
    (folder / ONE).write_bytes((folder / ONE).read_bytes().replace(b"A cat sat 33", b"A dog sat 33"))


def cut(size: int) -> Damage:
    return lambda folder: os.truncate(folder / ONE, size)


def nested(depth: int) -> bytes:
    return b"[" * depth


PARQUET_CASES: dict[str, tuple[Damage, str]] = {
    "a copy": (copied("train-00000-of-00001-copy.parquet"), r"train-00000-of-00001-copy\.parquet is not named as"),
    "a copy of a file manager": (
        copied("train-00000-of-00001 (1).parquet"),
        r"of-00001 \(1\)\.parquet is not named as",
    ),
    "two sets": (
        copied("train-00000-of-00002.parquet"),
        r"rte holds train in two sets of shards \(train-00000-of-00001\.parquet, train-00000-of-00002\.parquet\)",
    ),
    "other digits": (copied("train-0-of-1.parquet"), r"rte/train-0-of-1\.parquet is not named as"),
    "a shard too many": (copied("train-00001-of-00001.parquet"), r"rte/train-00001-of-00001\.parquet is one too many"),
    "no name of a shard": (copied("train-all.parquet"), r"rte/train-all\.parquet is not named as the hub's files are"),
    "no bytes": (cut(0), f"rte/{ONE} is not a readable parquet file"),
    "a file cut short": (cut(300), f"rte/{ONE} is not a readable parquet file"),
    "flipped bytes": (flipped, f"rte/{ONE} is not a readable parquet file"),
    "a page against its checksum": (checksum, f"rte/{ONE} is not a readable parquet file .+CRC"),
    "text that is not UTF-8": (not_utf8, f"rte/{ONE} is not a readable parquet file"),
    "a NUL byte": (written(sentence2=pa.array(["A c\0t."] * 40)), f"rte/{ONE} row 1: sentence2 has a NUL byte"),
    "a column twice": (twice, f"rte/{ONE}: 2 column 'sentence1'"),
    "a column less": (written(sentence2=None), f"rte/{ONE}: no column 'sentence2'"),
    "no label": (written(label=None), f"rte/{ONE}: no column 'label'"),
    "bytes for text": (
        written(sentence1=pa.array([b"A"] * 40)),
        "column 'sentence1' must hold strings, and holds binary",
    ),
    "lists for text": (
        written(sentence1=pa.array([["A"]] * 40)),
        "column 'sentence1' must hold strings, and holds list",
    ),
    "an empty text": (written(sentence1=pa.array([None] * 40, pa.string())), "row 1: sentence1 is null"),
    "labels of text": (written(label=pa.array(["1"] * 40)), "label has no class names"),
    "labels of 2": (written(label=pa.array([0, 2] * 20)), "row 2: unknown label 2: must be 0 to 1"),
    "labels of -1": (written(label=pa.array([-1] * 40)), "row 1: label -1 means a row without a label"),
    "no rows": (written(rows=0), r"rte/train-\*\.parquet holds no rows"),
    "metadata that is no JSON": (written(metadata=b"{not json"), "its metadata does not name the columns"),
    "metadata that is not UTF-8": (written(metadata=b"\xff\xfe"), "its metadata does not name the columns"),
    "metadata nested deep": (written(metadata=nested(100_000)), "its metadata does not name the columns"),
    "metadata that is a list": (written(metadata=b"[]"), "its metadata does not name the columns"),
    "metadata without info": (written(metadata=b"{}"), "its metadata does not name the columns"),
    "features that are a list": (
        written(metadata=b'{"info": {"features": []}}'),
        "its metadata does not name the columns",
    ),
    "an unknown type": (declared({"_type": "Strange", "names": LABELS}), "label has no class names"),
    "a type that is code": (declared({"_type": "Path", "names": LABELS}), "label has no class names"),
    "a type that is a list": (declared(["ClassLabel"]), "label has no class names"),
    "names that are a number": (declared({"_type": "ClassLabel", "names": 2}), "label has no class names"),
    "names the other way": (
        declared({"_type": "ClassLabel", "names": LABELS[::-1]}),
        "class names are not_entailment, entailment: must be entailment, not_entailment",
    ),
    "names that are numbers": (declared({"_type": "ClassLabel", "names": [0, 1]}), "class names are 0, 1: must be"),
}


@pytest.mark.parametrize("case", PARQUET_CASES)
def test_a_bad_parquet_file_is_refused_in_one_line(
    case: str, refused: Callable[[str, Path], str], tmp_path: Path
) -> None:
    folder = tmp_path / "glue" / "rte"
    folder.mkdir(parents=True)
    for name in (ONE, "validation-00000-of-00001.parquet"):
        pq.write_table(table(), folder / name)
    damage, pattern = PARQUET_CASES[case]
    damage(folder)
    line = refused("rte", folder.parent)
    assert re.search(pattern, line), line


@pytest.mark.parametrize(("task", "name"), [("rte", "RTE/train.tsv"), ("rte", "RTE/dev.tsv")])
def test_an_unreadable_file_is_refused(
    task: str, name: str, refused: Callable[[str, Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "glue"
    (folder / "RTE").mkdir(parents=True)
    for split in ("train", "dev"):
        (folder / "RTE" / f"{split}.tsv").write_bytes(tsv(*ROWS))
    open_path = Path.open

    def forbidden(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == folder / name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return open_path(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", forbidden)  # the tests may be run by root, who may read all
    assert f"{name} cannot be read (Permission denied): mend its rights" in refused(task, folder)


def test_another_number_of_rows_is_told_and_noted(bench: Bench, tiny_folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "RTE"
    folder.mkdir()
    rows = ["0\tThe company said it will open.\tThe company will open.\tentailment"] * 10
    (folder / "train.tsv").write_bytes(tsv(*rows))
    (folder / "dev.tsv").write_bytes(tsv(*rows[:4], last=""))
    where = ("model=local", f"model.path={tiny_folders('bert')}", "data=local", f"data.dir={tmp_path}")
    told = bench(
        *where, "task=rte", "method=bitfit", "train.epochs=1", "train.max_length=48", f"results={tmp_path / 'r'}"
    )
    assert told.code == 0, told.err
    note = "RTE/train.tsv has 10 rows instead of GLUE's 2490; RTE/dev.tsv has 4 rows instead of GLUE's 277"
    assert told.err.count(f"warning: {note}: its scores are not GLUE's\n") == 1
    (path,) = tmp_path.glob("r/cells/*/record.json")
    assert json.loads(path.read_text())["result"]["data"]["notes"] == [note]


def test_a_whole_file_of_other_content_is_told_and_is_not_glue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "RTE"
    folder.mkdir()
    for name, count in (("train", 2490), ("dev", 277)):
        (folder / f"{name}.tsv").write_bytes(tsv(*(f"{n}\tA cat sat {n}.\tA cat.\tentailment" for n in range(count))))
    own = {name: load_local(TASKS["rte"], tmp_path).content_hash(name) for name in ("train", "dev")}
    spec = dataclasses.replace(TASKS["rte"], content=own)
    capsys.readouterr()
    assert load_local(spec, tmp_path).is_official and capsys.readouterr().err == ""
    content = (folder / "train.tsv").read_bytes().replace(b"sat 77.", b"sat 7.")  # as where a bit flips
    (folder / "train.tsv").write_bytes(content)
    data = load_local(spec, tmp_path)
    note = "RTE/train.tsv has GLUE's 2490 rows, and other texts or labels in some"
    assert not data.is_official and data.notes == [note]
    assert capsys.readouterr().err == f"warning: {note}: its scores are not GLUE's\n"


@pytest.mark.parametrize("closed", ["glue", "RTE"])
def test_a_folder_that_may_not_be_entered_is_refused(
    closed: str, refused: Callable[[str, Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "glue"
    (folder / "RTE").mkdir(parents=True)
    look = Path.stat

    def forbidden(self: Path, **options: Any) -> Any:
        if self.parent.name == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return look(self, **options)

    monkeypatch.setattr(Path, "stat", forbidden)
    assert "cannot be read (Permission denied): mend its rights" in refused("rte", folder)
