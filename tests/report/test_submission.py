"""The zip for GLUE's server, of stored test predictions, checked by the script, which knows the format alone."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lora2_bench.records.record import Record
from lora2_bench.records.store import TEST_PREDICTIONS, Store
from lora2_bench.records.test_predictions import Predicted, write_predicted
from lora2_bench.report.submission.command import main
from lora2_bench.report.submission.server import FILES, zipped
from lora2_bench.tasks.spec import TASKS
from tests.conftest import Told
from tests.made_records import make_cell, make_failed, make_record

ROOT = Path(__file__).resolve().parents[2]
Submit = Callable[..., Told]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_submission", ROOT / "scripts" / "check_submission.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def submit(call: Submit) -> Submit:
    """Call `python -m lora2_bench.submission` for lora on minilm, as a user would, in this process."""

    def run(results: Path, *more: str, model: str = "minilm", method: str = "lora") -> Told:
        named = [*(["--model", model] if model else []), *(["--method", method] if method else [])]
        return call(main, "--results", str(results), *named, *more)

    return run


def logits_for(task: str, seed: int = 0) -> dict[str, Any]:
    """Predictions of every row that the server wants of a task; a draw of each seed's own."""
    draws = np.random.default_rng(seed)
    outputs = TASKS[task].num_labels
    return {
        file.part: (draws.normal(size=(file.rows, outputs)) * 2 + (2.5 if outputs == 1 else 0)).astype(np.float32)
        for file in FILES
        if file.task == task
    }


def put(results: Path, record: Record, logits: dict[str, Any] | None) -> Path:
    """Store a record with these test predictions; returns its folder."""
    path = Store(results).write(record)
    if logits is not None:
        predicted = Predicted(logits, dict.fromkeys(logits, "ab" * 32))
        write_predicted(path.parent / TEST_PREDICTIONS, record.id, predicted)
    return path.parent


