"""`lora2-bench predict` and `lora2_bench.predict`: texts, files and streams, and what cannot be predicted."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lora2_bench as lb
from lora2_bench.__main__ import main
from lora2_bench.records.predictions import read_predictions
from lora2_bench.tasks.spec import TASKS
from lora2_bench.using.rows import BadRows, read_rows
from tests.conftest import Told
from tests.using.conftest import Cells
from tests.using.test_folder import dev_rows

Call = Callable[..., Told]
CellsOf = Callable[[str], Cells]
PAIR = ("--text", "Anna saw Ben.", "--text-pair", "Ben was seen.")


@pytest.fixture
def of(cells: CellsOf) -> Cells:
    return cells("bert")


@pytest.fixture
def predict(call: Call, of: Cells) -> Callable[..., Told]:
    """The command on a cell of a method on a task."""

    def run(method: str, task: str, *words: str) -> Told:
        return call(
            main, "predict", of.id_of(method, task), "--results", str(of.results), "--base", str(of.base), *words
        )

    return run


def typed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a text on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_dev_rows_give_the_stored_predictions_in_every_form(
    predict: Callable[..., Told], of: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = of.id_of("full", "rte")
    logits = read_predictions(of.store.folder(cell) / "predictions.json")["dev"].logits["best"].astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = dev_rows()
    (tmp_path / "a.tsv").write_text("\n".join(["sentence1\tsentence2\tid", *(f"{a}\t{b}\tx" for a, b in rows)]) + "\n")
    (tmp_path / "a.csv").write_text("text_pair,text\r\n" + "".join(f'"{b}","{a}"\r\n' for a, b in rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": a, "sentence2": b}) + "\n" for a, b in rows))
    found: list[list[dict[str, Any]]] = []
    for name in ("a.tsv", "a.csv", "a.jsonl"):
        told = predict("full", "rte", "--file", str(tmp_path / name), "--out", str(tmp_path / "out.jsonl"))
        assert told.code == 0, told.err
        assert (
            told.out == f"{len(rows)} predictions: {tmp_path / 'out.jsonl'}\n"
            and f"{len(rows)}/{len(rows)}" in told.err
        )
        found.append([json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()])
    typed("".join(f"{a}\t{b}\n" for a, b in rows), monkeypatch)
    told = predict("full", "rte")
    found.append([json.loads(line) for line in told.out.splitlines()])
    for number, one in enumerate(found):
        assert [row["line"] for row in one] == [line + (2 if number < 2 else 1) for line in range(len(rows))]
        assert [row["label"] for row in one] == [TASKS["rte"].labels[best] for best in logits.argmax(1)]
        probabilities = [[row["probabilities"][label] for label in TASKS["rte"].labels] for row in one]
        np.testing.assert_allclose(probabilities, shares, rtol=0, atol=2e-6)
    assert {row["id"] for row in found[0]} == {"x"} and "id" not in found[1][0]
    frame = lb.predictions(cell, results=of.results)
    api = lb.predict(cell, *map(list, zip(*rows, strict=True)), results=of.results, base=of.base, device="cpu")
    assert [one.label for one in api] == [TASKS["rte"].labels[best] for best in frame["best"]]
    np.testing.assert_allclose([one.logits for one in api], logits, rtol=0, atol=1e-6)


def test_one_text_and_a_regression(predict: Callable[..., Told], of: Cells) -> None:
    cell = of.id_of("lora", "stsb")
    ((first, second), *_) = dev_rows("stsb")
    stored = read_predictions(of.store.folder(cell) / "predictions.json")["dev"].logits["best"][0, 0]
    told = predict("lora", "stsb", "--text", first, "--text-pair", second)
    assert told.out == f"score {stored:.4f}\n" and told.err == ""
    (one,) = lb.predict(of.store.folder(cell), first, second, base=of.base, device="cpu")
    assert one.label is None and one.score == pytest.approx(stored, abs=1e-6) and one.to_dict().keys() == {"score"}
    told = predict("lora", "cola", "--text", "🙂")  # a word that the tokenizer does not know
    label = told.out.partition(" ")[0]
    assert told.code == 0 and label in TASKS["cola"].labels and f"({TASKS['cola'].labels[0]} 0." in told.out


def test_what_cannot_be_predicted_is_one_line(
    predict: Callable[..., Told], call: Call, of: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora2_bench.runner.stored.stored_method", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "a.tsv").write_text("sentence\tsentence2\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "text_pair": "\xff"}\n')
    (tmp_path / "notes.txt").write_text("x")
    cases: list[tuple[str, tuple[str, ...], str]] = [
        ("cola", PAIR, "--text-pair does not fit task=cola, which takes one sentence: leave it out"),
        ("rte", PAIR[:2], "task=rte takes a sentence1 and a sentence2: give --text-pair too"),
        ("rte", PAIR[2:], "--text-pair has no --text beside it: give both"),
        ("rte", ("--text", " ", *PAIR[2:]), "--text is empty: give a text"),
        ("rte", (*PAIR, "--file", "x"), "--text and --file are both given: leave one of them out"),
        ("rte", (*PAIR, "--out", "no/such/file"), "--out no/such/file lies in no folder that is there: give a file"),
        (
            "rte",
            ("--file", "a.tsv"),
            "a.tsv line 1: 'sentence' is no column: give sentence1 and sentence2 (or text and",
        ),
        ("rte", ("--file", "empty.csv"), "empty.csv has no header: its first line names the columns, sentence1 and"),
        ("rte", ("--file", "a.jsonl"), "a.jsonl line 1 is not UTF-8: save it as UTF-8"),
        (
            "rte",
            ("--file", "notes.txt"),
            "--file notes.txt ends in no known form: give --format tsv, csv, jsonl, lines",
        ),
        ("rte", ("--file", ""), "--file is empty: give a file, or - for standard input"),
        ("rte", (*PAIR, "--format", "csv"), "--format is for --file or standard input: leave it out"),
        ("rte", (*PAIR, "--out", ""), "--out is empty: give a file"),
        ("rte", (*PAIR, "--out", "/dev/null"), "--out /dev/null is a device or a pipe: give a file"),
        ("rte", ("--file", "gone.tsv"), "--file gone.tsv is no file: give one, or - for standard input"),
        ("rte", ("--file", "a.tsv", "--out", "a.tsv"), "--out a.tsv is the file that is read: give another"),
        ("rte", ("--file", "-"), "standard input has no rows: give at least one"),
    ]
    monkeypatch.chdir(tmp_path)
    for task, words, line in cases:
        typed("", monkeypatch)
        told = predict("lora", task, *words)
        assert (told.code, told.out) == (2, ""), words
        assert told.err.startswith(f"error: {line}") and told.err.count("\n") == 1, told.err
    results, cell = ("--results", str(of.results)), of.id_of("lora")
    for arguments, line in (
        (("0" * 16, *results), f"there is no cell {'0' * 16} in {of.results / 'cells'}: give --results DIR"),
        (("lora2", *results), "CELL=lora2 is no cell: give its id"),
        ((cell, *results), f"cell {cell} is of model=local, and no record names a path: give --base DIR, its folder"),
        ((cell, *results, "--base", "nowhere"), "model.path=nowhere is not a folder"),
        ((cell, *results, "--bsae", "x"), "--bsae is not an option: did you mean --base?"),
    ):
        told = call(main, "predict", *arguments, *PAIR)
        assert told.code == 2 and told.err.startswith(f"error: {line}") and told.err.count("\n") == 1, told.err
    weights = of.store.weights(cell)
    weights.rename(tmp_path / "away")
    told = call(main, "predict", cell, *results, "--base", str(of.base), *PAIR)
    (tmp_path / "away").rename(weights)
    line = f"error: cell {cell} (lora r=1 on rte) kept no weights: train it anew with rerun=true keep=weights\n"
    assert (told.code, told.err) == (2, line)


def test_a_record_names_no_code_to_run(predict: Callable[..., Told], of: Cells) -> None:
    """The class that a record's config names is not imported; the user's own is, where the user names it."""
    from lora2_bench.runner.opened import open_cell

    cell = of.id_of("lora")
    path = of.store.path(cell)
    before = path.read_bytes()
    record = json.loads(before)
    record["run"]["config"]["method"]["_target_"] = "antigravity.fly"
    del record["sha256"], record["files"]
    path.write_text(json.dumps(record))
    try:
        told = predict("lora", "rte", *PAIR)
        assert told.code == 2 and "no record is asked for code: give --method MODULE.CLASS" in told.err
        assert "antigravity" not in sys.modules
        plan, _ = open_cell(of.results, cell, base=str(of.base), implementation="lora2_bench.methods.lora.LoRA")
        assert plan.implementation == "lora2_bench.methods.lora.LoRA" and plan.cell.id == cell
    finally:
        path.write_bytes(before)


def test_bad_rows_are_named_with_their_lines() -> None:
    spec = TASKS["rte"]
    tsv = b"sentence1\tsentence2\r\na\tb\r\n\t b\na\tb\tc\n\n"
    objects = [
        b'{"text": 1, "text_pair": "b"}',
        b"[]",
        b"{",
        b'{"text": "a"}',
        b'{"a": 1}',
        b'{"text": "a", "sentence1": "a", "sentence2": "b"}',
        b'{"text": "\\ud800", "text_pair": "b"}',
        b"[" * 100_000,
        b'{"text": "a", "text_pair": "b", "id": NaN}',
        b'{"text": "a", "text_pair": "b", "text": "c"}',
    ]
    of_objects = [
        "line 1: sentence1 is 1, which is no text",
        "line 2: is no JSON object",
        "line 3: is no JSON",
        "line 4: has no sentence2",
        "line 5: 'a' is no column",
        "line 6: gives a column twice",
        "line 7: sentence1 has half a surrogate pair",
        "line 8: is no JSON",
        "line 9: is no JSON (NaN is no number)",
        "line 10: is no JSON ('text' is there twice)",
    ]
    of_tsv = [
        "line 3: sentence1 is empty",
        "line 4: has 3 columns, the header 2",
        "line 5: has 1 columns, the header 2",
    ]
    of_csv = ["line 4: sentence2 is empty", "line 5: is no CSV"]
    cases: list[tuple[str, bytes, list[str]]] = [
        ("tsv", tsv, of_tsv),
        ("csv", b'text,text_pair\n"a\nb",c\nd,\n"x', of_csv),
        ("jsonl", b"\n".join(objects), of_objects),
        ("lines", b"a\tb\nc\n", ["line 2: has 0 tabs: task=rte takes a tab between its two texts"]),
    ]
    for form, content, lines in cases:
        with pytest.raises(BadRows) as caught:
            read_rows(content, form, spec, "rows")
        assert len(caught.value.lines) == len(lines), caught.value.lines
        assert all(found.startswith(line) for found, line in zip(caught.value.lines, lines, strict=True))
    with pytest.raises(BadRows, match=r"^rows: 500 of 501 rows cannot be predicted \(the first: line 1: ") as caught:
        read_rows(b"a\n" * 500 + b"a\tb\n", "lines", spec, "rows")
    assert len(caught.value.lines) == 20
    rows = read_rows(b'\xef\xbb\xbfid,sentence2,text,label\n7,"b\nc",a,1\n8,d,e,0', "csv", spec, "rows")
    assert rows.texts == (["a", "e"], ["b\nc", "d"]) and rows.lines == [2, 4]
    assert rows.carried == [{"id": "7"}, {"id": "8"}]
    long = "a " * 100_000  # Python's own bound of a CSV value is 128 KiB
    assert read_rows(f"text,text_pair\n{long},b\n".encode(), "csv", spec, "rows").texts == ([long], ["b"])


def test_bad_rows_of_the_command_and_of_the_api(
    predict: Callable[..., Told], of: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("a\nb\tc\n\td\n", monkeypatch)
    told = predict("lora", "rte", "--file=-", "--out", str(tmp_path / "out.jsonl"))
    head = "standard input: 2 of 3 rows cannot be predicted (the first: line 1: has 0 tabs"
    assert told.code == 2 and not list(tmp_path.iterdir())
    assert [line.partition(": ")[2][:7] for line in told.err.splitlines()] == ["line 1:", "line 3:", head[:7]]
    assert told.err.splitlines()[-1].startswith(f"error: {head}")
    cell = of.id_of("lora")
    texts: Any = ["a", 5, None]
    with pytest.raises(lb.UserError, match=r"^texts: 2 of 3 rows .*texts 2 is 5, which is no text"):
        lb.predict(cell, texts, ["b", "b", "b"], results=of.results, base=of.base)
    for wrong, line in (
        ((["a"], ["b", "c"]), "texts has 1 rows and text_pairs 2: give as many of both"),
        (([], []), "texts has no rows: give at least one"),
        ((["a"],), "task=rte takes a sentence1 and a sentence2: give text_pairs too"),
    ):
        with pytest.raises(lb.UserError, match=line):
            lb.predict(cell, *wrong, results=of.results, base=of.base)


def test_a_missing_file_an_odd_id_and_odd_calls_are_one_line(
    predict: Callable[..., Told], of: Cells, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("there\n")
    told = predict("lora", "rte", "--file", str(tmp_path / "missing.tsv"), "--out", str(out))
    assert told.code == 2 and told.err.count("\n") == 1 and "is no file" in told.err
    (tmp_path / "a.jsonl").write_text('{"text": "a", "text_pair": "b", "id": "\\ud800"}\n')
    told = predict("lora", "rte", "--file", str(tmp_path / "a.jsonl"), "--out", str(out))
    assert told.code == 0 and json.loads(out.read_text())["id"] == "\ud800"
    cell = of.id_of("lora", "rte")
    frame = pd.DataFrame({"text": ["a"]})
    for texts, kind in ((None, "NoneType"), (5, "int"), ({"a": 1}, "dict"), (b"a", "bytes"), (frame, "DataFrame")):
        with pytest.raises(lb.UserError, match=rf"^texts is a {kind}: give a text, or a list of texts$"):
            lb.predict(cell, texts, "b", results=of.results, base=of.base)  # type: ignore[arg-type]
    assert lb.predict(cell, pd.Series(["a"]), ["b"], results=of.results, base=of.base)  # type: ignore[arg-type]
    for name, wrong in (("cell", {"cell": 5}), ("results", {"results": 5}), ("base", {"base": 5})):
        with pytest.raises(lb.UserError, match=rf"^{name} is a int: give a text or a path$"):
            lb.predict(**{"cell": cell, "results": of.results, "texts": "a", "text_pairs": "b", **wrong})  # type: ignore[arg-type]
    with pytest.raises(lb.UserError, match=r"^method is a int: give MODULE\.CLASS as text$"):
        lb.predict(cell, "a", "b", results=of.results, base=of.base, method=5)  # type: ignore[arg-type]
    link, real = tmp_path / "link.jsonl", tmp_path / "real.jsonl"
    real.write_text("old\n")
    link.symlink_to(real)
    (tmp_path / "b.jsonl").write_text('{"text": "a", "text_pair": "b"}\n')
    told = predict("lora", "rte", "--file", str(tmp_path / "b.jsonl"), "--out", str(link))
    assert told.code == 0 and link.is_symlink() and json.loads(real.read_text())["line"] == 1
