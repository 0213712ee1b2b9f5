"""Test rows, which have no labels, from both layouts; their order is what GLUE's server knows them by."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import pytest

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import texts_hash
from lora2_bench.tasks.sources import load_test_rows
from lora2_bench.tasks.spec import AX, TASKS, test_parts

parts_of = test_parts
del test_parts  # pytest would take it for a test

GLUE_DIR = os.environ.get("GLUE_DIR")
_PAIR = "index\tsentence1\tsentence2"
MNLI = "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2"
# Header of the official test file, and a row that lacks its index.
FILES = {
    "cola": ("index\tsentence", "A b. "),
    "sst2": ("index\tsentence", "good"),
    "mrpc": ("index\t#1 ID\t#2 ID\t#1 String\t#2 String", '10\t11\tA "b .\tc'),
    "qqp": ("id\tquestion1\tquestion2", "\tHow so?"),
    "stsb": ("index\tg\tf\ty\to\ts\tt\tsentence1\tsentence2", "g\tf\ty\to\ts\tt\tA\tB"),
    "mnli": (MNLI, "1\t1e\tg\tx\tx\tx\tx\tA\tB"),
    "qnli": ("index\tquestion\tsentence", "Who?\tHe."),
    "rte": (_PAIR, "A.\tB."),
    "wnli": (_PAIR, "A.\tB."),
    "ax": (_PAIR, "A.\tB."),
}


def tsv(task: str, rows: int, end: str = "\n") -> bytes:
    header, row = FILES[task]
    return end.join([header, *(f"{index}\t{row}" for index in range(rows)), ""]).encode()


def write(folder: Path, task: str, rows: int = 3) -> list[Path]:
    """A task's official test files, of MNLI with the diagnostic set."""
    paths = []
    for spec, split in parts_of(TASKS[task]).values():
        path = folder / spec.folder / ("diagnostic.tsv" if spec is AX else f"{split}.tsv")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tsv(spec.name, rows))
        paths.append(path)
    return paths


def message(task: str, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_test_rows(task, "local", glue_dir=str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("task", TASKS)
def test_each_official_test_file_gives_texts_without_labels(task: str, tmp_path: Path) -> None:
    write(tmp_path, task)
    found = load_test_rows(task, "local", glue_dir=str(tmp_path))
    assert list(found) == (["test_matched", "test_mismatched", "ax"] if task == "mnli" else ["test"])
    wanted = {"cola": ["A b. "], "sst2": ["good"], "mrpc": ['A "b .', "c"], "qqp": ["", "How so?"]}
    texts = wanted.get(task, ["Who?", "He."] if task == "qnli" else ["A", "B"])
    for name, split in found.items():
        expected = ["A.", "B."] if task in ("rte", "wnli") or name == "ax" else texts
        assert list(split.texts) == list(TASKS[task].columns)
        assert [column[2] for column in split.texts.values()] == expected
        assert split.labels == [-1, -1, -1] and len(split) == 3
        assert isinstance(split.labels[0], float) == TASKS[task].is_regression


def write_parquet(folder: Path, task: str, texts: dict[str, list[str]], shards: int = 1, **more: Any) -> Path:
    spec = TASKS[task]
    rows = len(texts[spec.columns[0]])
    label = datasets.Value("float32") if spec.is_regression else datasets.ClassLabel(names=list(spec.labels))
    columns = {column: datasets.Value("string") for column in spec.columns}
    features = datasets.Features({**columns, "label": label, "idx": datasets.Value("int32")})
    values = {**texts, "label": [-1] * rows, "idx": list(range(rows)), **more}
    whole = datasets.Dataset.from_dict(values, features=features)
    (folder / task).mkdir(exist_ok=True)
    for index in range(shards):
        path = folder / task / f"test-{index:05d}-of-{shards:05d}.parquet"
        whole.shard(shards, index, contiguous=True).to_parquet(path)
    return folder / task


# The hub's copy of MRPC has true labels there: nobody reads them.
@pytest.mark.parametrize(("task", "labels"), [("rte", [-1] * 3), ("stsb", [-1.0] * 3), ("mrpc", [1, 0, 1])])
def test_both_layouts_give_the_same_rows(task: str, labels: list[float], tmp_path: Path) -> None:
    (tmp_path / "tsv").mkdir()
    write(tmp_path / "tsv", task)
    from_tsv = load_test_rows(task, "local", glue_dir=str(tmp_path / "tsv"))["test"]
    write_parquet(tmp_path, task, from_tsv.texts, shards=2, label=labels)
    from_parquet = load_test_rows(task, "local", glue_dir=str(tmp_path))["test"]
    assert from_parquet == from_tsv
    assert texts_hash(from_parquet) == texts_hash(from_tsv)
    swapped = from_tsv.take([0, 2, 1])
    swapped.texts[TASKS[task].columns[0]][1] = "Other."
    assert texts_hash(swapped) != texts_hash(from_tsv)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"{_PAIR}\n0\tA\tB\n2\tC\tD\n", "RTE/test.tsv line 3: index '2' must be 1, the row's place"),
        (f"{_PAIR}\n0\tA\tB\n1\tC\n", "RTE/test.tsv line 3: 2 fields instead of 3"),
        (f"{_PAIR}\n", "RTE/test.tsv holds no rows"),
        ("", "RTE/test.tsv line 1: no column 'index' in the header"),
        ("index\tsentence1\n0\tA\n", "RTE/test.tsv line 1: no column 'sentence2' in the header"),
        (f"{_PAIR}\n0\tA\0\tB\n", "RTE/test.tsv line 2: it has a NUL byte"),
    ],
)
def test_a_malformed_test_file_is_named(content: str, reason: str, tmp_path: Path) -> None:
    (path,) = write(tmp_path, "rte")
    path.write_text(content)
    assert message("rte", tmp_path).startswith(reason)


