"""A user's own task: its YAML, its files in every format, and what is wrong with them, in one line each."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lora2_bench.errors import UserError
from lora2_bench.files.paths import CONF
from lora2_bench.tasks.metrics import METRICS
from lora2_bench.tasks.own.task import OwnTask
from lora2_bench.tasks.spec import TASKS, own_spec, spec_of

ROWS = {
    "train": [("Ä film,\u2028it said.", 'of "note"', "no"), ("", "b", "yes"), ("c", "d", "perhaps"), ("c", "e", "no")],
    "dev": [("f", "g", "yes"), ("h", "i", "no")],
}
LABELS = ("yes", "no", "perhaps")
YAML: dict[str, Any] = {
    "name": "mine",
    "columns": ["first", "second"],
    "label": "answer",
    "labels": list(LABELS),
    "metrics": ["accuracy", "macro_f1"],
}
NAMES = ("first", "second", "answer")


def columns_of(split: str) -> dict[str, list[str]]:
    return dict(zip(NAMES, map(list, zip(*ROWS[split], strict=True)), strict=True))


def write_delimited(path: Path, split: str) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file, lineterminator="\r\n").writerows([("id", *NAMES), *((7, *row) for row in ROWS[split])])
        else:
            file.write("".join("\t".join(row) + "\n" for row in [NAMES, *ROWS[split]]))


def write_jsonl(path: Path, split: str) -> None:
    lines = [json.dumps({"idx": 3, **dict(zip(NAMES, row, strict=True))}, ensure_ascii=False) for row in ROWS[split]]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_by_datasets(path: Path, split: str) -> None:
    import datasets

    rows = datasets.Dataset.from_dict(columns_of(split)).cast_column(
        "answer", datasets.ClassLabel(names=sorted(LABELS))
    )
    rows.to_parquet(path) if path.suffix else rows.save_to_disk(path, num_shards=2)


def write_plain_parquet(path: Path, split: str) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns_of(split)), path)


FORMATS: dict[str, tuple[str, Callable[[Path, str], None]]] = {
    "csv": (".csv", write_delimited),
    "tsv": (".tsv", write_delimited),
    "jsonl": (".jsonl", write_jsonl),
    "parquet": (".parquet", write_plain_parquet),
    "parquet of class ids": (".parquet", write_by_datasets),
    "folder of datasets": ("", write_by_datasets),
}


def own(folder: Path, ending: str = ".jsonl", **changes: Any) -> OwnTask:
    files = {split: f"{split}{ending}" for split in ROWS}
    return OwnTask.of({**YAML, "files": files, **changes}, str(folder))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows_and_digests(name: str, tmp_path: Path) -> None:
    ending, write = FORMATS[name]
    for split in ROWS:
        write(tmp_path / f"{split}{ending}", split)
    data = own(tmp_path, ending).read()
    assert data.is_official and data.notes == []
    for split, rows in ROWS.items():
        found = data.splits[split]
        assert list(zip(*found.texts.values(), found.labels, strict=True)) == [
            (first, second, LABELS.index(answer)) for first, second, answer in rows
        ]
    assert data.spec.rows == {"train": 4, "dev": 2} and data.spec.main == ("accuracy",)
    assert data.spec.content == {
        "train": "d1401b0358d72812294ef0c3824f9e4a5fe5e96485518947866bb28a37c51a54",
        "dev": "4715c2b252454cf5b326a06023d32d5d16da5523b024959ce8f9b2b9144d7f0b",
    }
    assert spec_of("mine", json.loads(json.dumps(data.spec.definition))) == data.spec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ROWS:
        write_jsonl(tmp_path / f"{split}.jsonl", split)
    return tmp_path


BAD_YAML: dict[str, tuple[dict[str, Any], str]] = {
    "taken name": ({"name": "rte"}, "task.name=rte is not possible: task.name must be a name of your own"),
    "name": ({"name": "My-Task"}, "task.name=My-Task is not possible"),
    "unknown key": ({"lables": ["a"]}, "task.lables is not a setting: did you mean task.label"),
    "no labels": ({"labels": None}, "task.labels has no value: write it into the file of task=mine"),
    "one label": ({"labels": ["yes"]}, "two or more different labels, or [] for a score"),
    "doubled label": ({"labels": ["yes", "no", "yes"]}, "two or more different labels"),
    "three columns": ({"columns": ["a", "b", "c"]}, "task.columns=[a,b,c] is not possible"),
    "columns": ({"columns": {"a": "text"}}, "must be names of columns, or NAME: 'a text with {FILE_COLUMN} in it'"),
    "metric": ({"metrics": ["bleu"]}, "task.metrics must be of accuracy, macro_f1, the metrics of 3 labels"),
    "f1 of three": ({"metrics": ["f1"]}, "task.metrics=f1 is not possible"),
    "metric of a score": ({"metrics": ["pearson"]}, "task.metrics=pearson is not possible"),
    "accuracy of a score": ({"labels": []}, "must be of pearson, spearman, the metrics of a score"),
    "no metric": ({"metrics": []}, "task.metrics=[] is not possible"),
    "main": ({"metrics": ["accuracy"], "main": ["macro_f1"]}, "task.main must be among task.metrics=[accuracy]"),
    "files": ({"files": {"train": "train.jsonl"}}, "a path for train and one for dev"),
    "no such file": ({"files": {"train": "train.jsonl", "dev": "x.csv"}}, "x.csv: mend task.files, or give"),
    "recipe": ({"recipe_of": "imdb"}, "task.recipe_of=imdb is not possible"),
    "choices": ({"choices": ["first", "second"]}, "task.choices must be two columns or more, of a task of two labels"),
    "missing column": ({"columns": ["first", "third"]}, "train.jsonl line 1: no column 'third' (found: idx, f"),
    "missing label": ({"label": "label"}, "no column 'label'"),
    "unlisted label": ({"labels": ["yes", "no"]}, "line 3: label 'perhaps' is not listed (task.labels: y"),
    "no score": ({"labels": [], "metrics": ["pearson"]}, "train.jsonl line 1: answer 'no' is no finite number"),
    "same rows": ({"files": {"train": "train.jsonl", "dev": "train.jsonl"}}, "every row of "),
    "ending": ({"files": {"train": "train.jsonl", "dev": "rows.xml"}}, "rows.xml is of no known format: give .tsv, "),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_YAML)
def test_a_yaml_that_fits_no_file_is_one_line(name: str, folder: Path) -> None:
    changes, wanted = BAD_YAML[name]
    (folder / "rows.xml").write_text("<a/>")
    with pytest.raises(UserError) as told:
        own(folder, **changes).read()
    assert wanted in str(told.value) and "\n" not in str(told.value)


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": (".jsonl", b"", "dev.jsonl holds no rows"),
    "header alone": (".csv", b"first,second,answer\n", "dev.csv holds no rows"),
    "no json": (".jsonl", b'{"first": "a"\n', "dev.jsonl line 1: it is no JSON"),
    "deep json": (".jsonl", b"[" * 100_000, "dev.jsonl line 1: it is no JSON"),
    "NaN": (".jsonl", b'{"first": "a", "second": "b", "answer": NaN}', "line 1: it is no JSON (NaN is no number)"),
    "a key twice": (".jsonl", b'{"first": "a", "first": "b"}', "line 1: it is no JSON ('first' is there twice)"),
    "a list": (".jsonl", b"[1]\n", "dev.jsonl line 1: it is no JSON object"),
    "a number": (".jsonl", b'{"first": 3, "second": "b", "answer": "no"}\n', "line 1: first is no text"),
    "null": (".jsonl", b'\n{"first": null, "second": "b", "answer": "no"}\n', "line 2: first is null"),
    "half a character": (
        ".jsonl",
        b'{"first": "\\ud800", "second": "b", "answer": "no"}',
        "first has half a character",
    ),
    "NUL": (".jsonl", b'{"first": "\\u0000", "second": "b", "answer": "no"}', "first has a NUL byte"),
    "latin-1": (".csv", b"first,second,answer\na,b,no\n\xe4,b,no\n", "dev.csv line 3: not UTF-8 (byte 0xe4)"),
    "fields": (".csv", b"first,second,answer\na,b,c,no\n", "dev.csv line 2: 4 fields instead of 3"),
    "quote": (".csv", b'first,second,answer\n"a,b,no\n', "dev.csv line 2: unexpected end of data"),
    "doubled column": (".tsv", b"first\tfirst\tsecond\tanswer\na\tb\tc\tno\n", "column 'first' is there 2 times"),
    "no parquet": (".parquet", b"PAR1 and then nothing", "dev.parquet cannot be read ("),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_one_line_with_its_place(name: str, folder: Path) -> None:
    ending, content, wanted = BAD_FILES[name]
    (folder / f"dev{ending}").write_bytes(content)
    with pytest.raises(UserError) as told:
        own(folder, files={"train": "train.jsonl", "dev": f"dev{ending}"}).read()
    assert f"{wanted}" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        ({"state.json": {"_data_files": [{"filename": "../x.arrow"}]}}, "names '../x.arrow', which is no file of"),
        ({"state.json": {"_data_files": []}}, "holds no rows"),
        ({"state.json": [1]}, "is not as datasets writes it"),
        ({"state.json": {"_data_files": [{"filename": "x.arrow"}], "_indices_data_files": [1]}}, "flatten_indices()"),
        ({"state.json": {"_data_files": [{"filename": "x.arrow"}]}}, "cannot be read ("),
        ({"dataset_dict.json": {"splits": ["train"]}}, "holds several splits: give one of its folders"),
        ({}, "is no folder that datasets saved"),
    ],
)
def test_a_folder_that_datasets_has_not_saved_is_one_line(damage: dict[str, Any], wanted: str, folder: Path) -> None:
    place = folder / "saved"
    place.mkdir()
    (place / "x.arrow").write_bytes(b"no stream")
    for name, values in ({"dataset_info.json": {"features": {}}, **damage} if damage else {}).items():
        (place / name).write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"^[^\n]+$") as told:
        own(folder, files={"train": "train.jsonl", "dev": "saved"}).read()
    assert wanted in str(told.value)


def test_rows_of_dev_that_are_trained_on_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"first": "f", "second": "g", "answer": "yes"}\n')
    data = own(folder).read()
    (note,) = data.notes
    assert note.startswith("1 of 2 different rows of ") and f"warning: {note}" in capsys.readouterr().err


def test_files_that_change_are_read_again(folder: Path) -> None:
    before = own(folder).read()
    assert own(folder).read() is before
    path = folder / "dev.jsonl"
    path.write_text(
        path.read_text(encoding="utf-8") + '{"first": "x", "second": "y", "answer": "no"}\n', encoding="utf-8"
    )
    os.utime(path, ns=(1, 1))
    after = own(folder).read()
    assert (before.rows["dev"], after.rows["dev"]) == (2, 3)
    assert before.spec.content["train"] == after.spec.content["train"]
    assert before.spec.content["dev"] != after.spec.content["dev"]


def test_a_score_is_a_regression(folder: Path) -> None:
    for split, scores in (("train", (0.1, "2", -3)), ("dev", (1e3,))):
        lines = [json.dumps({"first": split, "second": str(score), "answer": score}) for score in scores]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    data = own(folder, labels=[], metrics=["spearman", "pearson"], main="pearson").read()
    assert data.splits["train"].labels == [float(np.float32(0.1)), 2.0, -3.0]
    assert data.spec.is_regression and data.spec.num_labels == 1 and data.spec.main == ("pearson",)
    with (folder / "dev.jsonl").open("a") as file:
        file.write('\n{"first": "", "second": "", "answer": 1e99}')
    with pytest.raises(UserError, match=r"line 2: answer '1e\+99' is no finite number"):
        own(folder, labels=[], metrics=["pearson"]).read()


def test_labels_may_be_numbers_and_truth_values(folder: Path) -> None:
    rows = [{"first": str(at), "answer": label} for at, label in enumerate((True, False, 2, "2"))]
    for split, part in (("train", rows[:2]), ("dev", rows[2:])):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    values = yaml.safe_load("{labels: [false, true, 2], columns: first}")
    data = own(folder, **values).read()
    assert data.spec.labels == ("false", "true", "2")
    assert [split.labels for split in data.splits.values()] == [[1, 0], [2, 2]]


def test_yes_and_no_without_quotes_are_told(folder: Path) -> None:
    values = yaml.safe_load("{labels: [yes, no]}")
    with pytest.raises(UserError, match=r"label 'no' is not listed \(task\.labels: true, false\): quote yes and no"):
        own(folder, **values).read()


def test_macro_f1_is_the_mean_of_each_class() -> None:
    truth, given = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])

    def f1(number: int) -> float:
        both = ((truth == number) & (given == number)).sum()
        return float(2 * both / ((truth == number).sum() + (given == number).sum()))

    assert METRICS["macro_f1"](given, truth) == pytest.approx(np.mean([f1(0), f1(1), f1(2)]))


# Made rows, in the form in which SuperGLUE publishes its own.
SUPERGLUE: dict[str, tuple[str, list[dict[str, Any]], list[tuple[Any, ...]]]] = {
    "superglue_boolq": (
        "BoolQ",
        [{"question": "is it so", "passage": "So it is.", "idx": 0, "label": True}],
        [("is it so", "So it is.", 1)],
    ),
    "superglue_cb": (
        "CB",
        [{"premise": "A. B?", "hypothesis": "b", "label": "neutral", "idx": 0}],
        [("A. B?", "b", 2)],
    ),
    "superglue_wic": (
        "WiC",
        [{"word": "place", "sentence1": "Do you want to come over to my place later?",
          "sentence2": "A political system with no place for the less prominent groups.", "idx": 0, "label": False,
          "start1": 31, "start2": 27, "end1": 36, "end2": 32, "version": 1.1}],
        [("place: Do you want to come over to my place later?",
          "A political system with no place for the less prominent groups.", 0)],
    ),
    "superglue_copa": (
        "COPA",
        [{"premise": "It rained.", "choice1": "The street got wet.", "choice2": "The sun shone.", "question": "effect",
          "label": 0, "idx": 0}],
        [("It rained. What was the effect?", "The street got wet.", 1),
         ("It rained. What was the effect?", "The sun shone.", 0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SUPERGLUE)
def test_superglue_examples_read_their_published_form(name: str, tmp_path: Path) -> None:
    folder, rows, wanted = SUPERGLUE[name]
    (tmp_path / folder).mkdir()
    text = "premise" if "premise" in rows[0] else "sentence2" if "sentence2" in rows[0] else "question"
    for split in ("train", "val"):
        lines = [json.dumps({**row, text: row[text] + (" Else." if split == "val" else "")}) for row in rows]
        (tmp_path / folder / f"{split}.jsonl").write_text("\n".join(lines))
    values = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    train = OwnTask.of(values, str(tmp_path)).read().splits["train"]
    assert list(zip(*train.texts.values(), train.labels, strict=True)) == wanted


def test_a_choice_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "COPA").mkdir()
    row = {**SUPERGLUE["superglue_copa"][1][0], "label": 2}
    (tmp_path / "COPA" / "train.jsonl").write_text(json.dumps(row))
    (tmp_path / "COPA" / "val.jsonl").write_text(json.dumps(row))
    values = yaml.safe_load((CONF / "task" / "superglue_copa.yaml").read_text(encoding="utf-8"))
    with pytest.raises(UserError, match=r"^COPA/train\.jsonl line 1: label '2' is no number of a choice \(0, 1\)"):
        OwnTask.of(values, str(tmp_path)).read()


def test_a_definition_of_a_record_is_checked_like_a_yaml() -> None:
    definition = own_spec(
        "mine", ["a"], LABELS, ["accuracy"], ["accuracy"], {"train": 1, "dev": 1}, {"train": "", "dev": ""}
    ).definition
    assert spec_of("mine", definition).labels == LABELS
    for name in TASKS:
        with pytest.raises(UserError, match=f"task.name={name} is not possible"):
            spec_of(name, definition)
    for change in ({"labels": ["a"]}, {"rows": {"train": 0, "dev": 1}}, {"rows": {}}, {"more": 1}):
        with pytest.raises(UserError):
            spec_of("mine", {**definition, **change})