def run_of(task: str, best: float = 0.8, **cell: Any) -> Record:
    """A finished run of lora on GLUE's own rows; results of `make_record` in `facts`."""
    facts = cell.pop("facts", {})
    return make_record(make_cell(task, "lora", **{"source": "local", **cell}), best, **facts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one run of each task, and three of RTE, of which seed 2 is best on dev."""
    results = tmp_path_factory.mktemp("whole")
    for task in TASKS:
        put(results, run_of(task), logits_for(task))
    put(results, run_of("rte", 0.7, seed=1), logits_for("rte", 1))
    put(results, run_of("rte", 0.9, seed=2), logits_for("rte", 2))
    put(results, run_of("rte", 0.99, seed=3, source="mini"), None)
    put(results, make_failed(make_cell("rte", "lora", source="local", seed=4)), None)
    put(results, make_record(make_cell("rte", "lora2", source="local"), 0.95), None)
    return results


def answers_in(path: Path, name: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        lines = archive.read(name).decode().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(index) for index in range(len(lines) - 1)]
    return [line.split("\t")[1] for line in lines[1:]]


@pytest.mark.slow
def test_the_zip_has_every_file_as_the_server_takes_it(
    submit: Submit, script: ModuleType, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = submit(whole)
    assert told.code == 0 and told.err == ""
    path = whole / "submission" / "minilm-lora.zip"
    assert told.last == f"written: {path}"
    assert script.main([str(path)]) == 0
    checked = capfd.readouterr()
    assert checked.err == "" and "AX.tsv: 1104 rows, entailment " in checked.out
    assert f"{path}: as the server takes it" in checked.out
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == list(script.FORMAT)

    # What is written are the classes that the logits choose, in the server's words.
    chosen = logits_for("mnli")
    for name, part in (("MNLI-m.tsv", "test_matched"), ("MNLI-mm.tsv", "test_mismatched"), ("AX.tsv", "ax")):
        words = [["entailment", "neutral", "contradiction"][index] for index in chosen[part].argmax(1)]
        assert answers_in(path, name) == words
    for name, task, seed, words in (
        ("RTE.tsv", "rte", 2, ["entailment", "not_entailment"]),
        ("QNLI.tsv", "qnli", 0, ["entailment", "not_entailment"]),
        ("WNLI.tsv", "wnli", 0, ["0", "1"]),
        ("CoLA.tsv", "cola", 0, ["0", "1"]),
    ):
        assert answers_in(path, name) == [words[index] for index in logits_for(task, seed)["test"].argmax(1)]
    scores = logits_for("stsb")["test"][:, 0]
    assert [float(one) for one in answers_in(path, "STS-B.tsv")] == pytest.approx(scores.clip(0, 5), abs=1e-6)
    outside = int(((scores < 0) | (scores > 5)).sum())
    assert outside > 0 and f"| {outside} scores outside 0 to 5 set to the nearer end" in told.out

    # Which run was taken is said, and listed beside the zip.
    best = run_of("rte", 0.9, seed=2)
    line = next(line for line in told.out.splitlines() if line.startswith("RTE.tsv"))
    assert line == f"RTE.tsv       3000 rows | cell {best.id} | lora r=8 | seed 2, best of 3 on dev (accuracy 0.9000)"
    listed = json.loads(path.with_suffix(".json").read_text())
    assert listed["zip"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert listed["files"]["RTE.tsv"]["cell"] == best.id and listed["missing"] == []
    assert listed["files"]["AX.tsv"]["cell"] == listed["files"]["MNLI-m.tsv"]["cell"]
    before = path.read_bytes()
    assert submit(whole).code == 0 and path.read_bytes() == before


def test_a_seed_can_be_given_and_wnli_be_answered_by_its_majority(
    submit: Submit, script: ModuleType, whole: Path
) -> None:
    told = submit(whole, "--seed", "0", "--kr", "8", "--protocol", "paper", "--wnli-majority")
    assert told.code == 0 and "seed 0 (accuracy 0.8000)" in told.out
    path = whole / "submission" / "minilm-lora-kr8-seed0-paper.zip"
    assert script.main([str(path)]) == 0
    rte = logits_for("rte")["test"].argmax(1)
    assert answers_in(path, "RTE.tsv") == [["entailment", "not_entailment"][index] for index in rte]
    assert answers_in(path, "WNLI.tsv") == ["0"] * 146
    assert "WNLI.tsv       146 rows | no run: 0 in every row, by --wnli-majority" in told.out
    listed = json.loads(path.with_suffix(".json").read_text())["files"]["WNLI.tsv"]
    assert listed["constant"] == "0" and "cell" not in listed


def test_what_is_missing_is_named_with_its_command_and_never_invented(
    submit: Submit, script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = put(tmp_path, run_of("rte"), None)
    (kept / "trained.safetensors").write_bytes(b"weights")
    lost = put(tmp_path, run_of("mrpc"), None)
    put(tmp_path, run_of("cola"), logits_for("cola"))
    told = submit(tmp_path)
    assert told.code == 2 and told.out == "" and told.err.strip().count("\n") == 0
    run, where = "run GLUE_DIR=DIR python -m lora2_bench", f"results={tmp_path}"
    assert told.err.startswith(
        "error: no zip is written: sst2, stsb, qqp, mnli, qnli, wnli have no finished run of method=lora on "
        f"model=minilm on GLUE's rows: {run} -m model=minilm method=lora kr=8 task=sst2,stsb,qqp,mnli,qnli,wnli "
        f"data=local {where} predict_test=true; "
    )
    assert f"rte's cell {kept.name} has no test predictions: {run} task=rte {where} predict_test=true" in told.err
    assert f"mrpc's cell {lost.name} has no test predictions: {run} task=mrpc {where} rerun=true predict" in told.err
    assert not (tmp_path / "submission").exists()

    told = submit(tmp_path, "--partial")
    assert told.code == 0 and told.err.count("warning: left out: ") == 3
    path = tmp_path / "submission" / "minilm-lora-partial.zip"
    assert script.main([str(path)]) == 1
    assert "wrong: AX.tsv: missing" in capfd.readouterr().err
    assert script.main([str(path), "--partial"]) == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["CoLA.tsv"]
    assert len(json.loads(path.with_suffix(".json").read_text())["missing"]) == 3


def spoilt(folder: Path) -> Path:
    """The folder, with one bit of its predictions flipped."""
    content = bytearray((folder / TEST_PREDICTIONS).read_bytes())
    content[-9] ^= 4
    (folder / TEST_PREDICTIONS).write_bytes(content)
    return folder


def test_predictions_that_cannot_be_used_are_one_line(submit: Submit, tmp_path: Path) -> None:
    few = {"test": logits_for("rte")["test"][:10]}
    nan = logits_for("rte")
    nan["test"][5, 0] = np.nan
    no_ax = {name: logits for name, logits in logits_for("mnli").items() if name != "ax"}
    flat = {"test": logits_for("rte")["test"][:, 0]}
    good = put(tmp_path / "good", run_of("rte"), logits_for("rte"))
    cases: list[tuple[str, str, Any, str]] = [
        ("few", "rte", few, "RTE.tsv needs 3000 rows, and 10 are predicted: predict GLUE's own test file"),
        ("nan", "rte", nan, "RTE.tsv has predictions that are no finite numbers"),
        ("flat", "rte", flat, "RTE.tsv needs 2 outputs a row, and the predictions are (3000,)"),
        (
            "ax",
            "mnli",
            no_ax,
            "AX.tsv needs predictions of ax, and there are none: run GLUE_DIR=DIR python -m lora2_bench",
        ),
    ]
    for name, task, logits, reason in cases:
        put(tmp_path / name, run_of(task), logits)
        told = submit(tmp_path / name)
        assert told.code == 2 and told.err.strip().count("\n") == 0
        assert reason in told.err and not (tmp_path / name / "submission").exists()
    content = (spoilt(good) / TEST_PREDICTIONS).read_bytes()
    other = put(tmp_path / "other", run_of("rte", seed=7), logits_for("rte"))
    swapped = put(tmp_path / "swapped", run_of("rte"), None)
    (swapped / TEST_PREDICTIONS).write_bytes((other / TEST_PREDICTIONS).read_bytes())
    cut = put(tmp_path / "cut", run_of("rte"), None)
    (cut / TEST_PREDICTIONS).write_bytes(content[:500])
    foreign = put(tmp_path / "foreign", run_of("rte"), None)
    (foreign / TEST_PREDICTIONS).write_bytes(b"PK\3\4" + bytes(100))
    folder = put(tmp_path / "folder", run_of("rte"), None)
    (folder / TEST_PREDICTIONS).mkdir()
    for cell in (good, swapped, cut, foreign, folder):
        told = submit(cell.parent.parent)
        assert told.code == 2 and told.err.strip().count("\n") == 0
        assert f"{cell / TEST_PREDICTIONS} cannot be used (" in told.err and "predict_test=true" in told.err
    told = submit(swapped.parent.parent)
    assert "(its content is not what was written for this cell)" in told.err


def test_wrong_folders_and_arguments_are_one_line(submit: Submit, tmp_path: Path) -> None:
    nowhere = submit(tmp_path / "nowhere")
    assert nowhere.code == 2
    assert nowhere.err == f"error: --results {tmp_path / 'nowhere'} is no folder: run a cell, or name its results\n"
    told = submit(tmp_path, method="")
    assert told.code == 2 and told.err.endswith(f"{tmp_path} has no run on GLUE's rows\n")
    put(tmp_path, make_record(make_cell("rte", "lora2", source="local", protocol="tune"), 0.9), None)  # no run: a trial
    put(tmp_path, run_of("rte"), logits_for("rte"))
    told = submit(tmp_path, model="")
    assert told.code == 2 and told.err == (
        "error: --model and --method are needed, as in MODEL=... METHOD=... of make: "
        f"{tmp_path} has runs of --model minilm --method lora\n"
    )
    told = submit(tmp_path, model="roberta_base", method="vera")
    assert "wnli have no finished run of method=vera on model=roberta_base on GLUE's rows: run" in told.err
    assert " data=hub " in told.err
    told = submit(tmp_path, "--partial", "--wnli-majority", method="vera")  # a constant alone is no submission
    assert told.code == 2 and not (tmp_path / "submission").exists()
    (tmp_path / "submission").write_text("in the way")
    told = submit(tmp_path, "--partial")
    assert told.code == 2 and "minilm-lora-partial.zip cannot be written (" in told.err


def test_runs_are_compared_only_where_their_scores_can_be(submit: Submit, tmp_path: Path) -> None:
    few = {"facts": {"data": {**run_of("rte").result["data"], "rows": {"train": 9, "dev": 8}}}}
    put(tmp_path, run_of("rte", 0.99, seed=3, **few), logits_for("rte"))
    put(tmp_path, run_of("rte", 0.99, seed=4, facts={"official": False}), logits_for("rte"))
    whole = run_of("rte", 0.7, seed=6)
    put(tmp_path, run_of("rte", 0.7, seed=7), logits_for("rte"))
    put(tmp_path, whole, logits_for("rte"))
    told = submit(tmp_path, "--partial")
    assert told.code == 0 and f"cell {whole.id} | lora r=8 | seed 6, best of 2 on dev (accuracy 0.7000)" in told.out
    told = submit(tmp_path, "--partial", "--seed", "4")
    assert "| trained on a sample" in told.out
    put(tmp_path, run_of("rte", 0.9, protocol="clean"), logits_for("rte"))
    told = submit(tmp_path, "--partial")
    assert told.code == 2 and told.err == (
        "error: there are runs of method=lora on model=minilm under clean and paper, whose scores are not alike: give "
        "--protocol clean or --protocol paper\n"
    )
    assert submit(tmp_path, "--partial", "--protocol", "clean").code == 0


def small_zip(**files: bytes) -> bytes:
    good = {"RTE.tsv": b"index\tprediction\n" + b"".join(b"%d\tentailment\n" % row for row in range(3000))}
    return zipped({**good, **{name.replace("_", "-") + ".tsv": content for name, content in files.items()}})


def wnli(*lines: str, header: str = "index\tprediction", rows: int = 146) -> bytes:
    """WNLI's file, whose first rows are `lines`."""
    rest = [f"{row}\t1" for row in range(len(lines), rows)]
    return "\n".join([header, *lines, *rest, ""]).encode()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"WNLI": wnli(header="id\tprediction")}, "WNLI.tsv line 1: the header must be"),
        ({"WNLI": b""}, "WNLI.tsv line 1: the header must be"),
        ({"WNLI": wnli(rows=145)}, "WNLI.tsv: 145 rows, and the test set has 146"),
        ({"WNLI": wnli(rows=147)}, "WNLI.tsv: 147 rows, and the test set has 146"),
        ({"WNLI": wnli("1\t1", "0\t1")}, "WNLI.tsv line 2: index must be 0, the row's place, and is '1'"),
        ({"WNLI": wnli("0\tentailment")}, "WNLI.tsv line 2: 'entailment' is none of 0, 1"),
        ({"WNLI": wnli("0 1")}, "WNLI.tsv line 2: must be two fields"),
        ({"WNLI": wnli("0\t1\t")}, "WNLI.tsv line 2: must be two fields"),
        ({"WNLI": wnli("0\t1\r")}, r"WNLI.tsv line 2: '1\r' is none of 0, 1"),
        ({"WNLI": wnli("")}, "WNLI.tsv line 2: must be two fields"),
        ({"WNLI": b"\xff\xfe"}, "WNLI.tsv: not UTF-8"),
        ({"STS_B": b"index\tprediction\n0\t5.01\n"}, "STS-B.tsv line 2: '5.01' is no number from 0 to 5"),
        ({"STS_B": b"index\tprediction\n0\tnan\n"}, "STS-B.tsv line 2: 'nan' is no number from 0 to 5"),
        ({"AX": b"index\tprediction\n0\tnot_entailment\n"}, "AX.tsv line 2: 'not_entailment' is none of entailment, n"),
        ({"diagnostic": b""}, "diagnostic.tsv: no file of a submission"),
    ],
)
def test_the_script_finds_what_the_server_would_not_take(
    files: dict[str, bytes], reason: str, script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "submission.zip"
    path.write_bytes(small_zip(**files))
    assert script.main([str(path), "--partial"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"wrong: {reason}")


def test_the_script_finds_broken_and_doubled_zips(
    script: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "submission.zip"
    assert script.main([str(path)]) == 1
    whole = small_zip(WNLI=wnli())
    stream = io.BytesIO(whole)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("WNLI.tsv", wnli())
        archive.writestr("folder/AX.tsv", b"")
    flipped = bytearray(whole)
    flipped[60] ^= 255  # within the first file
    for content, reason in (
        (stream.getvalue(), "wrong: WNLI.tsv: 2 times in the zip\nwrong: folder/AX.tsv: no file of a submission"),
        (bytes(flipped), "wrong: RTE.tsv: cannot be unpacked ("),
        (whole[:-30], "is no readable zip"),
    ):
        path.write_bytes(content)
        capfd.readouterr()
        assert script.main([str(path), "--partial"]) == 1
        assert reason in capfd.readouterr().err
    path.write_bytes(whole)
    assert script.main([str(path), "--partial"]) == 0