def test_parquet_rows_out_of_order_or_missing_are_named(tmp_path: Path) -> None:
    texts = {"sentence1": ["A", "B"], "sentence2": ["C", "D"]}
    folder = write_parquet(tmp_path, "rte", texts, idx=[1, 0])
    assert message("rte", tmp_path).startswith("rte/test-*.parquet: idx is not the place of each row")
    (folder / "test-00000-of-00001.parquet").unlink()
    write_parquet(tmp_path, "rte", texts, shards=2)
    (folder / "test-00000-of-00002.parquet").unlink()
    assert message("rte", tmp_path).endswith("lacks rte/test-00000-of-00002.parquet: add it")


def test_a_missing_file_is_named_and_two_of_one_set_are_refused(tmp_path: Path) -> None:
    *_, ax = write(tmp_path, "mnli")
    (tmp_path / "AX").mkdir()
    other = tmp_path / "AX" / "AX.tsv"
    other.write_bytes(ax.read_bytes())
    assert "holds diagnostic/diagnostic.tsv and AX/AX.tsv: keep one of them" in message("mnli", tmp_path)
    ax.unlink()
    assert len(load_test_rows("mnli", "local", glue_dir=str(tmp_path))["ax"]) == 3
    other.unlink()
    told = message("mnli", tmp_path)
    assert "lacks diagnostic/diagnostic.tsv or AX/AX.tsv or ax/test-*.parquet, which cells of MNLI predict too" in told
    (tmp_path / "MNLI" / "test_mismatched.tsv").unlink()
    assert "lacks MNLI/test_mismatched.tsv or mnli/test_mismatched-*.parquet: add" in message("mnli", tmp_path)
    assert message("mnli", tmp_path / "nowhere").startswith(f"there is no folder {tmp_path / 'nowhere'}")


def test_generated_tasks_have_no_test_rows() -> None:
    with pytest.raises(UserError, match="data=mini has no test rows: give data=local or data=hub"):
        load_test_rows("rte", "mini")


@pytest.mark.skipif(not GLUE_DIR, reason="GLUE_DIR is not set")
@pytest.mark.parametrize("task", TASKS)
def test_real_test_files_have_the_rows_that_the_server_wants(task: str) -> None:
    for name, (spec, split) in parts_of(TASKS[task]).items():
        if not (Path(str(GLUE_DIR)) / spec.folder / f"{split}.tsv").is_file():
            pytest.skip(f"no {spec.folder}/{split}.tsv ({name}) under GLUE_DIR")
    for name, split in load_test_rows(task, "local", glue_dir=GLUE_DIR).items():
        spec, official = parts_of(TASKS[task])[name]
        assert len(split) == spec.rows[official] and spec.content.get(official) in (None, texts_hash(split))
