"""The `local` source: both layouts, the official files' oddities, and one-line errors for everything malformed."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_bench.errors import UserError
from lora2_bench.tasks.data import TaskData
from lora2_bench.tasks.local import load_local
from lora2_bench.tasks.spec import TASKS, TaskSpec

GLUE_DIR = os.environ.get("GLUE_DIR")
needs_glue = pytest.mark.skipif(not GLUE_DIR, reason="GLUE_DIR is not set")

# Two rows of each task as the official files write them (no header: CoLA), and what must be read from them.
HEADERS = {
    "cola": None,
    "sst2": "sentence\tlabel",
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "mnli": "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    "qnli": "index\tquestion\tsentence\tlabel",
    "rte": "index\tsentence1\tsentence2\tlabel",
    "wnli": "index\tsentence1\tsentence2\tlabel",
}
ROWS = {
    "cola": ("gj04\t1\t\tA b.", "gj04\t0\t*\tb A."),
    "sst2": ("good \t1", "bad\t0"),
    "mrpc": ("1\t10\t11\tA said \" b .\t' c", "0\t12\t13\td\te"),
    "qqp": ("5\t1\t2\tWhy?\tHow so?\t1", "6\t3\t4\t\tEmpty before?\t0"),
    "stsb": ("0\tg\tf\ty\to\ts\ts\tA\tB\t3.800", "1\tg\tf\ty\to\ts\ts\tC\tD\t5"),
    "mnli": (
        "1\tp\tp\tg\tx\tx\tx\tx\tA\tB\tneutral\tcontradiction",
        "2\tp\tp\tg\tx\tx\tx\tx\tC\tD\tneutral\tentailment",
    ),
    "qnli": ("0\tWho?\tHe.\tentailment", "1\tWhat?\tIt.\tnot_entailment"),
    "rte": ("0\tA.\tB.\tnot_entailment", "1\tC.\tD.\tentailment"),
    "wnli": ("0\tA.\tB.\t1", "1\tC.\tD.\t0"),
}
TEXTS = {
    "cola": [["A b.", "b A."]],
    "sst2": [["good ", "bad"]],
    "mrpc": [['A said " b .', "d"], ["' c", "e"]],
    "qqp": [["Why?", ""], ["How so?", "Empty before?"]],
    "stsb": [["A", "C"], ["B", "D"]],
    "mnli": [["A", "C"], ["B", "D"]],
    "qnli": [["Who?", "What?"], ["He.", "It."]],
    "rte": [["A.", "C."], ["B.", "D."]],
    "wnli": [["A.", "C."], ["B.", "D."]],
}
LABELS: dict[str, list[Any]] = {
    "cola": ["acceptable", "unacceptable"],
    "sst2": ["positive", "negative"],
    "mrpc": ["equivalent", "not_equivalent"],
    "qqp": ["duplicate", "not_duplicate"],
    "stsb": [pytest.approx(3.8), 5.0],
    "mnli": ["contradiction", "entailment"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["not_entailment", "entailment"],
    "wnli": ["entailment", "not_entailment"],
}


def tsv_bytes(task: str, *rows: str, end: str = "\n") -> bytes:
    header = HEADERS[task]
    lines = rows if header is None else (header, *rows)
    return "".join(line + end for line in lines).encode()


def write_tsv(folder: Path, task: str, content: bytes | None = None) -> TaskSpec:
    """Write every labelled split of a task; `content` replaces that of the train file."""
    spec = TASKS[task]
    (folder / spec.folder).mkdir()
    for split in spec.splits:
        data = content if content is not None and split == "train" else tsv_bytes(task, *ROWS[task])
        (folder / spec.folder / f"{split}.tsv").write_bytes(data)
    return spec


def write_parquet(folder: Path, data: TaskData, features: datasets.Features | None = None, shards: int = 1) -> Path:
    """Write the rows as the hub does, each split in `shards` files."""
    spec = data.spec
    label = datasets.Value("float32") if spec.is_regression else datasets.ClassLabel(names=list(spec.labels))
    columns = {column: datasets.Value("string") for column in spec.columns}
    features = features or datasets.Features({**columns, "label": label})
    task_dir = folder / spec.name
    task_dir.mkdir()
    for split, rows in data.splits.items():
        whole = datasets.Dataset.from_dict({**rows.texts, "label": rows.labels}, features=features)
        for index in range(shards):
            name = f"{split.replace('dev', 'validation')}-{index:05d}-of-{shards:05d}.parquet"
            whole.shard(shards, index, contiguous=True).to_parquet(task_dir / name)
    return task_dir


def message(spec: TaskSpec, folder: Path) -> str:
    """The error of loading, checked to be one line."""
    with pytest.raises(UserError) as caught:
        load_local(spec, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- TSV: what is read ---


@pytest.mark.parametrize("task", TASKS)
def test_each_official_layout_gives_texts_and_labels(task: str, tmp_path: Path) -> None:
    spec = write_tsv(tmp_path, task)
    data = load_local(spec, tmp_path)
    assert data.source == "local"
    assert list(data.splits) == list(spec.splits)
    for split in data.splits.values():
        assert split.texts == dict(zip(spec.columns, TEXTS[task], strict=True))
        found = split.labels if spec.is_regression else [spec.labels[int(label)] for label in split.labels]
        assert found == LABELS[task]
    (note,) = data.notes
    counts = [f"{spec.folder}/{name}.tsv has 2 rows instead of GLUE's {spec.rows[name]}" for name in spec.splits]
    assert note == "; ".join(counts)


@pytest.mark.parametrize("task", ["cola", "mrpc"])
def test_byte_order_mark_and_crlf_and_missing_last_newline_change_nothing(task: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "odd").mkdir()
    plain = load_local(write_tsv(tmp_path / "plain", task), tmp_path / "plain")
    odd_bytes = b"\xef\xbb\xbf" + tsv_bytes(task, *ROWS[task], end="\r\n").removesuffix(b"\r\n")
    odd = load_local(write_tsv(tmp_path / "odd", task, odd_bytes), tmp_path / "odd")
    assert odd.content_hash() == plain.content_hash()


# Everything but NUL and what ends a field or a line, so also \r, \x0b, \x1c, \x85 and \u2028, quotes and spaces.
field = st.text(st.characters(exclude_characters="\0\t\n", exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(field, field, st.integers(0, 1)), min_size=1, max_size=6))
def test_any_text_survives_the_tsv_files(rows: list[tuple[str, str, int]]) -> None:
    spec = TASKS["rte"]
    lines = [f"{i}\t{one}\t{two}\t{spec.labels[label]}" for i, (one, two, label) in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        write_tsv(Path(folder), "rte", tsv_bytes("rte", *lines))
        train = load_local(spec, Path(folder)).splits["train"]
    assert list(zip(*train.texts.values(), train.labels, strict=True)) == rows


# --- TSV: what is refused ---


@pytest.mark.parametrize(
    ("task", "bad", "reason"),
    [
        ("rte", "1\tC.\tentailment", "3 fields instead of 4"),
        ("rte", "1\tC.\tD.\tE.\tentailment", "5 fields instead of 4"),
        ("rte", "", "1 fields instead of 4"),
        ("rte", "1\tC.\tD.\tmaybe", "unknown label 'maybe': must be one of entailment, not_entailment"),
        ("rte", "1\tC.\tD.\t0", "unknown label '0'"),
        ("rte", "1\tC.\tD.\t", "unknown label ''"),
        ("mnli", ROWS["mnli"][0].replace("contradiction", "-"), "unknown label '-'"),
        ("sst2", "fine\t2", "unknown label '2': must be one of 0, 1"),
        ("cola", "gj04\t1\tB.", "3 fields instead of 4"),
        ("stsb", ROWS["stsb"][0].replace("3.800", "5.1"), "score 5.1 is outside 0 to 5"),
        ("stsb", ROWS["stsb"][0].replace("3.800", "-0.1"), "score -0.1 is outside 0 to 5"),
        ("stsb", ROWS["stsb"][0].replace("3.800", "nan"), "score nan is outside 0 to 5"),
        ("stsb", ROWS["stsb"][0].replace("3.800", "high"), "score 'high' is not a number"),
    ],
)
def test_a_malformed_row_is_named(task: str, bad: str, reason: str, tmp_path: Path) -> None:
    spec = write_tsv(tmp_path, task, tsv_bytes(task, ROWS[task][0], bad, ROWS[task][1]))
    line = 2 if HEADERS[task] is None else 3
    assert message(spec, tmp_path).startswith(f"{spec.folder}/train.tsv line {line}: {reason}")


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    spec = write_tsv(tmp_path, "rte", tsv_bytes("rte", *ROWS["rte"]).replace(b"C.", b"caf\xe9"))
    assert message(spec, tmp_path).startswith("RTE/train.tsv line 3: not UTF-8 (byte 0xe9)")


def test_a_header_without_a_column_is_refused(tmp_path: Path) -> None:
    spec = write_tsv(tmp_path, "rte", b"index\tsentence1\tsentence2\tgold\n0\tA\tB\tentailment\n")
    assert message(spec, tmp_path).startswith("RTE/train.tsv line 1: no column 'label' in the header (index, ")


@pytest.mark.parametrize("content", [b"index\tsentence1\tsentence2\tlabel\n", b""])
def test_a_file_without_rows_is_refused(content: bytes, tmp_path: Path) -> None:
    assert "RTE/train.tsv" in message(write_tsv(tmp_path, "rte", content), tmp_path)


@pytest.mark.parametrize(("task", "name"), [("mrpc", "dev.tsv"), ("mnli", "dev_mismatched.tsv"), ("rte", "train.tsv")])
def test_a_missing_file_is_named(task: str, name: str, tmp_path: Path) -> None:
    spec = write_tsv(tmp_path, task)
    (tmp_path / spec.folder / name).unlink()
    assert f"lacks {spec.folder}/{name}:" in message(spec, tmp_path)


def test_a_folder_without_the_task_is_named_with_the_ways_out(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        text = message(TASKS["rte"], folder)
        assert str(folder) in text
        assert all(way in text for way in ("GLUE_DIR", "data.dir=", "data=mini"))
    assert "RTE/train.tsv" in message(TASKS["rte"], tmp_path)


# --- QQP's damaged train file ---

SHORT = ("7\t1\t2\tA question", 'broken in two"\t\tWhy?\t0', "8\t1\t2\tA\tB\t")


def small_qqp(train_rows: int) -> TaskSpec:
    return dataclasses.replace(TASKS["qqp"], rows={"train": train_rows, "dev": 2})


def test_short_rows_of_qqp_train_are_left_out_and_noted(tmp_path: Path) -> None:
    rows = (ROWS["qqp"][0], *SHORT, ROWS["qqp"][1])
    write_tsv(tmp_path, "qqp", tsv_bytes("qqp", *rows))
    data = load_local(small_qqp(2), tmp_path)
    assert data.splits["train"] == data.splits["dev"]
    assert data.is_official
    (note,) = data.notes
    assert note.startswith("QQP/train.tsv: left out 3 rows with missing fields (line 3, 4, 5)")
    assert str(tmp_path) not in note


def test_short_rows_of_qqp_train_are_an_error_unless_the_official_number_remains(tmp_path: Path) -> None:
    write_tsv(tmp_path, "qqp", tsv_bytes("qqp", *ROWS["qqp"], *SHORT))
    text = message(small_qqp(3), tmp_path)
    assert text.startswith(
        "QQP/train.tsv line 4: missing fields (in 3 rows), and the other 2 rows are not the official 3"
    )
    assert "official 363846" in message(TASKS["qqp"], tmp_path)


def test_long_rows_of_qqp_train_are_an_error(tmp_path: Path) -> None:
    write_tsv(tmp_path, "qqp", tsv_bytes("qqp", *ROWS["qqp"], "9\t1\t2\tA\tB\t0\tC"))
    assert message(small_qqp(2), tmp_path).startswith("QQP/train.tsv line 4: 7 fields instead of 6")


def test_short_rows_of_qqp_dev_are_an_error(tmp_path: Path) -> None:
    write_tsv(tmp_path, "qqp")
    (tmp_path / "QQP/dev.tsv").write_bytes(tsv_bytes("qqp", *ROWS["qqp"], SHORT[0]))
    assert message(small_qqp(2), tmp_path).startswith("QQP/dev.tsv line 4: 4 fields instead of 6")


# --- parquet ---


@pytest.mark.parametrize(("task", "shards"), [(task, 1) for task in TASKS] + [("rte", 2), ("mnli", 2)])
def test_both_layouts_of_the_same_rows_have_one_content_hash(task: str, shards: int, tmp_path: Path) -> None:
    (tmp_path / "tsv").mkdir()
    (tmp_path / "parquet").mkdir()
    from_tsv = load_local(write_tsv(tmp_path / "tsv", task), tmp_path / "tsv")
    write_parquet(tmp_path / "parquet", from_tsv, shards=shards)
    from_parquet = load_local(from_tsv.spec, tmp_path / "parquet")
    assert from_parquet.splits == from_tsv.splits
    assert from_parquet.content_hash() == from_tsv.content_hash()


def rte_data(tmp_path: Path) -> TaskData:
    """The two rows of RTE, read from a TSV folder of their own."""
    (tmp_path / "tsv").mkdir()
    return load_local(write_tsv(tmp_path / "tsv", "rte"), tmp_path / "tsv")


def rte_features(**changes: Any) -> datasets.Features:
    text = datasets.Value("string")
    label = datasets.ClassLabel(names=["entailment", "not_entailment"])
    return datasets.Features({"sentence1": text, "sentence2": text, "label": label, **changes})


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (datasets.ClassLabel(names=["not_entailment", "entailment"]), "class names are not_entailment, entailment"),
        (datasets.ClassLabel(names=["yes", "no"]), "class names are yes, no: must be entailment, not_entailment"),
        (datasets.Value("int64"), "label has no class names"),
    ],
)
def test_class_names_are_checked(label: Any, reason: str, tmp_path: Path) -> None:
    data = rte_data(tmp_path)
    write_parquet(tmp_path, data, rte_features(label=label))
    assert message(data.spec, tmp_path).startswith(f"rte/train-00000-of-00001.parquet: {reason}")


@pytest.mark.parametrize(("label", "reason"), [(-1, "label -1 means"), (None, "label is null")])
def test_rows_without_a_label_are_named(label: int | None, reason: str, tmp_path: Path) -> None:
    data = rte_data(tmp_path)
    labels: list[Any] = data.splits["dev"].labels
    labels[1] = label
    write_parquet(tmp_path, data)
    assert message(data.spec, tmp_path).startswith(f"rte/validation-00000-of-00001.parquet row 2: {reason}")


def test_a_missing_text_column_is_named(tmp_path: Path) -> None:
    data = rte_data(tmp_path)
    folder = write_parquet(tmp_path, data)
    path = folder / "train-00000-of-00001.parquet"
    datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache")).rename_column(
        "sentence2", "other"
    ).to_parquet(path)
    assert message(data.spec, tmp_path).startswith("rte/train-00000-of-00001.parquet: no column 'sentence2'")


def test_scores_are_checked_in_parquet_too(tmp_path: Path) -> None:
    (tmp_path / "tsv").mkdir()
    data = load_local(write_tsv(tmp_path / "tsv", "stsb"), tmp_path / "tsv")
    labels: list[Any] = data.splits["train"].labels
    labels[0] = 7.0
    write_parquet(tmp_path, data)
    assert "train-00000-of-00001.parquet row 1: score 7.0 is outside 0 to 5" in message(data.spec, tmp_path)


def test_a_missing_shard_or_split_is_named(tmp_path: Path) -> None:
    data = rte_data(tmp_path)
    folder = write_parquet(tmp_path, data, shards=2)
    (folder / "train-00001-of-00002.parquet").unlink()
    assert "lacks rte/train-00001-of-00002.parquet:" in message(data.spec, tmp_path)
    for path in folder.glob("validation*"):
        path.unlink()
    assert "rte/validation-*.parquet:" in message(data.spec, tmp_path)


def test_a_broken_parquet_file_is_one_line(tmp_path: Path) -> None:
    data = rte_data(tmp_path)
    folder = write_parquet(tmp_path, data)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"<html>404</html>")
    assert "rte/train-00000-of-00001.parquet is not a readable parquet file" in message(data.spec, tmp_path)


def test_both_layouts_at_once_are_refused(tmp_path: Path) -> None:
    spec = write_tsv(tmp_path, "sst2")  # its two folder names differ in more than case
    write_parquet(tmp_path, load_local(spec, tmp_path))
    assert "holds sst2 twice" in message(spec, tmp_path)


# --- the real files ---


@needs_glue
@pytest.mark.parametrize("task", TASKS)
def test_real_files_are_read_whole(task: str) -> None:
    spec = TASKS[task]
    folder = Path(str(GLUE_DIR)) / spec.folder
    if not (folder / "train.tsv").is_file():
        pytest.skip(f"no {spec.folder}/train.tsv under GLUE_DIR")
    data = load_local(spec, folder.parent)
    for split, rows in data.rows.items():
        content = (folder / f"{split}.tsv").read_bytes()
        lines = content.count(b"\n") + (not content.endswith(b"\n"))
        is_cut = split == "train" and any("left out" in note for note in data.notes)
        left_out = 0 if not is_cut else lines - 1 - spec.rows["train"]
        assert rows == lines - (task != "cola") - left_out


@needs_glue
@pytest.mark.parametrize("task", ["cola", "mrpc", "rte", "stsb"])
def test_real_whole_tasks_are_official(task: str) -> None:
    if not (Path(str(GLUE_DIR)) / TASKS[task].folder).is_dir():
        pytest.skip(f"no {TASKS[task].folder} under GLUE_DIR")
    data = load_local(TASKS[task], Path(str(GLUE_DIR)))
    assert data.is_official
    assert data.rows == {split: TASKS[task].rows[split] for split in TASKS[task].splits}
